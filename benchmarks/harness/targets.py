"""What Headrace must reach, judged within the parts of one result. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.harness.plan import REBALANCE_DELAY_S
from benchmarks.harness.results import Drain, Latency, Percentiles, Standby
from benchmarks.harness.summary import Spread, Summary, by_reader, compared, spread
from benchmarks.systems import ECHO, EXACTLY, LEAST, SAFE, TWO, UNSAFE, Kind

TRANSACTION_MS, READER_MS = 100.0, 20.0
MEMORY_MIB = 200e6 / 2**20
CLOSE = 0.9


class Outcome(StrEnum):
    """How a target came out; ``close`` is a shortfall of at most a tenth."""

    MET = "met"
    CLOSE = "close"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was compared, the bound (``>= 1.15``), what was reached, and how that came out.

    ``share`` says how much of the target that is: above 1 it is exceeded. None where that has no meaning.
    """

    what: str
    required: str
    reached: str
    share: float | None
    outcome: Outcome


Figure = Callable[[Summary], Spread | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure whose median must be at least (or at most) the bound; None where it was not measured."""

    what: str
    figure: Figure
    bound: float
    at_least: bool = True
    unit: str = ""

    def judge(self, summary: Summary) -> Verdict:
        """The verdict on a result."""
        required = f"{'>=' if self.at_least else '<='} {_shown(self.bound, self.unit)}"
        found = self.figure(summary)
        if found is None:
            return Verdict(self.what, required, "-", None, Outcome.UNKNOWN)
        reached = _shown(found.median, self.unit)
        least, most = _shown(found.least), _shown(found.most)
        if least != most:
            reached += f" ({least} to {most})"
        share = self._share(found.median)
        return Verdict(self.what, required, reached, share, self._outcome(found.median, share))

    def _share(self, value: float) -> float | None:
        upper, lower = (value, self.bound) if self.at_least else (self.bound, value)
        return upper / lower if upper > 0 and lower > 0 else None

    def _outcome(self, value: float, share: float | None) -> Outcome:
        if value >= self.bound if self.at_least else value <= self.bound:
            return Outcome.MET
        return Outcome.CLOSE if share is not None and share >= CLOSE else Outcome.MISSED


def judge(summary: Summary) -> list[Verdict]:
    """Every target."""
    return [target.judge(summary) for target in TARGETS]


def _shown(value: float, unit: str = "") -> str:
    if math.isinf(value):
        return "not held"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


# ---- figures of drains -------------------------------------------------------------------------------------


def _speed(one: Drain) -> float:
    return one.events_per_s


def _late_speed(one: Drain) -> float:
    return one.late_events_per_s


def _cpu(one: Drain) -> float:
    return one.cpu_us


def _late_cpu(one: Drain) -> float:
    return one.late_cpu_us


def _ratio(upper: str, lower: str, get: Callable[[Drain], float], workload: str = "fraud") -> Figure:
    return lambda summary: summary.ratio(upper, lower, get, workload)


def _of(entry: str, get: Callable[[Drain], float], workload: str = "fraud") -> Figure:
    def figure(summary: Summary) -> Spread | None:
        found = summary.throughput(entry, workload)
        return None if found is None else spread([get(one) for one in found.drains])

    return figure


def _memory(summary: Summary) -> Spread | None:
    """The largest of all drains."""
    found = summary.throughput(LEAST)
    return None if found is None else spread([found.rss_mib])


def _where_echo_allows(least_per_s: float, workload: str) -> Figure:
    """Headrace's rate; not measured where the echo of the same bytes does not reach so much either."""

    def figure(summary: Summary) -> Spread | None:
        echo = summary.throughput(ECHO, workload)
        allowed = echo is not None and echo.events_per_s.median >= least_per_s
        return _of(LEAST, _speed, workload)(summary) if allowed else None

    return figure


def _harm(summary: Summary) -> Spread | None:
    """Events without an output and outputs that are not right, in everything that Headrace was measured in."""
    counts = [tally.harmed for tally in summary.tallies(Kind.OURS)]
    return spread([float(sum(counts))]) if counts else None


def _standby(get: Callable[[Standby], float]) -> Figure:
    def figure(summary: Summary) -> Spread | None:
        found = summary.standbys(LEAST)
        return spread([get(one) for one in found]) if found else None

    return figure


# ---- figures of windows ------------------------------------------------------------------------------------


def _p50(one: Percentiles) -> float:
    return one.p50


def _p99(one: Percentiles) -> float:
    return one.p99


def _p999(one: Percentiles) -> float:
    return one.p999


def _if_held(one: Latency, value: float) -> float:
    """A window in which the rate was not held has no latency: it is worse than any."""
    return math.inf if one.why_not_held else value


def _latency(entry: str, load: str, get: Callable[[Percentiles], float]) -> Figure:
    def figure(summary: Summary) -> Spread | None:
        found = [_if_held(one, get(by_reader(one))) for one in summary.windows(entry, load)]
        return spread(found) if found else None

    return figure


def _beside_echo(load: str, figure: Callable[[Latency, Latency], float]) -> Figure:
    """A figure of Headrace's window and of the echo's in the same repetition, unless the echo did not hold the rate."""

    def found(summary: Summary) -> Spread | None:
        echo = [one for one in summary.windows(ECHO, load) if not one.why_not_held]
        return compared(summary.windows(LEAST, load), echo, lambda ours, limit: _if_held(ours, figure(ours, limit)))

    return found


def own_share_ms(get: Callable[[Percentiles], float]) -> Figure:
    """What Headrace adds to its client when batches are of one: a percentile less that of the echo.

    From the planned send time to the arrival at the reader, because append times are whole milliseconds.
    """
    return _beside_echo("idle", lambda ours, echo: get(ours.planned) - get(echo.planned))


def _beside_echo_at(load: str, above_ms: float, factor: float) -> list[Target]:
    return [
        Target(
            f"p50 at {load} less the echo's",
            _beside_echo(load, lambda ours, echo: ours.appended.p50 - echo.appended.p50),
            above_ms,
            False,
            "ms",
        ),
        Target(
            f"p99 at {load} / the echo's",
            _beside_echo(load, lambda ours, echo: ours.appended.p99 / echo.appended.p99),
            factor,
            False,
        ),
    ]


def _faster(than: str, title: str, factor: float) -> Target:
    return Target(f"throughput / that of {title}", _ratio(LEAST, than, _speed), factor)


TARGETS = (
    _faster(ECHO, "the pipelined echo (aiokafka)", 0.6),
    _faster(UNSAFE, "the hand-written loop, unsafe", 1.15),
    Target("CPU / that of the hand-written loop, unsafe", _ratio(LEAST, UNSAFE, _cpu), 0.85, False),
    _faster(SAFE, "the hand-written loop, safe", 4),
    _faster("bytewax", "Bytewax", 1.8),
    _faster("quix", "Quix Streams", 4),
    _faster("faststream", "FastStream", 5),
    _faster("tutorial_loop", "the tutorial loop", 90),
    Target("throughput / that of Kafka Streams, second halves", _ratio(LEAST, "kafka_streams", _late_speed), 1),
    Target("memory (200 MB)", _memory, MEMORY_MIB, False, "MiB"),
    Target("exactly once: throughput / at least once", _ratio(EXACTLY, LEAST, _speed), 0.85),
    Target("two processes: throughput / one process", _ratio(TWO, LEAST, _speed), 1.6),
    Target(
        "two processes: CPU / that of the hand-tuned Java loop, second halves (stretch)",
        _ratio(TWO, "java_loop", _late_cpu),
        1,
        False,
    ),
    Target("trees: CPU / that of the hand-written loop, unsafe", _ratio(LEAST, UNSAFE, _cpu, "trees"), 0.9, False),
    Target("crayfish: CPU per event", _of(LEAST, _cpu, "crayfish"), 50, False, "us"),
    Target("crayfish: throughput", _where_echo_allows(15_000, "crayfish"), 15_000, unit="events/s"),
    Target("crayfish_whole: CPU per event", _of(LEAST, _cpu, "crayfish_whole"), 50, False, "us"),
    Target("crayfish_whole: throughput", _where_echo_allows(15_000, "crayfish_whole"), 15_000, unit="events/s"),
    *_beside_echo_at("2,000/s", 1.0, 1.3),
    *_beside_echo_at("10,000/s", 1.5, 1.5),
    Target(
        "exactly once: p50 at 2,000/s, 0.6 x interval + 20 ms",
        _latency(EXACTLY, "2,000/s", _p50),
        0.6 * TRANSACTION_MS + READER_MS,
        False,
        "ms",
    ),
    Target(
        "exactly once: p99 at 2,000/s, 1.2 x interval + 20 ms",
        _latency(EXACTLY, "2,000/s", _p99),
        1.2 * TRANSACTION_MS + READER_MS,
        False,
        "ms",
    ),
    Target(
        "CPU at 2,000/s / the echo's", _beside_echo("2,000/s", lambda ours, echo: ours.cpu_us / echo.cpu_us), 0.8, False
    ),
    Target("p99 at 70 % of capacity", _latency(LEAST, "70 %", _p99), 20, False, "ms"),
    Target("p99.9 at 70 % of capacity", _latency(LEAST, "70 %", _p999), 50, False, "ms"),
    Target("batches of one: p99 less the echo's", own_share_ms(_p99), 1, False, "ms"),
    Target(
        "ready after the start, less the group's wait for members",
        _standby(lambda one: one.ready_s - REBALANCE_DELAY_S),
        2,
        False,
        "s",
    ),
    Target("CPU while nothing comes, % of a core", _standby(lambda one: one.cores * 100), 1, False),
    Target("events lost, unknown or with a wrong score, in all measurements", _harm, 0, False),
)
