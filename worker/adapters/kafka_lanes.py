"""Lanes: one per output partition, one produce batch in flight per lane, nothing sent out of order.

A lane gathers what arrives while its batch is under way, so load itself makes batches larger and an idle lane
waits for nothing. What happens after a failed batch is the owner's policy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.adapters.kafka_fencing import close_filled, compiled_append
from worker.adapters.kafka_options import InvalidRecordError
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.errors import BrokerError, Problem

Row = tuple[Parcel, int]
Delivered = Callable[[Parcel, Mapping[int, Refusal]], None]
Failed = Callable[[BaseException], None]
Recover = Callable[[AIOKafkaProducer, TopicPartition, list[Row], kafka.KafkaError], Awaitable[None]]

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
REFUSED_DATA = (*_TOO_LARGE, kafka.InvalidTimestampError, kafka.CorruptRecordException, InvalidRecordError)
"""Errors that tell of the records in a batch, not of the brokers' health."""

DENIED = (
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
"""Errors that only an operator can cure."""


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


class Lanes:
    """Sends parcels and reports each when the brokers have acknowledged (or refused) every record of it.

    ``recover`` gets the rows of a failed batch; when it returns, every one of them must have been acknowledged or
    refused here. ``failed`` gets what it raises. ``max_rows`` bounds the batches of a partition, where it is set.
    """

    def __init__(
        self, producer: Callable[[], AIOKafkaProducer], delivered: Delivered, failed: Failed, recover: Recover
    ) -> None:
        self._producer = producer
        self._delivered = delivered
        self._failed = failed
        self._recover = recover
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._progress: dict[int, _Progress] = {}
        self.max_rows: dict[TopicPartition, int] = {}

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Take parcels; those for one partition leave in this order, after all taken before."""
        for parcel in parcels:
            lane = self._lanes.get(parcel.tp)
            if lane is None:
                lane = self._lanes[parcel.tp] = _Lane(parcel.tp)
            self._progress[id(parcel)] = _Progress(len(parcel))
            lane.waiting.append(parcel)
            if lane.task is None:
                lane.task = asyncio.create_task(self._run(lane), name=f"lane-{parcel.tp.topic}-{parcel.tp.partition}")

    async def idle(self) -> None:
        """Wait until no lane has anything to send."""
        while tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            await asyncio.wait(tasks)

    async def clear(self) -> None:
        """Abandon everything under way; none of it is reported any more."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        self._lanes.clear()
        self._progress.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def deliver(self, producer: AIOKafkaProducer, tp: TopicPartition, rows: list[Row]) -> kafka.KafkaError | None:
        """Send these rows as one batch; on success they are acknowledged, else the error is returned."""
        builder = producer.create_batch()
        for parcel, at in rows:
            headers, timestamp = parcel.headers[at], parcel.timestamps[at]
            builder.append(timestamp=timestamp, key=parcel.keys[at], value=parcel.values[at], headers=headers)
        builder.close()
        error = await _deliver(producer, builder, tp)
        if error is None:
            for parcel, _ in rows:
                self._acknowledge(parcel, 1)
        return error

    def refuse(self, row: Row, refusal: Refusal) -> None:
        """The brokers' verdict on one record is no."""
        parcel, at = row
        self._progress[id(parcel)].refused[at] = refusal
        self._acknowledge(parcel, 1)

    async def _run(self, lane: _Lane) -> None:
        """Send what the lane holds, one batch after the other, until nothing waits."""
        try:
            while lane.waiting:
                await self._send_next(lane)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 # handed to the owner, who decides what it ends
            self._failed(error)
        finally:
            lane.task = None

    async def _send_next(self, lane: _Lane) -> None:
        """Fill one batch from the front of the lane and deliver it."""
        producer = self._producer()
        builder = producer.create_batch()
        sent = _fill(builder, lane, self.max_rows.get(lane.tp))
        error = await _deliver(producer, builder, lane.tp)
        if error is None:
            for parcel, start, stop in sent:
                self._acknowledge(parcel, stop - start)
            return
        rows = [(parcel, at) for parcel, start, stop in sent for at in range(start, stop)]
        await self._recover(producer, lane.tp, rows, error)

    def _acknowledge(self, parcel: Parcel, records: int) -> None:
        """So many more records of the parcel have reached the brokers' verdict."""
        progress = self._progress[id(parcel)]
        progress.left -= records
        if progress.left == 0:
            del self._progress[id(parcel)]
            self._delivered(parcel, progress.refused)


def _fill(builder: BatchBuilder, lane: _Lane, max_rows: int | None) -> list[tuple[Parcel, int, int]]:
    """Move records from the front of the lane into the batch until one of them is full or empty."""
    append = compiled_append(builder)
    sent: list[tuple[Parcel, int, int]] = []
    count = 0
    full = False
    while lane.waiting and not full:
        parcel = lane.waiting[0]
        keys, values, headers, timestamps = parcel.keys, parcel.values, parcel.headers, parcel.timestamps
        start = stop = lane.cursor
        end = len(values) if max_rows is None else min(len(values), start + max_rows - count)
        for at in range(start, end):
            if append(count, timestamps[at], keys[at], values[at], headers[at]) is None:
                full = True
                break
            count += 1
            stop = at + 1
        if stop > start:
            sent.append((parcel, start, stop))
        full = full or count == max_rows
        if stop == len(values):
            lane.waiting.popleft()
            lane.cursor = 0
        else:
            lane.cursor = stop
    close_filled(builder, count)
    return sent


async def _deliver(producer: AIOKafkaProducer, builder: BatchBuilder, tp: TopicPartition) -> kafka.KafkaError | None:
    """Hand a batch to the producer and wait for the brokers; the error if they did not take it."""
    try:
        await (await producer.send_batch(builder, tp.topic, partition=tp.partition))
    except kafka.KafkaError as error:
        return error
    return None


def refusal_of(row: Row, error: kafka.KafkaError) -> Refusal:
    """Why one record is refused by the brokers; raises BrokerError where it is a dead letter: the line stops."""
    parcel, at = row
    if parcel.dead_letter is not None:
        source = parcel.row(at)
        raise BrokerError(
            Problem(
                f"the dead-letter topic {parcel.tp.topic} refuses the record of {source.span.tp.topic}/"
                f"{source.span.tp.partition} at offset {source.span.offsets[source.start]}: {type(error).__name__}",
                "nothing after it is committed; give the dead-letter topic cleanup.policy=delete, "
                "message.timestamp.type=CreateTime without limits, and max.message.bytes above the input's",
                code="dead_letter_refused",
            )
        )
    reason = "output_oversize" if isinstance(error, _TOO_LARGE) else "broker_refused"
    return Refusal("produce", reason, f"the broker refuses the output record: {type(error).__name__}")
