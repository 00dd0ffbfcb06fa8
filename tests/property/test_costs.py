"""The cost model under any timings: total, bounded, and not moved by the slowest fifth."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.costs import DROPPED, IGNORED, REACH, WINDOW, CostModel

BUCKETS = (1, 8, 32, 128, 512)
Timings = list[tuple[int, float]]

anything = st.lists(
    st.tuples(st.integers(-5, 100_000) | st.integers(1, 600), st.floats() | st.floats(1e-6, 1.0)), max_size=300
)


def _taught(timings: Timings, *, padded: bool) -> CostModel:
    costs = CostModel(BUCKETS, padded=padded)
    for rows, took_s in timings:
        costs.observe(rows, took_s)
    return costs


@given(anything, st.booleans(), st.integers(1, 10**9))
@settings(deadline=None)
def test_whatever_comes_predictions_are_bounded(timings: Timings, padded: bool, rows: int) -> None:
    """A prediction is finite, not negative, and within the reach of what was seen; the same input gives the same."""
    costs = _taught(timings, padded=padded)
    expected_s = costs.expected_s(rows)
    assert costs.fixed_s >= 0
    assert costs.per_row_s >= 0
    assert math.isfinite(costs.fixed_s + costs.per_row_s)
    assert expected_s == _taught(timings, padded=padded).expected_s(rows)
    if expected_s is not None:
        longest_s = max(took_s for _, took_s in timings if took_s <= 3600)
        assert 0 <= expected_s <= longest_s + costs.per_row_s * REACH * 100_000


@given(anything, st.integers(1, 512))
@settings(deadline=None)
def test_within_a_bucket_more_rows_never_cost_less(timings: Timings, rows: int) -> None:
    """However little the timings make sense."""
    costs = _taught(timings, padded=False)
    smaller = max(rows - 1, 1)
    before, after = costs.expected_s(smaller), costs.expected_s(rows)
    together = any(low < smaller and rows <= high for low, high in zip((0, *BUCKETS), BUCKETS, strict=False))
    assert not together or before is None or after is None or before <= after


@given(
    st.floats(1e-6, 1e-3),
    st.floats(1e-8, 1e-5),
    st.randoms(use_true_random=False),
    st.floats(3.0, 1000.0),
)
@settings(deadline=None)
def test_outliers_do_not_move_the_fit(fixed_s: float, per_row_s: float, chance: Random, slower: float) -> None:
    """Up to a fifth of the timings of each bucket may be as slow as they like."""
    costs = CostModel(BUCKETS, padded=True)
    for bucket in BUCKETS:
        cost_s = fixed_s + per_row_s * bucket
        for _ in range(IGNORED):
            costs.observe(bucket, cost_s)
        for _ in range(WINDOW // DROPPED):
            fifth = [slower, *[1.0] * (DROPPED - 1)]
            chance.shuffle(fifth)
            for factor in fifth:
                costs.observe(bucket, cost_s * factor)
    for bucket in BUCKETS:
        assert costs.expected_s(bucket) == pytest.approx(fixed_s + per_row_s * bucket, rel=1e-6)
    assert costs.fixed_s == pytest.approx(fixed_s, rel=1e-3, abs=1e-9)
    assert costs.per_row_s == pytest.approx(per_row_s, rel=1e-3)
