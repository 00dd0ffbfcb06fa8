"""Carries out a plan, one measurement at a time, and keeps what came of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from confluent_kafka import KafkaException

from benchmarks.harness import environments, loads
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.drains import crash, drain
from benchmarks.harness.plan import Plan
from benchmarks.harness.results import Failure, Measured, Result
from benchmarks.harness.search import nearest_size
from benchmarks.systems import Entry, Kind
from benchmarks.workloads import WORKLOADS

CRASH_S = 6.0
# A shorter trial drain says too little of the speed: a few large batches may be all of it.
TRIAL_S = 0.7
# A load nearer to the drain's rate than this only shows that it is too high.
SPARE = 1.1
OTHER_REPETITIONS = 3
EXPECTED = (RuntimeError, TimeoutError, ValueError, KafkaException)
_T = TypeVar("_T")


class Campaign:
    """The measurements of a plan; ``result`` grows as they are made. ``keep`` is called after each of them."""

    def __init__(self, plan: Plan, bench: Bench, result: Result, keep: Callable[[], object]) -> None:
        self._plan = plan
        self._bench = bench
        self._result = result
        self._keep = keep
        self._begun = time.monotonic()
        self._drained: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], float] = {}
        self._broken: set[str] = set()

    def run(self) -> None:
        """Everything that the plan names. A measurement that fails is noted, and the next one is made."""
        steps = {
            "throughput": self._throughput,
            "crash": self._crashes,
            "latency": self._latencies,
            "burst": self._bursts,
            "long": self._long_runs,
        }
        self._install()
        self._probe()
        for name, step in steps.items():
            if name in self._plan.measurements:
                step()

    def _install(self) -> None:
        """Make every environment before anything is measured."""
        for entry in {row[0].system.name: row[0] for row in self._plan.rows}.values():
            try:
                environments.command(entry.system)
            except environments.EnvironmentFailedError as error:
                for row in self._plan.rows:
                    if row[0].system.name == entry.system.name:
                        self._fail(row[0], row[1], "installation", str(error))

    def _probe(self) -> None:
        """Find out what works, and how fast about."""
        for entry, workload in self._plan.rows:
            case = self._case(entry, workload)
            speed = None if case is None else self._trial(case)
            if speed is None:
                self._broken.add(f"{entry.name} {workload}")
            else:
                self._drained[entry.name, workload] = speed
                self._say(f"{entry.name} on {workload}: works")

    def _trial(self, case: Case) -> float | None:
        """Uncounted drains, from the smallest backlog on, until one takes long enough to tell the speed."""
        speed = None
        for size in self._bench.sizes(case.pool):
            found = self._attempt(case, "trial drain", partial(drain, self._bench, case, size, 0))
            if found is None:
                return None
            speed = found.events_per_s
            if size / speed >= TRIAL_S:
                break
        return speed

    def _throughput(self) -> None:
        """Interleaved: each repetition goes once through all systems of a workload."""
        for workload in dict.fromkeys(row[1] for row in self._plan.rows):
            rows = [row for row in self._plan.rows if row[1] == workload]
            least = self._plan.repetitions if workload == self._plan.rows[0][1] else OTHER_REPETITIONS
            for repetition in range(1, min(least, self._plan.repetitions) + 1):
                for entry, _ in rows:
                    self._drain(entry, workload, repetition)
            for entry, _ in rows:
                self._settle(entry.name, workload)

    def _drain(self, entry: Entry, workload: str, repetition: int) -> None:
        case = self._case(entry, workload)
        if case is None:
            return
        speed = self._drained[entry.name, workload]
        size = nearest_size(self._bench.sizes(case.pool), speed, self._plan.drain_s)
        found = self._attempt(case, "throughput", partial(drain, self._bench, case, size, repetition))
        if found is None:
            return
        self._result.drains.append(found)
        self._keep()
        clean = "" if found.tally.is_clean else f"; {found.tally}"
        self._say(f"{entry.name} on {workload}: {found.events_per_s:,.0f} events/s, {found.cpu_us:.1f} us{clean}")

    def _settle(self, name: str, workload: str) -> None:
        """From now on the median is the rate of the drain."""
        rates = [one.events_per_s for one in self._result.drains if _name(one) == (name, workload)]
        if rates:
            self._drained[name, workload] = statistics.median(rates)

    def _crashes(self) -> None:
        for case in self._cases():
            if case.entry.system.kind is Kind.LIMIT:
                continue
            speed = self._drained[case.entry.name, case.workload.name]
            size = nearest_size(self._bench.sizes(case.pool), speed, CRASH_S)
            found = self._attempt(case, "crash", partial(crash, self._bench, case, size))
            if found is not None:
                self._result.crashes.append(found)
                self._keep()
                counts = found.tally
                self._say(f"{case.entry.name}: kill -9: {counts.lost:,} lost, {counts.repeated:,} repeated")

    def _latencies(self) -> None:
        for rate in self._plan.rates:
            for case in self._cases():
                self._latency(case, f"{rate:,}/s", rate)
        for case in self._loaded():
            held = self._capacity(case)
            for share in self._plan.shares if held else ():
                self._latency(case, f"{share} %", share / 100 * held)

    def _latency(self, case: Case, load: str, rate: float) -> None:
        drained = self._drained[case.entry.name, case.workload.name]
        if rate * SPARE > drained:
            self._fail(case.entry, case.workload.name, f"latency at {load}", f"its drain gives {drained:,.0f} events/s")
            return
        seconds = self._plan.latency_s
        found = self._attempt(
            case, f"latency at {load}", partial(loads.latency, self._bench, case, load, rate, seconds)
        )
        if found is not None:
            self._result.latencies.append(found)
            self._keep()
            shown = found.seen if case.entry.is_transactional else found.appended
            self._say(f"{case.entry.name} at {load}: p50 {shown.p50:.1f} ms, p99 {shown.p99:.1f} ms")

    def _capacity(self, case: Case) -> float:
        """Search it at the first call; 0 where no rate was held."""
        if _key(case) in self._held:
            return self._held[_key(case)]
        drained = self._drained[_key(case)]
        found = self._attempt(case, "capacity", partial(loads.capacity, self._bench, case, drained, self._plan.hold_s))
        held = self._held[_key(case)] = found.events_per_s if found is not None else 0.0
        if found is not None:
            self._result.capacities.append(found)
            self._keep()
            self._say(f"{case.entry.name}: holds {held:,.0f} events/s")
        return held

    def _bursts(self) -> None:
        for case, held in self._holding():
            found = self._attempt(case, "burst", partial(loads.burst, self._bench, case, held))
            if found is not None:
                self._result.bursts.append(found)
                self._keep()
                back = "never" if found.recovery_s is None else f"after {found.recovery_s:.1f} s"
                self._say(f"{case.entry.name}: back {back} from a burst of {found.burst_rate:,.0f} events/s")

    def _long_runs(self) -> None:
        minutes = self._plan.minutes
        for case, held in self._holding()[:1]:
            self._say(f"{case.entry.name}: {minutes:g} minutes at {loads.BASE * held:,.0f} events/s")
            run = self._attempt(case, "long run", partial(loads.long_run, self._bench, case, held, minutes))
            if run is not None:
                self._result.long_runs.append(run)
                self._keep()

    def _holding(self) -> list[tuple[Case, float]]:
        """Our own cases that hold some rate, with it."""
        ours = [case for case in self._cases() if case.entry.system.kind is Kind.OURS]
        return [(case, held) for case in ours if (held := self._capacity(case))]

    def _loaded(self) -> list[Case]:
        return [case for case in self._cases() if case.entry.name in self._plan.loaded]

    def _cases(self) -> list[Case]:
        """One case per entry that works, on its first workload."""
        return [case for row in self._plan.loads if (case := self._case(*row)) is not None]

    def _case(self, entry: Entry, workload: str) -> Case | None:
        """The case; None where it was found not to work."""
        if f"{entry.name} {workload}" in self._broken:
            return None
        case = self._bench.case(entry, WORKLOADS[workload])
        self._result.workloads[workload] = {
            "event_bytes": f"{case.pool.event_bytes:.0f}",
            "model_sha256": case.pool.model_sha256,
        }
        return case

    def _attempt(self, case: Case, measurement: str, make: Callable[[], _T]) -> _T | None:
        try:
            return make()
        except EXPECTED as error:
            self._fail(case.entry, case.workload.name, measurement, str(error))
            return None

    def _fail(self, entry: Entry, workload: str, measurement: str, reason: str) -> None:
        if measurement == "installation":
            self._broken.add(f"{entry.name} {workload}")
        names = {"system": entry.system.name, "variant": entry.variant, "workload": workload}
        self._result.failures.append(Failure(**names, measurement=measurement, reason=reason))
        self._keep()
        self._say(f"{entry.name} on {workload}: no {measurement}: {reason}")

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self._begun
        sys.stdout.write(f"[{passed / 60:5.1f} min] {text}\n")
        sys.stdout.flush()


def _key(case: Case) -> tuple[str, str]:
    return case.entry.name, case.workload.name


def _name(one: Measured) -> tuple[str, str]:
    return f"{one.system}:{one.variant}", one.workload
