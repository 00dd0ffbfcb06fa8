"""Lanes: one per output partition, one produce batch in flight per lane, nothing sent out of order.

A lane gathers what arrives while its batch is under way, so load itself makes batches larger and an idle lane
waits for nothing. What happens after a failed batch is the owner's policy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.adapters.kafka_fencing import close_filled, compiled_append, queue_batch
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


HAND_OVER_S = 45.0
"""Longer than the client looks for a topic."""


@dataclass(slots=True, eq=False)
class _Progress:
    """How far a parcel's delivery has come."""

    left: int
    refused: dict[int, Refusal] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for one output partition; ``busy`` while a batch of it is under way, or fails."""

    tp: TopicPartition
    waiting: deque[Parcel] = field(default_factory=deque)
    cursor: int = 0
    busy: bool = False


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A batch that was handed to a producer, and the rows in it."""

    lane: _Lane
    producer: AIOKafkaProducer
    sent: list[tuple[Parcel, int, int]]


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
        self._loop = asyncio.get_running_loop()
        self._due: list[_Lane] = []
        self._soon: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._rested = asyncio.Event()
        self.max_rows: dict[TopicPartition, int] = {}

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Take parcels; those for one partition leave in this order, after all taken before."""
        for parcel in parcels:
            lane = self._lanes.get(parcel.tp)
            if lane is None:
                lane = self._lanes[parcel.tp] = _Lane(parcel.tp)
            self._progress[id(parcel)] = _Progress(len(parcel))
            lane.waiting.append(parcel)
            if not lane.busy:
                self._go_on(lane)

    async def idle(self) -> None:
        """Wait until no lane has anything under way."""
        while any(lane.busy for lane in self._lanes.values()):
            self._rested.clear()
            await self._rested.wait()

    async def clear(self) -> None:
        """Abandon everything under way; none of it is reported any more."""
        self._lanes.clear()
        self._progress.clear()
        self._due.clear()
        self._rested.set()
        tasks = list(self._tasks)
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
        try:
            await _answer(producer, builder, tp)
        except kafka.KafkaError as error:
            return error
        for parcel, _ in rows:
            self._acknowledge(parcel, 1)
        return None

    def refuse(self, row: Row, refusal: Refusal) -> None:
        """The brokers' verdict on one record is no."""
        parcel, at = row
        self._progress[id(parcel)].refused[at] = refusal
        self._acknowledge(parcel, 1)

    def _go_on(self, lane: _Lane) -> None:
        """Send the lane's next batch in the next turn of the loop, with what else comes for it in this one."""
        lane.busy = True
        self._due.append(lane)
        if self._soon is None:
            self._soon = self._loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        """One batch of each lane that is due; a producer that they share sends them together."""
        self._soon = None
        due, self._due = self._due, []
        try:
            for lane in due:
                self._send_next(lane)
        except Exception as error:  # noqa: BLE001 # handed to the owner, who decides what it ends
            self._failed(error)

    def _send_next(self, lane: _Lane) -> None:
        """Fill one batch from the front of the lane and hand it to the producer."""
        producer = self._producer()
        builder = producer.create_batch()
        batch = _UnderWay(lane, producer, _fill(builder, lane, self.max_rows.get(lane.tp)))
        answer = queue_batch(producer, builder, lane.tp)
        if answer is None:
            answer = self._start(_answer(producer, builder, lane.tp))
        answer.add_done_callback(partial(self._answered, batch))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ``clear`` cancels."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answered(self, batch: _UnderWay, answer: asyncio.Future[Any]) -> None:
        """The brokers' answer to a batch; that of an abandoned one says nothing."""
        lane = batch.lane
        if answer.cancelled():
            return
        error = answer.exception()
        if self._lanes.get(lane.tp) is not lane:
            return
        try:
            if error is None:
                for parcel, start, stop in batch.sent:
                    self._acknowledge(parcel, stop - start)
                self._rest(lane)
            elif isinstance(error, kafka.KafkaError):
                self._start(self._recovered(batch, error))
            else:
                self._failed(error)
        except Exception as failure:  # noqa: BLE001 # as above
            self._failed(failure)

    async def _recovered(self, batch: _UnderWay, error: kafka.KafkaError) -> None:
        """Let the owner deal with a failed batch; the lane stands still until then, for ever if that fails."""
        rows = [(parcel, at) for parcel, start, stop in batch.sent for at in range(start, stop)]
        try:
            await self._recover(batch.producer, batch.lane.tp, rows, error)
        except Exception as failure:  # noqa: BLE001 # as above
            self._failed(failure)
        else:
            self._rest(batch.lane)

    def _rest(self, lane: _Lane) -> None:
        """A batch has ended well: the next one, if any parcel waits."""
        if lane.waiting:
            self._go_on(lane)
        else:
            lane.busy = False
            self._rested.set()

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
        start = lane.cursor
        end = len(values) if max_rows is None else min(len(values), start + max_rows - count)
        columns = (timestamps[start:end], keys[start:end], values[start:end], headers[start:end])
        rows = zip(range(count, count + end - start), *columns, strict=True)
        for stop, appended in enumerate(starmap(append, rows), start):  # noqa: B007
            if appended is None:
                full = True
                break
        else:
            stop = end
        count += stop - start
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


async def _answer(producer: AIOKafkaProducer, builder: BatchBuilder, tp: TopicPartition) -> None:
    """Hand a batch to the producer, which may wait for metadata or refuse, and wait for the brokers.

    A producer that is stopped meanwhile leaves who waits for its metadata waiting.
    """
    try:
        async with asyncio.timeout(HAND_OVER_S):
            sent = await producer.send_batch(builder, tp.topic, partition=tp.partition)
    except TimeoutError as error:
        raise kafka.KafkaTimeoutError(f"the producer did not take a batch within {HAND_OVER_S:g} s") from error
    await sent


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
