"""The fetch loop: one request under way per broker, records as columns, partitions served by turns.

It stands in for aiokafka's fetcher, which makes an object of every record, asks a broker for nothing while one of its
partitions has records left, and can lose records of other partitions, or stop for ever, over an error. Connections,
metadata, and the group are aiokafka's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient

from worker.adapters.kafka_batches import CorruptBatchError, FetchedRecords, Piece
from worker.adapters.kafka_fencing import receive_directly
from worker.adapters.kafka_fetch_wire import Answer, Answers, Fetch
from worker.core.flow import AHEAD_BYTES, FEW_BYTES
from worker.core.records import TopicPartition

log = structlog.get_logger("headrace.fetch")

BACKOFF_S = 0.1
"""Pause after an error, and between looks for a partition's leader."""

WORK_S = 0.01
"""How long a broker whose records were few waits for the reader, which may be busy with those of another.

And how long it may hold a fetch of empty partitions while another one's records are read: that one is next.
"""


@dataclass(slots=True, eq=False)
class _Reading:
    """A partition that is read: where, what is fetched of it, and what its leader last said."""

    tp: TopicPartition
    position: int
    fetched: deque[FetchedRecords] = field(default_factory=deque)
    under_way: bool = False
    not_before: float = 0.0
    refusal: type[kafka.KafkaError] | None = None
    end: int | None = None
    answered_at: float | None = None
    suspect: int = -1
    """Where a corrupt batch was met; met there again, it is given up."""

    @property
    def fetch_from(self) -> int:
        """Where the next fetch goes on."""
        return self.fetched[-1].end_offset if self.fetched else self.position

    @property
    def hungry(self) -> bool:
        """Whether little enough is left to fetch more."""
        return not self.under_way and sum(fetched.unread_bytes for fetched in self.fetched) < AHEAD_BYTES


