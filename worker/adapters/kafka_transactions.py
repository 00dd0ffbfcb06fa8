"""The producing edge exactly once: outputs, dead letters and offsets in one transaction, fenced by the group.

A transaction begins with the first parcel, and ends ``interval_s`` later: no more parcels enter, all batches are
acknowledged, the offsets go in, the end is marked. What comes meanwhile waits for the next one, while inference
goes on. Whatever fails, the answer is the same: abort, let the owner rewind to the last commit, and start a new
producer under the same transactional id, which raises the producer's epoch, so that a late batch of the aborted
transaction is refused.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.structs import OffsetAndMetadata

from worker.adapters.kafka_fencing import MemberFencedError, Stamp, discard, fence, require_fencing
from worker.adapters.kafka_lanes import DENIED, REFUSED_DATA, Delivered, Failed, Lanes, Row, refusal_of
from worker.adapters.kafka_options import broker_error, transactional_prefix
from worker.adapters.kafka_sink import MAX_BATCH_BYTES, RETRY_BACKOFF_S, new_producer
from worker.core.offsets import Commit
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.errors import HeadraceError

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.transactions")

OFFSETS_ONLY_INTERVAL_S = 1.0
"""How often offsets that moved without any output (skipped records) are committed."""

STOP_TIMEOUT_S = 2.0

BROKER_ABORT_LAG_S = 30.0
"""Brokers look for expired transactions every 10 s; the margin covers a slow one."""


class AssignmentEndedError(kafka.KafkaError):  # type: ignore[misc] # aiokafka ships no types
    """The transaction holds outputs whose offsets are no longer ours to commit."""


class TransactionOwner(Protocol):
    """Who knows the offsets, and redoes the work of an aborted transaction."""

    def transaction_offsets(self) -> Commit | None:
        """The offsets that cover exactly what was acknowledged."""
        ...

    def transaction_stamp(self) -> Stamp | None:
        """The membership of the current assignment; None without one."""
        ...

    def transaction_committed(self, commit: Commit | None, took_s: float) -> None:
        """Outputs and offsets are committed."""
        ...

    def transaction_aborted(self, fenced: bool) -> None:
        """Nothing since the last commit counts: go back to it."""
        ...

    def record_refused(self, tp: TopicPartition, offset: int, refusal: Refusal) -> None:
        """The brokers refuse this record's output: make it a dead letter when it comes again."""
        ...


