"""The consuming edge: an aiokafka consumer that returns spans and never skips or loses a record by itself.

aiokafka's ``getmany`` can raise after it has moved the positions of other partitions. So the source keeps its own
positions, and after any error seeks back to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from worker.adapters.kafka_fencing import Stamp, check_fetcher, committed_offsets, own_positions, stamp_of
from worker.adapters.kafka_options import broker_error, connection_options
from worker.core.records import Refusal, Span, TopicPartition
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.source")

CAREFUL_POLL_TIMEOUT_MS = 500
"""How long to wait for one record while reading around a corrupt batch."""

METADATA_MAX_AGE_MS = 10_000
"""How soon partitions that were added to an input are noticed."""

MAX_POLL_INTERVAL_MS = 600_000
"""aiokafka leaves the group when nobody polls for so long; progress is judged by our own watch, long before."""

COORDINATOR_WAIT_S = 10.0
"""How long a coordinator that is just loading is asked before the poll loop turns again."""

UNREADABLE = (kafka.CorruptRecordException, UnicodeDecodeError)
"""A batch whose checksum is wrong; a record with a header whose name is no UTF-8, which aiokafka cannot decode."""

NOT_OURS = ClientPartition("__headrace_tick", 0)
"""Polling a partition that nobody owns keeps membership alive and every prefetched record in place."""


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


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    """Consumes the input topics as one member of the group."""

    def __init__(self, section: KafkaSection, owner: Owner, stable_within_s: float | None = None) -> None:
        """With ``stable_within_s`` committed offsets are read after the transactions that hold them, for so long."""
        self._section = section
        self._owner = owner
        self._stable = stable_within_s is not None
        self._committed_within_s = COORDINATOR_WAIT_S if stable_within_s is None else stable_within_s
        self.stamp: Stamp | None = None
        """The membership that the partitions were assigned under."""
        self._epochs: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._unresolved: set[TopicPartition] = set()
        self._careful: set[TopicPartition] = set()
        self._served: set[ClientPartition] = set()
        """Partitions that have had their turn while others still have records."""
        self._consumer: AIOKafkaConsumer | None = None
        self.partition_limit: int | None = None
        """Partitions from this number on are held: assigned, but not read."""
        self.stopped: Collection[TopicPartition] = ()
        """Partitions that are assigned, but read by ``poll_one`` only."""
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
        consumer = AIOKafkaConsumer(
            **connection_options(section),
            group_id=section.group_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=int(section.session_timeout_s * 1000),
            heartbeat_interval_ms=int(section.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(section.rebalance_timeout_s * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            isolation_level="read_committed" if self._stable else section.isolation_level,
            group_instance_id=section.group_instance_id,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            fetch_max_wait_ms=int(section.fetch_max_wait_s * 1000),
            fetch_max_bytes=section.max_fetch_bytes,
            max_partition_fetch_bytes=section.max_fetch_bytes,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        try:
            consumer.subscribe(list(section.input_topics), listener=self)
            self._consumer = consumer
            await consumer.start()
        except BaseException:
            self._consumer = None
            await asyncio.shield(consumer.stop())
            raise

    async def stop(self) -> None:
        """Leave the group and close the connections."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.stop()

    # ---- rebalance callbacks -----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[ClientPartition]) -> None:
        """aiokafka's callback: nothing is polled until the next assignment; the owner drains."""
        tps = [TopicPartition(*tp) for tp in revoked]
        # Called before every assignment, the first included: aiokafka's fetcher waits until then.
        own_positions(self._client)
        self._unresolved.clear()
        self._positions.clear()
        try:
            await self._owner.revoked(tps)
        except Exception as error:  # noqa: BLE001 # aiokafka would log it and go on; the poll loop raises it instead
            self.failure = error
        # The owner may have rewound meanwhile, which asks for positions again.
        self._unresolved.clear()
        self._positions.clear()
        self._epochs.clear()

    async def on_partitions_assigned(self, assigned: Iterable[ClientPartition]) -> None:
        """aiokafka's callback: epochs begin now; start positions are found before the first poll."""
        self.stamp = stamp_of(self._client)
        try:
            self._epochs = dict(self._owner.assigned([TopicPartition(*tp) for tp in assigned]))
        except Exception as error:  # noqa: BLE001 # as above
            self.failure = error
        self._positions.clear()
        self._careful.clear()
        self._unresolved = set(self._epochs)

    # ---- polling -----------------------------------------------------------------------------------------

    async def poll(self, max_records: int, timeout_s: float) -> list[Polled]:
        """Records of the assigned partitions, at most ``max_records``, waiting up to ``timeout_s`` for the first.

        With ``max_records`` 0 only the consumer's idle clock is reset. Raises BrokerError where a restart or an
        operator is needed; everything else aiokafka retries by itself.
        """
        if self.failure is not None:
            raise self.failure
        check_fetcher(self._client)
        if max_records == 0:
            await self._client.getmany(NOT_OURS, timeout_ms=0)
            return []
        if self._unresolved:
            await self._resolve()
        held = self.held().union(self.stopped)
        tps = [ClientPartition(*tp) for tp in self._positions if tp not in self._careful and tp not in held]
        polled: list[Polled] = []
        for tp in self._careful - held:
            polled += await self._poll_carefully(tp)
        if polled:
            return polled
        try:
            fetched = await self._fetched(tps or [NOT_OURS], max_records, timeout_s)
        except UNREADABLE:
            self._careful |= set(self._positions)
            self._seek_back()
            return []
        except kafka.KafkaError as error:
            self._recover(error)
            return []
        return [
            self._span(TopicPartition(*tp), records)
            for tp, records in fetched.items()
            if TopicPartition(*tp) in self._positions
        ]

    async def _fetched(
        self, tps: list[ClientPartition], max_records: int, timeout_s: float
    ) -> Mapping[ClientPartition, list[ConsumerRecord]]:
        """What ``getmany`` returns, by turns: it would empty one partition before it looks at the next."""
        waiting = [tp for tp in tps if tp not in self._served] if self._served else []
        fetched = await self._client.getmany(*waiting, timeout_ms=0, max_records=max_records) if waiting else {}
        if not fetched:
            self._served.clear()
            fetched = await self._client.getmany(*tps, timeout_ms=int(timeout_s * 1000), max_records=max_records)
        if sum(map(len, fetched.values())) < max_records:
            self._served.clear()
        else:
            self._served.update(fetched)
        return fetched

    async def poll_one(self, tp: TopicPartition) -> list[Polled]:
        """The next record of one partition, if it has been fetched already."""
        return await self._poll_carefully(tp, 0) if tp in self._positions else []

    def _span(self, tp: TopicPartition, records: list[ConsumerRecord]) -> Span:
        """Columns of what ``getmany`` returned for one partition."""
        self._positions[tp] = records[-1].offset + 1
        return Span(
            tp,
            self._epochs[tp],
            [record.offset for record in records],
            [record.timestamp for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [record.headers for record in records],
        )

    def _seek_back(self) -> None:
        """Return to the positions of what was really handed out."""
        for tp, position in self._positions.items():
            self._seek(tp, position)

    def _seek(self, tp: TopicPartition, position: int) -> None:
        """Read on at ``position``, unless the partition has just been taken away."""
        try:
            self._client.seek(ClientPartition(*tp), position)
        except kafka.IllegalStateError:
            log.debug("seek_after_revocation", topic=tp.topic, partition=tp.partition)

    def _recover(self, error: kafka.KafkaError) -> None:
        """After an error of ``getmany``: positions again by policy, or an error for the operator."""
        self._seek_back()
        if isinstance(error, kafka.OffsetOutOfRangeError | kafka.NoOffsetForPartitionError):
            named = error.args[0] if error.args else {}
            tps = {TopicPartition(*tp) for tp in (named if isinstance(named, Mapping) else [named])}
            if isinstance(error, kafka.OffsetOutOfRangeError):
                self._unresolved |= tps & set(self._positions)
            return
        if not error.retriable:
            raise broker_error(error, "reading the input") from error
        log.warning("poll_failed", error=type(error).__name__, detail=str(error))

    async def _poll_carefully(self, tp: TopicPartition, timeout_ms: int = CAREFUL_POLL_TIMEOUT_MS) -> list[Polled]:
        """One record at a time around a corrupt batch: good ones come out, a broken one by its coordinates."""
        position, epoch = self._positions[tp], self._epochs[tp]
        client_tp = ClientPartition(*tp)
        try:
            fetched = await self._client.getmany(client_tp, timeout_ms=timeout_ms, max_records=1)
        except UNREADABLE as error:
            if self._epochs.get(tp) != epoch:
                return []
            self._seek(tp, position + 1)
            self._positions[tp] = position + 1
            log.error("corrupt_record", topic=tp.topic, partition=tp.partition, offset=position)
            span = Span(tp, self._epochs[tp], [position], [-1], [None], [None], [()])
            return [Unreadable(span, Refusal("decode", "corrupt_record", str(error)))]
        except kafka.KafkaError as error:
            self._recover(error)
            return []
        if self._epochs.get(tp) != epoch:
            return []
        records = fetched.get(client_tp)
        if not records:
            self._careful.discard(tp)
            return []
        return [self._span(tp, records)]

    # ---- positions ---------------------------------------------------------------------------------------

    async def _resolve(self) -> None:
        """Find and set where reading starts for the partitions that have no position yet."""
        epochs = dict(self._epochs)
        tps = [tp for tp in self._unresolved if tp in epochs]
        if not tps:
            self._unresolved.clear()
            return
        client = self._client
        client_tps = [ClientPartition(*tp) for tp in tps]
        try:
            committed = await committed_offsets(
                client, self._section.group_id, tps, self._committed_within_s, stable=self._stable
            )
            begins, ends = await client.beginning_offsets(client_tps), await client.end_offsets(client_tps)
        except (kafka.IllegalStateError, kafka.UnknownMemberIdError, kafka.IllegalGenerationError):
            return
        except kafka.KafkaError as error:
            if not error.retriable and not isinstance(error, kafka.KafkaTimeoutError):
                raise broker_error(error, "reading committed offsets") from error
            log.warning("positions_unknown", error=type(error).__name__, detail=str(error))
            return
        started_late: dict[TopicPartition, int] = {}
        for tp, client_tp in zip(tps, client_tps, strict=True):
            if self._epochs.get(tp) != epochs[tp]:
                continue
            begin, end = begins[client_tp], ends[client_tp]
            position = self._positions.get(tp, committed[tp])
            if position is None or not begin <= position <= end:
                position = self._by_policy(tp, position, begin, end)
                if self._section.auto_offset_reset == "latest":
                    started_late[tp] = position
            self._seek(tp, position)
            self._positions[tp] = position
            self._unresolved.discard(tp)
        if started_late:
            await self.commit(started_late)

    def rewind(self, epochs: Mapping[TopicPartition, int]) -> None:
        """Read all assigned partitions again from their committed offsets, under new epochs."""
        self._epochs = dict(epochs)
        self._positions.clear()
        self._careful.clear()
        self._unresolved = set(self._epochs)

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
        if position is not None and tp in self._positions:
            self._epochs |= self._owner.assigned([tp])
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
        tps = self._positions.keys() - self.held().union(self.stopped)
        heard = [self._client.last_poll_timestamp(ClientPartition(*tp)) for tp in tps if tp in self._epochs]
        newest_ms = max((at for at in heard if at is not None), default=None)
        return None if newest_ms is None else max(0.0, time.time() - newest_ms / 1000)

    @property
    def resolving(self) -> bool:
        """Whether partitions are assigned whose start position is not known yet."""
        return bool(self._unresolved)

    def held(self) -> set[TopicPartition]:
        """Assigned partitions that are not read because the output has no partition of their number."""
        limit = self.partition_limit
        return set() if limit is None else {tp for tp in self._epochs if tp.partition >= limit}

    def lag(self, next_offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Records between each partition's next offset to commit and its end, as far as the last fetch knows."""
        lag: dict[TopicPartition, int] = {}
        for tp, position in self._positions.items():
            end = self._client.highwater(ClientPartition(*tp))
            if end is not None:
                reached = next_offsets.get(tp, -1)
                lag[tp] = max(0, end - (reached if reached >= 0 else position))
        return lag
