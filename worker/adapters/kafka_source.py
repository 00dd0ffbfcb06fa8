"""The consuming edge: a member of the group that returns spans, and never skips or loses a record by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from worker.adapters.kafka_batches import Columns, Piece
from worker.adapters.kafka_fencing import (
    Stamp,
    UnstableOffsetsError,
    client_of,
    committed_offsets,
    in_doubt,
    note_poll,
    silence_fetcher,
    stamp_of,
)
from worker.adapters.kafka_fetch import FetchLoop
from worker.adapters.kafka_options import broker_error, connection_options
from worker.core.records import Refusal, Span, TopicPartition
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.source")

METADATA_MAX_AGE_MS = 10_000
"""How soon partitions that were added to an input are noticed."""

MAX_POLL_INTERVAL_MS = 600_000
"""aiokafka leaves the group when nobody polls for so long; progress is judged by our own watch, long before."""

COORDINATOR_WAIT_S = 10.0
"""How long a coordinator that is just loading is asked before the poll loop turns again."""


class Owner(Protocol):
    """Who is told about assignments."""

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """New assignments; returns the epoch of each."""
        ...

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Assignments end when this returns; bounded by the owner."""
        ...

    def offset_reset(self, tp: TopicPartition, offset: int, why: Literal["none_committed", "out_of_range"]) -> None:
        """Reading starts at ``offset`` by policy instead of at a committed offset."""
        ...


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of which only the coordinates are known."""

    span: Span
    refusal: Refusal


Polled = Span | Unreadable


@contextmanager
def _errors_of_the_client() -> Iterator[None]:
    """What passes costs one poll; what an operator must cure is a BrokerError."""
    try:
        yield
    except kafka.KafkaError as error:
        if not error.retriable:
            raise broker_error(error, "reading the input") from error
        log.warning("poll_failed", error=type(error).__name__, detail=str(error))


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    """Consumes the input topics as one member of the group."""

    def __init__(
        self, section: KafkaSection, owner: Owner, gather_s: float = 0.0, stable_within_s: float | None = None
    ) -> None:
        """``gather_s`` is the pause after a short answer in which more records come together.

        With ``stable_within_s`` committed offsets are read after the transactions that hold them, for so long.
        """
        self._section = section
        self._gather_s = gather_s
        self._owner = owner
        self._stable_within_s = stable_within_s
        self.stamp: Stamp | None = None
        """The membership that the partitions were assigned under."""
        self._epochs: dict[TopicPartition, int] = {}
        self._unresolved: set[TopicPartition] = set()
        self._begun: set[TopicPartition] = set()
        self._doubted_at: float | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._fetch: FetchLoop
        self.partition_limit: int | None = None
        """Partitions from this number on are held: assigned, but not read."""
        self.stopped: Callable[[], Collection[TopicPartition]] = tuple
        """Tells which partitions are assigned, but read by ``poll_one`` only."""
        self.failure: BaseException | None = None
        """An exception of a rebalance callback, which aiokafka would only log."""

    @property
    def _client(self) -> AIOKafkaConsumer:
        """The running consumer."""
        if self._consumer is None:
            raise RuntimeError("the source is not started")
        return self._consumer

    async def start(self) -> None:
        """Connect and join the group; raises what aiokafka raises, to be retried or explained by the caller."""
        section = self._section
        isolation = section.isolation_level if self._stable_within_s is None else "read_committed"
        consumer = AIOKafkaConsumer(
            **connection_options(section),
            group_id=section.group_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=int(section.session_timeout_s * 1000),
            heartbeat_interval_ms=int(section.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(section.rebalance_timeout_s * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            isolation_level=isolation,
            group_instance_id=section.group_instance_id,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        self._fetch = FetchLoop(
            client_of(consumer),
            max_wait_s=section.fetch_max_wait_s,
            max_bytes=section.max_fetch_bytes,
            gather_s=self._gather_s,
            committed_only=isolation == "read_committed",
        )
        try:
            consumer.subscribe(list(section.input_topics), listener=self)
            self._consumer = consumer
            await consumer.start()
        except BaseException:
            self._consumer = None
            await self._fetch.stop()
            await asyncio.shield(consumer.stop())
            raise

    async def stop(self) -> None:
        """Leave the group and close the connections."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await self._fetch.stop()
            await consumer.stop()

    # ---- rebalance callbacks -----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[ClientPartition]) -> None:
        """aiokafka's callback: nothing is polled until the next assignment; the owner drains."""
        if self._consumer is None:
            return  # a rebalance that was under way when the source stopped
        tps = [TopicPartition(*tp) for tp in revoked]
        # Called before every assignment, the first included: aiokafka's fetcher waits until then.
        silence_fetcher(self._client)
        self._forget()
        try:
            await self._owner.revoked(tps)
        except Exception as error:  # noqa: BLE001 # aiokafka would log it and go on; the poll loop raises it instead
            self.failure = error
        # The owner may have rewound meanwhile, which asks for positions again.
        self._forget()
        self._epochs.clear()

    async def on_partitions_assigned(self, assigned: Iterable[ClientPartition]) -> None:
        """aiokafka's callback: epochs begin now; start positions are found before the first poll."""
        if self._consumer is None:
            return  # as above: the group takes the partitions back at once
        self.stamp = stamp_of(self._client)
        try:
            self._epochs = dict(self._owner.assigned([TopicPartition(*tp) for tp in assigned]))
        except Exception as error:  # noqa: BLE001 # as above
            self.failure = error
        self._forget()
        self._unresolved = set(self._epochs)

    # ---- polling -----------------------------------------------------------------------------------------

    async def poll(self, max_records: int, timeout_s: float) -> list[Polled]:
        """Records of the assigned partitions, at most ``max_records``, waiting up to ``timeout_s`` for the first.

        With ``max_records`` 0 only the consumer's idle clock is reset. Raises BrokerError where a restart or an
        operator is needed; everything else aiokafka retries by itself.
        """
        if self.failure is not None:
            raise self.failure
        taken: list[tuple[TopicPartition, Piece]] = []
        with _errors_of_the_client():
            note_poll(self._client)
            if max_records == 0:
                return []
            await self._find_positions()
            taken = self._fetch.take(self._readable(), max_records)
            if not taken:
                await self._fetch.wait(timeout_s)
                taken = self._fetch.take(self._readable(), max_records)
        return [self._polled(tp, piece) for tp, piece in taken]

    async def poll_one(self, tp: TopicPartition) -> list[Polled]:
        """The next record of one partition, if it has been fetched already."""
        taken: list[tuple[TopicPartition, Piece]] = []
        with _errors_of_the_client():
            taken = self._fetch.take({tp}, 1)
        return [self._polled(tp, piece) for tp, piece in taken]

    def _readable(self) -> set[TopicPartition]:
        """Partitions that are assigned and not held back."""
        return self._epochs.keys() - self.held().union(self.stopped())

    def _polled(self, tp: TopicPartition, piece: Piece) -> Polled:
        """Records as a span; one that nobody can read by its coordinates."""
        epoch = self._epochs[tp]
        self._begun.add(tp)
        if isinstance(piece, Columns):
            return Span(tp, epoch, piece.offsets, piece.timestamps, piece.keys, piece.values, piece.headers)
        log.error("corrupt_record", topic=tp.topic, partition=tp.partition, offset=piece.offset)
        span = Span(tp, epoch, [piece.offset], [-1], [None], [None], [()])
        return Unreadable(span, Refusal("decode", "corrupt_record", piece.error))

    # ---- positions ---------------------------------------------------------------------------------------

    async def _find_positions(self) -> None:
        """Find where reading starts for the partitions that have no position yet, and read from there.

        A committed offset is taken at its word: the broker tells when it is read whether it is in range. One
        without a leader is left for later, for it would keep the others waiting.
        """
        self._unresolved |= self._fetch.out_of_range
        epochs = {tp: self._epochs[tp] for tp in self._unresolved & self._epochs.keys() if self._fetch.has_leader(tp)}
        if not epochs:
            return
        try:
            committed = await self._committed([tp for tp in epochs if self._fetch.position(tp) is None])
            for tp in self._still(epochs).intersection(committed):
                self._read(tp, committed[tp])
            await self._start_by_policy({tp: epoch for tp, epoch in epochs.items() if tp not in committed})
        except (kafka.IllegalStateError, kafka.UnknownMemberIdError, kafka.IllegalGenerationError):
            return
        except kafka.KafkaError as error:
            if not error.retriable and not isinstance(error, kafka.KafkaTimeoutError):
                raise broker_error(error, "reading committed offsets") from error
            log.warning("positions_unknown", error=type(error).__name__, detail=str(error))

    async def _committed(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Committed offsets of the partitions that have one; raises BrokerError where they stay in doubt too long."""
        if not tps:
            return {}
        now = asyncio.get_running_loop().time()
        try:
            found = await committed_offsets(
                self._client, self._section.group_id, tps, COORDINATOR_WAIT_S, stable=self._stable_within_s is not None
            )
        except UnstableOffsetsError as error:
            self._doubted_at = now if self._doubted_at is None else self._doubted_at
            if self._stable_within_s is not None and now - self._doubted_at > self._stable_within_s:
                raise in_doubt(self._section.group_id, now - self._doubted_at) from error
            raise
        self._doubted_at = None
        return {tp: offset for tp, offset in found.items() if offset is not None}

    async def _start_by_policy(self, epochs: Mapping[TopicPartition, int]) -> None:
        """Start where ``auto_offset_reset`` says: nothing is committed, or the log does not reach there any more."""
        if not epochs:
            return
        client_tps = [ClientPartition(*tp) for tp in epochs]
        begins, ends = await self._client.beginning_offsets(client_tps), await self._client.end_offsets(client_tps)
        started_late: dict[TopicPartition, int] = {}
        for tp in self._still(epochs):
            begin, end = begins[ClientPartition(*tp)], ends[ClientPartition(*tp)]
            position = self._fetch.position(tp)
            if position is None or not begin <= position <= end:
                position = self._by_policy(tp, position, begin, end)
                # What was taken before is not settled yet: its own commits will follow.
                if self._section.auto_offset_reset == "latest" and tp not in self._begun:
                    started_late[tp] = position
            self._read(tp, position)
        if started_late:
            await self.commit(started_late)

    def _still(self, epochs: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """Those of the partitions that are assigned as they were."""
        return {tp for tp, epoch in epochs.items() if self._epochs.get(tp) == epoch}

    def _read(self, tp: TopicPartition, position: int) -> None:
        self._fetch.read(tp, position)
        self._unresolved.discard(tp)

    def rewind(self, epochs: Mapping[TopicPartition, int]) -> None:
        """Read all assigned partitions again from their committed offsets, under new epochs."""
        self._epochs = dict(epochs)
        self._forget()
        self._unresolved = set(self._epochs)

    def _forget(self) -> None:
        """Nothing is read, and nothing is known of what was."""
        self._fetch.forget()
        self._unresolved.clear()
        self._begun.clear()
        self._doubted_at = None

    def _by_policy(self, tp: TopicPartition, position: int | None, begin: int, end: int) -> int:
        """Where ``auto_offset_reset`` says to start; raises where it says to stop."""
        policy = self._section.auto_offset_reset
        where = {"topic": tp.topic, "partition": tp.partition, "first": begin, "next": end, "policy": policy}
        if position is not None:
            log.error("offset_out_of_range", offset=position, **where)
        if policy == "none":
            state = "no committed offset" if position is None else f"the committed offset {position} out of range"
            raise BrokerError(
                Problem(
                    f"{tp.topic}/{tp.partition} has {state} ({begin}..{end}), and kafka.auto_offset_reset is none",
                    "set the group's offsets with Kafka's consumer-groups tool, or write earliest or latest",
                    key="kafka.auto_offset_reset",
                    code="no_offset" if position is None else "offset_out_of_range",
                )
            )
        offset = begin if policy == "earliest" else end
        self._owner.offset_reset(tp, offset, "none_committed" if position is None else "out_of_range")
        if tp in self._begun and position is not None and offset < position:
            # Offsets go back: what is in flight of them has another meaning now. Ahead there is only a gap.
            self._epochs |= self._owner.assigned([tp])
            self._begun.discard(tp)
        return offset

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit ``next_offset``s; False when the group has moved on, so that the new owner decides.

        Waits for an unreachable coordinator as long as it takes: bound it where that matters.
        """
        try:
            await self._client.commit({ClientPartition(*tp): offset for tp, offset in offsets.items()})
        except (kafka.CommitFailedError, kafka.IllegalStateError) as error:
            log.warning("commit_refused", error=type(error).__name__, partitions=len(offsets))
            return False
        except kafka.KafkaError as error:
            raise broker_error(error, "committing offsets") from error
        return True

    def silent_s(self) -> float | None:
        """Seconds since a fetch was answered, with or without records; None while nothing is read, or before."""
        answered_at = self._fetch.answered_at(self._readable())
        return None if answered_at is None else asyncio.get_running_loop().time() - answered_at

    @property
    def resolving(self) -> bool:
        """Whether partitions are assigned whose start position is not known yet."""
        return bool(self._unresolved)

    def held(self) -> set[TopicPartition]:
        """Assigned partitions that are not read because the output has no partition of their number."""
        limit = self.partition_limit
        return set() if limit is None else {tp for tp in self._epochs if tp.partition >= limit}

    async def renew_ends(self, within_s: float) -> None:
        """Ask where the partitions end that are not read, so that their lag grows with them.

        What is not answered within ``within_s`` keeps the end that was known.
        """
        tps = [tp for tp in self.held().union(self.stopped()) if self._fetch.position(tp) is not None]
        if self._consumer is None or not tps:
            return
        try:
            async with asyncio.timeout(within_s):
                ends = await self._consumer.end_offsets([ClientPartition(*tp) for tp in tps])
        except (kafka.KafkaError, TimeoutError) as error:
            log.debug("ends_unknown", error=type(error).__name__, partitions=len(tps))
            return
        for tp, end in ends.items():
            self._fetch.ends_at(TopicPartition(*tp), end)

    def lag(self, next_offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Records between each partition's next offset to commit and its end, as the broker last told it."""
        lag: dict[TopicPartition, int] = {}
        for tp in self._epochs:
            position, end = self._fetch.position(tp), self._fetch.end(tp)
            if position is not None and end is not None:
                reached = next_offsets.get(tp, -1)
                lag[tp] = max(0, end - (reached if reached >= 0 else position))
        return lag
