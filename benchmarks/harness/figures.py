"""Figures from columns of times: rates, percentiles, lag. Pure; all times are milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.results import Percentiles, Tally

SCORE_TOLERANCE = 1e-4
LAG_STEP_MS = 100
HELD_LAG_S = 1.0
GENERATOR_LATE_MS = 250.0
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast outputs were appended from ``first_ms`` to ``last_ms``; the second half, from ``middle_ms``."""

    events_per_s: float
    late_events_per_s: float
    first_ms: float
    middle_ms: float
    last_ms: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of each event of an open loop, in the order of the plan: NaN where something never happened."""

    planned: Times
    appended_in: Times
    appended_out: Times
    arrived: Times

    def window(self, start_ms: float, stop_ms: float) -> Trace:
        """The events planned within ``[start_ms, stop_ms)``."""
        inside = slice(*np.searchsorted(self.planned, (start_ms, stop_ms)).tolist())
        return Trace(self.planned[inside], self.appended_in[inside], self.appended_out[inside], self.arrived[inside])


def rates(appended: Times) -> Rates:
    """Rates from the append times of all outputs.

    The records of the first time are not counted, for the time that they took is not known. Raises ValueError
    where all records have one time: the backlog was too short.
    """
    ordered = np.sort(appended)
    if not len(ordered) or ordered[0] == ordered[-1]:
        raise ValueError("the outputs have fewer than two append times; take a larger backlog")
    first, middle, last = (float(ordered[at]) for at in (0, len(ordered) // 2, -1))
    if middle == last:
        middle = first
    return Rates(_rate(ordered, first), _rate(ordered, middle), first, middle, last)


def _rate(ordered: Times, since: float) -> float:
    return float((ordered > since).sum() / (ordered[-1] - since) * 1000)


def percentiles(values: Times, *, whole: bool = False) -> Percentiles:
    """Percentiles of what is there; NaN values are left out. Raises ValueError where nothing is left.

    ``whole`` values are differences of whole milliseconds: equal ones are spread evenly over half a millisecond to
    either side, though not below 0, or percentiles could only jump by a millisecond.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError("no event of the window came back")
    p50, p95, p99, p999 = np.percentile(_spread_out(known) if whole else known, (50, 95, 99, 99.9)).tolist()
    return Percentiles(p50, p95, p99, p999, float(known.max()), float(known.mean()))


def _spread_out(values: Times) -> Times:
    found, counts = np.unique(values, return_counts=True)
    ranks = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.maximum(np.repeat(found, counts) - 0.5 + (ranks + 0.5) / np.repeat(counts, counts), 0.0)


def histogram(values: Times) -> list[tuple[int, int]]:
    """How many values fall into each whole millisecond, empty ones left out."""
    found, counts = np.unique(np.floor(values[np.isfinite(values)]), return_counts=True)
    return [(int(value), int(count)) for value, count in zip(found, counts, strict=True)]


def lag(entered: Times, left: Times, step_ms: float = LAG_STEP_MS) -> tuple[Times, NDArray[np.int64]]:
    """How many events have entered and not yet left, sampled every ``step_ms``."""
    entered, left = (np.sort(times[np.isfinite(times)]) for times in (entered, left))
    at = np.arange(entered[0], max(entered[-1], left[-1] if len(left) else 0) + step_ms, step_ms)
    return at, np.searchsorted(entered, at, "right") - np.searchsorted(left, at, "right")


def why_not_held(trace: Trace, rate: float) -> str:
    """Why the rate was not held over the trace; empty where it was.

    It is held where the generator kept its plan, and the lag at the end is neither more than a second's worth of
    events nor more than one and a half times that of the second quarter plus 50 ms worth of them.
    """
    late = percentiles(trace.appended_in - trace.planned)
    if late.p99 > GENERATOR_LATE_MS:
        return f"the generator was late: p99 {late.p99:.0f} ms"
    at, lags = lag(trace.appended_in, trace.appended_out)
    sent = lags[at <= np.nanmax(trace.appended_in)]
    quarters = np.array_split(sent, 4)
    early, end = float(np.median(quarters[1])), float(np.median(quarters[3]))
    if end > HELD_LAG_S * rate:
        return f"{end:.0f} events behind"
    if end > 1.5 * early + 0.05 * rate:
        return f"the lag grew from {early:.0f} to {end:.0f} events"
    return ""


def recovery_s(at: Times, lags: NDArray[np.int64], burst_start: float, burst_stop: float) -> float | None:
    """Seconds from the end of a burst until the lag stays, for a second, at most at its largest from before.

    What counts before is the 99th percentile of the lag until the burst. None where it never comes back.
    """
    usual = np.percentile(lags[at < burst_start], 99)
    calm = int(1000 / LAG_STEP_MS)
    for index in np.flatnonzero(at >= burst_stop).tolist():
        if index + calm <= len(lags) and (lags[index : index + calm] <= usual).all():
            return max(0.0, float(at[index] - burst_stop) / 1000)
    return None


def tally(
    numbers: NDArray[np.int32],
    outputs: NDArray[np.float32],
    events: int,
    expected: NDArray[np.float32] | None,
) -> Tally:
    """Count outputs by the number of their event (-1: none was found in them) and compare what they say.

    ``outputs`` are the scores, one row each; ``expected`` the right ones of the pool, None for an echo.
    """
    known = (numbers >= 0) & (numbers < events)
    counts = np.bincount(numbers[known], minlength=events)
    wrong, largest = 0, None
    if expected is not None and known.any():
        difference = np.abs(outputs[known] - expected[numbers[known] % len(expected)])
        difference = difference.reshape(len(difference), -1).max(axis=1)
        wrong = int((~(difference <= SCORE_TOLERANCE)).sum())
        largest = float(np.nanmax(difference)) if np.isfinite(difference).any() else None
    return Tally(
        events=events,
        outputs=len(numbers),
        lost=int((counts == 0).sum()),
        repeated=int(np.maximum(counts - 1, 0).sum()),
        unknown=int((~known).sum()),
        wrong=wrong,
        largest_difference=largest,
    )


def planned_ms(segments: Sequence[tuple[float, float]]) -> Times:
    """When to send each event, from 0: ``segments`` are (rate per second, seconds), evenly spaced within."""
    times, start = [], 0.0
    for rate, seconds in segments:
        times.append(start + np.arange(round(rate * seconds)) / rate * 1000)
        start += seconds * 1000
    return np.concatenate(times)
