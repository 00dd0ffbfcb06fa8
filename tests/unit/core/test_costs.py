"""The cost of a call by its size: what is learned, from what, and how far it is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from worker.core.costs import IGNORED, REACH, REFIT_AFTER, WINDOW, CostModel

BUCKETS = (1, 8, 32, 128)
MICRO = 1e-6
ENOUGH = IGNORED + REFIT_AFTER


def _line(rows: int) -> float:
    return 8 * MICRO + 0.2 * MICRO * rows


def _taught(
    sizes: Iterable[int], cost: Callable[[int], float] = _line, *, padded: bool = False, times: int = ENOUGH
) -> CostModel:
    costs = CostModel(BUCKETS, padded=padded)
    for rows in sizes:
        for _ in range(times):
            costs.observe(rows, cost(rows))
    return costs


def test_nothing_is_known_at_first() -> None:
    """Before enough timings there is no prediction, and no line."""
    costs = _taught([8], times=ENOUGH - 1)
    assert costs.expected_s(8) is None
    assert not costs.knows(8)
    assert (costs.fitted, costs.fixed_s, costs.per_row_s) == (False, 0.0, 0.0)


def test_a_line_is_found() -> None:
    """From exact timings of some sizes come the line's two numbers, and sizes between and near by."""
    costs = _taught([1, 8, 128])
    assert costs.fitted
    assert costs.fixed_s == pytest.approx(8 * MICRO)
    assert costs.per_row_s == pytest.approx(0.2 * MICRO)
    for rows in (1, 2, 5, 100, 200):
        assert costs.expected_s(rows) == pytest.approx(_line(rows))
    assert [costs.knows(rows) for rows in (1, 7, 20, 100, 250, 5000)] == [True, True, False, True, True, False]


def test_sizes_within_one_bucket_make_a_line_too() -> None:
    """What differs is the size, not the bucket."""
    costs = _taught(rows for _ in range(ENOUGH) for rows in (40, 80, 128))
    assert costs.fixed_s == pytest.approx(8 * MICRO)
    assert costs.per_row_s == pytest.approx(0.2 * MICRO)


def test_one_size_tells_of_itself_only() -> None:
    """There is no slope from a single size, so every size is expected to cost the same."""
    costs = _taught([100])
    assert not costs.fitted
    assert costs.fixed_s == pytest.approx(_line(100))
    assert costs.expected_s(2) == costs.expected_s(100) == costs.expected_s(1000) == pytest.approx(_line(100))


def test_first_timings_of_a_bucket_are_ignored() -> None:
    """A cold call does not count, in each bucket anew."""
    costs = CostModel(BUCKETS)
    for rows in (1, 128):
        for _ in range(IGNORED):
            costs.observe(rows, 1.0)
        for _ in range(REFIT_AFTER):
            costs.observe(rows, _line(rows))
    assert costs.expected_s(1) == pytest.approx(_line(1))
    assert costs.expected_s(128) == pytest.approx(_line(128))


def test_the_slowest_fifth_is_dropped() -> None:
    """Two of ten may take as long as they like; three of ten show."""
    for slow, unmoved in ((2, True), (3, False)):
        costs = CostModel(BUCKETS)
        for at in range(ENOUGH):
            costs.observe(8, 1.0 if at >= ENOUGH - slow else _line(8))
        assert (costs.expected_s(8) == pytest.approx(_line(8))) is unmoved


def test_the_slowest_are_judged_size_for_size() -> None:
    """Once a line is known, a small call that took as long as a large one is the one to drop."""
    costs = CostModel((128,))
    for at in range(IGNORED + 5 * WINDOW):
        rows = 10 if at % 2 else 128
        costs.observe(rows, _line(128) if at % 10 == 1 else _line(rows))
    assert costs.fixed_s == pytest.approx(8 * MICRO, rel=0.01)
    assert costs.per_row_s == pytest.approx(0.2 * MICRO, rel=0.01)


def test_the_window_forgets() -> None:
    """After so many newer timings an old cost is gone."""
    costs = _taught([8], lambda _: 1.0, times=ENOUGH)
    for _ in range(WINDOW + REFIT_AFTER):
        costs.observe(8, 2.0)
    assert costs.expected_s(8) == pytest.approx(2.0)


def test_a_base_remains_while_one_size_is_in_use() -> None:
    """Other buckets keep theirs, however long one size alone is called."""
    costs = _taught([1, 128])
    for _ in range(100 * WINDOW):
        costs.observe(128, _line(128))
    assert costs.per_row_s == pytest.approx(0.2 * MICRO)
    assert costs.expected_s(1) == pytest.approx(_line(1))


def test_extrapolation_ends_at_a_factor() -> None:
    """Beyond it the prediction stays what it is there; below, it cannot go far wrong, and follows the line."""
    costs = _taught([40, 100])
    assert costs.expected_s(10_000) == costs.expected_s(200) == pytest.approx(_line(round(100 * REACH)))
    assert costs.expected_s(1) == pytest.approx(_line(1))


def test_the_nearest_bucket_speaks_for_an_unknown_one() -> None:
    """Where costs follow no line, the neighbour is nearer to the truth than the line."""
    costs = _taught([1, 128], {1: 10 * MICRO, 128: 1000 * MICRO}.__getitem__)
    assert costs.expected_s(8) == pytest.approx(costs.expected_s(2))
    assert costs.expected_s(20) == pytest.approx(1000 * MICRO - 108 * costs.per_row_s)


def test_padded_calls_cost_their_bucket() -> None:
    """All sizes of a bucket are one cost, that of the rows really computed."""
    costs = _taught([3, 20, 100], lambda rows: _line({3: 8, 20: 32, 100: 128}[rows]), padded=True)
    assert [costs.computed(rows) for rows in (1, 2, 8, 9, 128, 200)] == [1, 8, 8, 32, 128, 200]
    assert costs.expected_s(2) == costs.expected_s(8) == pytest.approx(_line(8))
    assert costs.expected_s(9) == pytest.approx(_line(32))
    assert costs.per_row_s == pytest.approx(0.2 * MICRO)
    assert [CostModel(BUCKETS).computed(rows) for rows in (1, 2, 200)] == [1, 2, 200]


def test_costs_that_fall_with_the_size_are_flat() -> None:
    """A negative slope is noise; the mean remains."""
    costs = _taught([1, 128], {1: 20 * MICRO, 128: 10 * MICRO}.__getitem__)
    assert costs.fitted
    assert costs.per_row_s == 0.0
    assert 10 * MICRO < costs.fixed_s < 20 * MICRO


def test_costs_that_grow_faster_than_the_size_have_no_fixed_part() -> None:
    """A negative fixed part is noise; the line goes through the origin."""
    costs = _taught([10, 100], {10: 10 * MICRO, 100: 200 * MICRO}.__getitem__)
    assert costs.fixed_s == 0.0
    assert 1 * MICRO < costs.per_row_s < 2 * MICRO
    assert costs.expected_s(40) == pytest.approx(200 * MICRO - 60 * costs.per_row_s)


@pytest.mark.parametrize(
    ("rows", "took_s"), [(0, 1.0), (-3, 1.0), (8, 0.0), (8, -1.0), (8, float("nan")), (8, float("inf")), (8, 1e-12)]
)
def test_what_is_no_timing_is_passed_over(rows: int, took_s: float) -> None:
    """It counts neither as a first timing nor as any other."""
    costs = CostModel(BUCKETS)
    for _ in range(ENOUGH):
        costs.observe(rows, took_s)
        costs.observe(8, 0.5)
    assert costs.expected_s(8) == 0.5
