"""Runs a plan: a cluster, a ledger, a fleet; strike, wait for recovery, write down; then the verdict."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.account import Counts, Lane
from tests.chaos.cluster import Cluster
from tests.chaos.events import Load
from tests.chaos.faults import Field
from tests.chaos.fleet import Fleet, Topics, UnexpectedExit
from tests.chaos.ledger import Ledger
from tests.chaos.schedule import FAULTS, Plan
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import merged

RECOVERY_TIMEOUT_S = 150.0
FINAL_TIMEOUT_S = 120.0
QUIET_S = 8.0
"""Without any output for so long, and all offsets committed, nothing more will come."""

SETTLED_RECORDS = 0.5
"""Seconds of load that may be open in a group that counts as steady."""

DELIVERY: Mapping[str, Mapping[str, Any]] = {
    "at_least_once": {},
    "exactly_once": {"delivery": {"guarantee": "exactly_once", "transaction_timeout_s": 8}},
}


@dataclass(frozen=True, slots=True)
class Result:
    """One fault and what came of it."""

    number: int
    fault: str
    target: str
    open_records: int
    open_transactions: int
    repeats: int
    repeats_allowed: int
    outage_s: float
    took_s: float

    @property
    def counted(self) -> bool:
        """A fault counts only if it hit open work."""
        return bool(self.open_records or self.open_transactions)


@dataclass(slots=True)
class Outcome:
    """A whole campaign."""

    plan: Plan
    settings: Mapping[str, Any]
    results: list[Result] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    unexpected: list[UnexpectedExit] = field(default_factory=list)
    exit_codes: dict[str, int] = field(default_factory=dict)
    refusals: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Faults from which the workers did not recover as they should."""
    uncommitted: dict[Lane, tuple[int, int]] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def counted(self) -> list[Result]:
        """The faults that hit open work."""
        return [one for one in self.results if one.counted]


