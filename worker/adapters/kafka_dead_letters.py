"""The dead-letter topic, read and produced again: for the commands, never for the running worker."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.partitioner import murmur2

from worker.adapters.kafka_admin import admin_session
from worker.adapters.kafka_options import broker_error, connection_options
from worker.adapters.kafka_sink import MAX_BATCH_BYTES, new_producer
from worker.core.dead_letters import DeadLetter, Selection, hindrance, read_letter
from worker.core.records import Header
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

ASK_TIMEOUT_S = 20.0
QUIET_LIMIT_S = 20.0
CHUNK_RECORDS = 500
POLL_TIMEOUT_MS = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """One record of the dead-letter topic; ``letter`` is None where the worker did not write it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    letter: DeadLetter | None


@dataclass(slots=True)
class Listing:
    """What matches: counts by reason, and the ``newest`` without key and value, newest first.

    ``foreign`` records were not written by a worker; they match no reason and no partition.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    newest: list[Stored] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Guard:
    """What may be redriven: to ``input_topics`` only, and a record at most ``max_redrives`` times."""

    input_topics: Sequence[str]
    max_redrives: int


@dataclass(slots=True)
class Redrive:
    """Dead letters by what becomes of them: ``wanted`` by topic, ``held_back`` by hindrance, and those ``done``.

    ``ends`` are the offsets up to which the topic was read, so that what comes later is not touched.
    """

    ends: dict[int, int]
    wanted: Counter[str] = field(default_factory=Counter)
    held_back: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    done: int = 0


def list_letters(section: KafkaSection, topic: str, selection: Selection, limit: int) -> Listing:
    """Read the whole topic; raises BrokerError where it cannot be read."""
    return asyncio.run(_list(section, topic, selection, limit))


def read_one(section: KafkaSection, topic: str, partition: int, offset: int) -> Stored | None:
    """The record at this place; None where there is none (any more)."""
    return asyncio.run(_read_one(section, topic, partition, offset))


def plan_redrive(section: KafkaSection, topic: str, selection: Selection, guard: Guard) -> Redrive:
    """Count what ``redrive`` would do; writes nothing."""
    return asyncio.run(_redrive(section, topic, selection, guard, None))


def redrive(section: KafkaSection, topic: str, selection: Selection, guard: Guard, plan: Redrive) -> Redrive:
    """Produce the planned records to the topics that they came from.

    Raises BrokerError where a broker refuses; it says how many were acknowledged before.
    """
    return asyncio.run(_redrive(section, topic, selection, guard, plan.ends))


class _Reader:
    """The dead-letter topic from its first records to ``ends``, outside of any group."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, ends: Mapping[int, int]) -> None:
        self._consumer = consumer
        self._topic = topic
        self.ends = dict(ends)

    async def chunks(self, since_ms: int | None) -> AsyncIterator[list[Stored]]:
        """Records in offset order within a partition; those before ``since_ms`` may be left out."""
        left = await self._begin(since_ms)
        quiet_since = time.monotonic()
        while left:
            fetched = await self._consumer.getmany(*left, timeout_ms=POLL_TIMEOUT_MS, max_records=CHUNK_RECORDS)
            still = {tp for tp in left if await self._consumer.position(tp) < self.ends[tp.partition]}
            if fetched or still != left:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET_LIMIT_S:
                raise BrokerError(Problem(f"{self._topic} gave no records for {QUIET_LIMIT_S:g} s", code="no_records"))
            left = still
            yield [_stored(record) for records in fetched.values() for record in records if self._wants(record)]

    async def _begin(self, since_ms: int | None) -> set[ClientPartition]:
        """Seek to where reading starts; returns the partitions that hold anything up to their end."""
        tps = [ClientPartition(self._topic, partition) for partition in self.ends]
        begins = await self._consumer.beginning_offsets(tps)
        if since_ms is not None:
            found = await self._consumer.offsets_for_times(dict.fromkeys(tps, since_ms))
            begins = {tp: self.ends[tp.partition] if found[tp] is None else found[tp].offset for tp in tps}
        for tp in tps:
            self._consumer.seek(tp, begins[tp])
        return {tp for tp in tps if begins[tp] < self.ends[tp.partition]}

    def _wants(self, record: Any) -> bool:
        """Whether the record was there when reading began."""
        return bool(record.offset < self.ends[record.partition])

    async def one(self, partition: int, offset: int) -> Stored | None:
        """The record at this place."""
        tp = ClientPartition(self._topic, partition)
        if partition not in self.ends or not (await self._consumer.beginning_offsets([tp]))[tp] <= offset:
            return None
        self._consumer.seek(tp, offset)
        while await self._consumer.position(tp) <= offset < self.ends[partition]:
            for record in (await self._consumer.getmany(tp, timeout_ms=POLL_TIMEOUT_MS, max_records=1)).get(tp, []):
                return _stored(record) if record.offset == offset else None
        return None


