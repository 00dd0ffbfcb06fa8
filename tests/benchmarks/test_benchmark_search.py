"""Finding a capacity, and the size of a backlog."""

from __future__ import annotations

import pytest

from benchmarks.harness.search import START, TRIALS, highest_held, nearest_size


@pytest.mark.parametrize("limit", [300.0, 760.0, 900.0])
def test_finds_a_rate_close_below_the_limit(limit: float) -> None:
    """The answer holds, and is within a sixth of the limit, from below and from above."""
    held, trials = highest_held(1000, lambda rate: "" if rate <= limit else "lag")
    expected = held if limit >= 1000 * START * 0.85 ** (TRIALS - 1) else 0.0
    assert held == expected
    assert held == 0.0 or limit * 0.84 <= held <= limit
    assert len(trials) <= TRIALS


def test_nothing_held_is_zero() -> None:
    """Where no trial holds there is no capacity, and every trial says why."""
    held, trials = highest_held(1000, lambda _: "lag")
    assert held == 0.0
    assert [trial.why for trial in trials] == ["lag"] * TRIALS


def test_the_first_failure_above_a_held_rate_ends_the_search() -> None:
    """Going up stops at the first rate that does not hold."""
    _, trials = highest_held(1000, lambda rate: "" if rate < 800 else "lag")
    assert [trial.held for trial in trials] == [True, False]


def test_backlog_takes_about_the_wanted_time() -> None:
    """By ratio: 60,000 are nearer to 100,000 than 200,000 are."""
    assert nearest_size((20_000, 60_000, 200_000), 10_000, 10) == 60_000
    assert nearest_size((20_000, 60_000, 200_000), 100_000, 10) == 200_000
    assert nearest_size((20_000, 60_000), 1, 10) == 20_000