class Campaign:
    """One plan on a cluster of its own or on a given one; ``say`` is told how it goes."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        cluster: Cluster,
        say: Callable[[str], None] = lambda _: None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self._say = say
        tag = uuid.uuid4().hex[:8]
        self.topics = Topics((f"in-a-{tag}", f"in-b-{tag}"), f"out-{tag}", f"dlq-{tag}", f"w-{tag}")
        self.fleet = Fleet(folder, cluster, self.topics, merged(DELIVERY[plan.guarantee], overrides or {}))
        lanes = [(topic, at) for at in range(plan.partitions) for topic in self.topics.inputs]
        sinks = (self.topics.output, self.topics.dead_letters)
        self.ledger = Ledger(cluster.bootstrap, sinks, lanes, load=Load(plan.seed), rate=plan.rate)
        self.field = Field(cluster, self.fleet, self.ledger, self.topics, random.Random(plan.seed), plan.guarantee)
        self._cluster = cluster
        self._refused_before = Counter(cluster.relay.refusals)
        self.outcome = Outcome(plan, self.fleet.settings)

    def run(self) -> Outcome:
        """Everything; whatever happens, no process is left."""
        begun = time.monotonic()
        try:
            self.begin()
            for number, name in enumerate(self.plan.faults, 1):
                try:
                    self.strike(number, name)
                except (AssertionError, RuntimeError, TimeoutError) as error:
                    self.ledger.check()
                    self.outcome.failures.append(f"{number} {name}: {error}")
                    self._say(self.outcome.failures[-1])
                    self._repair()
            self.finish()
        finally:
            self.outcome.took_s = time.monotonic() - begun
            self.close()
        return self.outcome

    def begin(self) -> None:
        """Topics, load, workers."""
        partitions = self.plan.partitions
        for topic in (*self.topics.inputs, self.topics.output, self.topics.dead_letters):
            self._cluster.create_topic(topic, partitions)
        sinks = {self.topics.output: partitions, self.topics.dead_letters: partitions}
        self.fleet.restore(self.plan.workers)
        self.ledger.start(sinks, committed_only=self.field.exactly_once)
        self._steady()

    def strike(self, number: int, name: str) -> Result:
        """One fault and the recovery from it."""
        self._steady()
        before, watch, begun = self.ledger.snapshot(), self.ledger.watch(), time.monotonic()
        struck = FAULTS[name](self.field)
        self._recovered(name)
        self.fleet.tolerated = None
        repeats = self.ledger.snapshot().repeats - before.repeats
        result = Result(
            number,
            name,
            struck.target,
            struck.work.records,
            struck.work.transactions,
            repeats,
            0 if self.field.exactly_once or struck.graceful else struck.crashed * self.fleet.repeat_bound,
            round(self.ledger.unwatch(watch), 2),
            round(time.monotonic() - begun, 1),
        )
        self.outcome.results.append(result)
        self._say(
            f"{number}/{len(self.plan.faults)} {name}: {result.target}, open {result.open_records} records"
            f" {result.open_transactions} transactions, repeats {result.repeats}/{result.repeats_allowed},"
            f" outage {result.outage_s} s, took {result.took_s} s"
        )
        return result

    def finish(self) -> None:
        """End the load, let the workers finish and drain, and draw up the account."""
        wait_until(
            lambda: self.ledger.snapshot().written >= self.plan.records,
            timeout_s=max(1.0, self.plan.records / self.plan.rate * 2),
            what=lambda: f"only {self.ledger.snapshot().written} records were written",
        )
        self.ledger.stop_writing()
        marks = self.ledger.marks()
        deadline = time.monotonic() + FINAL_TIMEOUT_S
        while not self.ledger.passed(marks) and time.monotonic() < deadline and not self._lost_for_good(marks):
            self._supervise()
            time.sleep(0.1)
        self.outcome.exit_codes = self.fleet.stop()
        committed = self.fleet.committed(list(marks))
        self.outcome.uncommitted = {
            lane: (committed.get(lane, 0), end) for lane, end in marks.items() if end and committed.get(lane, 0) < end
        }
        # What still comes, such as a late repeat, is in the log by now: the workers have ended.
        time.sleep(1.0)
        self.outcome.unexpected = list(self.fleet.unexpected)
        self.outcome.refusals = dict(self._cluster.relay.refusals - self._refused_before)
        self.outcome.counts = self.ledger.verdict()

    def _lost_for_good(self, marks: Mapping[Lane, int]) -> bool:
        """Whether records without a fate are behind committed offsets: nobody will read them again."""
        missing = self.ledger.missing(marks)
        if not missing or time.monotonic() - self.ledger.last_read_at < QUIET_S:
            return False
        committed = self.fleet.committed(list(missing))
        return all(committed.get(lane, 0) >= marks[lane] for lane in missing)

    def _lost_already(self, marks: Mapping[Lane, int]) -> bool:
        """Whether every record without a fate was passed over: later ones of its lane have theirs."""
        return all(self.ledger.overtaken(lane, mark) for lane, mark in marks.items())

    def close(self) -> None:
        """End everything that the campaign started."""
        self.fleet.discard()
        self.ledger.close()

    def _repair(self) -> None:
        """After a fault that went wrong half-way: everything healed, everyone awake."""
        self.ledger.go_on()
        for name, process in self.fleet.running.items():
            if process.is_alive:
                process.resume()
            self._cluster.relay.heal(name)
        for node in self._cluster.nodes:
            if node.pid is None:
                self._cluster.restart(node)
        self._cluster.client.set_topic_config(self.topics.dead_letters, {"max.message.bytes": "1048588"})
        self.fleet.restore(self.plan.workers)

    def _supervise(self) -> None:
        """Replace workers that ended by themselves."""
        if self.fleet.reap():
            self._say("a worker ended by itself")
            self.fleet.restore(self.plan.workers)

    def _steady(self) -> None:
        """Wait until outputs keep up with the load, and the group has settled: a fault is to show its own effects."""
        few = self.plan.rate * SETTLED_RECORDS + 200

        def is_steady() -> bool:
            self._supervise()
            self.ledger.check()
            open_records = self.ledger.open_records()
            keeps_up = self.ledger.snapshot().scored > self.plan.rate and open_records < few
            return keeps_up and self.fleet.is_settled()

        wait_until(is_steady, timeout_s=RECOVERY_TIMEOUT_S, what=lambda: f"{self.ledger.open_records()} records wait")

    def _recovered(self, name: str) -> None:
        """Wait until everything written before now has its fate, and the fleet is whole."""
        marks = self.ledger.marks()

        def passed() -> bool:
            self._supervise()
            return self.ledger.passed(marks) or self._lost_already(marks)

        wait_until(
            passed, timeout_s=RECOVERY_TIMEOUT_S, what=lambda: f"after {name}: no fate for {self.ledger.missing(marks)}"
        )