class FetchLoop:
    """Fetches what is read, from whoever leads it, until ``stop``."""

    def __init__(
        self, client: AIOKafkaClient, *, max_wait_s: float, max_bytes: int, gather_s: float, committed_only: bool
    ) -> None:
        """``max_bytes`` bounds an answer, and what is fetched ahead of a partition by as much again."""
        self._client = client
        self._max_wait_s = max_wait_s
        self._taken_of: Collection[TopicPartition] = ()
        self._max_bytes = max_bytes
        self._gather_s = gather_s
        self._committed_only = committed_only
        self._loop = asyncio.get_running_loop()
        self._readings: dict[TopicPartition, _Reading] = {}
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._again: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._asked = asyncio.Event()
        self._silent: set[int] = set()
        self._failure: BaseException | None = None
        self._gone: set[TopicPartition] = set()

    # ---- what is read ------------------------------------------------------------------------------------

    def read(self, tp: TopicPartition, position: int) -> None:
        """Read a partition from ``position`` on, beginning with the next ``take``; drops what was fetched before."""
        self._gone.discard(tp)
        self._readings[tp] = _Reading(tp, position)

    def forget(self) -> None:
        """Nothing is read any more."""
        self._readings.clear()
        self._gone.clear()
        for task in self._busy.values():
            task.cancel()

    async def stop(self) -> None:
        """End for good."""
        self.forget()
        if self._again is not None:
            self._again.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    @property
    def out_of_range(self) -> set[TopicPartition]:
        """Partitions whose log does not reach their position, once all that was fetched before is taken.

        They are read on after ``read``.
        """
        return {tp for tp in self._gone if not self._readings[tp].fetched}

    def has_leader(self, tp: TopicPartition) -> bool:
        """Whether a broker is known that can be asked about a partition."""
        return self._client.cluster.leader_for_partition(tp) not in (None, -1)

    def position(self, tp: TopicPartition) -> int | None:
        """Where the next record to take is, or will be; None for a partition that is not read."""
        reading = self._readings.get(tp)
        return None if reading is None else reading.position

    def end(self, tp: TopicPartition) -> int | None:
        """The partition's end when its leader last answered."""
        reading = self._readings.get(tp)
        return None if reading is None else reading.end

    def ends_at(self, tp: TopicPartition, end: int) -> None:
        """The partition's end as somebody else heard it: one that is not taken from is hardly fetched."""
        if (reading := self._readings.get(tp)) is not None:
            reading.end = end

    def answered_at(self, tps: Iterable[TopicPartition]) -> float | None:
        """When a leader of these last answered, on the loop's clock, with or without records."""
        readings = [self._readings[tp] for tp in tps if tp in self._readings]
        return max((one.answered_at for one in readings if one.answered_at is not None), default=None)

    # ---- taking ------------------------------------------------------------------------------------------

    def take(self, tps: Collection[TopicPartition], max_records: int) -> list[tuple[TopicPartition, Piece]]:
        """What has been fetched of these partitions, at most so many records; they have their turns.

        Raises whatever ended a fetch for good.
        """
        if self._failure is not None:
            raise self._failure
        self._taken_of = tps
        taken: list[tuple[TopicPartition, Piece]] = []
        room = max_records
        for tp in [tp for tp, reading in self._readings.items() if reading.fetched and tp in tps]:
            reading = self._readings.pop(tp)
            self._readings[tp] = reading  # to the end of the line
            pieces = self._take_of(reading, room)
            taken += [(tp, piece) for piece in pieces]
            room -= sum(map(len, pieces))
            if room <= 0:
                break
        self._fetch_more()
        return taken

    def _take_of(self, reading: _Reading, room: int) -> list[Piece]:
        """Of one partition; a corrupt batch is fetched once more before it is given up."""
        pieces: list[Piece] = []
        while reading.fetched and room > 0:
            fetched = reading.fetched[0]
            try:
                found = fetched.take(room)
            except CorruptBatchError:
                if reading.suspect != fetched.next_offset:
                    reading.suspect = fetched.next_offset
                    reading.fetched.clear()
                    break
                found = fetched.give_up(fetched.next_offset if reading.end is None else reading.end)
            pieces += found
            room -= sum(map(len, found))
            reading.position = fetched.next_offset
            if fetched.done:
                reading.fetched.popleft()
        return pieces

    async def wait(self, timeout_s: float) -> None:
        """Until something more has been fetched, or the time is over."""
        self._asked.set()
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- fetching ----------------------------------------------------------------------------------------

    def _fetch_more(self) -> None:
        """Ask every broker that has no request under way for the partitions of it that need records."""
        now = self._loop.time()
        wanted: dict[int, list[_Reading]] = defaultdict(list)
        read_from: set[int] = set()
        leaderless = False
        for tp, reading in self._readings.items():
            if reading.under_way or reading.not_before > now or tp in self._gone:
                continue
            node = self._client.cluster.leader_for_partition(tp)
            if not reading.hungry:
                if tp in self._taken_of:
                    read_from.add(node)
            elif node is None or node == -1:
                leaderless = True
                reading.not_before = now + BACKOFF_S
            elif node not in self._busy:
                wanted[node].append(reading)
        if leaderless:
            self._client.force_metadata_update()
            self._look_again()
        for node, readings in wanted.items():
            for reading in readings:
                reading.under_way = True
            wait_s = min(WORK_S, self._max_wait_s) if node in read_from else self._max_wait_s
            task = self._loop.create_task(self._fetch(node, readings, wait_s), name=f"fetch-{node}")
            self._busy[node] = task
            task.add_done_callback(partial(self._ended, node, readings))

    def _look_again(self) -> None:
        """After a back-off."""
        if self._again is None:
            self._again = self._loop.call_later(BACKOFF_S, self._after_backoff)

    def _after_backoff(self) -> None:
        self._again = None
        self._fetch_more()

    def _ended(self, node: int, readings: list[_Reading], task: asyncio.Task[None]) -> None:
        """A request has been dealt with."""
        del self._busy[node]
        for reading in readings:
            reading.under_way = False
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = failure
            self._wake()
            return
        self._fetch_more()

    async def _fetch(self, node: int, readings: list[_Reading], wait_s: float) -> None:
        """One request, which the broker may hold so long, its answer, and the pause that lets records gather."""
        asked = {reading.tp: reading.fetch_from for reading in readings}
        request = Fetch(asked, int(wait_s * 1000), self._max_bytes, committed_only=self._committed_only)
        receive_directly(self._client, node)
        try:
            found: Answers = await self._client.send(node, request)
            if found.error_code:
                raise kafka.for_code(found.error_code)
        except kafka.IncompatibleBrokerVersion:
            raise
        except kafka.KafkaError as error:
            if node not in self._silent:
                self._silent.add(node)
                log.warning("fetch_failed", node=node, error=type(error).__name__, detail=str(error))
            self._client.force_metadata_update()
            await asyncio.sleep(BACKOFF_S)
            return
        self._silent.discard(node)
        answers = found.partitions
        for reading in readings:
            # Meanwhile the partition may have been given up, or read anew from elsewhere.
            if self._readings.get(reading.tp) is reading and reading.fetch_from == asked[reading.tp]:
                self._answered(reading, answers[reading.tp])
        size = sum(len(answer.raw) for answer in answers.values())
        if size:
            self._asked.clear()
            self._wake()
        if 0 < size < FEW_BYTES and self._gather_s:
            await self._worked_on()
            await asyncio.sleep(self._gather_s)

    async def _worked_on(self) -> None:
        """Until the reader asks for more, as the pause gathers nothing before; not long, for it may have much else."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORK_S):
                await self._asked.wait()

    def _answered(self, reading: _Reading, answer: Answer) -> None:
        """Note what a leader said of one partition."""
        if answer.error is kafka.NoError:
            reading.refusal = None
            reading.end, reading.answered_at = answer.end, self._loop.time()
            if answer.raw:
                aborted = answer.aborted if self._committed_only else None
                reading.fetched.append(FetchedRecords(answer.raw, reading.fetch_from, aborted))
        elif answer.error is kafka.OffsetOutOfRangeError:
            self._gone.add(reading.tp)
            self._wake()
        elif answer.error is kafka.TopicAuthorizationFailedError:
            raise answer.error(reading.tp.topic)
        else:
            if reading.refusal is not answer.error:
                reading.refusal = answer.error
                topic, partition = reading.tp
                log.warning("fetch_refused", topic=topic, partition=partition, error=answer.error.__name__)
            reading.not_before = self._loop.time() + BACKOFF_S
            self._client.force_metadata_update()
            self._look_again()