def _stored(record: Any) -> Stored:
    """A consumer's record as ours."""
    headers = tuple(record.headers)
    letter = read_letter(headers)
    return Stored(record.partition, record.offset, record.timestamp, record.key, record.value, headers, letter)


@asynccontextmanager
async def _reading(section: KafkaSection, topic: str, ends: Mapping[int, int] | None = None) -> AsyncIterator[_Reader]:
    """A reader up to ``ends``, by default up to now; raises BrokerError where topic or broker are missing."""
    async with admin_session(section, ASK_TIMEOUT_S) as admin:
        state = (await admin.topics([topic]))[topic]
    if not state.exists:
        remedy = "create it with: headrace topics ensure --config FILE, or name another one with --topic"
        raise BrokerError(
            Problem(f"topic {topic} does not exist", remedy, key="kafka.dead_letter_topic", code="missing_topic")
        )
    consumer = AIOKafkaConsumer(
        **connection_options(section),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_bytes=section.max_fetch_bytes,
        max_partition_fetch_bytes=section.max_fetch_bytes,
    )
    try:
        await consumer.start()
        tps = [ClientPartition(topic, partition) for partition in range(state.partitions)]
        consumer.assign(tps)
        if ends is None:
            ends = {tp.partition: offset for tp, offset in (await consumer.end_offsets(tps)).items()}
        yield _Reader(consumer, topic, ends)
    except kafka.KafkaError as error:
        raise broker_error(error, f"reading {topic}") from error
    except UnicodeDecodeError as error:
        message = f"topic {topic} holds a record that the worker did not write: a header's name is no UTF-8"
        remedy = (
            "narrow the selection with --since, or take the record out of the topic with Kafka's delete-records tool"
        )
        raise BrokerError(Problem(message, remedy, code="unreadable_record")) from error
    finally:
        await asyncio.shield(consumer.stop())


async def _read_one(section: KafkaSection, topic: str, partition: int, offset: int) -> Stored | None:
    async with _reading(section, topic) as reader:
        return await reader.one(partition, offset)


async def _list(section: KafkaSection, topic: str, selection: Selection, limit: int) -> Listing:
    listing = Listing()
    newest: list[tuple[tuple[int, int, int], Stored]] = []
    async with _reading(section, topic) as reader:
        async for chunk in reader.chunks(selection.since_ms):
            for stored in chunk:
                if not selection.admits_time(stored.timestamp_ms) or not selection.admits(stored.letter):
                    continue
                if stored.letter is None:
                    listing.foreign += 1
                else:
                    listing.reasons[stored.letter.reason] += 1
                    order = (stored.timestamp_ms, stored.partition, stored.offset)
                    heapq.heappush(newest, (order, replace(stored, key=None, value=None)))
                    if len(newest) > limit:
                        heapq.heappop(newest)
    listing.newest = [stored for _, stored in sorted(newest, key=lambda item: item[0], reverse=True)]
    return listing


