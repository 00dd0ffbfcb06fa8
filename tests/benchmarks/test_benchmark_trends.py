"""Drift and stalls of a long run, and the pauses that may explain them."""

from __future__ import annotations

import pytest

from benchmarks.harness.pauses import Pause, broker_pauses, longest_ms, loop_pause_ms
from benchmarks.harness.trends import Drift, drift, stalls
from tests.benchmarks.samples import window


def test_a_steady_rise_is_its_slope() -> None:
    """2 more per step, whichever two points are compared."""
    assert drift([0, 1, 2, 3], [1, 3, 5, 7]) == Drift(2, 2, 2)


def test_one_stall_does_not_tilt_the_slope() -> None:
    """Of the slopes 2, 49.5, 2, 97, 2 and -93 the median is 2; with four points the interval holds them all."""
    assert drift([0, 1, 2, 3], [1, 3, 100, 7]) == Drift(2, -93, 97)


def test_interval_of_many_points_leaves_out_the_extremes() -> None:
    """Ten points: 45 slopes, and 1.96 * sqrt(10 * 9 * 25 / 18) is 21.9, so the 12th and the 35th of them bound it.

    Steps of 1 with one jump by 90 at the end: the nine slopes of the last point, 11 to 90, are the largest, and the
    36 others are 1. The 35th is still 1.
    """
    values = [float(at) for at in range(9)] + [98.0]
    found = drift([float(at) for at in range(10)], values)
    assert (found.slope, found.low, found.high) == (1, 1, 1)


def test_noise_shows_no_drift() -> None:
    """Values that go up and down have 0 within their interval."""
    found = drift(list(range(20)), [5.0, 6.0] * 10)
    assert found.low <= 0 <= found.high


def test_drift_over_a_duration() -> None:
    """The bounds grow with the slope."""
    assert Drift(2, 1, 3).times(10) == Drift(20, 10, 30)


def test_one_point_has_no_drift() -> None:
    """It is refused instead of being called steady."""
    with pytest.raises(ValueError, match="two points"):
        drift([1.0], [1.0])


def test_windows_far_above_the_usual_are_stalls() -> None:
    """Usually 18 ms; 54 is three times that and no stall yet, 60 is one."""
    windows = [window(number, p50) for number, p50 in enumerate((3, 3, 3, 9, 10, 3, 3))]
    assert [one.at_s for one in stalls(windows)] == [30.0]


GC_LOG = """[2026-11-22T20:00:00.500+0000] Using Serial
[2026-11-22T20:00:01.250+0000] GC(0) Pause Young (Allocation Failure) 68M->12M(247M) 7.125ms
[2026-11-22T20:00:02.000+0100] GC(1) Pause Full (Metadata GC Threshold) 12M->11M(247M) 30.000ms
[2026-11-22T20:00:03.000+0000] GC(2) Concurrent Mark Cycle 9.000ms
"""


def test_pauses_are_read_from_the_log() -> None:
    """Only pauses, with the end of each by the clock of the world."""
    assert broker_pauses(GC_LOG) == [Pause(1_795_377_601_250.0, 7.125), Pause(1_795_374_002_000.0, 30.0)]


def test_a_pause_counts_where_it_reaches_into_the_window() -> None:
    """One that ended before it, or began after it, does not."""
    pauses = [Pause(1000, 10), Pause(1020, 15), Pause(1100, 40)]
    assert longest_ms(pauses, 1000, 1050) == 15
    assert longest_ms(pauses, 1010, 1061) == 40
    assert longest_ms(pauses, 1200, 1300) == 0


def beats(low: int, middle: int, every: int) -> dict[str, float]:
    """Heartbeats so far: delayed by at most 1 ms, by at most 10 ms, all."""
    return {"loop|0.001": low, "loop|0.01": middle, "loop|+Inf": every, "records": 7}


@pytest.mark.parametrize(
    ("after", "pause_ms"),
    [(beats(8, 9, 9), 1.0), (beats(7, 9, 9), 10.0), (beats(7, 8, 9), 10.0), (beats(4, 5, 5), None)],
)
def test_longest_delay_is_bounded_by_its_bucket(after: dict[str, float], pause_ms: float | None) -> None:
    """The highest bucket that grew; above the last bound it counts as that; without a heartbeat it is not known."""
    assert loop_pause_ms(beats(4, 5, 5), after) == pause_ms


def test_without_metrics_no_delay_is_known() -> None:
    """Other systems do not tell."""
    assert loop_pause_ms({}, {}) is None
