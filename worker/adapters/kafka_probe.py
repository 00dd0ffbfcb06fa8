"""A second opinion on the brokers: what a new client hears, independent of the ones in use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka

from worker.adapters.kafka_options import connection_options
from worker.core.records import TopicPartition

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.probe")


async def answers(section: KafkaSection, tps: Iterable[TopicPartition], timeout_s: float) -> bool:
    """Whether a new client connects and gets the ends of these partitions from their leaders in time."""
    consumer = AIOKafkaConsumer(**connection_options(section), group_id=None, enable_auto_commit=False)
    client_tps = [ClientPartition(*tp) for tp in tps]
    try:
        async with asyncio.timeout(timeout_s):
            if client_tps:
                consumer.assign(client_tps)
            await consumer.start()
            if client_tps:
                await consumer.end_offsets(client_tps)
    except (TimeoutError, kafka.KafkaError) as error:
        log.debug("probe_unanswered", error=type(error).__name__, detail=str(error))
        return False
    finally:
        await asyncio.shield(consumer.stop())
    return True
