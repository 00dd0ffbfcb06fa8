"""A client that hears nothing any more is told from brokers that do not answer, on a real Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping

import pytest

from tests.kafka.broker import KafkaBroker
from tests.kafka.processes import free_ports
from worker.adapters.kafka_probe import answers
from worker.adapters.kafka_source import KafkaSource
from worker.core.records import TopicPartition
from worker.settings import KafkaSection

SILENT_S = 1.0

pytestmark = pytest.mark.logs_errors


class _Owner:
    """Takes whatever is assigned."""

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(tps, 1)

    async def revoked(self, _tps: Iterable[TopicPartition]) -> None:
        return

    def offset_reset(self, *_: object) -> None:
        return


def _topic(kafka: KafkaBroker) -> str:
    name = f"stuck-{uuid.uuid4().hex[:8]}"
    kafka.client.create_topic(name)
    return name


def _section(bootstrap: str, topic: str) -> KafkaSection:
    return KafkaSection.model_validate(
        {"bootstrap_servers": [bootstrap], "group_id": topic, "input_topics": [topic], "output_topic": "out"}
    )


async def test_a_client_that_fetches_no_more_is_noticed_and_a_new_one_gets_answers(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer goes on polling without an error; its silence grows, while a second client is answered."""
    topic = _topic(kafka)
    section = _section(kafka.bootstrap, topic)
    source = KafkaSource(section, _Owner())
    await source.start()
    try:
        async with asyncio.timeout(60):
            while source.silent_s() is None:
                await source.poll(10, 0.1)
            monkeypatch.setattr(source._fetch, "_fetch_more", lambda: None)
            while (source.silent_s() or 0.0) < SILENT_S:
                await source.poll(10, 0.1)
        assert await answers(section, [TopicPartition(topic, 0)], 10.0)
        assert await answers(section, [], 10.0)
    finally:
        await source.stop()


async def test_brokers_that_do_not_answer_are_no_fault_of_the_client(kafka: KafkaBroker) -> None:
    """A port where nobody listens, and a partition that nobody has, give no answer within the time."""
    topic = _topic(kafka)
    nobody = _section(f"127.0.0.1:{free_ports(1)[0]}", topic)
    assert not await answers(nobody, [TopicPartition(topic, 0)], 2.0)
    assert not await answers(_section(kafka.bootstrap, topic), [TopicPartition(topic, 7)], 2.0)
