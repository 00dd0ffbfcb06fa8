"""The figures of ``README.md``, from the newest full results: each system in the variant that drains fastest."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.harness import marked
from benchmarks.harness.cells import NONE, Table, lost
from benchmarks.harness.results import Latency, Result, load, newest
from benchmarks.harness.summary import Summary, Throughput, by_reader
from benchmarks.systems import SYSTEMS, Kind

RATE = "2,000/s"
WORKLOAD = "fraud"
NO_RESULT = "No full run has been committed yet; `make bench` makes one."


def write(readme: Path, results: Path) -> list[Path]:
    """Write the figures into the file. Raises ValueError where it has no place for them."""
    readme.write_text(_wanted(readme, results), encoding="utf-8")
    return [readme]


def stale(readme: Path, results: Path) -> list[Path]:
    """The file, if ``write`` would change it."""
    return [] if readme.read_text(encoding="utf-8") == _wanted(readme, results) else [readme]


def _wanted(readme: Path, results: Path) -> str:
    path = newest("full", results)
    return marked.replaced(readme, NO_RESULT if path is None else excerpt(load(path), path.name))


def excerpt(result: Result, source: str) -> str:
    """The table and where it comes from."""
    machine = result.machine
    return (
        f"{marked.rows(table(result))}\n\n"
        f"Medians of one run on {machine['cores']} cores of {machine['processor']}, with Kafka on the same machine: "
        "541 bytes of JSON per event, 20 features, a small perceptron; each system in its fastest variant. "
        "An echo only copies: faster than that its client cannot be. "
        f"Every figure: [{source}](benchmarks/results/{source})."
    )


def table(result: Result) -> Table:
    """A row per system, several for Headrace, the fastest first."""
    summary = Summary(result)
    best = {name: summary.throughput(name, WORKLOAD) for name in SYSTEMS}
    rows = tuple(
        _cells(one, summary)
        for one in summary.throughputs(WORKLOAD)
        if one.entry.system.kind is Kind.OURS or one is best[one.entry.system.name]
    )
    header = ("", "events/s", "CPU us/event", "memory MiB", f"p50, p99 ms at {RATE}", "after one kill -9")
    return Table("", header, rows)


def _cells(one: Throughput, summary: Summary) -> tuple[str, ...]:
    crash = summary.crash(one.entry.name)
    return (
        one.entry.title,
        f"{one.events_per_s.median:,.0f}",
        f"{one.cpu_us.median:.1f}",
        f"{one.rss_mib:,.0f}",
        _latency(summary.windows(one.entry.name, RATE)),
        NONE if crash is None else lost(crash.tally),
    )


def _latency(windows: list[Latency]) -> str:
    if any(one.why_not_held for one in windows):
        return "not held"
    figures = [
        statistics.median(getattr(by_reader(one), name) for one in windows) for name in ("p50", "p99") if windows
    ]
    return ", ".join(f"{figure:.1f}" for figure in figures) or NONE
