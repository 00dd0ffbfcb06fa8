"""A driver on the fakes: broker, source, sink and model in memory, the real pipeline and engine between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from tests.adapters.fake_cuda import Device, install
from worker import guarantees
from worker.adapters.kafka_transactions import TransactionOwner
from worker.core.actions import Policy
from worker.core.batching import BatchLimits
from worker.core.flow import FlowLimits
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import Pipeline
from worker.core.records import TopicPartition
from worker.driver import Driver
from worker.recorder import Recorder
from worker.settings import Settings
from worker.telemetry import Metrics
from worker.testing import DeliveryLedger, FakeBroker, FakeDecoder, FakeEncoder, FakeModel, FakeSink, FakeSource

TIMEOUT_S = 20.0


class FakeTransactionalSink(FakeSink):
    """Acknowledges as the fake sink does; transactions end when the test says so to their ``owner``."""

    owner: TransactionOwner

    async def finish(self) -> None:
        """Nothing is open."""

    def abandon(self) -> None:
        """Nothing is held back."""


class Rig:
    """Topics ``in``, ``out`` (three partitions each) and ``dlq``; everything of a running worker but Kafka."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        model: FakeModel,
        in_flight: int = 1000,
        guarantee: str = "at_least_once",
    ) -> None:
        self.broker = FakeBroker()
        for name, partitions in (("in", 3), ("out", 3), ("dlq", 1)):
            self.broker.create_topic(name, partitions)
        broker = self.broker

        def transactional(
            _section: object, _interval_s: float, _timeout_s: float, owner: Any, done: Any, failed: Any
        ) -> Any:
            sink = FakeTransactionalSink(broker, done, failed)
            sink.owner = owner
            return sink

        monkeypatch.setattr(
            guarantees, "KafkaSource", lambda _section, owner, *_, **__: FakeSource(broker, "g", ["in"], owner)
        )
        monkeypatch.setattr(guarantees, "KafkaSink", lambda _section, done, failed: FakeSink(broker, done, failed))
        monkeypatch.setattr(guarantees, "TransactionalSink", transactional)
        self.settings = Settings.model_validate(
            {
                "kafka": {"bootstrap_servers": ["b:1"], "group_id": "g", "input_topics": ["in"], "output_topic": "out"},
                "event": {"schema": str(Path("/schema.json")), "id_field": "id"},
                "model": {"path": str(Path("/model"))},
                "drain": {"timeout_s": 6.0},
                "delivery": {"guarantee": guarantee},
            }
        )
        routing = Routing("out", 3, 10_000, "dlq", 1, 10_000, "source", (), "g", "fraud@1", "0123456789ab")
        limits = FlowLimits(in_flight, 1_000_000, 2 * in_flight)
        transactions = guarantee == "exactly_once"
        policy = Policy(BatchLimits(8, 10_000, 0.005), limits, 0.05, 100, transactional=transactions)
        self.model, self.metrics = model, Metrics()
        self.pipeline = Pipeline(FakeDecoder(), FakeEncoder(), Dispatcher(routing, lambda key: key[0] % 3), policy)
        self.driver = Driver(self.settings, self.pipeline, model, Recorder(self.metrics, model, "fraud", "1"))
        self.poll: asyncio.Task[None] | None = None

    @property
    def source(self) -> FakeSource:
        """The fake in the driver."""
        return cast("Any", self.driver.source)  # type: ignore[no-any-return]  # replaced above

    @property
    def transactions(self) -> TransactionOwner:
        """Who is told how transactions end."""
        return cast("FakeTransactionalSink", self.driver.sink).owner

    async def start(self) -> None:
        """Start engine, sink, source and the poll loop."""
        await self.driver.sink.start()
        self.driver.engine.start()
        await self.driver.source.start()
        self.poll = asyncio.create_task(self.driver.poll_forever())

    async def close(self) -> None:
        """End everything, whatever state it is in."""
        self.model.gate.set()
        if self.poll is not None:
            self.poll.cancel()
            await asyncio.gather(self.poll, return_exceptions=True)
        await self.driver.close()

    def feed(self, values: list[bytes | None], partition: int = 0) -> None:
        """Write input records."""
        for value in values:
            self.broker.append(("in", partition), value, b"k")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until the condition holds."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():  # noqa: ASYNC110 - what it waits for has no event of its own
                await asyncio.sleep(0.002)

    def committed(self, partition: int = 0) -> int | None:
        """The group's committed offset."""
        return self.broker.committed["g"].get(TopicPartition("in", partition))

    def ledger(self) -> DeliveryLedger:
        """What became of every input record."""
        return DeliveryLedger.of(self.broker, ["in"], "out", "dlq")


StartRig = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartRig]:
    """Start rigs; all are closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(
            model: FakeModel | None = None,
            *,
            in_flight: int = 1000,
            guarantee: str = "at_least_once",
            started: bool = True,
        ) -> Rig:
            rig = Rig(monkeypatch, model or FakeModel(poison=[13], nan=[7]), in_flight, guarantee)
            stack.push_async_callback(rig.close)
            if started:
                await rig.start()
            return rig

        yield start


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A make-believe CUDA device, in the place of onnxruntime's own."""
    made = Device()
    install(monkeypatch, made)
    return made
