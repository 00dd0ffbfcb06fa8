"""What a long run shows: a drift, and stalls. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.results import Window

STALL = 3.0
"""A window stalls where its p99.9 is more than so many times the median window's."""

NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Drift:
    """A slope per unit of time, and the bounds of its 95 % interval; a drift is shown where 0 is not between them."""

    slope: float
    low: float
    high: float

    def times(self, duration: float) -> Drift:
        """The change over a duration."""
        return Drift(self.slope * duration, self.low * duration, self.high * duration)


def drift(at: Sequence[float], values: Sequence[float]) -> Drift:
    """The median slope between all pairs (Theil and Sen), which single stalls do not move, with Sen's interval.

    ``at`` ascends. Raises ValueError for fewer than two points.
    """
    count = len(at)
    if count < 2:
        raise ValueError("a drift needs two points or more")
    first, second = np.triu_indices(count, 1)
    x, y = np.asarray(at, np.float64), np.asarray(values, np.float64)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    spread = NORMAL_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Drift(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def stalls(windows: Sequence[Window]) -> list[Window]:
    """The windows whose p99.9 exceeds ``STALL`` times that of the median window."""
    usual = statistics.median(window.latency.p999 for window in windows)
    return [window for window in windows if window.latency.p999 > STALL * usual]
