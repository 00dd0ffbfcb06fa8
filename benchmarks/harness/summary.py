"""What a result comes to: medians and ranges by case. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.harness.results import Crash, Drain, Latency, Percentiles, Result
from benchmarks.systems import SYSTEMS, Entry

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of the repetitions."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """All drains of one variant on one workload. ``flaws`` are sentences about outputs that were not right."""

    entry: Entry
    workload: str
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
            cases.setdefault((f"{one.system}:{one.variant}", one.workload), []).append(one)
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

    def latency(self, entry: str, load: str) -> Latency | None:
        """The window under the load of that name."""
        return _first(self.result.latencies, lambda one: (f"{one.system}:{one.variant}", one.load) == (entry, load))

    def crash(self, entry: str) -> Crash | None:
        """The kill test."""
        return _first(self.result.crashes, lambda one: f"{one.system}:{one.variant}" == entry)


def by_reader(one: Latency) -> Percentiles:
    """Latency as readers have it: to the append of the output, or, with transactions, to the arrival."""
    return one.seen if Entry(SYSTEMS[one.system], one.variant).is_transactional else one.appended


def loads(result: Result) -> list[str]:
    """The names of the loads, in the order of the run."""
    return list(dict.fromkeys(one.load for one in result.latencies))


def _first(items: Iterable[_T], matches: Callable[[_T], bool]) -> _T | None:
    return next((item for item in items if matches(item)), None)


def _throughput(drains: list[Drain]) -> Throughput:
    first = drains[0]
    return Throughput(
        Entry(SYSTEMS[first.system], first.variant),
        first.workload,
        _spread([one.events_per_s for one in drains]),
        statistics.median(one.late_events_per_s for one in drains),
        _spread([one.cpu_us for one in drains]),
        statistics.median(one.broker_cpu_us for one in drains),
        max(one.rss_mib for one in drains),
        statistics.median(one.first_output_s for one in drains),
        _flaws(drains),
    )


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _flaws(drains: list[Drain]) -> tuple[str, ...]:
    kinds = {"lost": "lost", "repeated": "repeated", "unknown": "unknown", "wrong": "wrong scores"}
    totals = {title: sum(getattr(one.tally, name) for one in drains) for name, title in kinds.items()}
    return tuple(f"{count:,} {title}" for title, count in totals.items() if count)
