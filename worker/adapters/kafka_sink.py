"""The producing edge: one lane per output partition, one batch in flight per lane, nothing sent out of order.

A lane gathers what arrives while its batch is under way, so load itself makes batches larger and an idle lane
waits for nothing. A refused batch is split until the refused records are alone. aiokafka's idempotent producer is
of no use for a partition after a refusal (its sequence numbers have moved), so it is replaced by a new one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.adapters.kafka_options import InvalidRecordError, broker_error, connection_options
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.sink")

MAX_BATCH_BYTES = 1_000_000
"""aiokafka has one batch of a partition in flight per broker: a large one keeps throughput up over a round trip."""

MAX_ATTEMPTS = 5
"""A batch that a fresh producer cannot deliver either, so many times in a row, is beyond our means."""

RETRY_BACKOFF_S = 0.2

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
_REFUSED_DATA = (*_TOO_LARGE, kafka.InvalidTimestampError, kafka.CorruptRecordException, InvalidRecordError)
_DENIED = (
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)

Row = tuple[Parcel, int]


@dataclass(slots=True, eq=False)
class _Progress:
    """How far a parcel's delivery has come."""

    left: int
    refused: dict[int, Refusal] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for one output partition, and the task that sends it while there is anything."""

    tp: TopicPartition
    waiting: deque[Parcel] = field(default_factory=deque)
    cursor: int = 0
    task: asyncio.Task[None] | None = None


class KafkaSink:
    """Sends parcels and reports each when the brokers have acknowledged (or refused) every record of it."""

    def __init__(
        self,
        section: KafkaSection,
        delivered: Callable[[Parcel, Mapping[int, Refusal]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._section = section
        self._delivered = delivered
        self._failed = failed
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._progress: dict[int, _Progress] = {}
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._max_batch_bytes = MAX_BATCH_BYTES
        self.rebuilds = 0

    async def start(self, max_batch_bytes: int = MAX_BATCH_BYTES) -> None:
        """Connect. ``max_batch_bytes`` is what the smaller of the topics takes as one batch."""
        self._max_batch_bytes = min(MAX_BATCH_BYTES, max_batch_bytes)
        self._producer = await self._new_producer()

    async def _new_producer(self) -> AIOKafkaProducer:
        """An idempotent producer that is connected."""
        compression = self._section.compression
        producer = AIOKafkaProducer(
            **connection_options(self._section),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=self._max_batch_bytes,
            compression_type=None if compression == "none" else compression,
            metadata_max_age_ms=30_000,
        )
        try:
            await producer.start()
        except BaseException:
            await asyncio.shield(producer.stop())
            raise
        return producer

    @property
    def producer(self) -> AIOKafkaProducer:
        """The producer in use."""
        if self._producer is None:
            raise RuntimeError("the sink is not started")
        return self._producer

    def send(self, parcels: list[Parcel]) -> None:
        """Take parcels; those for one partition leave in this order, after all taken before."""
        for parcel in parcels:
            lane = self._lanes.get(parcel.tp)
            if lane is None:
                lane = self._lanes[parcel.tp] = _Lane(parcel.tp)
            self._progress[id(parcel)] = _Progress(len(parcel))
            lane.waiting.append(parcel)
            if lane.task is None:
                lane.task = asyncio.create_task(self._run(lane), name=f"lane-{parcel.tp.topic}-{parcel.tp.partition}")

    async def stop(self) -> None:
        """Abandon what is under way and close the connections; what is unacknowledged stays uncommitted."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        # A retired producer is closed to its end: cancelled half-way, it would leave a connection open.
        await asyncio.gather(*tasks, *self._retired, return_exceptions=True)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    # ---- lanes -------------------------------------------------------------------------------------------

    async def _run(self, lane: _Lane) -> None:
        """Send what the lane holds, one batch after the other, until nothing waits."""
        try:
            while lane.waiting:
                await self._send_next(lane)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 # handed to the owner, who ends the worker with it
            self._failed(error)
        finally:
            lane.task = None

    async def _send_next(self, lane: _Lane) -> None:
        """Fill one batch from the front of the lane and deliver it."""
        producer = self.producer
        builder = producer.create_batch()
        append = builder.append
        sent: list[tuple[Parcel, int, int]] = []
        full = False
        while lane.waiting and not full:
            parcel = lane.waiting[0]
            start = at = lane.cursor
            keys, values, headers, timestamps = parcel.keys, parcel.values, parcel.headers, parcel.timestamps
            for at in range(start, len(values)):
                appended = append(timestamp=timestamps[at], key=keys[at], value=values[at], headers=headers[at])
                if appended is None:
                    full = True
                    break
            else:
                at = len(values)
            if at > start:
                sent.append((parcel, start, at))
            if at == len(values):
                lane.waiting.popleft()
                lane.cursor = 0
            else:
                lane.cursor = at
        builder.close()
        error = await self._deliver(producer, builder, lane.tp)
        if error is None:
            for parcel, start, stop in sent:
                self._acknowledge(parcel, stop - start)
            return
        await self._after(error, producer, lane.tp)
        await self._resend([(parcel, at) for parcel, start, stop in sent for at in range(start, stop)], lane.tp, error)

    async def _deliver(
        self, producer: AIOKafkaProducer, builder: BatchBuilder, tp: TopicPartition
    ) -> kafka.KafkaError | None:
        """Hand a closed batch to the producer and wait for the brokers; the error if they did not take it."""
        try:
            await (await producer.send_batch(builder, tp.topic, partition=tp.partition))
        except kafka.KafkaError as error:
            return error
        return None

    async def _after(self, error: kafka.KafkaError, producer: AIOKafkaProducer, tp: TopicPartition) -> None:
        """A failed batch has used up sequence numbers: later ones need a new producer."""
        log.warning("produce_failed", topic=tp.topic, partition=tp.partition, error=type(error).__name__)
        if isinstance(error, _DENIED):
            raise broker_error(error, f"writing to topic {tp.topic}") from error
        async with self._replacing:
            if self.producer is not producer:
                return
            self._producer = await self._replacement(tp)
            self.rebuilds += 1
            retired = asyncio.create_task(producer.stop(), name="retired-producer")
            self._retired.add(retired)
            retired.add_done_callback(self._retired.discard)

    async def _replacement(self, tp: TopicPartition) -> AIOKafkaProducer:
        """A new producer, as soon as the brokers give one."""
        while True:
            try:
                return await self._new_producer()
            except _DENIED as denied:
                raise broker_error(denied, f"writing to topic {tp.topic}") from denied
            except kafka.KafkaError as failure:
                log.warning("producer_not_rebuilt", error=type(failure).__name__, detail=str(failure))
            await asyncio.sleep(RETRY_BACKOFF_S)

    async def _resend(self, rows: list[Row], tp: TopicPartition, error: kafka.KafkaError) -> None:
        """Deliver the rows of a failed batch: all again after a fault, in halves after a refusal of data."""
        attempts = 1
        while not isinstance(error, _REFUSED_DATA):
            if attempts >= MAX_ATTEMPTS and not error.retriable:
                raise broker_error(error, f"writing to {tp.topic}/{tp.partition}, {attempts} attempts") from error
            attempts += 1
            again = await self._send_rows(rows, tp)
            if again is None:
                return
            error = again
        if len(rows) == 1:
            self._refuse(rows[0], error)
            return
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            failure = await self._send_rows(half, tp)
            if failure is not None:
                await self._resend(half, tp, failure)

    async def _send_rows(self, rows: list[Row], tp: TopicPartition) -> kafka.KafkaError | None:
        """Send these rows as one batch; on success they are acknowledged, on failure the producer is replaced."""
        producer = self.producer
        builder = producer.create_batch()
        for parcel, at in rows:
            headers, timestamp = parcel.headers[at], parcel.timestamps[at]
            builder.append(timestamp=timestamp, key=parcel.keys[at], value=parcel.values[at], headers=headers)
        builder.close()
        error = await self._deliver(producer, builder, tp)
        if error is None:
            for parcel, _ in rows:
                self._acknowledge(parcel, 1)
        else:
            await self._after(error, producer, tp)
        return error

    def _refuse(self, row: Row, error: kafka.KafkaError) -> None:
        """The brokers refuse one record: a dead letter's refusal stops the line, another's becomes a dead letter."""
        parcel, at = row
        if parcel.dead_letter is not None:
            source = parcel.row(at).span
            raise BrokerError(
                Problem(
                    f"the dead-letter topic {parcel.tp.topic} refuses the record of {source.tp.topic}/"
                    f"{source.tp.partition} at offset {source.offsets[parcel.row(at).start]}: {type(error).__name__}",
                    "nothing after it is committed; give the dead-letter topic cleanup.policy=delete, "
                    "message.timestamp.type=CreateTime without limits, and max.message.bytes above the input's",
                    code="dead_letter_refused",
                )
            )
        reason = "output_oversize" if isinstance(error, _TOO_LARGE) else "broker_refused"
        refusal = Refusal("produce", reason, f"the broker refuses the output record: {type(error).__name__}")
        self._progress[id(parcel)].refused[at] = refusal
        self._acknowledge(parcel, 1)

    def _acknowledge(self, parcel: Parcel, records: int) -> None:
        """So many more records of the parcel have reached the brokers' verdict."""
        progress = self._progress[id(parcel)]
        progress.left -= records
        if progress.left == 0:
            del self._progress[id(parcel)]
            self._delivered(parcel, progress.refused)
