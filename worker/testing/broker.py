"""A broker in memory, and the source and the sink that speak to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.adapters.kafka_source import Owner, Polled, Unreadable
from worker.core.records import Header, Parcel, Refusal, Span, TopicPartition
from worker.errors import BrokerError, Problem

DEFAULT_MAX_BYTES = 1_048_588
"""Kafka's own default for ``max.message.bytes``."""


class StoredRecord(NamedTuple):
    """A record in a partition's log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


@dataclass(slots=True)
class _Topic:
    max_message_bytes: int
    compacted: bool
    logs: list[list[StoredRecord]]
    ends: list[int]


@dataclass(slots=True)
class FakeBroker:
    """Topics with real offsets, committed offsets per group, and switches for everything that goes wrong.

    ``accepts_commits``, ``reachable``: whether it does, or is. ``refuses``: a rule that names the reason for which
    a written record is refused, or None. All access is from one event loop.
    """

    accepts_commits: bool = True
    reachable: bool = True
    refuses: Callable[[TopicPartition, StoredRecord], str | None] = field(default=lambda _tp, _record: None)
    committed: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    _topics: dict[str, _Topic] = field(default_factory=dict)
    _withheld: set[TopicPartition] = field(default_factory=set)
    _corrupt: set[tuple[TopicPartition, int]] = field(default_factory=set)
    _sinks: list[FakeSink] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def create_topic(
        self, name: str, partitions: int = 1, *, max_message_bytes: int = DEFAULT_MAX_BYTES, compacted: bool = False
    ) -> None:
        """Create a topic, or give it more partitions."""
        topic = self._topics.setdefault(name, _Topic(max_message_bytes, compacted, [], []))
        while len(topic.logs) < partitions:
            topic.logs.append([])
            topic.ends.append(0)

    def partitions(self, name: str) -> list[TopicPartition]:
        """The partitions of a topic; KeyError for an unknown one."""
        return [TopicPartition(name, partition) for partition in range(len(self._topics[name].logs))]

    def append(
        self,
        tp: tuple[str, int],
        value: bytes | None,
        key: bytes | None = None,
        *,
        headers: Iterable[Header] = (),
        timestamp: int = 0,
        gap: int = 0,
    ) -> int:
        """Write a record, after ``gap`` offsets as compaction leaves them out; returns its offset."""
        topic = self._topics[tp[0]]
        offset = topic.ends[tp[1]] + gap
        topic.logs[tp[1]].append(StoredRecord(offset, timestamp, key, value, tuple(headers)))
        topic.ends[tp[1]] = offset + 1
        self._arrived.set()
        return offset

    def corrupt(self, tp: TopicPartition, offset: int) -> None:
        """Let the record at ``offset`` fail its checksum when read."""
        self._corrupt.add((tp, offset))

    def read(self, tp: tuple[str, int], start: int = 0) -> list[StoredRecord]:
        """The records of a partition from offset ``start`` on."""
        return [record for record in self._topics[tp[0]].logs[tp[1]] if record.offset >= start]

    def end(self, tp: tuple[str, int]) -> int:
        """The offset that the next record gets."""
        return self._topics[tp[0]].ends[tp[1]]

    def is_corrupt(self, tp: TopicPartition, offset: int) -> bool:
        """Whether the record at ``offset`` was damaged."""
        return (tp, offset) in self._corrupt

    def write(self, tp: TopicPartition, record: StoredRecord) -> str | None:
        """Append what a sink sends; returns why it is refused, or None."""
        topic = self._topics[tp.topic]
        size = len(record.value or b"") + len(record.key or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        if size > topic.max_message_bytes:
            return "output_oversize"
        if topic.compacted and record.key is None:
            return "broker_refused"
        reason = self.refuses(tp, record)
        if reason is None:
            self.append(tp, record.value, record.key, headers=record.headers, timestamp=record.timestamp)
        return reason

    def withhold_acks(self, *tps: TopicPartition) -> None:
        """Store what is written to these partitions, and acknowledge nothing until ``release_acks``."""
        self._withheld.update(tps)

    def release_acks(self, *tps: TopicPartition) -> None:
        """Acknowledge again, what was withheld first; without arguments all partitions."""
        self._withheld.difference_update(tps or tuple(self._withheld))
        for sink in self._sinks:
            sink.acknowledge()

    def withholds(self, tp: TopicPartition) -> bool:
        """Whether acknowledgements of this partition are withheld."""
        return tp in self._withheld

    def attach(self, sink: FakeSink) -> None:
        """Tell this sink when acknowledgements go on."""
        self._sinks.append(sink)

    async def wait_for_records(self, timeout_s: float) -> None:
        """Return when a record was written since the last call, or after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return
        self._arrived.clear()


