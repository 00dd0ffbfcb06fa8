"""Drives the pipeline: feeds it what Kafka and the engine report, and carries out what it decides.

Everything here runs on the event loop. Completions call in directly, without a task of their own, so that a
finished batch is on its way to Kafka in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Literal

import structlog

from worker.adapters.engine import Engine, Model
from worker.adapters.kafka_sink import KafkaSink
from worker.adapters.kafka_source import KafkaSource, Polled
from worker.adapters.kafka_transactions import TransactionalSink
from worker.core.actions import Action, CommitOffsets, Outcome, Produce, RunBatch
from worker.core.batching import Batch
from worker.core.pipeline import Pipeline
from worker.core.records import Parcel, Refusal, Span, TopicPartition
from worker.errors import EngineFault
from worker.guarantees import AtLeastOnce, ExactlyOnce
from worker.limits import poll_limit
from worker.recorder import Recorder
from worker.settings import Settings

log = structlog.get_logger("headrace.driver")

POLL_TIMEOUT_S = 0.2
"""How long a poll waits for the first record; new records end the wait at once."""

FINAL_COMMIT_TIMEOUT_S = 5.0
COMMIT_SHARE = 1 / 3
"""What is kept of a drain for its commit: so long, but no larger share of it."""

CLOSE_TIMEOUT_S = 2.0
"""Leaving the group and hanging up take milliseconds when the brokers answer; when they do not, waiting is in vain."""


class Driver:
    """One pipeline at work, from assignment to revocation or drain."""

    def __init__(self, settings: Settings, pipeline: Pipeline, model: Model, recorder: Recorder) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self.engine = Engine(model, self._engine_finished)
        guarantee = ExactlyOnce if settings.delivery.guarantee == "exactly_once" else AtLeastOnce
        self._guarantee: AtLeastOnce | ExactlyOnce = guarantee(settings, pipeline, recorder, self)
        self.source, self.sink = self._guarantee.source, self._guarantee.sink
        self.source.stopped = pipeline.brakes.stopped
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._moved = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False
        self.revoking = False
        self.assigned_once = False
        self.polled_at = self._roomless_at = self.moved_at = self._loop.time()

    # ---- assignment (called by the source) ---------------------------------------------------------------

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """New assignments begin."""
        epochs = self._pipeline.partitions_assigned(tps, self._loop.time())
        self.assigned_once = True
        self._roomless_at = self._loop.time()
        self._recorder.assigned(epochs)
        return epochs

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Drain and commit what is in flight of these partitions, within bounds, then give them up."""
        tps = list(tps)
        begun = self._loop.time()
        self._pipeline.revocation_began(begun)
        self._pump()
        bound_s = min(self._settings.drain.timeout_s, 0.5 * self._settings.kafka.rebalance_timeout_s)
        self.revoking = True
        try:
            drained, committed = await self._finished(bound_s)
        finally:
            self.revoking = False
        abandoned = self._pipeline.partitions_revoked(tps)
        self._guarantee.abandon()
        if tps:
            took_s = self._loop.time() - begun
            self._recorder.revoked(tps, took_s, abandoned, lost=not committed)
            log.info("partitions_revoked", partitions=len(tps), drained=drained, abandoned=abandoned, took_s=took_s)

    def output_grew(self, partitions: int) -> None:
        """The output topic has so many partitions; input partitions beyond are held until it has more."""
        self.source.partition_limit = partitions

    def offset_reset(self, tp: TopicPartition, offset: int, why: Literal["none_committed", "out_of_range"]) -> None:
        """Reading starts by policy."""
        self._recorder.offset_reset(tp, why)
        log.info("offset_reset", topic=tp.topic, partition=tp.partition, offset=offset, why=why)

    # ---- facts -------------------------------------------------------------------------------------------

    async def poll_forever(self) -> None:
        """Poll, admit, repeat; ends only by an exception or a cancellation."""
        max_poll = poll_limit(self._settings)
        while True:
            room = self._pipeline.room()
            if room == 0:
                await self._wait_for_room()
                continue
            polled = await self._poll(min(room, max_poll))
            self.polled_at = now = self._loop.time()
            if self.draining:
                continue  # what the drain has to finish is settled already; these are for the next owner
            if polled:
                self._admit(polled, now)
                self._pump()
                await asyncio.sleep(0)

    async def _poll(self, max_records: int) -> list[Polled]:
        """One record of each partition that the brakes try again, and records of those that they do not stop."""
        brakes = self._pipeline.brakes
        tried: list[Polled] = []
        for tp in brakes.due(self._loop.time())[:max_records]:
            tried += await self.source.poll_one(tp)
        left = max_records - len(tried)
        return tried + (await self.source.poll(left, 0.0 if tried else POLL_TIMEOUT_S) if left else [])

    def release_brakes(self) -> None:
        """The operator resumes the partitions that the brakes stopped."""
        log.info("brakes_released", partitions=[f"{tp.topic}/{tp.partition}" for tp in self._pipeline.brakes.resume()])

    def _admit(self, polled: list[Polled], now: float) -> None:
        """Give what was polled to the pipeline, in order, and account for it."""
        begun = time.perf_counter()
        self.moved_at = now
        spans: list[Span] = []
        admitted: list[Span] = []
        for item in polled:
            if isinstance(item, Span):
                item.received_at = now
                spans.append(item)
                continue
            item.span.received_at = now
            admitted += self._pipeline.records_received(spans, now)
            spans = []
            self._pipeline.record_unreadable(item.span, item.refusal)
        admitted += self._pipeline.records_received(spans, now)
        if admitted:
            self._recorder.received(admitted, time.perf_counter() - begun)

    async def _wait_for_room(self) -> None:
        """Back-pressure: stay a member of the group, keep prefetched records, go on as soon as there is room."""
        begun = self._loop.time()
        self._moved.clear()
        await self.source.poll(0, 0)
        self.polled_at = self._roomless_at = begun
        try:
            # Unlike wait_for before Python 3.12, this keeps a cancellation that comes together with the event.
            async with asyncio.timeout(1.0):
                await self._moved.wait()
        except TimeoutError:
            log.debug("no_room", in_flight=self._pipeline.in_flight_records)
        self._recorder.waited_for_room(self._loop.time() - begun)

    def _engine_finished(self, batch: Batch, result: Outcome | BaseException) -> None:
        """Called on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._scored, batch, result)
        except RuntimeError:
            # The loop is closed: the worker has given up waiting for this batch, and nothing of it is committed.
            log.warning("late_batch_dropped", size=batch.size)

    def _scored(self, batch: Batch, result: Outcome | BaseException) -> None:
        """The engine thread's result, on the loop."""
        self.engine.returned()
        self._take(batch, result)
        self._pump()

    def _take(self, batch: Batch, result: Outcome | BaseException) -> None:
        """Give the pipeline what the engine made of a batch."""
        if isinstance(result, BaseException):
            if isinstance(result, EngineFault):
                self._recorder.engine_failed()
            self.fail(result)
            return
        begun = time.perf_counter()
        self.moved_at = self._loop.time()
        try:
            self._pipeline.batch_succeeded(batch, result, self.moved_at)
        except Exception as error:  # noqa: BLE001 # a bug; ends the worker through run()
            self.fail(error)
            return
        took_s = time.perf_counter() - begun
        self._pipeline.batcher.handling.observe(batch.size, took_s)
        self._recorder.batch_done(batch, result, took_s)

    def delivered(self, parcel: Parcel, refused: Mapping[int, Refusal]) -> None:
        """The sink's verdict on a parcel."""
        now = self.moved_at = self._loop.time()
        self._pipeline.parcel_delivered(parcel, refused, now)
        self._recorder.delivered(parcel, len(refused), now - parcel.sent_at)
        self._pump()

    def progressed(self) -> None:
        """The brokers have answered otherwise, and the pipeline knows."""
        self.moved_at = self._loop.time()
        self._pump()

    def fail(self, error: BaseException) -> None:
        """End the worker with this error; the first one counts."""
        if not self.failed.done():
            self.failed.set_exception(error)

    # ---- actions -----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Carry out what the pipeline decided, and set the timer for what waits for time."""
        while actions := self._pipeline.take_actions():
            for action in actions:
                self._carry_out(action)
        self._moved.set()
        self._arm()

    def _carry_out(self, action: Action) -> None:
        """One action; what comes of it is decided when those given with it are carried out."""
        match action:
            case RunBatch(batch):
                result = self.engine.submit(batch)
                if result is not None:
                    self._take(batch, result)
            case Produce(parcels):
                now = self._loop.time()
                for parcel in parcels:
                    parcel.sent_at = now
                self.sink.send(parcels)
            case CommitOffsets(commit):
                self._guarantee.commit(commit)

    def _arm(self) -> None:
        """One timer, for the pipeline's next deadline."""
        wakeup = self._pipeline.next_wakeup()
        if self._timer is not None:
            if wakeup is not None and self._timer.when() <= wakeup and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if wakeup is not None:
            self._timer = self._loop.call_at(wakeup, self._tick)

    def _tick(self) -> None:
        """The timer."""
        self._timer = None
        self._pipeline.tick(self._loop.time())
        self._pump()

    # ---- endings -----------------------------------------------------------------------------------------

    async def _finished(self, timeout_s: float) -> tuple[bool, bool]:
        """Settle what is in flight and commit it, both within the time; returns whether each came to its end."""
        deadline = self._loop.time() + timeout_s
        for_commit_s = min(FINAL_COMMIT_TIMEOUT_S, timeout_s * COMMIT_SHARE)
        settled = await self._settled(timeout_s - for_commit_s)
        return settled, await self._guarantee.finish(min(FINAL_COMMIT_TIMEOUT_S, deadline - self._loop.time()))

    async def _settled(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False when the time is over or the pipeline has failed."""
        deadline = self._loop.time() + timeout_s
        while self._pipeline.in_flight_records:
            left = deadline - self._loop.time()
            if left <= 0 or self.failed.done():
                return False
            self._moved.clear()
            try:
                async with asyncio.timeout(left):
                    await self._moved.wait()
            except TimeoutError:
                return False
        return True

    async def drain(self, timeout_s: float) -> int:
        """Finish what is in flight and commit it; returns how many of our records stay uncommitted."""
        self.draining = True
        self._pipeline.drain_requested(self._loop.time())
        self._pump()
        await self._finished(timeout_s)
        return self._pipeline.uncommitted_records + self._guarantee.given_up

    def oldest_in_flight_s(self) -> float:
        """Age of the oldest record that is received and not settled; 0 without any."""
        since = self._pipeline.oldest_received_at()
        return 0.0 if since is None else max(0.0, self._loop.time() - since)

    def silent_s(self) -> float:
        """Seconds without any answer to a fetch although there was room for records; 0 with nothing to read."""
        silent_s = self.source.silent_s()
        return 0.0 if silent_s is None else min(silent_s, self._loop.time() - self._roomless_at)

    async def close(self) -> None:
        """Stop the timer, the engine, the sink, and the source, which leaves the group."""
        if self._timer is not None:
            self._timer.cancel()
        self.engine.stop()
        self._guarantee.stop()
        await asyncio.gather(*(self._close_client(part) for part in (self.source, self.sink)))
        if not self.failed.done():
            self.failed.cancel()
        elif not self.failed.cancelled():
            self.failed.exception()

    @staticmethod
    async def _close_client(part: KafkaSource | KafkaSink | TransactionalSink) -> None:
        """Close one of the Kafka clients, within bounds."""
        try:
            await asyncio.wait_for(part.stop(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("client_not_closed", client=type(part).__name__)
