"""The producing edge at least once: an idempotent producer, replaced when it can do no more.

After a refusal aiokafka's idempotent producer is of no use for a partition, since its sequence numbers have moved:
a new one takes over, and what was not acknowledged is produced again. A batch that is refused for its data is split
until the refused records are alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from worker.adapters.kafka_fencing import check_client, pack_batches
from worker.adapters.kafka_lanes import DENIED, REFUSED_DATA, Delivered, Failed, Lanes, Row, refusal_of
from worker.adapters.kafka_options import broker_error, connection_options
from worker.core.records import Parcel, TopicPartition

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.sink")

MAX_BATCH_BYTES = 1_000_000
"""aiokafka has one batch of a partition in flight per broker: a large one keeps throughput up over a round trip."""

MAX_ATTEMPTS = 5
"""A batch that a fresh producer cannot deliver either, so many times in a row, is beyond our means."""

RETRY_BACKOFF_S = 0.2


async def new_producer(
    section: KafkaSection, max_batch_bytes: int, heard: Callable[[], None] = lambda: None, **options: Any
) -> AIOKafkaProducer:
    """An idempotent producer that is connected, and tells of each answer; ``options`` are aiokafka's."""
    check_client()
    compression = section.compression
    producer = AIOKafkaProducer(
        **connection_options(section),
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=min(MAX_BATCH_BYTES, max_batch_bytes),
        compression_type=None if compression == "none" else compression,
        metadata_max_age_ms=30_000,
        **options,
    )
    pack_batches(producer, heard)
    try:
        await producer.start()
    except BaseException as error:
        await asyncio.shield(producer.stop())
        if isinstance(error, AssertionError):
            # aiokafka asserts that metadata names a broker; a cluster whose only broker just came back names none.
            raise kafka.KafkaConnectionError("the cluster names no broker") from error
        raise
    return producer


class KafkaSink:
    """Sends parcels through lanes; replaces its producer when an error has spoilt it."""

    def __init__(self, section: KafkaSection, delivered: Delivered, failed: Failed) -> None:
        self._section = section
        self._lanes = Lanes(lambda: self.producer, delivered, failed, self._recover)
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._max_batch_bytes = MAX_BATCH_BYTES
        self.rebuilds = 0
        self.heard_at = time.monotonic()
        """When a broker last answered a request to produce, if only to refuse it."""

    async def start(self, max_batch_bytes: int = MAX_BATCH_BYTES) -> None:
        """Connect. ``max_batch_bytes`` is what the smaller of the topics takes as one batch."""
        self._max_batch_bytes = max_batch_bytes
        self._producer = await new_producer(self._section, max_batch_bytes, self._heard)

    def _heard(self) -> None:
        self.heard_at = time.monotonic()

    @property
    def producer(self) -> AIOKafkaProducer:
        """The producer in use."""
        if self._producer is None:
            raise RuntimeError("the sink is not started")
        return self._producer

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Take parcels; those for one partition leave in this order, after all taken before."""
        self._lanes.send(parcels)

    async def stop(self) -> None:
        """Abandon what is under way and close the connections; what is unacknowledged stays uncommitted."""
        await self._lanes.clear()
        # A retired producer is closed to its end: cancelled half-way, it would leave a connection open.
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def _recover(
        self, producer: AIOKafkaProducer, tp: TopicPartition, rows: list[Row], error: kafka.KafkaError
    ) -> None:
        """Deliver the rows of a failed batch: all again after a fault, in halves after a refusal of data."""
        await self._replace(producer, tp, error)
        attempts = 1
        while not isinstance(error, REFUSED_DATA):
            if attempts >= MAX_ATTEMPTS and not error.retriable:
                raise broker_error(error, f"writing to {tp.topic}/{tp.partition}, {attempts} attempts") from error
            attempts += 1
            producer = self.producer
            again = await self._lanes.deliver(producer, tp, rows)
            if again is None:
                return
            error = again
            await self._replace(producer, tp, error)
        if len(rows) == 1:
            self._lanes.refuse(rows[0], refusal_of(rows[0], error))
            return
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            producer = self.producer
            failure = await self._lanes.deliver(producer, tp, half)
            if failure is not None:
                await self._recover(producer, tp, half, failure)

    async def _replace(self, producer: AIOKafkaProducer, tp: TopicPartition, error: kafka.KafkaError) -> None:
        """A failed batch has used up sequence numbers: later ones need a new producer."""
        log.warning("produce_failed", topic=tp.topic, partition=tp.partition, error=type(error).__name__)
        if isinstance(error, DENIED):
            raise broker_error(error, f"writing to topic {tp.topic}") from error
        async with self._replacing:
            if self.producer is not producer:
                return
            self._producer = await self._replacement(tp)
            self.rebuilds += 1
            self._heard()
            retired = asyncio.create_task(producer.stop(), name="retired-producer")
            self._retired.add(retired)
            retired.add_done_callback(self._retired.discard)

    async def _replacement(self, tp: TopicPartition) -> AIOKafkaProducer:
        """A new producer, as soon as the brokers give one."""
        while True:
            try:
                return await new_producer(self._section, self._max_batch_bytes, self._heard)
            except DENIED as denied:
                raise broker_error(denied, f"writing to topic {tp.topic}") from denied
            except kafka.KafkaError as failure:
                log.warning("producer_not_rebuilt", error=type(failure).__name__, detail=str(failure))
            await asyncio.sleep(RETRY_BACKOFF_S)
