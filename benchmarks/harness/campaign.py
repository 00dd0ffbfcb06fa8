"""Carries out a plan, part by part, and keeps what came of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from confluent_kafka import KafkaException

from benchmarks.harness import environments, loads
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.drains import crash, drain
from benchmarks.harness.machine import Surroundings
from benchmarks.harness.plan import (
    CLOSELY_COMPARED,
    COMPARED,
    FRAUD,
    IDLE,
    IDLE_RATE,
    IDLERS,
    LEAST_REPETITIONS,
    STARTED,
    Plan,
)
from benchmarks.harness.results import Drain, Failure, Part, Result
from benchmarks.harness.search import nearest_size
from benchmarks.harness.standby import standby
from benchmarks.systems import ECHO, Entry, Kind, Runtime, entry
from benchmarks.workloads import WORKLOADS

ANCHOR_S = 4.0
CRASH_S = 6.0
# A shorter trial drain says too little of the speed: a few large batches may be all of it, or a cold compiler.
TRIAL_S = {Runtime.PROJECT: 0.7, Runtime.PYTHON: 0.7, Runtime.JAVA: 5.0}
# A load nearer to the drain's rate than this only shows that it is too high.
SPARE = 1.1
EXPECTED = (RuntimeError, TimeoutError, ValueError, KafkaException)
_T = TypeVar("_T")


class Campaign:
    """The measurements of a plan; ``result`` grows as they are made. ``keep`` is called after each of them."""

    def __init__(self, plan: Plan, bench: Bench, result: Result, keep: Callable[[], None]) -> None:
        self._plan = plan
        self._bench = bench
        self._result = result
        self._save = keep
        self._begun = time.monotonic()
        self._part_begun = self._begun
        self._broken: dict[tuple[str, str], tuple[str, str]] = {}
        # Events per second of drains, once they are warm: they choose sizes and loads, and are no figures.
        self._speeds = _speeds(result.drains)
        self._anchor: Drain | None = None

    def run(self, parts: Sequence[str]) -> None:
        """Measure these parts. A measurement that fails is noted, and the next one is made."""
        measure: dict[str, Callable[[str], None]] = {
            "throughput": self._throughput,
            "crash": self._crashes,
            "standby": self._standbys,
            "latency": self._latencies,
            "idle": self._idle,
            "capacity": self._capacities,
            "long": self._long_runs,
        }
        self._install()
        for name in parts:
            kind, _, workload = name.partition(":")
            self._begin(name)
            measure[kind](workload)
            self._take_anchor()
            self._result.complete(self._part)
            self._keep()

    # ---- parts -------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._part = Part(name=name, started=datetime.now(UTC).isoformat(timespec="seconds"))
        self._part_begun, self._surroundings = time.monotonic(), Surroundings()
        self._result.parts.append(self._part)
        self._say(f"part {name}")
        if self._anchor is None:
            self._warm_up()
            self._take_anchor()
        else:
            self._part.echo.append(self._anchor)

    def _warm_up(self) -> None:
        case = self._bench.case(entry(ECHO), WORKLOADS[FRAUD])
        self._attempt(case, "warm-up", partial(loads.warm_up, self._bench, self._plan.warm_up_s))

    def _take_anchor(self) -> None:
        """Drain the fraud events by the echo: how fast the machine is now."""
        case = self._bench.case(entry(ECHO), WORKLOADS[FRAUD])
        speed = self._speed(case)
        self._anchor = None if speed is None else self._drained(case, speed, ANCHOR_S, 0)
        if self._anchor is not None:
            self._part.echo.append(self._anchor)
            self._keep()
            self._say(f"the echo gives {self._anchor.events_per_s:,.0f} events/s")

    def _keep(self) -> None:
        self._part.minutes = round((time.monotonic() - self._part_begun) / 60, 1)
        others, stolen = self._surroundings.cores()
        self._part.others_cores, self._part.stolen_cores = round(others, 3), round(stolen, 3)
        self._save()

    # ---- cases -------------------------------------------------------------------------------------------

    def _install(self) -> None:
        """Make every environment before anything is measured."""
        for system in {row[0].system.name: row[0].system for row in self._plan.rows}.values():
            try:
                environments.command(system)
            except environments.EnvironmentFailedError as error:
                rows = [row for row in self._plan.rows if row[0].system.name == system.name]
                self._broken |= {(row[0].name, row[1]): ("installation", str(error)) for row in rows}
                self._say(f"{system.name}: no installation: {error}")

    def _working(self, rows: Iterable[tuple[Entry, str]]) -> list[Case]:
        """The cases that work, their speed known; the others are noted as failures of this part."""
        found = []
        for one, workload in rows:
            case = self._bench.case(one, WORKLOADS[workload])
            self._result.workloads[workload] = {
                "event_bytes": f"{case.pool.event_bytes:.0f}",
                "model_sha256": case.pool.model_sha256,
            }
            known = self._broken.get((one.name, workload))
            if known is not None:
                self._fail(case, *known)
            elif self._speed(case) is not None:
                found.append(case)
        return found

    def _speed(self, case: Case) -> float | None:
        """Events per second of a drain, by uncounted trials at the first call; None where it does not work."""
        key = (case.entry.name, case.workload.name)
        if key in self._speeds or key in self._broken:
            return self._speeds.get(key)
        for size in self._bench.sizes(case.pool):
            found = self._attempt(case, "trial drain", partial(drain, self._bench, case, size, 0))
            if found is None:
                self._broken[key] = ("trial drain", self._part.failures[-1].reason)
                return None
            self._speeds[key] = found.late_events_per_s
            if size / found.events_per_s >= TRIAL_S[case.entry.system.runtime]:
                break
        self._say(f"{case.entry.name} on {case.workload.name}: works")
        return self._speeds[key]

    # ---- measurements ------------------------------------------------------------------------------------

    def _throughput(self, workload: str) -> None:
        """Interleaved: each repetition goes once through its systems, every second one backwards."""
        cases = self._working(row for row in self._plan.rows if row[1] == workload)
        for repetition in range(1, self._plan.repetitions + 1):
            if repetition > LEAST_REPETITIONS:
                cases = self._closely_compared(cases, workload)
            for case in _by_turns(cases, repetition):
                speed = self._speeds[case.entry.name, workload]
                found = self._drained(case, speed, self._plan.drain_s, repetition)
                if found is not None:
                    self._part.drains.append(found)
                    self._keep()
                    clean = "" if found.tally.is_clean else f"; {found.tally}"
                    rate = f"{found.events_per_s:,.0f} events/s, {found.cpu_us:.1f} us{clean}"
                    self._say(f"{case.entry.name} on {workload}: {rate}")
        self._speeds |= _speeds(self._part.drains)
        if workload != FRAUD:
            self._bench.forget(workload)

    def _closely_compared(self, cases: list[Case], workload: str) -> list[Case]:
        """Those that are drained more often than the others: on the first workload alone."""
        is_first = workload == self._plan.rows[0][1]
        return [case for case in cases if is_first and case.entry.name in CLOSELY_COMPARED]

    def _drained(self, case: Case, speed: float, seconds: float, repetition: int) -> Drain | None:
        size = nearest_size(self._bench.sizes(case.pool), speed, seconds)
        return self._attempt(case, "throughput", partial(drain, self._bench, case, size, repetition))

    def _crashes(self, _: str) -> None:
        rows = [row for row in self._plan.loads if row[0].system.kind is not Kind.LIMIT]
        for case in self._working(rows):
            size = nearest_size(self._bench.sizes(case.pool), self._speed(case) or 0.0, CRASH_S)
            found = self._attempt(case, "crash", partial(crash, self._bench, case, size))
            if found is not None:
                self._part.crashes.append(found)
                self._keep()
                counts = found.tally
                self._say(f"{case.entry.name}: kill -9: {counts.lost:,} lost, {counts.repeated:,} repeated")

    def _standbys(self, _: str) -> None:
        """Starts of Headrace, in turns; the others have no probes."""
        cases = self._working(row for row in self._plan.loads if row[0].name in STARTED)
        for repetition in range(1, LEAST_REPETITIONS + 1):
            for case in _by_turns(cases, repetition):
                make = partial(standby, self._bench, case, repetition, self._plan.latency_s)
                found = self._attempt(case, "standby", make)
                if found is not None:
                    self._part.standbys.append(found)
                    self._keep()
                    self._say(f"{case.entry.name}: ready after {found.ready_s:.1f} s, then {found.cores:.1%} of a core")

    def _latencies(self, _: str) -> None:
        """At fixed rates, interleaved; what targets compare is repeated."""
        cases = self._working(self._plan.loads)
        for repetition in range(1, self._plan.latency_repetitions + 1):
            for rate in self._plan.rates:
                for case in _by_turns(cases, repetition):
                    if repetition == 1 or case.entry.name in COMPARED:
                        self._latency(case, f"{rate:,}/s", rate, repetition)

    def _idle(self, _: str) -> None:
        """So few events that each is a batch of its own, in neighbouring windows."""
        cases = self._working(row for row in self._plan.loads if row[0].name in IDLERS)
        for repetition in range(1, self._plan.repetitions + 1):
            for case in _by_turns(cases, repetition):
                self._latency(case, IDLE, IDLE_RATE, repetition)

    def _latency(self, case: Case, load: str, rate: float, repetition: int = 1) -> None:
        what, drained = f"latency, {load}", self._speed(case) or 0.0
        if rate * SPARE > drained:
            self._fail(case, what, f"its drain gives {drained:,.0f} events/s")
            return
        make = partial(loads.latency, self._bench, case, load, repetition, rate, self._plan.latency_s)
        found = self._attempt(case, what, make)
        if found is not None:
            self._part.latencies.append(found)
            self._keep()
            shown = found.seen if case.entry.is_transactional else found.appended
            self._say(f"{case.entry.name}, {load}: p50 {shown.p50:.1f} ms, p99 {shown.p99:.1f} ms")

    def _capacities(self, _: str) -> None:
        for case in self._working(row for row in self._plan.loads if row[0].name in self._plan.loaded):
            held = self._capacity(case)
            for share in self._plan.shares if held else ():
                self._latency(case, f"{share} %", share / 100 * held)
            if held and case.entry.system.kind is Kind.OURS:
                self._burst(case, held)

    def _capacity(self, case: Case) -> float:
        """The highest rate that holds; 0 where none did."""
        search = partial(loads.capacity, self._bench, case, self._speed(case) or 0.0, self._plan.hold_s)
        found = self._attempt(case, "capacity", search)
        if found is None:
            return 0.0
        self._part.capacities.append(found)
        self._keep()
        self._say(f"{case.entry.name}: holds {found.events_per_s:,.0f} events/s")
        return found.events_per_s

    def _burst(self, case: Case, held: float) -> None:
        found = self._attempt(case, "burst", partial(loads.burst, self._bench, case, held))
        if found is not None:
            self._part.bursts.append(found)
            self._keep()
            back = "never" if found.recovery_s is None else f"after {found.recovery_s:.1f} s"
            self._say(f"{case.entry.name}: back {back} from a burst of {found.burst_rate:,.0f} events/s")

    def _long_runs(self, _: str) -> None:
        """All at one rate: that of the first one's capacity."""
        cases, minutes = self._working(self._plan.loads), self._plan.minutes
        rate = loads.BASE * self._capacity(cases[0]) if cases else 0.0
        for case in cases if rate else ():
            self._say(f"{case.entry.name}: {minutes:g} minutes at {rate:,.0f} events/s")
            found = self._attempt(case, "long run", partial(loads.long_run, self._bench, case, rate, minutes))
            if found is not None:
                self._part.long_runs.append(found)
                self._keep()

    def _attempt(self, case: Case, measurement: str, make: Callable[[], _T]) -> _T | None:
        try:
            return make()
        except EXPECTED as error:
            self._fail(case, measurement, str(error))
            return None

    def _fail(self, case: Case, measurement: str, reason: str) -> None:
        self._part.failures.append(Failure(**case.names, measurement=measurement, reason=reason))
        self._keep()
        self._say(f"{case.entry.name} on {case.workload.name}: no {measurement}: {reason}")

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self._begun
        sys.stdout.write(f"[{passed / 60:5.1f} min] {text}\n")
        sys.stdout.flush()


def _by_turns(cases: list[Case], repetition: int) -> list[Case]:
    """Forwards, then backwards, so that no system always comes after the same one."""
    return cases if repetition % 2 else cases[::-1]


def _speeds(drains: Iterable[Drain]) -> dict[tuple[str, str], float]:
    """Median rate of the second halves by entry and workload."""
    rates: dict[tuple[str, str], list[float]] = {}
    for one in drains:
        rates.setdefault((one.entry, one.workload), []).append(one.late_events_per_s)
    return {case: statistics.median(found) for case, found in rates.items()}
