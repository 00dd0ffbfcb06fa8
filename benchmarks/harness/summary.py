"""What a result comes to: medians and ranges by case. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.harness.results import Burst, Crash, Drain, Latency, LongRun, Percentiles, Result, Standby, Tally
from benchmarks.systems import SYSTEMS, Entry, Kind

_Repeated = TypeVar("_Repeated", Drain, Latency)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repetitions."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Throughput:
    """All drains of one variant on one workload. ``flaws`` are sentences about outputs that were not right."""

    entry: Entry
    workload: str
    drains: tuple[Drain, ...]
    events_per_s: Spread
    late_events_per_s: float
    cpu_us: Spread
    broker_cpu_us: float
    rss_mib: float
    first_output_s: float
    flaws: tuple[str, ...]


class Summary:
    """Looks figures up by the names of entry and workload; None where there is no such figure."""

    def __init__(self, result: Result) -> None:
        self.result = result
        cases: dict[tuple[str, str], list[Drain]] = {}
        for one in result.drains:
            cases.setdefault((one.entry, one.workload), []).append(one)
        self._throughputs = {case: _throughput(drains) for case, drains in cases.items()}

    @property
    def workloads(self) -> list[str]:
        """The workloads that were drained, in their order."""
        return list(dict.fromkeys(workload for _, workload in self._throughputs))

    def throughputs(self, workload: str) -> list[Throughput]:
        """All variants on a workload, the fastest first."""
        found = [one for (_, where), one in self._throughputs.items() if where == workload]
        return sorted(found, key=lambda one: -one.events_per_s.median)

    def throughput(self, entry: str, workload: str = "fraud") -> Throughput | None:
        """One of them; ``entry`` is ``system:variant``, or a system whose fastest variant is meant."""
        if ":" in entry:
            return self._throughputs.get((entry, workload))
        return next((one for one in self.throughputs(workload) if one.entry.system.name == entry), None)

    def ratio(self, upper: str, lower: str, get: Callable[[Drain], float], workload: str = "fraud") -> Spread | None:
        """A figure of one entry's drains over that of another's, within each repetition."""
        over, under = self.throughput(upper, workload), self.throughput(lower, workload)
        if over is None or under is None:
            return None
        return compared(over.drains, under.drains, lambda one, other: get(one) / get(other))

    def windows(self, entry: str, load: str) -> list[Latency]:
        """The windows of an entry under the load of that name, by repetition."""
        return [one for one in self.result.latencies if (one.entry, one.load) == (entry, load)]

    def crash(self, entry: str) -> Crash | None:
        """The kill test."""
        return next((one for one in self.result.crashes if one.entry == entry), None)

    def standbys(self, entry: str) -> list[Standby]:
        """The starts of an entry."""
        return [one for one in self.result.standbys if one.entry == entry]

    def tallies(self, kind: Kind) -> list[Tally]:
        """What became of the events in every measurement of the systems of a kind."""
        result = self.result
        counted: list[list[Drain] | list[Latency] | list[Burst] | list[LongRun] | list[Crash]] = [
            *(result.drains, result.latencies, result.bursts, result.long_runs, result.crashes)
        ]
        return [one.tally for found in counted for one in found if SYSTEMS[one.system].kind is kind]


def compared(
    ones: Iterable[_Repeated], others: Iterable[_Repeated], figure: Callable[[_Repeated, _Repeated], float]
) -> Spread | None:
    """A figure of what two cases measured in the same repetition; a repetition that one of them lacks is left out."""
    by_repetition = {other.repetition: other for other in others}
    found = [figure(one, by_repetition[one.repetition]) for one in ones if one.repetition in by_repetition]
    return spread(found) if found else None


def by_reader(one: Latency) -> Percentiles:
    """Latency as readers have it: to the append of the output, or, with transactions, to the arrival."""
    return one.seen if Entry(SYSTEMS[one.system], one.variant).is_transactional else one.appended


def loads(result: Result) -> list[str]:
    """The names of the loads, in the order of the run."""
    return list(dict.fromkeys(one.load for one in result.latencies))


def _throughput(drains: list[Drain]) -> Throughput:
    first = drains[0]
    return Throughput(
        Entry(SYSTEMS[first.system], first.variant),
        first.workload,
        tuple(drains),
        spread([one.events_per_s for one in drains]),
        statistics.median(one.late_events_per_s for one in drains),
        spread([one.cpu_us for one in drains]),
        statistics.median(one.broker_cpu_us for one in drains),
        max(one.rss_mib for one in drains),
        statistics.median(one.first_output_s for one in drains),
        _flaws(drains),
    )


def _flaws(drains: list[Drain]) -> tuple[str, ...]:
    kinds = {"lost": "lost", "repeated": "repeated", "unknown": "unknown", "wrong": "wrong scores"}
    totals = {title: sum(getattr(one.tally, name) for one in drains) for name, title in kinds.items()}
    return tuple(f"{count:,} {title}" for title, count in totals.items() if count)
