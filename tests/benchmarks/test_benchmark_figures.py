"""Rates, percentiles, lag and counts from columns of times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.harness.figures import (
    Times,
    Trace,
    histogram,
    lag,
    percentiles,
    planned_ms,
    rates,
    recovery_s,
    tally,
    why_not_held,
)

RATE = 1000.0


def trace(delay: Times, generator_late: float = 0.0) -> Trace:
    """Events at ``RATE``, appended at the planned time plus the generator's delay, and put out ``delay`` later."""
    planned = np.arange(len(delay)) * 1000 / RATE
    appended = planned + generator_late
    return Trace(planned, appended, appended + delay, appended + delay + 1)


def test_rate_leaves_out_the_first_batch() -> None:
    """100 records a millisecond from the second batch on are 100,000 a second, however large the first batch was."""
    appended = np.repeat([10.0, 11.0, 12.0, 13.0], [500, 100, 100, 100])
    found = rates(appended)
    assert (found.events_per_s, found.first_ms, found.last_ms) == (100_000, 10, 13)


def test_second_half_begins_with_the_middle_output() -> None:
    """Of 500, 100, 100 and 500 outputs the middle one has the third time: 500 came in the millisecond after it."""
    found = rates(np.repeat([10.0, 11.0, 12.0, 13.0], [500, 100, 100, 500]))
    assert (found.middle_ms, found.late_events_per_s) == (12, 500_000)


def test_a_drain_that_ends_in_one_batch_has_no_second_half() -> None:
    """Half of all outputs have the last time: the whole drain stands for it."""
    found = rates(np.repeat([10.0, 11.0, 12.0], [100, 100, 400]))
    assert (found.middle_ms, found.late_events_per_s) == (10, found.events_per_s)


def test_window_holds_what_was_planned_in_it() -> None:
    """From its begin on, up to and without its end."""
    found = trace(np.zeros(100)).window(10, 13)
    assert found.planned.tolist() == [10, 11, 12]
    assert found.appended_out.tolist() == [10, 11, 12]


def test_late_rate_is_that_of_the_second_half() -> None:
    """A system that doubles its speed half-way shows it."""
    appended = np.concatenate([np.arange(0, 100, 1.0), np.arange(100, 150, 0.5)])
    assert rates(appended).late_events_per_s == pytest.approx(2000, rel=0.01)


def test_one_append_time_has_no_rate() -> None:
    """A backlog that was written at once is refused instead of being called infinitely fast."""
    with pytest.raises(ValueError, match="larger backlog"):
        rates(np.array([5.0, 5.0]))


def test_percentiles_leave_out_what_never_came() -> None:
    """NaN is no latency; the rest counts."""
    found = percentiles(np.array([1.0, math.nan, 3.0]))
    assert (found.p50, found.largest, found.mean) == (2.0, 3.0, 2.0)


def test_whole_milliseconds_are_spread_out() -> None:
    """Four times 2 ms and once 9 stand for 1.625, 1.875, 2.125, 2.375 and 9: the median is 2.125, the largest 9."""
    found = percentiles(np.array([9.0, 2.0, 2.0, 2.0, 2.0]), whole=True)
    assert (found.p50, found.largest, found.mean) == (2.125, 9.0, 3.4)


def test_no_whole_millisecond_is_spread_below_zero() -> None:
    """What took no time took none."""
    assert percentiles(np.array([0.0, 0.0, 0.0, 0.0]), whole=True).p50 == pytest.approx(0.0625)


def test_percentiles_of_nothing_are_refused() -> None:
    """Without a value there is no percentile, and no zero in its place."""
    with pytest.raises(ValueError, match="came back"):
        percentiles(np.array([math.nan]))


def test_histogram_counts_whole_milliseconds() -> None:
    """Values within a millisecond share a count."""
    assert histogram(np.array([1.0, 1.9, 3.0, math.nan])) == [(1, 2), (3, 1)]


def test_lag_is_what_is_between_the_topics() -> None:
    """With 50 ms of delay at 1,000 a second, 50 events are under way."""
    made = trace(np.full(1000, 50.0))
    _, lags = lag(made.appended_in, made.appended_out)
    assert int(np.median(lags)) == 50


def test_steady_delay_is_held() -> None:
    """A constant lag is no growing one."""
    assert why_not_held(trace(np.full(10_000, 30.0)), RATE) == ""


def test_growing_lag_is_not_held() -> None:
    """A delay that grows to half a second says that the rate is too high."""
    assert "the lag grew" in why_not_held(trace(np.linspace(0, 600, 10_000)), RATE)


def test_more_than_a_second_behind_is_not_held() -> None:
    """A constant lag of two seconds is too much as well."""
    assert "events behind" in why_not_held(trace(np.full(20_000, 2000.0)), RATE)


def test_late_generator_offers_no_load() -> None:
    """A rate that was never offered was not held either."""
    assert "the generator was late" in why_not_held(trace(np.full(1000, 1.0), generator_late=300.0), RATE)


def test_recovery_counts_from_the_end_of_the_burst() -> None:
    """The lag is back two seconds after the burst."""
    at = np.arange(0, 20_000, 100.0)
    lags = np.where((at >= 5000) & (at < 12_000), 900, 10)
    assert recovery_s(at, lags, 5000, 10_000) == pytest.approx(2.0)


def test_short_calm_is_no_recovery() -> None:
    """Half a second without lag between two waves does not count."""
    at = np.arange(0, 20_000, 100.0)
    lags = np.where((at >= 5000) & ~((at >= 11_000) & (at < 11_500)), 900, 10)
    assert recovery_s(at, lags, 5000, 10_000) is None


def test_tally_counts_each_fate() -> None:
    """One right, one twice, one missing, one of no event."""
    found = tally(np.array([0, 1, 1, -1, 99], np.int32), np.zeros(5, np.float32), 3, np.zeros(2, np.float32))
    assert (found.lost, found.repeated, found.unknown, found.wrong) == (1, 1, 2, 0)
    assert not found.is_clean


def test_tally_compares_with_the_pool() -> None:
    """Events repeat the pool; a score off by more than the tolerance is wrong, and a missing one too."""
    expected = np.array([0.5, 0.25], np.float32)
    scores = np.array([0.5, 0.25, 0.6, math.nan], np.float32)
    found = tally(np.arange(4, dtype=np.int32), scores, 4, expected)
    assert found.wrong == 2
    assert found.largest_difference == pytest.approx(0.1)


def test_tally_compares_vectors() -> None:
    """Of an output with several numbers the worst one counts."""
    expected = np.array([[1.0, 2.0]], np.float32)
    found = tally(np.zeros(1, np.int32), np.array([[1.0, 2.5]], np.float32), 1, expected)
    assert (found.wrong, found.largest_difference) == (1, 0.5)


def test_echo_has_no_scores_to_be_wrong() -> None:
    """Without expected scores only the counts are judged."""
    found = tally(np.arange(3, dtype=np.int32), np.empty(0, np.float32), 3, None)
    assert found.is_clean
    assert found.largest_difference is None


def test_plan_is_evenly_spaced_and_goes_on() -> None:
    """A segment begins where the last one ended."""
    assert planned_ms([(2, 1), (4, 0.5)]).tolist() == [0, 500, 1000, 1250]
