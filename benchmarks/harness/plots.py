"""The plots of a result, each in both themes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter

from benchmarks.harness import charts
from benchmarks.harness.charts import THEMES, Bar, Line, Panel, Theme
from benchmarks.harness.results import Latency, LongRun, Measured, Result, Window
from benchmarks.harness.summary import Summary, Throughput, by_reader, loads
from benchmarks.systems import ECHO, LEAST, SYSTEMS, Entry, Kind

COLOURS = {Kind.OURS: "accent", Kind.LIMIT: "limit", Kind.ALTERNATIVE: "other"}
HISTOGRAM_MS = 60
PAUSES = {
    "loop_pause_ms": "worker's loop, at most",
    "broker_pause_ms": "broker's garbage",
    "stolen_ms": "taken by the host, in all",
}
TITLES = {
    "throughput": "Throughput on the fraud events",
    "latency-by-load": "Latency by load in shares of own capacity: p99 solid, p50 dashed",
    "batches": "Why Headrace's batches close, and their mean size, by load",
    "latency-histogram": "How latency is distributed",
    "long-run": "Latency during the long run",
}
Draw = Callable[[Theme], str]


def plots(result: Result) -> dict[str, str]:
    """File name to SVG, for everything for which there are figures."""
    return {f"{name}-{theme.name}.svg": draw(theme) for name, draw in _drawings(result) for theme in THEMES}


def names(result: Result) -> list[str]:
    """The plots' names without theme and ending."""
    return [name for name, _ in _drawings(result)]


def _drawings(result: Result) -> Iterator[tuple[str, Draw]]:
    fraud = Summary(result).throughputs("fraud")
    shares = [load for load in loads(result) if load.endswith("%")]
    if fraud:
        yield (
            "throughput",
            lambda theme: charts.bars(
                theme, f"{TITLES['throughput']}: events/s, and processor time per event", _bars(fraud)
            ),
        )
    if shares:
        yield "latency-by-load", lambda theme: _latency_by_load(theme, result, shares)
    batched = [one for one in result.latencies if one.batches and one.entry == LEAST and one.repetition == 1]
    if batched:
        yield "batches", lambda theme: _batches(theme, sorted(batched, key=lambda one: one.rate))
    load = next((load for load in ("70 %", "10,000/s", "2,000/s") if load in loads(result)), None)
    if load is not None:
        yield "latency-histogram", lambda theme: _histogram(theme, result, load)
    if result.long_runs:
        yield "long-run", lambda theme: _long_run(theme, result)


def _bars(found: list[Throughput]) -> list[Bar]:
    return [
        Bar(
            _plain(one.entry),
            one.events_per_s.median,
            one.events_per_s.least,
            one.events_per_s.most,
            f"{one.events_per_s.median / 1000:.1f} k, {one.cpu_us.median:.1f} us",
            COLOURS[one.entry.system.kind],
        )
        for one in found
    ]


def _latency_by_load(theme: Theme, result: Result, shares: list[str]) -> str:
    series = []
    cases: dict[str, list[Latency]] = {}
    for one in result.latencies:
        if one.load in shares:
            cases.setdefault(one.entry, []).append(one)
    for colour, windows in enumerate(cases.values()):
        for dashed, name in ((False, "p99"), (True, "p50")):
            points = tuple((float(shares.index(one.load)), getattr(by_reader(one), name)) for one in windows)
            series.append(Line("" if dashed else _title(windows[0]), points, colour, dashed))
    title, panel = TITLES["latency-by-load"], Panel(tuple(series), "ms")
    return charts.lines(theme, title, [panel], x_title="load", x_labels=shares)


def _batches(theme: Theme, found: list[Latency]) -> str:
    reasons = list(dict.fromkeys(name for one in found if one.batches for name in one.batches.by_reason))
    counts = {name: [_reason(one, name) for one in found] for name in reasons}
    totals = [sum(column) or 1 for column in zip(*counts.values(), strict=True)]
    parts = {
        name: [count / total for count, total in zip(row, totals, strict=True)]
        for name, row in counts.items()
        if any(row)
    }
    records = [one.batches.records if one.batches else 0.0 for one in found]
    notes = [f"{count / total:.1f}" for count, total in zip(records, totals, strict=True)]
    return charts.stacks(theme, TITLES["batches"], [one.load for one in found], parts, ("mean size", notes))


def _histogram(theme: Theme, result: Result, load: str) -> str:
    series = []
    for colour, name in enumerate((LEAST, ECHO)):
        for one in Summary(result).windows(name, load)[:1]:
            total = sum(count for _, count in one.histogram) or 1
            shares = dict.fromkeys(range(HISTOGRAM_MS + 1), 0.0)
            for at, count in one.histogram:
                shares[min(max(at, 0), HISTOGRAM_MS)] += 100 * count / total
            series.append(Line(_title(one), tuple((float(at), share) for at, share in shares.items()), colour))
    title, panel = f"{TITLES['latency-histogram']} at {load}", Panel(tuple(series), "% of events", logarithmic=False)
    x_title = f"milliseconds from append to append; the last one gathers all from {HISTOGRAM_MS} on"
    return charts.lines(theme, title, [panel], x_title=x_title, dots=False)


def _long_run(theme: Theme, result: Result) -> str:
    """Latency above, with the p99.9 alone of the runs beside the first; below it what may explain the peaks."""
    first, *others = result.long_runs
    names = {"p999": "p99.9", "p99": "p99", "p50": "p50"}
    latency = [
        _over_time(first, title, attrgetter(f"latency.{name}"), at) for at, (name, title) in enumerate(names.items())
    ]
    latency += [
        _over_time(one, f"p99.9, {SYSTEMS[one.system].title}", attrgetter("latency.p999"), 6, dashed=True)
        for one in others
    ]
    pauses = [_over_time(first, title, attrgetter(name), 3 + at) for at, (name, title) in enumerate(PAUSES.items())]
    panels = [
        Panel(tuple(latency), "latency, ms"),
        Panel(tuple(line for line in pauses if line.points), "longest pause in the window, ms", 130, logarithmic=False),
    ]
    title = f"{TITLES['long-run']}: {_title(first)}, {first.rate:,.0f} events/s"
    return charts.lines(theme, title, panels, x_title="minutes", dots=False)


def _over_time(
    run: LongRun, title: str, get: Callable[[Window], float | None], colour: int, *, dashed: bool = False
) -> Line:
    values = [(window.at_s / 60, get(window)) for window in run.windows]
    return Line(title, tuple((at, value) for at, value in values if value is not None), colour, dashed)


def _reason(one: Latency, name: str) -> int:
    return one.batches.by_reason.get(name, 0) if one.batches is not None else 0


def _title(one: Measured) -> str:
    return _plain(Entry(SYSTEMS[one.system], one.variant))


def _plain(entry: Entry) -> str:
    return entry.title.replace("**", "")
