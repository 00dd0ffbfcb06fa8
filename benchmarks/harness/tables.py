"""The tables of a result, as rows of text: the terminal and the page lay them out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness import targets
from benchmarks.harness.results import Latency, Result, Tally
from benchmarks.harness.summary import Spread, Summary, Throughput, by_reader, loads
from benchmarks.systems import SYSTEMS, Entry

NONE = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows; the first column is text, the others are figures. ``note`` explains columns."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(result: Result) -> list[Table]:
    """Every table for which there are figures."""
    summary = Summary(result)
    found = [_targets(summary)]
    found += [_throughput(summary, workload) for workload in summary.workloads]
    found += [_latency(result, load) for load in loads(result)]
    found += [_capacities(result), _bursts(result), _long_runs(result), _batches(result), _failures(result)]
    return [table for table in found if table.rows]


def _targets(summary: Summary) -> Table:
    judged = targets.judge(summary)
    if summary.result.form != "full":
        judged = [one for one in judged if one.outcome is not targets.Outcome.UNKNOWN]
    rows = [(one.what, one.required, one.reached, one.outcome.value) for one in judged]
    return Table("Targets", ("target", "required", "reached", "outcome"), tuple(rows))


def _throughput(summary: Summary, workload: str) -> Table:
    ours = summary.throughput(targets.LEAST, workload)
    has_crash = any(one.workload == workload for one in summary.result.crashes)
    header = (
        *("system", "events/s", "range", "Headrace is", "second half", "CPU us/event", "broker us/event", "RSS MiB"),
        *("first output s", "lost, repeated"),
        *(("after kill -9",) if has_crash else ()),
    )
    rows = tuple(
        (*_cells(one, ours), *((_crash(summary, one.entry),) if has_crash else ()))
        for one in summary.throughputs(workload)
    )
    note = (
        "*Headrace is*: throughput of Headrace, at least once, as a multiple. "
        "*Second half*: rate of the later half of the drain, for compilers that warm up."
    )
    return Table(f"Throughput: {workload}", header, rows, note)


def _cells(one: Throughput, ours: Throughput | None) -> tuple[str, ...]:
    ratio = NONE if ours is None else f"{ours.events_per_s.median / one.events_per_s.median:.2f} x"
    return (
        one.entry.title,
        f"{one.events_per_s.median:,.0f}",
        _range(one.events_per_s),
        ratio,
        f"{one.late_events_per_s:,.0f}",
        f"{one.cpu_us.median:.1f}",
        f"{one.broker_cpu_us:.1f}",
        f"{one.rss_mib:,.0f}",
        f"{one.first_output_s:.1f}",
        "; ".join(one.flaws) or "none",
    )


def _range(spread: Spread) -> str:
    return f"{spread.least:,.0f} to {spread.most:,.0f}"


def _crash(summary: Summary, entry: Entry) -> str:
    found = summary.crash(entry.name)
    if found is None:
        return NONE
    return f"{_lost(found.tally)}; silent {found.silence_s:.0f} s"


def _lost(tally: Tally) -> str:
    lost = f"**{tally.lost:,} lost**" if tally.lost else "0 lost"
    return f"{lost}, {tally.repeated:,} repeated"


def _latency(result: Result, load: str) -> Table:
    found = [one for one in result.latencies if one.load == load]
    header = (
        *("system", "events/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "worst ms"),
        *("planned p50", "planned p99", "generator p99", "CPU us/event", "remarks"),
    )
    note = (
        "Append of the input to append of the output; with transactions, to the arrival at a read_committed reader. "
        "*Planned*: planned send time to arrival. *Generator*: planned send time to append of the input."
    )
    kind = f"{load} of own capacity" if load.endswith("%") else f"{load[:-2]} events/s"
    return Table(f"Latency at {kind}", header, tuple(_latency_cells(one) for one in found), note)


def _latency_cells(one: Latency) -> tuple[str, ...]:
    seen = by_reader(one)
    remarks = [] if one.held else ["lag grew, or the generator was late"]
    remarks += [] if one.tally.is_clean else [_lost(one.tally)]
    return (
        _title(one.system, one.variant),
        f"{one.rate:,.0f}",
        *(f"{value:.1f}" for value in (seen.p50, seen.p95, seen.p99, seen.p999, seen.largest)),
        *(f"{value:.1f}" for value in (one.planned.p50, one.planned.p99, one.generator.p99)),
        f"{one.cpu_us:.0f}" if one.cpu_us >= 100 else f"{one.cpu_us:.1f}",
        "; ".join(remarks),
    )


def _capacities(result: Result) -> Table:
    rows = tuple(
        (
            _title(one.system, one.variant),
            f"{one.events_per_s:,.0f}",
            "; ".join(f"{trial.rate:,.0f}: {trial.why or 'held'}" for trial in one.trials),
        )
        for one in result.capacities
    )
    note = "The highest rate that held without growing lag, with generator and reader on the same machine."
    return Table("Capacity", ("system", "events/s", "trials"), rows, note)


def _bursts(result: Result) -> Table:
    rows = tuple(
        (
            _title(one.system, one.variant),
            f"{one.base_rate:,.0f}",
            f"{one.burst_rate:,.0f} for {one.burst_s:g} s",
            f"{one.largest_lag_events:,}",
            "never" if one.recovery_s is None else f"{one.recovery_s:.1f}",
            _lost(one.tally),
        )
        for one in result.bursts
    )
    header = ("system", "base events/s", "burst events/s", "largest lag, events", "back after s", "events")
    return Table("Burst: 70 %, 110 %, 70 % of own capacity", header, rows)


def _long_runs(result: Result) -> Table:
    rows = []
    for one in result.long_runs:
        third = max(1, len(one.windows) // 3)
        early, late = one.windows[:third], one.windows[-third:]
        medians = [sorted(window.latency.p999 for window in part)[len(part) // 2] for part in (early, late)]
        worst = max(window.latency.p999 for window in one.windows)
        memory = f"{one.windows[0].rss_mib:.0f} to {one.windows[-1].rss_mib:.0f}"
        figures = (f"{one.rate:,.0f}", f"{one.minutes:g}", *(f"{value:.0f}" for value in (*medians, worst)), memory)
        rows.append((_title(one.system, one.variant), *figures, "yes" if one.held else "no", _lost(one.tally)))
    header = ("system", "events/s", "minutes", "p99.9 ms, first third", "last third", "worst 10 s", "RSS MiB", "held")
    return Table(
        "Long run at 70 %", (*header, "events"), tuple(rows), "Of the thirds, the median window of ten seconds."
    )


def _batches(result: Result) -> Table:
    found = [(one, one.batches) for one in result.latencies if one.batches is not None]
    reasons = list(dict.fromkeys(name for _, it in found for name in it.by_reason))
    used = [name for name in reasons if any(it.by_reason.get(name) for _, it in found)]
    rows = []
    for one, batches in found:
        count = sum(batches.by_reason.values())
        shares = (f"{batches.by_reason.get(name, 0) / count:.0%}" if count else NONE for name in used)
        mean = f"{batches.records / count:.1f}" if count else NONE
        rows.append((f"{_title(one.system, one.variant)}, {one.load}", f"{count / one.seconds:,.0f}", mean, *shares))
    header = ("system and load", "batches/s", "mean size", *(f"closed by {name}" for name in used))
    return Table("Headrace's batches", header, tuple(rows))


def _failures(result: Result) -> Table:
    rows = tuple(
        (_title(one.system, one.variant), one.workload, one.measurement, one.reason.splitlines()[0])
        for one in result.failures
    )
    return Table("Not measured", ("system", "workload", "measurement", "why"), rows)


def _title(system: str, variant: str) -> str:
    return Entry(SYSTEMS[system], variant).title