class TransactionalSink:
    """Sends parcels in transactions; reports each when it is acknowledged, and each transaction when it ends."""

    def __init__(
        self,
        section: KafkaSection,
        interval_s: float,
        timeout_s: float,
        owner: TransactionOwner,
        delivered: Delivered,
        failed: Failed,
    ) -> None:
        self._section = section
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._owner = owner
        self._failed = failed
        self._lanes = Lanes(lambda: self.producer, delivered, self._lane_failed, self._recover)
        self._id = self._new_id()
        self._producer: AIOKafkaProducer | None = None
        self._stamp: list[Stamp] = []
        self._staged: list[Parcel] = []
        self._open = False
        self._uncut = False
        self._error: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self._finishing = False
        self._cut = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._max_batch_bytes = MAX_BATCH_BYTES
        self.rebuilds = 0
        self.heard_at = time.monotonic()
        """When a broker last answered a request to produce, if only to refuse it."""

    async def start(self, max_batch_bytes: int = MAX_BATCH_BYTES) -> None:
        """Connect and claim the transactional id; raises BrokerError where the broker cannot fence."""
        self._max_batch_bytes = max_batch_bytes
        producer = await self._new_producer()
        try:
            await require_fencing(producer)
        except BaseException:
            await asyncio.shield(self._close(producer))
            raise
        self._producer = producer
        self._task = asyncio.create_task(self._run(), name="transactions")

    def _heard(self) -> None:
        self.heard_at = time.monotonic()

    def _new_id(self) -> str:
        """A transactional id that nobody has used."""
        return transactional_prefix(self._section.group_id) + uuid.uuid4().hex

    async def _new_producer(self) -> AIOKafkaProducer:
        """A producer with the next epoch of our transactional id."""
        producer = await new_producer(
            self._section,
            self._max_batch_bytes,
            self._heard,
            transactional_id=self._id,
            transaction_timeout_ms=int(self._timeout_s * 1000),
        )
        fence(producer, self._stamp)
        return producer

    @property
    def producer(self) -> AIOKafkaProducer:
        """The producer in use."""
        if self._producer is None:
            raise RuntimeError("the sink is not started")
        return self._producer

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Take parcels, for the open transaction or the next."""
        if self._open:
            self._lanes.send(parcels)
        else:
            self._staged += parcels
            self._wanted.set()

    async def finish(self) -> None:
        """Commit what was taken, now, and wait for it."""
        self._finishing = True
        self._cut.set()
        self._wanted.set()
        try:
            await self._idle.wait()
            while self._staged or self._owner.transaction_offsets() is not None:
                self._idle.clear()
                self._wanted.set()
                await self._idle.wait()
        finally:
            self._finishing = False

    def cut(self) -> None:
        """End the open transaction before its interval is over; the next one begins at once."""
        self._cut.set()

    def abandon(self) -> None:
        """The assignment is over: nothing may be committed of what was taken and whose offsets have not gone in."""
        self._staged.clear()
        if self._uncut:
            self._lane_failed(AssignmentEndedError())

    async def stop(self) -> None:
        """Abandon the open transaction, which the broker aborts, and close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._lanes.clear()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await self._close(producer)

    # ---- the transactions, one after the other -----------------------------------------------------------

    async def _run(self) -> None:
        """Transactions for ever; ends only with an error that no abort cures."""
        try:
            while True:
                await self._wait_for_work()
                self._idle.clear()
                try:
                    await self._transaction()
                except (kafka.KafkaError, TimeoutError) as error:
                    await self._abort(error)
                if not self._staged:
                    self._idle.set()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 # handed to the owner, who ends the worker with it
            self._failed(error)
            self._idle.set()

    async def _wait_for_work(self) -> None:
        """Until there is a parcel, or offsets have moved without one for a while."""
        while not self._staged:
            self._wanted.clear()
            self._idle.set()
            try:
                # Unlike wait_for before Python 3.12, this keeps a cancellation that comes together with the event.
                async with asyncio.timeout(OFFSETS_ONLY_INTERVAL_S):
                    await self._wanted.wait()
            except TimeoutError:
                if self._owner.transaction_offsets() is not None:
                    return
            if self._finishing and self._owner.transaction_offsets() is not None:
                return

    async def _transaction(self) -> None:
        """One transaction from begin to commit; raises whatever spoils it."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._error = loop.create_future()
        producer = self.producer
        await producer.begin_transaction()
        self._open = self._uncut = True
        if not self._finishing:
            self._cut.clear()
        staged, self._staged = self._staged, []
        self._lanes.send(staged)
        await self._while_open(begun + self._interval_s)
        self._open = False
        await self._or_error(self._lanes.idle())
        self._uncut = False
        commit = self._owner.transaction_offsets()
        stamp = self._owner.transaction_stamp()
        if commit is not None:
            if stamp is None or stamp.generation < 0 or not stamp.member_id:
                raise kafka.UnknownMemberIdError
            self._stamp[:] = [stamp]
            offsets = {ClientPartition(*tp): OffsetAndMetadata(at, "") for tp, at in commit.offsets.items()}
            await self._bounded(producer.send_offsets_to_transaction(offsets, self._section.group_id))
        await self._bounded(producer.commit_transaction())
        self._lanes.max_rows.clear()
        self._owner.transaction_committed(commit, loop.time() - begun)

    async def _while_open(self, until: float) -> None:
        """Let parcels enter until the interval is over, someone wants the end, or a batch fails."""
        loop = asyncio.get_running_loop()
        cut = asyncio.create_task(self._cut.wait())
        ends: set[asyncio.Future[Any]] = {cut, self._spoilt()}
        try:
            await asyncio.wait(ends, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
        if self._spoilt().done():
            self._spoilt().result()

    async def _or_error(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for the lanes, or raise what one of them failed with."""
        task = asyncio.create_task(work)
        ends: set[asyncio.Future[Any]] = {task, self._spoilt()}
        try:
            await asyncio.wait(ends, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        if self._spoilt().done():
            self._spoilt().result()
        if not task.done():
            raise TimeoutError("batches were not acknowledged within the transaction timeout")

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        """Never wait longer than the broker keeps the transaction."""
        async with asyncio.timeout(self._timeout_s):
            await work

    def _spoilt(self) -> asyncio.Future[None]:
        """Fails when a batch of the open transaction does."""
        if self._error is None:
            raise RuntimeError("no transaction is open")
        return self._error

    # ---- failures ----------------------------------------------------------------------------------------

    def _lane_failed(self, error: BaseException) -> None:
        """A batch of the open transaction failed: only aborting it helps."""
        if not isinstance(error, kafka.KafkaError):
            self._failed(error)
        if self._error is not None and not self._error.done():
            self._error.set_exception(error)

    async def _recover(
        self, producer: AIOKafkaProducer, tp: TopicPartition, rows: list[Row], error: kafka.KafkaError
    ) -> None:
        """Nothing is sent again inside a transaction; refused data is narrowed down over the next ones."""
        del producer
        log.warning("produce_failed", topic=tp.topic, partition=tp.partition, error=type(error).__name__)
        if isinstance(error, DENIED):
            raise broker_error(error, f"writing to topic {tp.topic}") from error
        if isinstance(error, REFUSED_DATA):
            if len(rows) == 1:
                refusal = refusal_of(rows[0], error)
                source = rows[0][0].row(rows[0][1])
                self._owner.record_refused(source.span.tp, source.span.offsets[source.start], refusal)
            else:
                self._lanes.max_rows[tp] = len(rows) // 2
        raise error

    async def _abort(self, error: BaseException) -> None:
        """Forget the transaction: the owner rewinds, and a new producer with a new epoch takes over."""
        # A producer that the brokers fence has outlived its transaction: the id is ours alone.
        fenced = isinstance(error, kafka.UnknownMemberIdError)
        fenced |= isinstance(error, MemberFencedError) and error.by_group
        log.warning("transaction_aborted", error=type(error).__name__, detail=str(error))
        self._open = self._uncut = False
        await self._lanes.clear()
        self._staged.clear()
        self._owner.transaction_aborted(fenced)
        old = self.producer
        self._producer = await self._next_producer()
        self.rebuilds += 1
        self._heard()
        await self._close(old)

    async def _next_producer(self) -> AIOKafkaProducer:
        """A new producer, as soon as the brokers give one: they have ended the transaction before by then.

        A transaction that they never end, for want of a partition that takes its marker, blocks its id for ever:
        then another id takes over. Committed offsets that hang with it are waited for where they are read.
        """
        while True:
            try:
                async with asyncio.timeout(self._timeout_s + BROKER_ABORT_LAG_S):
                    return await self._new_producer()
            except DENIED as denied:
                raise broker_error(denied, "starting a transactional producer") from denied
            except TimeoutError:
                log.error(
                    "transaction_not_ended",
                    transactional_id=self._id,
                    effect="a new id is used; readers with read_committed wait at its records",
                    remedy="find it with Kafka's transactions tool (find-hanging) and abort it there",
                )
                self._id = self._new_id()
            except kafka.KafkaError as failure:
                log.warning("producer_not_rebuilt", error=type(failure).__name__, detail=str(failure))
                await asyncio.sleep(RETRY_BACKOFF_S)

    @staticmethod
    async def _close(producer: AIOKafkaProducer) -> None:
        """Close a producer, with whatever it still holds."""
        try:
            await asyncio.wait_for(discard(producer), STOP_TIMEOUT_S)
        except (TimeoutError, kafka.KafkaError, HeadraceError) as error:
            log.debug("producer_not_closed", error=type(error).__name__)
