"""What the two guarantees do differently: how offsets are committed, and what becomes of a commit that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from worker.adapters.kafka_fencing import Stamp
from worker.adapters.kafka_sink import KafkaSink
from worker.adapters.kafka_source import KafkaSource, Owner
from worker.adapters.kafka_transactions import BROKER_ABORT_LAG_S, TransactionalSink
from worker.core.offsets import Commit
from worker.core.pipeline import Pipeline
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.recorder import Recorder
from worker.settings import Settings

log = structlog.get_logger("headrace.guarantees")


class Host(Owner, Protocol):
    """Who drives the pipeline."""

    draining: bool
    """The worker stops: nothing is read any more."""
    revoking: bool
    """Partitions are being taken away: nothing is read until that is over."""

    def delivered(self, parcel: Parcel, refused: Mapping[int, Refusal]) -> None:
        """The brokers' verdict on a parcel; ``refused`` by index in it."""
        ...

    def progressed(self) -> None:
        """The pipeline has been told something: carry out what it decides."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the worker with this error."""
        ...


class AtLeastOnce:
    """Offsets follow the acknowledgements, by requests of their own; a crash repeats what came after the last one."""

    given_up = 0
    """What is in flight stays in the pipeline until it is committed."""

    def __init__(self, settings: Settings, pipeline: Pipeline, recorder: Recorder, host: Host) -> None:
        self._pipeline = pipeline
        self._recorder = recorder
        self._host = host
        self._commits: set[asyncio.Task[None]] = set()
        self.source = KafkaSource(settings.kafka, host, settings.batching.gather_s)
        self.sink = KafkaSink(settings.kafka, host.delivered, host.fail)

    def commit(self, commit: Commit) -> None:
        """Commit in the background; nobody waits for it."""
        task = asyncio.create_task(self._commit(commit), name="commit")
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)

    async def _commit(self, commit: Commit) -> None:
        """Commit, and tell what came of it."""
        try:
            await self._send(commit)
        except Exception as error:  # noqa: BLE001 # handed to the host, which ends the worker with it
            self._host.fail(error)
            return
        self._host.progressed()

    async def _send(self, commit: Commit) -> bool:
        """One request to commit; whether the brokers took it."""
        now = asyncio.get_running_loop().time
        begun = now()
        done = await self.source.commit(commit.offsets)
        self._recorder.committed(commit.offsets, now() - begun, done=done)
        self._pipeline.commit_ended(commit, now(), done=done)
        return done

    async def finish(self, timeout_s: float) -> bool:
        """Commit all that is settled, now; False when the brokers did not take it in time."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._commits:
                    await asyncio.wait(self._commits)
                commit = self._pipeline.committable()
                return commit is None or await self._send(commit)
        except TimeoutError:
            left = self._pipeline.committable()
            log.error("final_commit_timed_out", partitions=0 if left is None else len(left.offsets))
            return False

    def abandon(self) -> None:
        """The assignment is over: what the brokers have not acknowledged is stale from now on."""

    def stop(self) -> None:
        """Give up what is under way."""
        for task in list(self._commits):
            task.cancel()


class ExactlyOnce:
    """Offsets go with the outputs, in one transaction; one that fails is forgotten, and its records are read again."""

    def __init__(self, settings: Settings, pipeline: Pipeline, recorder: Recorder, host: Host) -> None:
        delivery = settings.delivery
        self._pipeline = pipeline
        self._recorder = recorder
        self._host = host
        self.given_up = 0
        """Records of ours that an abort dropped while the worker was stopping: nobody here reads them again."""
        self.source = KafkaSource(
            settings.kafka,
            host,
            settings.batching.gather_s,
            stable_within_s=delivery.transaction_timeout_s + BROKER_ABORT_LAG_S,
        )
        self.sink = TransactionalSink(
            settings.kafka,
            delivery.transaction_interval_s,
            delivery.transaction_timeout_s,
            self,
            host.delivered,
            host.fail,
        )

    def commit(self, commit: Commit) -> None:
        """End the open transaction: its commit will cover these offsets, and what is acknowledged until then."""
        del commit
        self.sink.cut()

    async def finish(self, timeout_s: float) -> bool:
        """Commit the open transaction, now; False when the brokers did not take it in time."""
        try:
            await asyncio.wait_for(self.sink.finish(), timeout_s)
        except TimeoutError:
            log.error("final_transaction_timed_out")
            return False
        return self._pipeline.committable() is None

    def abandon(self) -> None:
        """The assignment is over: nothing of it may be committed any more."""
        self.sink.abandon()

    def stop(self) -> None:
        """Nothing is under way but in the sink."""

    # ---- called by the sink ------------------------------------------------------------------------------

    def transaction_offsets(self) -> Commit | None:
        """The offsets that cover exactly what was acknowledged."""
        return self._pipeline.committable()

    def transaction_stamp(self) -> Stamp | None:
        """The membership that the partitions were assigned under."""
        return self.source.stamp

    def transaction_committed(self, commit: Commit | None, took_s: float) -> None:
        """Outputs and offsets are committed."""
        self._recorder.transaction("committed", took_s)
        if commit is not None:
            self._recorder.committed(commit.offsets, took_s, done=True)
            self._pipeline.commit_ended(commit, asyncio.get_running_loop().time(), done=True)
        self._host.progressed()

    def transaction_aborted(self, fenced: bool) -> None:
        """Nothing since the last commit counts: drop what is in flight and read again from there.

        What a draining worker drops is read by others: because it gives up, or, fenced, because they own it already.
        """
        self._recorder.transaction("fenced" if fenced else "aborted", 0.0)
        tps = self._pipeline.partitions()
        if self._host.draining and not fenced:
            self.given_up += self._pipeline.uncommitted_records
        self._pipeline.partitions_revoked(tps)
        # While partitions are being taken away nothing is read again: admission stays closed.
        if tps and not self._host.draining and not self._host.revoking:
            now = asyncio.get_running_loop().time()
            self.source.rewind(self._pipeline.partitions_assigned(tps, now))
        self._host.progressed()

    def record_refused(self, tp: TopicPartition, offset: int, refusal: Refusal) -> None:
        """The brokers refuse this record's output."""
        self._pipeline.output_refused(tp, offset, refusal)
