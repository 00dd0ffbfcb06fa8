"""A Kafka cluster inside this process: the mock cluster of librdkafka, and clients that talk to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker.errors import EnvironmentFault, Problem

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

_METADATA_TIMEOUT_S = 10.0
# The mock cluster answers a waiting fetch only when its wait is over, so the wait is what a record waits at worst.
_FETCH_WAIT_MS = 2
# The mock cluster returns one produced batch per partition and fetch, so small batches would limit the rate.
_LINGER_MS = 20


def require_demo_extra() -> None:
    """Raise EnvironmentFault, with the command to type, unless the packages of the demo extra are there."""
    try:
        import confluent_kafka  # noqa: F401 - only the demo needs it
        import rich  # noqa: F401 - only the demo needs it
    except ImportError as error:
        problem = Problem(
            f"the demo needs the package {error.name}, which is not installed",
            remedy="pip install 'headrace[demo,cpu]'  (in a checkout: make setup)",
            code="missing_extra",
        )
        raise EnvironmentFault(problem) from error


class MockCluster:
    """One in-memory broker on a free loopback port, alive as long as this object.

    It keeps everything in memory and forgets it at the end. Each topic has four partitions, the mock's own choice.
    ``refused`` counts records that the broker did not take.
    """

    def __init__(self) -> None:
        from confluent_kafka import Producer

        self.refused = 0
        self._producer: Producer = Producer(
            {
                "test.mock.num.brokers": 1,
                "linger.ms": _LINGER_MS,
                # As Kafka's own clients choose the partition.
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._note_delivery,
                "log_level": 3,
            }
        )
        brokers = self._producer.list_topics(timeout=_METADATA_TIMEOUT_S).brokers.values()
        self.bootstrap_servers = [f"{broker.host}:{broker.port}" for broker in brokers]

    def _note_delivery(self, error: object, _message: object) -> None:
        self.refused += error is not None

    def create_topic(self, name: str) -> int:
        """Create the topic and return how many partitions it has."""
        # The mock has no controller to ask; naming a topic in a metadata request creates it.
        while True:
            topic = self._producer.list_topics(name, timeout=_METADATA_TIMEOUT_S).topics[name]
            if topic.error is None and topic.partitions:
                return len(topic.partitions)
            time.sleep(0.02)

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, str | bytes | None]],
    ) -> None:
        """Hand one record to the producer; waits while its queue is full."""
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                self._producer.poll(0.01)
            else:
                return

    def serve(self) -> None:
        """Let the producer report what it could not deliver."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> int:
        """Wait until everything sent is acknowledged; returns how many records are not."""
        return int(self._producer.flush(timeout_s)) + self.refused

    def reader(self, partitions: dict[str, int]) -> Consumer:
        """A consumer of all partitions of these topics from their start, outside any group."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(self.bootstrap_servers),
                "group.id": "headrace-demo-reader",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": _FETCH_WAIT_MS,
                "log_level": 3,
            }
        )
        consumer.assign([TopicPartition(name, number, 0) for name in partitions for number in range(partitions[name])])
        return consumer

    def uncommitted(self, group_id: str, topic: str, partitions: int) -> int:
        """Records of the topic beyond the group's committed offsets."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(self.bootstrap_servers),
                "group.id": group_id,
            }
        )
        try:
            addresses = [TopicPartition(topic, number) for number in range(partitions)]
            committed = consumer.committed(addresses, timeout=_METADATA_TIMEOUT_S)
            ends = [consumer.get_watermark_offsets(address, timeout=_METADATA_TIMEOUT_S)[1] for address in addresses]
            return sum(end - max(address.offset, 0) for address, end in zip(committed, ends, strict=True))
        finally:
            consumer.close()