async def _redrive(
    section: KafkaSection, topic: str, selection: Selection, guard: Guard, ends: Mapping[int, int] | None
) -> Redrive:
    """Sort the dead letters, and where ``ends`` are planned already, produce those that may be."""
    async with admin_session(section, ASK_TIMEOUT_S) as admin:
        states = await admin.topics(guard.input_topics)
    partitions = {name: state.partitions for name, state in states.items() if state.exists and name != topic}
    async with _reading(section, topic, ends) as reader:
        result = Redrive(reader.ends)
        sender = None if ends is None else await _Sender.started(section, partitions, result)
        try:
            async for chunk in reader.chunks(selection.since_ms):
                wanted = [stored for stored in chunk if _may_go(stored, selection, guard, partitions, result)]
                if sender is not None and wanted:
                    await sender.send(wanted)
        finally:
            if sender is not None:
                await asyncio.shield(sender.stop())
    return result


def _may_go(stored: Stored, selection: Selection, guard: Guard, partitions: Mapping[str, int], result: Redrive) -> bool:
    """Whether to redrive this one; counted in ``result`` either way, unless it is not selected."""
    letter = stored.letter
    if not selection.admits_time(stored.timestamp_ms) or not selection.admits(letter):
        return False
    if letter is None:
        result.foreign += 1
        return False
    hindered = hindrance(letter, partitions, guard.max_redrives)
    if hindered is None:
        result.wanted[letter.topic] += 1
    else:
        result.held_back[hindered] += 1
    return hindered is None


class _Sender:
    """Produces dead letters to where they came from, in the order of the dead-letter topic."""

    def __init__(self, producer: AIOKafkaProducer, partitions: Mapping[str, int], result: Redrive) -> None:
        self._producer = producer
        self._partitions = partitions
        self._result = result

    @classmethod
    async def started(cls, section: KafkaSection, partitions: Mapping[str, int], result: Redrive) -> _Sender:
        """A connected sender that counts what is acknowledged into ``result.done``."""
        return cls(await new_producer(section, MAX_BATCH_BYTES), partitions, result)

    async def stop(self) -> None:
        """Close the connections."""
        await self._producer.stop()

    async def send(self, chunk: Sequence[Stored]) -> None:
        """Produce and wait for all of it; raises BrokerError at the first refusal."""
        try:
            await self._send(chunk)
        except kafka.KafkaError as error:
            problem = broker_error(error, "redriving").problems[0]
            message = f"{problem.message}; {self._result.done} records had been redriven before"
            raise BrokerError(replace(problem, message=message)) from error

    async def _send(self, chunk: Sequence[Stored]) -> None:
        open_batches: dict[ClientPartition, Any] = {}
        sent: list[tuple[asyncio.Future[Any], int]] = []
        for stored in chunk:
            tp = self._target(stored)
            if tp not in open_batches or not self._append(open_batches[tp], stored):
                if tp in open_batches:
                    sent.append(await self._submit(tp, open_batches[tp]))
                open_batches[tp] = self._producer.create_batch()
                self._append(open_batches[tp], stored)
        for tp, batch in open_batches.items():
            sent.append(await self._submit(tp, batch))
        ends = await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        self._result.done += sum(
            count for (_, count), end in zip(sent, ends, strict=True) if not isinstance(end, BaseException)
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _submit(self, tp: ClientPartition, batch: Any) -> tuple[asyncio.Future[Any], int]:
        """Hand a batch to the producer; returns its future and how many records it holds."""
        batch.close()
        return await self._producer.send_batch(batch, tp.topic, partition=tp.partition), batch.record_count()

    @staticmethod
    def _append(batch: Any, stored: Stored) -> bool:
        """Add the record to a batch, with a new timestamp; False where the batch is full."""
        letter = stored.letter
        headers = [] if letter is None else letter.headers_to_redrive()
        return batch.append(timestamp=None, key=stored.key, value=stored.value, headers=headers) is not None

    def _target(self, stored: Stored) -> ClientPartition:
        """Topic and partition that the record came from; where the topic has fewer now, by the key."""
        letter = stored.letter
        if letter is None:
            raise ValueError("only dead letters are redriven")
        count = self._partitions[letter.topic]
        partition = letter.partition
        if partition >= count:
            number = letter.partition if stored.key is None else int(murmur2(stored.key)) & 0x7FFFFFFF
            partition = number % count
        return ClientPartition(letter.topic, partition)
