"""One run of the demo from start to the last account: cluster, worker, traffic, drain, verdict."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from worker.demo import events, faults, simulator
from worker.demo.cluster import MockCluster
from worker.demo.ledger import Ledger
from worker.demo.snapshot import Batches, Observer, Snapshot, batches, report
from worker.demo.traffic import Feed, Readback
from worker.demo.worker_process import (
    DEAD_LETTER_TOPIC,
    GROUP_ID,
    INPUT_TOPIC,
    OUTPUT_TOPIC,
    WorkerFailure,
    WorkerProcess,
    configuration,
    free_port,
)

_REFRESH_S = 0.25
_METRICS_EVERY_S = 1.0
_FLUSH_TIMEOUT_S = 10.0
# Give up on what is missing after so long without any arrival.
_QUIET_S = 10.0
_STOP_TIMEOUT_S = 30.0
_FAULTS_PER_SECOND = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: ``rate`` good events per second for ``seconds``, from the world that ``seed`` makes."""

    seconds: float
    rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """``report`` holds the keys of ``--json``; ``problems`` says in sentences what is not as it should be."""

    report: dict[str, Any]
    reasons: dict[str, int]
    batches: Batches
    problems: list[str]
    log_tail: str


class Display(Protocol):
    """Shows how the demo goes."""

    def say(self, sentence: str) -> None:
        """What happens now, before and after the stream runs."""

    def show(self, snapshot: Snapshot) -> None:
        """The state of the running stream."""


def run(plan: Plan, display: Display) -> Result:
    """Run the whole demo; Ctrl-C ends the stream early and everything sent is still accounted for.

    Raises WorkerFailure if the worker does not start or ends by itself, EnvironmentFault if a package is missing.
    A second Ctrl-C, or one before the stream runs, is a KeyboardInterrupt; no process stays behind.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
        display.say("starting a Kafka mock cluster in this process")
        cluster = MockCluster()
        partitions = min(cluster.create_topic(name) for name in (INPUT_TOPIC, OUTPUT_TOPIC, DEAD_LETTER_TOPIC))
        config = configuration(cluster.bootstrap_servers, free_port())
        with _started(WorkerProcess(Path(folder), config)) as worker:
            display.say("starting the worker as a process of its own, simulating cards meanwhile")
            transactions = simulator.after_warm_up(plan.seed, round(plan.rate * plan.seconds))
            ledger = Ledger(transactions.scenario > 0, _faults(plan, transactions))
            display.say("waiting for the worker to load the model and join its group (3 s)")
            worker.wait_ready()
            feed = Feed(cluster, INPUT_TOPIC, transactions, ledger, plan.rate)
            readback = Readback(cluster, OUTPUT_TOPIC, DEAD_LETTER_TOPIC, partitions, ledger)
            return _Stream(plan, display, cluster, worker, ledger, feed, readback).run(partitions)


def _faults(plan: Plan, transactions: simulator.Transactions) -> list[faults.Fault]:
    """Every kind of fault at least once, and about two a second; none without any good event."""
    first = transactions.part(slice(0, 1))
    if not len(first):
        return []
    count = max(len(faults.KINDS), round(_FAULTS_PER_SECOND * plan.seconds))
    return faults.plan(events.encode(first)[0], events.keys(first)[0], len(transactions), count)


@contextmanager
def _started(worker: WorkerProcess) -> Iterator[WorkerProcess]:
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


@dataclass(slots=True)
class _Stream:
    """The part of the run in which records flow."""

    plan: Plan
    display: Display
    cluster: MockCluster
    worker: WorkerProcess
    ledger: Ledger
    feed: Feed
    readback: Readback

    def run(self, partitions: int) -> Result:
        """Feed, watch, drain, stop the worker, judge."""
        problems: list[str] = []
        observed = Batches()
        self.readback.start()
        self.feed.start()
        try:
            observed = self._watch()
            undelivered = self.cluster.flush(_FLUSH_TIMEOUT_S)
            if undelivered:
                problems.append(f"the mock cluster did not take {undelivered} records")
            self.display.say("stopping the worker with SIGTERM: it drains, commits and exits")
            problems += self._stop_worker(partitions)
        finally:
            self.feed.stop()
            self.readback.stop()
            self.feed.join()
            self.readback.join()
        return self._judge(observed, problems)

    def _watch(self) -> Batches:
        """Show the stream until everything sent is accounted for; returns what the worker's metrics said last."""
        observer = Observer(self.ledger, self.plan.seconds)
        observed, asked_at = Batches(), 0.0
        started_at = now = last_change_at = time.monotonic()
        last_count = 0
        while self.feed.is_alive() or self.ledger.missing:
            try:
                time.sleep(_REFRESH_S)
                now = time.monotonic()
                self._check_alive()
                if now - asked_at >= _METRICS_EVERY_S:
                    observed, asked_at = self._batches(observed), now
                phase = "running" if self.feed.is_alive() else "draining"
                self.display.show(observer.take(phase, now - started_at, observed))
            except KeyboardInterrupt:
                if not self.feed.is_alive():
                    raise
                self.feed.stop()
                self.feed.join()
            count = self.ledger.produced - self.ledger.missing
            if count != last_count:
                last_count, last_change_at = count, now
            if now - last_change_at > _QUIET_S:
                break
        return self._batches(observed)

    def _check_alive(self) -> None:
        self.worker.check_alive()
        for thread in (self.feed, self.readback):
            if thread.failure is not None:
                raise thread.failure

    def _batches(self, before: Batches) -> Batches:
        samples = self.worker.samples()
        return before if samples is None else batches(samples)

    def _stop_worker(self, partitions: int) -> list[str]:
        """SIGTERM; then the exit code and the committed offsets must be right."""
        code = self.worker.stop(_STOP_TIMEOUT_S)
        if code is None:
            return [f"the worker did not end within {_STOP_TIMEOUT_S:.0f} s of SIGTERM and was killed"]
        if code:
            raise WorkerFailure(
                f"the worker ended with exit code {code} after SIGTERM",
                self.worker.log_tail(),
                code if code > 0 else 1,
            )
        uncommitted = self.cluster.uncommitted(GROUP_ID, INPUT_TOPIC, partitions)
        return [f"the worker left {uncommitted} records uncommitted"] if uncommitted else []

    def _judge(self, observed: Batches, problems: list[str]) -> Result:
        """All threads have ended: what arrived late is in the ledger too."""
        ledger = self.ledger
        if ledger.missing:
            problems.append(f"{ledger.missing} records are missing")
        if ledger.duplicates:
            problems.append(f"{ledger.duplicates} records came back twice")
        problems += ledger.surprises
        log_tail = self.worker.log_tail() if problems else ""
        return Result(
            report(ledger, observed),
            dict(ledger.reasons.most_common()),
            observed,
            problems,
            log_tail,
        )
