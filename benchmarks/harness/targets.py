"""What Headrace must reach, judged within one run. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.harness.results import Latency, Percentiles
from benchmarks.harness.summary import Summary, Throughput, by_reader

LEAST, EXACTLY = "headrace:at_least_once", "headrace:exactly_once"
ECHO, UNSAFE, SAFE = "echo_aiokafka:pipelined", "confluent_loop:unsafe", "confluent_loop:safe"
TRANSACTION_MS, READER_MS = 100.0, 20.0
CLOSE = 0.9


class Outcome(StrEnum):
    """How a target came out; ``close`` is a shortfall of at most a tenth."""

    MET = "met"
    CLOSE = "close"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was compared, the bound (``>= 1.15``), what was reached, and how that came out."""

    what: str
    required: str
    reached: str
    outcome: Outcome


Figure = Callable[[Summary], float | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that must be at least (or at most) the bound; both are None where they were not measured."""

    what: str
    figure: Figure
    bound: Figure
    at_least: bool = True
    unit: str = ""

    def judge(self, summary: Summary) -> Verdict:
        """The verdict on a run."""
        value, bound = self.figure(summary), self.bound(summary)
        sign = ">=" if self.at_least else "<="
        required = f"{sign} {_shown(bound, self.unit)}"
        if value is None or bound is None:
            return Verdict(self.what, required, "-", Outcome.UNKNOWN)
        return Verdict(self.what, required, _shown(value, self.unit), _outcome(value, bound, at_least=self.at_least))


def judge(summary: Summary) -> list[Verdict]:
    """Every target."""
    return [target.judge(summary) for target in TARGETS]


def _outcome(value: float, bound: float, *, at_least: bool) -> Outcome:
    if value >= bound if at_least else value <= bound:
        return Outcome.MET
    within = value >= CLOSE * bound if at_least else value * CLOSE <= bound
    return Outcome.CLOSE if within else Outcome.MISSED


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "?"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _always(value: float) -> Figure:
    return lambda _: value


def _of(summary: Summary, entry: str, workload: str, get: Callable[[Throughput], float]) -> float | None:
    found = summary.throughput(entry, workload)
    return None if found is None else get(found)


def _rate(entry: str, workload: str = "fraud") -> Figure:
    return lambda summary: _of(summary, entry, workload, lambda one: one.events_per_s.median)


def _cpu(entry: str, workload: str = "fraud") -> Figure:
    return lambda summary: _of(summary, entry, workload, lambda one: one.cpu_us.median)


def _ratio(upper: Figure, lower: Figure) -> Figure:
    def figure(summary: Summary) -> float | None:
        a, b = upper(summary), lower(summary)
        return a / b if a is not None and b else None

    return figure


def _latency(entry: str, load: str, get: Callable[[Percentiles], float]) -> Figure:
    return _window(entry, load, lambda one: get(by_reader(one)))


def _window(entry: str, load: str, get: Callable[[Latency], float]) -> Figure:
    def figure(summary: Summary) -> float | None:
        found = summary.latency(entry, load)
        return None if found is None else get(found)

    return figure


def _line(figure: Figure, factor: float, added: float) -> Figure:
    """``factor`` times the figure, and ``added``."""

    def bound(summary: Summary) -> float | None:
        value = figure(summary)
        return None if value is None else factor * value + added

    return bound


def _p50(one: Percentiles) -> float:
    return one.p50


def _p99(one: Percentiles) -> float:
    return one.p99


def _faster(than: str, title: str, factor: float) -> Target:
    return Target(f"throughput / that of {title}", _ratio(_rate(LEAST), _rate(than)), _always(factor))


def _at(load: str, above_ms: float, factor: float) -> list[Target]:
    """Latency at a fixed rate against the echo's."""
    p50, p99 = (_latency(ECHO, load, get) for get in (_p50, _p99))
    return [
        Target(
            f"p50 at {load}: the echo's + {above_ms:g} ms",
            _latency(LEAST, load, _p50),
            _line(p50, 1, above_ms),
            False,
            "ms",
        ),
        Target(
            f"p99 at {load}: {factor:g} x the echo's", _latency(LEAST, load, _p99), _line(p99, factor, 0), False, "ms"
        ),
    ]


TARGETS = (
    _faster(ECHO, "the pipelined echo (aiokafka)", 0.6),
    _faster(UNSAFE, "the hand-written loop, unsafe", 1.15),
    Target("CPU / that of the hand-written loop, unsafe", _ratio(_cpu(LEAST), _cpu(UNSAFE)), _always(0.85), False),
    _faster(SAFE, "the hand-written loop, safe", 4),
    _faster("bytewax", "Bytewax", 1.8),
    _faster("quix", "Quix Streams", 4),
    _faster("faststream", "FastStream", 5),
    _faster("tutorial_loop", "the tutorial loop", 90),
    _faster("kafka_streams", "Kafka Streams", 1),
    Target("memory", lambda summary: _of(summary, LEAST, "fraud", lambda one: one.rss_mib), _always(200), False, "MiB"),
    Target("exactly once / at least once", _ratio(_rate(EXACTLY), _rate(LEAST)), _always(0.85)),
    Target(
        "trees: CPU / that of the hand-written loop, unsafe",
        _ratio(_cpu(LEAST, "trees"), _cpu(UNSAFE, "trees")),
        _always(0.9),
        False,
    ),
    Target("crayfish: CPU per event", _cpu(LEAST, "crayfish"), _always(50), False, "us"),
    Target("crayfish: throughput", _rate(LEAST, "crayfish"), _always(15_000), unit="events/s"),
    *_at("2,000/s", 1.0, 1.3),
    *_at("10,000/s", 1.5, 1.5),
    Target(
        "exactly once, p50 at 2,000/s: 0.6 x interval + 20 ms",
        _latency(EXACTLY, "2,000/s", _p50),
        _always(0.6 * TRANSACTION_MS + READER_MS),
        False,
        "ms",
    ),
    Target(
        "exactly once, p99 at 2,000/s: 1.2 x interval + 20 ms",
        _latency(EXACTLY, "2,000/s", _p99),
        _always(1.2 * TRANSACTION_MS + READER_MS),
        False,
        "ms",
    ),
    Target(
        "CPU at 2,000/s / that of the echo",
        _ratio(
            _window(LEAST, "2,000/s", lambda one: one.cpu_us),
            _window(ECHO, "2,000/s", lambda one: one.cpu_us),
        ),
        _always(0.8),
        False,
    ),
    Target("p99 at 70 %", _latency(LEAST, "70 %", _p99), _always(20), False, "ms"),
    Target("p99.9 at 70 %", _latency(LEAST, "70 %", lambda one: one.p999), _always(50), False, "ms"),
)
