"""Fakes for tests of the worker and of what is built on it: they keep Kafka's rules, and they can fail.

``FakeBroker`` holds topics in memory; ``FakeSource`` and ``FakeSink`` take the places of the Kafka adapters.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from worker.adapters.kafka_source import Owner, Polled, Unreadable
from worker.core.records import Decoded, Header, Parcel, Refusal, Span, TopicPartition
from worker.errors import BrokerError, EngineFault, ModelError, Problem

DEFAULT_MAX_BYTES = 1_048_588
"""Kafka's own default for ``max.message.bytes``."""


class ManualClock:
    """A clock that moves when told to; stands in for the ``time`` module wherever a module reads one."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    monotonic = perf_counter = time = __call__

    def advance(self, seconds: float) -> float:
        """Move on; returns the new time."""
        self.now += seconds
        return self.now


# ---- codecs and model ------------------------------------------------------------------------------------------


def make_span(
    tp: tuple[str, int],
    offsets: Sequence[int],
    values: Sequence[bytes | None] | None = None,
    *,
    epoch: int = 1,
    received_at: float = 0.0,
) -> Span:
    """A span with timestamps ``1000 + offset``, keys ``k<offset>`` and, by default, the offsets as values."""
    found = [b"%d" % offset for offset in offsets] if values is None else list(values)
    times, keys = [1000 + offset for offset in offsets], [b"k%d" % offset for offset in offsets]
    headers: list[tuple[Header, ...]] = [() for _ in offsets]
    return Span(TopicPartition(*tp), epoch, list(offsets), times, list(keys), found, headers, received_at)


class FakeDecoder:
    """Decodes numbers written in ASCII to ``float32[n, 1]``; all else is refused by the worker's own reasons."""

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode; never raises."""
        tensor = np.zeros((len(values), 1), dtype=np.float32)
        rows: list[object] = []
        refusals: dict[int, Refusal] = {}
        for at, value in enumerate(values):
            if value is None:
                refusals[at] = Refusal("decode", "tombstone", "the value is null")
            elif not value:
                refusals[at] = Refusal("decode", "empty_value", "the value is empty")
            elif not value.isdigit():
                refusals[at] = Refusal("decode", "invalid_json", f"{value!r} is no number")
            else:
                tensor[at, 0] = int(value)
            rows.append(None if at in refusals else value)
        return Decoded((tensor,), rows, refusals)


class FakeEncoder:
    """Encodes ``<row>:<score>``."""

    def encode(self, rows: Sequence[object], outputs: Mapping[str, np.ndarray]) -> list[bytes]:
        """One value per row."""
        scores = outputs["score"]
        return [f"{_text(row)}:{score:g}".encode() for row, score in zip(rows, scores, strict=True)]


def _text(row: object) -> str:
    return row.decode() if isinstance(row, bytes) else str(row)


class FakeModel:
    """Scores a row as twice its first feature. Raises on ``poison``, gives NaN on ``nan``, waits at ``gate``."""

    provider = "cpu"

    def __init__(self, *, poison: Iterable[float] = (), nan: Iterable[float] = ()) -> None:
        self.poison = set(poison)
        self.nan = set(nan)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.broken = False
        self.calls: list[int] = []
        self.probes = 0

    def run(self, tensors: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """``{"score": float32[n]}``; raises ModelError if any row is poison, or if the model is broken."""
        features = tensors[0][:, 0]
        self.calls.append(len(features))
        self.entered.set()
        self.gate.wait()
        if self.broken or self.poison & set(features.tolist()):
            raise ModelError("poison in the batch")
        scores = features * np.float32(2)
        scores[np.isin(features, list(self.nan))] = np.nan
        return {"score": scores}

    def probe(self) -> None:
        """Raises EngineFault if the model is broken."""
        self.probes += 1
        if self.broken:
            raise EngineFault("the engine fails on a good row")

    def bucket(self, rows: int) -> int:
        """The next power of two."""
        return 1 << (rows - 1).bit_length()


# ---- broker ----------------------------------------------------------------------------------------------------


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
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            return
        self._arrived.clear()


# ---- edges -----------------------------------------------------------------------------------------------------


class FakeSource:
    """Stands in for ``KafkaSource``: the only member of its group, reading from the earliest or committed offset."""

    def __init__(self, broker: FakeBroker, group_id: str, topics: Iterable[str], owner: Owner) -> None:
        self._broker = broker
        self._topics = tuple(topics)
        self._owner = owner
        self._committed = broker.committed.setdefault(group_id, {})
        self._epochs: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self.partition_limit: int | None = None
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
        for tp in self._positions.keys() - self.held():
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
        """As ``client`` and ``cluster``, the way to the cluster's metadata."""
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


# ---- ledger ----------------------------------------------------------------------------------------------------


class DeliveryLedger:
    """Which fate each input record met. ``check`` holds when every expected record has exactly one."""

    def __init__(self, expected: Iterable[tuple[TopicPartition, int]]) -> None:
        self.expected = set(expected)
        self.fates: dict[tuple[TopicPartition, int], Counter[str]] = {}

    @classmethod
    def of(cls, broker: FakeBroker, inputs: Iterable[str], output: str, dead_letter: str) -> DeliveryLedger:
        """The ledger of what a broker's topics hold: inputs against the identities in outputs and dead letters."""
        tps = [tp for name in inputs for tp in broker.partitions(name)]
        ledger = cls((tp, record.offset) for tp in tps for record in broker.read(tp))
        for fate, topic in (("delivered", output), ("dead_lettered", dead_letter)):
            for tp in broker.partitions(topic):
                for record in broker.read(tp):
                    ledger.settle(*source_of(record.headers), fate)
        return ledger

    def settle(self, tp: TopicPartition, offset: int, fate: str) -> None:
        """A record met a fate."""
        self.fates.setdefault((tp, offset), Counter())[fate] += 1

    def fate(self, tp: TopicPartition, offset: int) -> str | None:
        """The one fate of a record; None if it has none, ValueError if it has several."""
        fates = self.fates.get((tp, offset), Counter())
        if fates.total() > 1:
            raise ValueError(f"{tp.topic}/{tp.partition}/{offset} has several fates: {dict(fates)}")
        return next(iter(fates), None)

    def faults(self) -> list[str]:
        """Every record that is missing, doubled, or unknown, as a line of text."""
        found = [f"{tp.topic}/{tp.partition}/{at}: missing" for tp, at in sorted(self.expected - self.fates.keys())]
        for (tp, at), fates in sorted(self.fates.items()):
            if (tp, at) not in self.expected:
                found.append(f"{tp.topic}/{tp.partition}/{at}: never expected")
            elif fates.total() > 1:
                found.append(f"{tp.topic}/{tp.partition}/{at}: {dict(fates)}")
        return found

    def check(self) -> None:
        """Raise AssertionError that lists all faults."""
        faults = self.faults()
        if faults:
            raise AssertionError("\n".join(faults))


def source_of(headers: Iterable[Header]) -> tuple[TopicPartition, int]:
    """The input record that a scored record or a dead letter names in its headers; KeyError if it names none."""
    texts = {name: (value or b"").decode() for name, value in headers}
    if "headrace-source" in texts:
        topic, partition, offset = texts["headrace-source"].rsplit("/", 2)
    else:
        topic, partition, offset = (texts[f"headrace-dlq-{name}"] for name in ("topic", "partition", "offset"))
    return TopicPartition(topic, int(partition)), int(offset)