class FakeSource:
    """Stands in for ``KafkaSource``: the only member of its group, reading from the earliest or committed offset."""

    def __init__(self, broker: FakeBroker, group_id: str, topics: Iterable[str], owner: Owner) -> None:
        self._broker = broker
        self._topics = tuple(topics)
        self._owner = owner
        self._committed = broker.committed.setdefault(group_id, {})
        self._epochs: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._turns: list[TopicPartition] = []
        self.partition_limit: int | None = None
        self.stopped: Callable[[], Collection[TopicPartition]] = tuple
        self.resolving = False
        self.failure: BaseException | None = None
        self.started = False

    async def start(self) -> None:
        """Join: all partitions of the topics are assigned."""
        self.started = True
        self._assign(tp for topic in self._topics for tp in self._broker.partitions(topic))

    async def stop(self) -> None:
        """Leave; nothing is committed by this."""
        self.started = False
        self._positions.clear()

    async def reassign(self, tps: Iterable[TopicPartition]) -> None:
        """Rebalance: everything is revoked, then ``tps`` are assigned."""
        held = list(self._epochs)
        self._positions.clear()
        await self._owner.revoked(held)
        self._assign(tps)

    def _assign(self, tps: Iterable[TopicPartition]) -> None:
        self._epochs = dict(self._owner.assigned(list(tps)))
        self._positions = {}
        for tp in self._epochs:
            if tp not in self._committed:
                self._owner.offset_reset(tp, 0, "none_committed")
            self._positions[tp] = self._committed.get(tp, 0)
        self._turns = list(self._positions)

    def silent_s(self) -> float | None:
        """The broker in memory answers at once."""
        return 0.0 if self._positions else None

    async def poll(self, max_records: int, timeout_s: float) -> list[Polled]:
        """At most ``max_records`` records, waiting up to ``timeout_s`` for the first; 0 only shows liveness."""
        if self.failure is not None:
            raise self.failure
        if not self.started:
            raise RuntimeError("the source is not started")
        polled = self._fetch(max_records)
        if not polled and max_records and timeout_s:
            await self._broker.wait_for_records(timeout_s)
            polled = self._fetch(max_records)
        return polled

    def _fetch(self, max_records: int) -> list[Polled]:
        polled: list[Polled] = []
        for tp in [tp for tp in self._turns if tp in self._positions.keys() - self.held()]:
            records = self._broker.read(tp, self._positions[tp])[: max(0, max_records)]
            bad = next((at for at, record in enumerate(records) if self._broker.is_corrupt(tp, record.offset)), None)
            if bad == 0:
                offset = records[0].offset
                span = Span(tp, self._epochs[tp], [offset], [-1], [None], [None], [()])
                polled.append(Unreadable(span, Refusal("decode", "corrupt_record", "the checksum does not match")))
                records = records[:1]
            elif records:
                records = records[:bad]
                polled.append(self._span(tp, records))
            if records:
                self._positions[tp] = records[-1].offset + 1
                max_records -= len(records)
                # Whoever was served goes to the end of the queue.
                self._turns.remove(tp)
                self._turns.append(tp)
        return polled

    def _span(self, tp: TopicPartition, records: list[StoredRecord]) -> Span:
        offsets, timestamps, keys, values, headers = (list(column) for column in zip(*records, strict=True))
        return Span(tp, self._epochs[tp], offsets, timestamps, keys, values, headers)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit; False when the broker takes no commits or a partition is not assigned, and nothing changes."""
        if not self._broker.accepts_commits or not offsets.keys() <= self._epochs.keys():
            return False
        self._committed.update(offsets)
        return True

    def held(self) -> set[TopicPartition]:
        """Assigned partitions beyond ``partition_limit``."""
        limit = self.partition_limit
        return set() if limit is None else {tp for tp in self._epochs if tp.partition >= limit}

    def lag(self, next_offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Records between each partition's next offset to commit and its end."""
        reached = {tp: next_offsets.get(tp, -1) for tp in self._positions}
        return {
            tp: max(0, self._broker.end(tp) - (reached[tp] if reached[tp] >= 0 else position))
            for tp, position in self._positions.items()
        }


class FakeSink:
    """Stands in for ``KafkaSink``: writes at once, acknowledges in order per partition, in a later turn of the loop."""

    def __init__(
        self,
        broker: FakeBroker,
        delivered: Callable[[Parcel, Mapping[int, Refusal]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._broker = broker
        self._delivered = delivered
        self._failed = failed
        self._unacknowledged: dict[TopicPartition, deque[tuple[Parcel, dict[int, Refusal]]]] = {}
        self.rebuilds = 0
        self.heard_at = 0.0
        self.started = False
        broker.attach(self)

    async def start(self, max_batch_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Connect."""
        self.started = max_batch_bytes > 0

    async def stop(self) -> None:
        """Forget what is not acknowledged."""
        self.started = False
        self._unacknowledged.clear()

    @property
    def producer(self) -> FakeSink:
        """As ``client`` and ``cluster``, the way to the cluster's metadata; RuntimeError before the start."""
        if not self.started:
            raise RuntimeError("the sink is not started")
        return self

    client = cluster = producer

    async def force_metadata_update(self) -> bool:
        """Whether the broker answers."""
        return self._broker.reachable

    def partitions_for_topic(self, topic: str) -> set[int]:
        """The partition numbers of a topic."""
        return {tp.partition for tp in self._broker.partitions(topic)}

    def send(self, parcels: list[Parcel]) -> None:
        """Write parcels; a refused dead letter fails the sink, and its parcel is never acknowledged."""
        if not self.started:
            raise RuntimeError("the sink is not started")
        for parcel in parcels:
            refused = self._write(parcel)
            if refused and parcel.dead_letter is not None:
                message = f"the dead-letter topic {parcel.tp.topic} refuses a record"
                self._failed(BrokerError(Problem(message, code="dead_letter_refused")))
                continue
            self._unacknowledged.setdefault(parcel.tp, deque()).append((parcel, refused))
        asyncio.get_running_loop().call_soon(self.acknowledge)

    def _write(self, parcel: Parcel) -> dict[int, Refusal]:
        refused: dict[int, Refusal] = {}
        for at, value in enumerate(parcel.values):
            record = StoredRecord(-1, parcel.timestamps[at] or 0, parcel.keys[at], value, tuple(parcel.headers[at]))
            reason = self._broker.write(parcel.tp, record)
            if reason is not None:
                refused[at] = Refusal("produce", reason, "the broker refuses the output record")
        return refused

    def acknowledge(self) -> None:
        """Report every parcel whose acknowledgement is not withheld."""
        for tp, waiting in list(self._unacknowledged.items()):
            while waiting and not self._broker.withholds(tp):
                self._delivered(*waiting.popleft())
