"""The plots of a result, each in both themes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.harness import charts
from benchmarks.harness.charts import THEMES, Bar, Line, Theme
from benchmarks.harness.results import Latency, Result
from benchmarks.harness.summary import Summary, Throughput, by_reader, loads
from benchmarks.harness.targets import ECHO, LEAST
from benchmarks.systems import SYSTEMS, Entry, Kind

COLOURS = {Kind.OURS: "accent", Kind.LIMIT: "limit", Kind.ALTERNATIVE: "other"}
HISTOGRAM_MS = 60
TITLES = {
    "throughput": "Throughput on the fraud events",
    "latency-by-load": "Latency by load, in shares of own capacity: p99 solid, p50 dashed",
    "batches": "Why batches close, by load",
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
        yield "throughput", lambda theme: charts.bars(theme, f"{TITLES['throughput']}, events/s", _bars(fraud))
    if shares:
        yield "latency-by-load", lambda theme: _latency_by_load(theme, result, shares)
    batched = [one for one in result.latencies if one.batches is not None and _entry(one).name == LEAST]
    if batched:
        yield "batches", lambda theme: _batches(theme, batched)
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
    entries = {_entry(one).name: _entry(one) for one in result.latencies if one.load in shares}
    for colour, (name, entry) in enumerate(entries.items()):
        windows = [(shares.index(one.load), by_reader(one)) for one in result.latencies if _is(one, name, shares)]
        for dashed, get in ((False, "p99"), (True, "p50")):
            points = tuple((float(at), getattr(found, get)) for at, found in windows)
            series.append(Line("" if dashed else _plain(entry), points, colour, dashed))
    title = TITLES["latency-by-load"]
    return charts.lines(theme, title, series, x_title="load", y_title="ms", x_labels=shares)


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
    notes = [f"mean size {count / total:.1f}" for count, total in zip(records, totals, strict=True)]
    return charts.stacks(theme, TITLES["batches"], [one.load for one in found], parts, notes)


def _histogram(theme: Theme, result: Result, load: str) -> str:
    series = []
    for colour, name in enumerate((LEAST, ECHO)):
        for one in result.latencies:
            if _is(one, name, [load]):
                total = sum(count for _, count in one.histogram) or 1
                shares = dict.fromkeys(range(HISTOGRAM_MS + 1), 0.0)
                for at, count in one.histogram:
                    shares[min(max(at, 0), HISTOGRAM_MS)] += 100 * count / total
                series.append(Line(_plain(_entry(one)), tuple((float(at), s) for at, s in shares.items()), colour))
    title = f"{TITLES['latency-histogram']} at {load}"
    x_title = f"milliseconds from append to append; the last one gathers all from {HISTOGRAM_MS} on"
    return charts.lines(theme, title, series, x_title=x_title, y_title="% of events", logarithmic=False, dots=False)


def _long_run(theme: Theme, result: Result) -> str:
    series = []
    title = f"{TITLES['long-run']}, {result.long_runs[0].rate:,.0f} events/s"
    for colour, one in enumerate(result.long_runs):
        for shift, get in enumerate(("p999", "p99", "p50")):
            points = tuple((window.at_s / 60, getattr(window.latency, get)) for window in one.windows)
            series.append(Line(get.replace("p999", "p99.9"), points, 3 * colour + shift))
    return charts.lines(theme, title, series, x_title="minutes", y_title="ms", dots=False)


def _reason(one: Latency, name: str) -> int:
    return one.batches.by_reason.get(name, 0) if one.batches is not None else 0


def _is(one: Latency, name: str, wanted: list[str]) -> bool:
    return _entry(one).name == name and one.load in wanted


def _entry(one: Latency) -> Entry:
    return Entry(SYSTEMS[one.system], one.variant)


def _plain(entry: Entry) -> str:
    return entry.title.replace("**", "")
