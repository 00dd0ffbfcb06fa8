"""The tables of latency: under constant load, of batches of one, and over minutes. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.harness import targets
from benchmarks.harness.cells import NONE, Table, lost, title
from benchmarks.harness.plan import IDLE, IDLERS
from benchmarks.harness.results import Latency, LongRun, Percentiles, Result
from benchmarks.harness.summary import Summary, by_reader
from benchmarks.harness.trends import STALL, drift, stalls

SHOWN = ("p50", "p95", "p99", "p999", "largest")


def under_load(result: Result, load: str) -> Table:
    """Every case under the load of that name."""
    cases: dict[str, list[Latency]] = {}
    for one in result.latencies:
        if one.load == load:
            cases.setdefault(one.entry, []).append(one)
    header = (
        *("system", "events/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "worst ms"),
        *("planned p50", "planned p99", "generator p99", "CPU us/event", "remarks"),
    )
    note = (
        "Append of the input to append of the output; with transactions, to the arrival at a read_committed reader. "
        "*Planned*: planned send time to arrival. *Generator*: planned send time to append of the input. "
        "Of several windows, medians."
    )
    if load == IDLE:
        kind = "rest, in batches of one"
    else:
        kind = f"{load} of own capacity" if load.endswith("%") else f"{load[:-2]} events/s"
    return Table(f"Latency at {kind}", header, tuple(_cells(windows) for windows in cases.values()), note)


def _cells(windows: list[Latency]) -> tuple[str, ...]:
    def median(get: Callable[[Latency], float]) -> float:
        return statistics.median(get(one) for one in windows)

    seen = [statistics.median(getattr(by_reader(one), name) for one in windows) for name in SHOWN]
    cpu_us = median(lambda one: one.cpu_us)
    return (
        title(windows[0]),
        f"{median(lambda one: one.rate):,.0f}",
        *(f"{value:.1f}" for value in seen),
        f"{median(lambda one: one.planned.p50):.1f}",
        f"{median(lambda one: one.planned.p99):.1f}",
        f"{median(lambda one: one.generator.p99):.1f}",
        f"{cpu_us:.0f}" if cpu_us >= 100 else f"{cpu_us:.1f}",
        "; ".join(_remarks(windows)),
    )


def _remarks(windows: list[Latency]) -> list[str]:
    p99 = [by_reader(one).p99 for one in windows]
    found = [f"{len(windows)} windows, p99 {min(p99):.1f} to {max(p99):.1f}"] if len(windows) > 1 else []
    found += [f"**not held**: {one.why_not_held}" for one in windows if one.why_not_held]
    return found + [lost(one.tally) for one in windows if not one.tally.is_clean]


def own_share(summary: Summary) -> Table:
    """What Headrace adds to its client where each event is a batch."""
    echo, ours = (summary.windows(name, IDLE) for name in IDLERS)
    gets: dict[str, Callable[[Percentiles], float]] = {"p50": lambda one: one.p50, "p99": lambda one: one.p99}
    rows = []
    for name, get in gets.items():
        share = targets.own_share_ms(get)(summary)
        if share is not None:
            both = [statistics.median(get(one.planned) for one in windows) for windows in (ours, echo)]
            figures = (f"{value:.2f}" for value in (*both, share.median))
            rows.append((name, *figures, f"{share.least:.2f} to {share.most:.2f}"))
    note = (
        "From the planned send time to the arrival at the reader, in neighbouring windows. "
        "*Own share*: what Headrace adds to its client, the median of the differences, and their range."
    )
    header = ("percentile", "Headrace ms", "echo ms", "own share ms", "range")
    return Table("Own share of latency, in batches of one", header, tuple(rows), note)


def long_runs(result: Result) -> Table:
    """The long runs: latency of the median window, and how it drifted."""
    header = (
        *("system", "events/s", "minutes", "p50 ms", "p99 ms", "p99.9 ms", "drift of p50 ms", "drift of p99.9 ms"),
        *("worst window", "stalls", "RSS MiB", "held", "events"),
    )
    note = (
        "Latency: the median of the windows. *Drift*: slope over the whole run, the median of the slopes between all "
        "windows, and its 95 % interval. *Worst window*: the largest p99.9."
    )
    return Table("Long run at 70 % of capacity", header, tuple(_long_cells(one) for one in result.long_runs), note)


def _long_cells(one: LongRun) -> tuple[str, ...]:
    usual = [
        statistics.median(getattr(window.latency, name) for window in one.windows) for name in ("p50", "p99", "p999")
    ]
    return (
        title(one),
        f"{one.rate:,.0f}",
        f"{one.minutes:g}",
        *(f"{value:.1f}" for value in usual),
        *(_drift(one, name) for name in ("p50", "p999")),
        f"{max(window.latency.p999 for window in one.windows):.0f}",
        f"{len(stalls(one.windows))}",
        f"{one.windows[0].rss_mib:.0f} to {one.windows[-1].rss_mib:.0f}",
        one.why_not_held or "yes",
        lost(one.tally),
    )


def _drift(one: LongRun, name: str) -> str:
    values = [getattr(window.latency, name) for window in one.windows]
    found = drift([window.at_s / 60 for window in one.windows], values).times(one.minutes)
    return f"{found.slope:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def stalled(result: Result) -> Table:
    """The windows that stand out, with what happened meanwhile."""
    rows = tuple(
        (
            title(one),
            f"{window.at_s / 60:.2f}",
            f"{window.latency.p999:.0f}",
            f"{window.latency.largest:.0f}",
            NONE if window.loop_pause_ms is None else f"{window.loop_pause_ms:g}",
            f"{window.broker_pause_ms:.0f}",
            f"{window.stolen_ms:.0f}",
        )
        for one in result.long_runs
        for window in stalls(one.windows)
    )
    note = (
        f"Windows whose p99.9 is above {STALL:g} times the median window's. *Loop*: the longest delay of the worker's "
        "heartbeat, four a second, up to the bound of its bucket. *Broker*: its longest pause for garbage. "
        "*Host*: processor time that the machine's host gave to others."
    )
    header = ("system", "minute", "p99.9 ms", "worst ms", "loop ms", "broker ms", "host ms")
    return Table("Stalls", header, rows, note)
