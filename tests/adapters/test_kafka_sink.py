"""The sink's lanes over a producer in memory: faults, refusals, replacements, and an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka

from worker.adapters import kafka_lanes, kafka_sink
from worker.adapters.kafka_sink import MAX_ATTEMPTS, KafkaSink
from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, TopicPartition
from worker.errors import BrokerError
from worker.settings import KafkaSection
from worker.testing import make_span

TP = TopicPartition("out", 0)
SECTION = KafkaSection(bootstrap_servers=("127.0.0.1:1",), group_id="group", input_topics=("in",), output_topic="out")


class _Builder:
    """A batch, and the compiled one inside it, which takes its fields by place."""

    def __init__(self, capacity: int) -> None:
        self.values: list[bytes | None] = []
        self._capacity = capacity
        self._builder = SimpleNamespace(append=self._append)

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: object
    ) -> object | None:
        return self._append(len(self.values), timestamp, key, value, headers)

    def _append(
        self, index: int, _timestamp: object, _key: object, value: bytes | None, _headers: object
    ) -> object | None:
        assert index == len(self.values)
        if index == self._capacity:
            return None
        self.values.append(value)
        return object()

    def close(self) -> None:
        """Nothing to finish."""


@dataclass
class _Cluster:
    """What all producers of a test share: the log, and how the next batches end."""

    log: list[bytes | None] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    judge: Callable[[list[bytes | None]], kafka.KafkaError | None] = field(default=lambda _values: None)
    producers: list[_Producer] = field(default_factory=list)
    start_errors: list[Exception] = field(default_factory=list)
    capacity: int = 100
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)


class _Producer:
    """As much of aiokafka's producer as the sink uses."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._sender = SimpleNamespace()
        self.client = SimpleNamespace(cluster=SimpleNamespace(partitions_for_topic=lambda _topic: None))
        self.stopped = False
        cluster.producers.append(self)

    async def start(self) -> None:
        if self._cluster.start_errors:
            raise self._cluster.start_errors.pop(0)

    async def stop(self) -> None:
        await self._cluster.may_stop.wait()
        self.stopped = True

    def create_batch(self) -> _Builder:
        return _Builder(self._cluster.capacity)

    async def send_batch(self, builder: _Builder, _topic: str, *, partition: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._cluster.batches.append(len(builder.values))
        error = self._cluster.judge(builder.values)
        if error is not None:
            future.set_exception(error)
        else:
            self._cluster.log += builder.values
            future.set_result(partition)
        return future


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> _Cluster:
    """A cluster in place of Kafka; retries wait for nothing."""
    cluster = _Cluster()
    cluster.may_stop.set()
    monkeypatch.setattr(kafka_sink, "AIOKafkaProducer", lambda **_: _Producer(cluster))
    monkeypatch.setattr(kafka_sink, "RETRY_BACKOFF_S", 0.0)
    return cluster


class _Owner:
    """Gathers verdicts."""

    def __init__(self) -> None:
        self.reported: list[tuple[Parcel, dict[int, Refusal]]] = []
        self.failures: list[BaseException] = []
        self.sink = KafkaSink(SECTION, self._delivered, self._failed)
        self._more = asyncio.Event()

    def _delivered(self, parcel: Parcel, refused: Any) -> None:
        self.reported.append((parcel, dict(refused)))
        self._more.set()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self._more.set()

    async def verdicts(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.reported) + len(self.failures) < count:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def owner(cluster: _Cluster) -> _Owner:
    """The owner of a started sink."""
    owner = _Owner()
    await owner.sink.start()
    assert len(cluster.producers) == 1
    return owner


def _parcel(values: list[bytes | None], *, letter: Refusal | None = None) -> Parcel:
    rows = Slice(Block(make_span(("in", 0), range(len(values))), Decoded((), [], {})), 0, len(values))
    return Parcel(TP, [None] * len(values), values, [[] for _ in values], [0] * len(values), [rows], letter)


async def test_what_arrives_during_a_send_shares_the_next_batch(cluster: _Cluster, owner: _Owner) -> None:
    """Parcels sent together travel together, cut where a batch is full, and are reported in order."""
    cluster.capacity = 3
    parcels = [_parcel([b"1", b"2"]), _parcel([b"3", b"4", b"5"]), _parcel([b"6"])]
    owner.sink.send(parcels)
    await owner.verdicts(3)
    assert owner.reported == [(parcel, {}) for parcel in parcels]
    assert (cluster.log, cluster.batches) == ([b"1", b"2", b"3", b"4", b"5", b"6"], [3, 3])
    assert owner.sink.rebuilds == 0
    await owner.sink.stop()


async def test_a_fault_is_retried_on_a_fresh_producer(cluster: _Cluster, owner: _Owner) -> None:
    """The whole batch goes again, once; the owner sees nothing of it."""
    errors: list[kafka.KafkaError] = [kafka.RequestTimedOutError(), kafka.UnknownError()]
    cluster.judge = lambda _values: errors.pop() if errors else None
    parcel = _parcel([b"1", b"2"])
    owner.sink.send([parcel])
    await owner.verdicts(1)
    assert owner.reported == [(parcel, {})]
    assert cluster.log == [b"1", b"2"]
    assert owner.sink.rebuilds == 2
    assert len(cluster.producers) == 3
    await owner.sink.stop()


async def test_a_producer_that_never_takes_a_batch_is_replaced(
    cluster: _Cluster, owner: _Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was stopped while it looked for the topic: the batch goes to the next one."""
    monkeypatch.setattr(kafka_lanes, "HAND_OVER_S", 0.01)
    never = asyncio.Event()

    async def waits(*_: object, **__: object) -> None:
        await never.wait()

    monkeypatch.setattr(cluster.producers[0], "send_batch", waits)
    parcel = _parcel([b"1"])
    owner.sink.send([parcel])
    await owner.verdicts(1)
    assert owner.reported == [(parcel, {})]
    assert (cluster.log, owner.sink.rebuilds) == ([b"1"], 1)
    await owner.sink.stop()


async def test_a_lasting_fault_that_is_not_retriable_fails_the_sink(cluster: _Cluster, owner: _Owner) -> None:
    """After so many attempts on fresh producers the operator is told; nothing is reported as delivered."""
    cluster.judge = lambda _values: kafka.UnknownError()
    owner.sink.send([_parcel([b"1"])])
    await owner.verdicts(1)
    assert owner.reported == []
    assert isinstance(owner.failures[0], BrokerError)
    assert len(cluster.batches) == MAX_ATTEMPTS
    await owner.sink.stop()


async def test_a_denied_topic_fails_the_sink_at_once(cluster: _Cluster, owner: _Owner) -> None:
    """No retry helps against missing permissions."""
    cluster.judge = lambda _values: kafka.TopicAuthorizationFailedError("out")
    owner.sink.send([_parcel([b"1"])])
    await owner.verdicts(1)
    (error,) = owner.failures
    assert isinstance(error, BrokerError)
    assert "denies access to topic out" in str(error)
    assert cluster.batches == [1]
    await owner.sink.stop()


async def test_a_producer_that_does_not_start_is_tried_again(cluster: _Cluster, owner: _Owner) -> None:
    """While no broker answers, the replacement waits; afterwards everything is delivered."""
    errors: list[kafka.KafkaError] = [kafka.RequestTimedOutError()]
    cluster.judge = lambda _values: errors.pop() if errors else None
    cluster.start_errors = [kafka.KafkaConnectionError("down"), kafka.KafkaConnectionError("down")]
    before = owner.sink.heard_at
    owner.sink.send([_parcel([b"1"])])
    await owner.verdicts(1)
    assert cluster.log == [b"1"]
    assert owner.sink.rebuilds == 1
    assert owner.sink.heard_at > before
    assert len(cluster.producers) == 4
    await owner.sink.stop()


@pytest.mark.parametrize("culprits", [{0}, {4}, {1, 2}, {0, 1, 2, 3, 4}])
async def test_refused_records_are_found_by_halves(cluster: _Cluster, owner: _Owner, culprits: set[int]) -> None:
    """Exactly the refused ones are reported; the others arrive once, in order, and so does what follows."""
    bad = {b"%d" % number for number in culprits}
    cluster.judge = lambda values: kafka.InvalidTimestampError() if bad & set(values) else None
    parcel, later = _parcel([b"0", b"1", b"2", b"3", b"4"]), _parcel([b"9"])
    owner.sink.send([parcel, later])
    await owner.verdicts(2)
    assert [reported for reported, _ in owner.reported] == [parcel, later]
    assert {at: refusal.reason for at, refusal in owner.reported[0][1].items()} == dict.fromkeys(
        culprits, "broker_refused"
    )
    assert cluster.log == [value for value in (*parcel.values, b"9") if value not in bad]
    await owner.sink.stop()


async def test_a_retired_producer_is_closed_to_its_end(cluster: _Cluster, owner: _Owner) -> None:
    """Stopping waits for it: a connection that is half closed would stay open."""
    cluster.may_stop.clear()
    errors: list[kafka.KafkaError] = [kafka.RequestTimedOutError()]
    cluster.judge = lambda _values: errors.pop() if errors else None
    owner.sink.send([_parcel([b"1"])])
    await owner.verdicts(1)
    stopping = asyncio.create_task(owner.sink.stop())
    asyncio.get_running_loop().call_later(0.01, cluster.may_stop.set)
    await stopping
    assert [producer.stopped for producer in cluster.producers] == [True, True]
