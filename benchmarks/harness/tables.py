"""The tables of a result, as rows of text: the terminal and the page lay them out. Pure."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import latency_tables, targets
from benchmarks.harness.cells import NONE, Table, lost, title
from benchmarks.harness.plan import REBALANCE_DELAY_S
from benchmarks.harness.results import Part, Result, Standby
from benchmarks.harness.summary import Spread, Summary, Throughput, loads
from benchmarks.systems import LEAST, Entry

NO_DRAIN = ("installation", "trial drain", "throughput")


def tables(result: Result) -> list[Table]:
    """Every table for which there are figures."""
    summary = Summary(result)
    found = [_targets(summary), _parts(result)]
    found += [_throughput(summary, workload) for workload in summary.workloads]
    found += [latency_tables.under_load(result, load) for load in loads(result)]
    found += [latency_tables.own_share(summary), _capacities(result), _bursts(result), _standbys(summary)]
    found += [latency_tables.long_runs(result), latency_tables.stalled(result), _batches(result), _failures(result)]
    return [table for table in found if table.rows]


def _targets(summary: Summary) -> Table:
    judged = targets.judge(summary)
    if summary.result.form != "full":
        judged = [one for one in judged if one.outcome is not targets.Outcome.UNKNOWN]
    rows = []
    for one in judged:
        share = NONE if one.share is None else f"{one.share:.0%}"
        rows.append((one.what, one.required, one.reached, share, one.outcome.value))
    note = (
        "*Reached*: the median of the repetitions and their range; a ratio is taken within each repetition. "
        "*Of the target*: above 100 % it is exceeded."
    )
    return Table("Targets", ("target", "required", "reached", "of the target", "outcome"), tuple(rows), note)


def _parts(result: Result) -> Table:
    note = (
        "A part is what was measured together; nothing is compared across parts. *Echo*: drain of the fraud events by "
        "the pipelined echo, events/s, before and after. *Others*, *host*: processors that other processes took, and "
        "that the machine's host gave away."
    )
    header = ("part", "begun", "minutes", "echo before", "echo after", "others", "host", "state")
    return Table("Parts", header, tuple(_part_cells(part) for part in result.used), note)


def _part_cells(part: Part) -> tuple[str, ...]:
    echo = [f"{one.events_per_s:,.0f}" for one in part.echo]
    return (
        part.name,
        part.started[:16].replace("T", " "),
        f"{part.minutes:.1f}",
        *[*echo, NONE, NONE][:2],
        f"{part.others_cores:.2f}",
        f"{part.stolen_cores:.2f}",
        "complete" if part.is_complete else "**cut short**",
    )


def _throughput(summary: Summary, workload: str) -> Table:
    has_crash = any(one.workload == workload for one in summary.result.crashes)
    header = (
        *("system", "events/s", "range", "Headrace is", "second half", "CPU us/event", "broker us/event", "RSS MiB"),
        *("first output s", "lost, repeated"),
        *(("after kill -9",) if has_crash else ()),
    )
    rows = [
        (*_drain_cells(one, summary), *((_crash(summary, one.entry),) if has_crash else ()))
        for one in summary.throughputs(workload)
    ]
    failed = {
        one.entry: (title(one), f"**failed**: {one.measurement}", *(NONE,) * (len(header) - 2))
        for one in summary.result.failures
        if one.workload == workload and one.measurement in NO_DRAIN and summary.throughput(one.entry, workload) is None
    }
    note = (
        "*Headrace is*: throughput of Headrace, at least once, as a multiple; the median of the repetitions' ratios. "
        "*Second half*: rate of the later half of the drain, for compilers that warm up."
    )
    return Table(f"Throughput: {workload}", header, (*rows, *failed.values()), note)


def _drain_cells(one: Throughput, summary: Summary) -> tuple[str, ...]:
    ratio = summary.ratio(LEAST, one.entry.name, lambda drain: drain.events_per_s, one.workload)
    return (
        one.entry.title,
        f"{one.events_per_s.median:,.0f}",
        _range(one.events_per_s),
        NONE if ratio is None else f"{ratio.median:.2f} x",
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
    return f"{lost(found.tally)}; silent {found.silence_s:.0f} s"


def _capacities(result: Result) -> Table:
    rows = tuple(
        (
            title(one),
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
            title(one),
            f"{one.base_rate:,.0f}",
            f"{one.burst_rate:,.0f} for {one.burst_s:g} s",
            f"{one.largest_lag_events:,}",
            "never" if one.recovery_s is None else f"{one.recovery_s:.1f}",
            lost(one.tally),
        )
        for one in result.bursts
    )
    header = ("system", "base events/s", "burst events/s", "largest lag, events", "back after s", "events")
    return Table("Burst: 70 %, 110 %, 70 % of own capacity", header, rows)


def _standbys(summary: Summary) -> Table:
    header = ("system", "imports s", "started s", "ready s", "CPU, share of a core", "RSS MiB")
    entries = dict.fromkeys(one.entry for one in summary.result.standbys)
    rows = tuple(_standby_cells(summary.standbys(name)) for name in entries)
    note = (
        "*Started*: the model is loaded and warm, `/startupz`; *ready*: partitions are assigned, `/readyz`, which "
        f"includes the {REBALANCE_DELAY_S:g} s that this broker lets a new group wait for more members. Then nothing "
        "comes. Medians; the largest memory."
    )
    return Table("Starting and standing by", header, rows, note)


def _standby_cells(found: list[Standby]) -> tuple[str, ...]:
    return (
        title(found[0]),
        f"{median(one.imports_s for one in found):.2f}",
        f"{median(one.started_s for one in found):.2f}",
        f"{median(one.ready_s for one in found):.2f}",
        f"{median(one.cores for one in found):.2%}",
        f"{max(one.rss_mib for one in found):,.0f}",
    )


def _batches(result: Result) -> Table:
    found = [(one, one.batches) for one in result.latencies if one.batches is not None and one.repetition == 1]
    reasons = list(dict.fromkeys(name for _, it in found for name in it.by_reason))
    used = [name for name in reasons if any(it.by_reason.get(name) for _, it in found)]
    rows = []
    for one, batches in found:
        count = sum(batches.by_reason.values())
        shares = (f"{batches.by_reason.get(name, 0) / count:.0%}" if count else NONE for name in used)
        mean = f"{batches.records / count:.1f}" if count else NONE
        rows.append((f"{title(one)}, {one.load}", f"{count / one.seconds:,.0f}", mean, *shares))
    header = ("system and load", "batches/s", "mean size", *(f"closed by {name}" for name in used))
    return Table("Headrace's batches", header, tuple(rows))


def _failures(result: Result) -> Table:
    rows = tuple(
        (title(one), one.workload, one.measurement, (one.reason.splitlines() or [NONE])[0]) for one in result.failures
    )
    return Table("Not measured", ("system", "workload", "measurement", "why"), rows)
