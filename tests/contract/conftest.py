"""One world, twice: the fakes, and the Kafka adapters on a real broker. The suite cannot tell which it runs on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

import pytest

from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing
from worker.adapters.kafka_sink import KafkaSink
from worker.adapters.kafka_source import KafkaSource, Owner
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.settings import KafkaSection
from worker.testing import FakeBroker, FakeSink, FakeSource, StoredRecord

TIMEOUT_S = 40.0
Delivered = Callable[[Parcel, Mapping[int, Refusal]], None]


class RecordingOwner:
    """Numbers assignments and notes what it is told."""

    def __init__(self) -> None:
        self.epochs: dict[TopicPartition, int] = {}
        self.resets: list[tuple[TopicPartition, int, str]] = []
        self._last = 0

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Epochs count up."""
        for tp in tps:
            self._last += 1
            self.epochs[tp] = self._last
        return dict(self.epochs)

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Forget them."""
        for tp in tps:
            self.epochs.pop(tp, None)

    def offset_reset(self, tp: TopicPartition, offset: int, why: Literal["none_committed", "out_of_range"]) -> None:
        """Note it."""
        self.resets.append((tp, offset, why))


class Verdicts:
    """What a sink reported, with a way to wait for it."""

    def __init__(self) -> None:
        self.reported: list[tuple[Parcel, Mapping[int, Refusal]]] = []
        self.failures: list[BaseException] = []
        self._more = asyncio.Event()

    def delivered(self, parcel: Parcel, refused: Mapping[int, Refusal]) -> None:
        """A verdict came."""
        self.reported.append((parcel, dict(refused)))
        self._more.set()

    def failed(self, error: BaseException) -> None:
        """The sink failed."""
        self.failures.append(error)
        self._more.set()

    async def wait(self, count: int) -> None:
        """Until so many verdicts and failures came together."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.reported) + len(self.failures) < count:
                self._more.clear()
                await self._more.wait()


class World(Protocol):
    """Topics, sources and sinks of one kind."""

    def topic(self, partitions: int = 1, *, max_message_bytes: int = 1_048_588, compacted: bool = False) -> str:
        """Create a topic; returns its name."""
        ...

    def produce(self, topic: str, values: Iterable[bytes | None], partition: int = 0) -> None:
        """Write records with the keys ``k0, k1, ...``, a header ``h`` and timestamps 1000, 1001, ..."""
        ...

    def read(self, topic: str, partition: int = 0) -> list[StoredRecord]:
        """Everything in a partition."""
        ...

    def source(self, topic: str, group: str, owner: Owner) -> KafkaSource | FakeSource:
        """A source that is not started."""
        ...

    def sink(self, verdicts: Verdicts) -> KafkaSink | FakeSink:
        """A sink that is not started."""
        ...


class FakeWorld:
    """The shipped fakes."""

    def __init__(self) -> None:
        self.broker = FakeBroker()

    def topic(self, partitions: int = 1, *, max_message_bytes: int = 1_048_588, compacted: bool = False) -> str:
        """See ``World``."""
        name = uuid.uuid4().hex
        self.broker.create_topic(name, partitions, max_message_bytes=max_message_bytes, compacted=compacted)
        return name

    def produce(self, topic: str, values: Iterable[bytes | None], partition: int = 0) -> None:
        """See ``World``."""
        for at, value in enumerate(values):
            self.broker.append((topic, partition), value, b"k%d" % at, headers=[("h", b"\xff")], timestamp=1000 + at)

    def read(self, topic: str, partition: int = 0) -> list[StoredRecord]:
        """See ``World``."""
        return self.broker.read((topic, partition))

    def source(self, topic: str, group: str, owner: Owner) -> FakeSource:
        """See ``World``."""
        return FakeSource(self.broker, group, [topic], owner)

    def sink(self, verdicts: Verdicts) -> FakeSink:
        """See ``World``."""
        return FakeSink(self.broker, verdicts.delivered, verdicts.failed)


class KafkaWorld:
    """The adapters, on a broker."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.broker = broker

    def topic(self, partitions: int = 1, *, max_message_bytes: int = 1_048_588, compacted: bool = False) -> str:
        """See ``World``."""
        name = f"contract-{uuid.uuid4().hex[:10]}"
        config = {"max.message.bytes": str(max_message_bytes)} | ({"cleanup.policy": "compact"} if compacted else {})
        self.broker.client.create_topic(name, partitions=partitions, config=config)
        return name

    def produce(self, topic: str, values: Iterable[bytes | None], partition: int = 0) -> None:
        """See ``World``."""
        records = [
            Outgoing(value, b"k%d" % at, (("h", b"\xff"),), 1000 + at, partition) for at, value in enumerate(values)
        ]
        self.broker.client.produce(topic, records)

    def read(self, topic: str, partition: int = 0) -> list[StoredRecord]:
        """See ``World``."""
        records = self.broker.client.read_all(topic)
        return [
            StoredRecord(record.offset, record.timestamp_ms, record.key, record.value, record.headers)
            for record in records
            if record.partition == partition
        ]

    def _section(self, topic: str, group: str) -> KafkaSection:
        return KafkaSection(
            bootstrap_servers=(self.broker.bootstrap,),
            group_id=group,
            input_topics=(topic,),
            output_topic=f"{topic}-out",
            session_timeout_s=6,
        )

    def source(self, topic: str, group: str, owner: Owner) -> KafkaSource:
        """See ``World``. A fresh broker has no coordinator for a moment: the client waits for it."""
        self.broker.client.committed(group, topic)
        return KafkaSource(self._section(topic, group), owner)

    def sink(self, verdicts: Verdicts) -> KafkaSink:
        """See ``World``."""
        return KafkaSink(self._section("unused", "unused"), verdicts.delivered, verdicts.failed)


@pytest.fixture(params=["fake", "kafka"])
def world(request: pytest.FixtureRequest) -> World:
    """The fakes, then a real broker."""
    return FakeWorld() if request.param == "fake" else KafkaWorld(request.getfixturevalue("kafka"))


@pytest.fixture
def group() -> str:
    """A group that nobody used before."""
    return f"group-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def owner() -> RecordingOwner:
    """Who is told about assignments."""
    return RecordingOwner()


@pytest.fixture
async def verdicts() -> Verdicts:
    """What the sink reports."""
    return Verdicts()
