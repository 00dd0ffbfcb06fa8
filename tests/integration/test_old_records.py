"""What the tests' own broker does with records whose timestamps are of long ago."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.kafka.broker import KafkaBroker
from tests.kafka.processes import wait_until

OFTEN = {"log.retention.check.interval.ms": "200", "log.initial.task.delay.ms": "200"}


def test_old_records_stay_until_they_are_read(tmp_path: Path) -> None:
    """The broker looks for what is too old, and deletes it where a topic says so, and nowhere else."""
    with KafkaBroker(tmp_path, OFTEN) as broker:
        broker.client.create_topic("kept", partitions=1)
        broker.client.create_topic("short-lived", partitions=1, config={"retention.ms": "1000"})
        producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "log_level": 0})

        def begin(topic: str) -> int:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[0])

        try:
            for topic in ("kept", "short-lived"):
                producer.produce(topic, b"old", timestamp=1000)
            assert producer.flush(10) == 0
            wait_until(lambda: begin("short-lived") == 1, timeout_s=30, what=lambda: "the broker deletes nothing")
            assert begin("kept") == 0
        finally:
            consumer.close()
