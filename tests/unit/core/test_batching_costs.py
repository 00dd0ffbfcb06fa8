"""Batches that close by what their call costs: no gain, a bucket's edge, and the age of their oldest record."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from worker.core.batching import EXPLORED, GAIN_SHARE, HAND_OVER_S, RATE_SPAN_S, BatchLimits, FlushReason, MicroBatcher
from worker.core.costs import IGNORED, REFIT_AFTER, CostModel
from worker.core.records import Block, Decoded, Slice, Span, TopicPartition

DELAY_S, SLO_S = 0.5, 0.1
WALL_S = 1_700_000_000.0
BUCKETS = (1, 8, 32, 128)
Cost = Callable[[int], float]


def _rows(count: int, written_at: float | None = None, *, epoch: int = 1) -> Slice:
    """Rows written at a time of the loop's clock; None: the brokers do not tell."""
    stamp = -1 if written_at is None else round((WALL_S + written_at) * 1000)
    values: list[bytes | None] = [b"v"] * count
    span = Span(TopicPartition("in", 0), epoch, [*range(count)], [stamp] * count, [None] * count, values, [()] * count)
    return Slice(Block(span, Decoded((np.zeros((count, 1)),), [], {})), 0, count)


def _batcher(slo_s: float | None = None, *, padded: bool = False, size: int = 128) -> MicroBatcher:
    buckets = (*(bucket for bucket in BUCKETS if bucket < size), size)
    batcher = MicroBatcher(BatchLimits(size, 1 << 20, DELAY_S, slo_s, buckets, padded))
    batcher.wall_offset_s = WALL_S
    return batcher


def _teach(costs: CostModel, cost: Cost, sizes: tuple[int, ...] = BUCKETS) -> None:
    for rows in sizes:
        for _ in range(IGNORED + REFIT_AFTER):
            costs.observe(rows, cost(rows))


def _reason(batcher: MicroBatcher, now: float, *, idle: bool = False) -> tuple[FlushReason, int] | None:
    batch = batcher.take(now, idle=idle)
    return None if batch is None else (batch.reason, batch.size)


# ---- no gain -----------------------------------------------------------------------------------------------------


def _level_rows() -> float:
    """From so many rows on, a row of the costs below is within a share of the cheapest."""
    return (0.001 + 0.0005 + HAND_OVER_S) / (GAIN_SHARE * (0.001 + 0.0005))


def _learned(*, calls: bool = True, handling: bool = True) -> MicroBatcher:
    batcher = _batcher()
    if calls:
        _teach(batcher.calls, lambda rows: 0.001 + 0.001 * rows)
    if handling:
        _teach(batcher.handling, lambda rows: 0.0005 + 0.0005 * rows)
    return batcher


def test_a_batch_from_which_on_nothing_is_saved_is_prefetched() -> None:
    """A busy engine gets it at once; a smaller one goes on growing."""
    batcher, level = _learned(), int(_level_rows())
    batcher.add(_rows(level), 1.0)
    assert _reason(batcher, 1.0) is None
    batcher.add(_rows(1), 1.0)
    assert _reason(batcher, 1.0) == (FlushReason.NO_GAIN, level + 1)


def test_the_size_from_which_on_nothing_is_saved_varies() -> None:
    """By turns, so that the fit keeps a base of several sizes."""
    batcher, sizes = _learned(), []
    for _ in range(2 * len(EXPLORED)):
        rows = 0
        while (closed := _reason(batcher, 1.0)) is None:
            batcher.add(_rows(1), 1.0)
            rows += 1
        assert closed == (FlushReason.NO_GAIN, rows)
        sizes.append(rows)
    assert sizes == [int(_level_rows() * share) + 1 for share in EXPLORED] * 2


@pytest.mark.parametrize(("calls", "handling"), [(False, False), (True, False), (False, True)])
def test_without_both_costs_a_batch_grows(calls: bool, handling: bool) -> None:
    """What is not known saves perhaps a lot."""
    batcher = _learned(calls=calls, handling=handling)
    batcher.add(_rows(127), 1.0)
    assert _reason(batcher, 1.0) is None


def test_a_model_with_flat_costs_never_reaches_its_level() -> None:
    """Where rows cost nothing, more of them always save something."""
    batcher = _batcher()
    _teach(batcher.calls, lambda _: 0.001)
    _teach(batcher.handling, lambda _: 0.001)
    batcher.add(_rows(127), 1.0)
    assert _reason(batcher, 1.0) is None


def test_an_idle_engine_takes_what_is_there_whatever_it_costs() -> None:
    """Costs decide only what waits anyway; the batch says what its call should take."""
    batcher = _learned()
    batcher.add(_rows(3), 1.0)
    batch = batcher.take(1.0, idle=True)
    assert batch is not None
    assert batch.reason is FlushReason.IDLE
    assert batch.expected_s == pytest.approx(0.004)


def test_a_batch_of_unknown_cost_says_so() -> None:
    """There is no prediction before something was learned."""
    batcher = _batcher()
    batcher.add(_rows(3), 1.0)
    batch = batcher.take(1.0, idle=True)
    assert batch is not None
    assert batch.expected_s is None


# ---- age ---------------------------------------------------------------------------------------------------------


def test_the_oldest_record_closes_the_batch_in_time() -> None:
    """Its timestamp plus the objective, less the call and the way to the brokers; the deadline names the moment."""
    batcher = _batcher(SLO_S)
    _teach(batcher.calls, lambda _: 0.02)
    batcher.delivered(0.04)
    margin_s = 0.25 * 0.04
    batcher.add(_rows(1, 0.99), 1.0)
    batcher.add(_rows(1, 0.97), 1.0)
    batcher.add(_rows(1, 0.98), 1.0)
    leave_at = 0.97 + SLO_S - 0.02 - margin_s
    assert batcher.deadline() == pytest.approx(leave_at, abs=1e-6)
    assert _reason(batcher, leave_at - 0.001) is None
    assert _reason(batcher, batcher.deadline() or 0.0) == (FlushReason.AGE, 3)
    assert batcher.deadline() is None


def test_the_margin_follows_slow_deliveries_fast() -> None:
    """A slow one counts at once, quick ones let it sink slowly."""
    batcher = _batcher(SLO_S)
    for _ in range(40):
        batcher.delivered(0.04)
    batcher.delivered(0.0)
    batcher.add(_rows(1, 1.0), 1.0)
    assert batcher.deadline() == pytest.approx(1.0 + SLO_S - 0.04 * 0.99, abs=1e-5)


def test_the_delay_bounds_the_age() -> None:
    """An objective that is far away leaves the longest wait as it is."""
    batcher = _batcher(100.0)
    batcher.add(_rows(1, 1.0), 1.0)
    assert batcher.deadline() == 1.0 + DELAY_S
    assert _reason(batcher, 1.0 + DELAY_S) == (FlushReason.DELAY, 1)


@pytest.mark.parametrize("written_at", [0.5, 0.999 - SLO_S, None])
def test_records_that_come_late_do_not_close_a_batch(written_at: float | None) -> None:
    """Who is behind needs large batches: neither the age nor the want of gain makes them small."""
    batcher = _batcher(SLO_S)
    _teach(batcher.calls, lambda rows: 0.001 + 0.001 * rows)
    _teach(batcher.handling, lambda rows: 0.0005 + 0.0005 * rows)
    batcher.add(_rows(127, written_at), 1.0)
    assert batcher.deadline() == 1.0 + DELAY_S
    assert _reason(batcher, 1.0 + DELAY_S - 0.01) is None
    assert _reason(batcher, 1.0 + DELAY_S - 0.01, idle=True) == (FlushReason.IDLE, 127)


def test_what_is_left_keeps_its_own_age() -> None:
    """After a batch is cut, or rows are dropped, the oldest of the rest counts."""
    batcher = _batcher(SLO_S, size=2)
    batcher.add(_rows(2, 0.95), 1.0)
    batcher.add(_rows(1, 0.96, epoch=2), 1.0)
    batcher.add(_rows(1, 0.99, epoch=3), 1.0)
    assert _reason(batcher, 1.0) == (FlushReason.SIZE, 2)
    assert batcher.deadline() == pytest.approx(0.96 + SLO_S, abs=1e-6)
    batcher.drop({2})
    assert batcher.deadline() == pytest.approx(0.99 + SLO_S, abs=1e-6)


# ---- buckets -----------------------------------------------------------------------------------------------------


def _padded(cost: Cost, sizes: tuple[int, ...] = BUCKETS) -> MicroBatcher:
    batcher = _batcher(padded=True)
    _teach(batcher.calls, cost, sizes)
    return batcher


def _in_proportion(rows: int) -> float:
    return 0.001 * rows


def test_an_idle_engine_gets_a_full_bucket_where_padding_costs_more() -> None:
    """33 rows as 32 and 1 cost less than as 128; what is left follows."""
    batcher = _padded(_in_proportion)
    batcher.add(_rows(33), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.BUCKET, 32)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 1)


@pytest.mark.parametrize("rows", [32, 126, 1])
def test_a_batch_that_fills_its_bucket_well_is_not_cut(rows: int) -> None:
    """Two calls would compute as many rows, or more."""
    batcher = _padded(_in_proportion)
    batcher.add(_rows(rows), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, rows)


def test_calls_that_cost_the_same_whatever_their_size_are_not_cut() -> None:
    """Padding is free there."""
    batcher = _padded(lambda _: 0.001)
    batcher.add(_rows(33), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 33)


def test_what_a_batch_costs_besides_its_call_speaks_against_a_cut() -> None:
    """Two batches are handled twice."""
    batcher = _padded(_in_proportion)
    _teach(batcher.handling, lambda _: 0.2)
    batcher.add(_rows(33), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 33)


@pytest.mark.parametrize("unknown", BUCKETS[1:])
def test_buckets_of_unknown_cost_are_not_cut_at(unknown: int) -> None:
    """Neither the whole, nor the cut, nor the rest may be a guess."""
    batcher = _padded(_in_proportion, tuple(bucket for bucket in BUCKETS if bucket != unknown))
    batcher.add(_rows(34), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 34)


def test_a_batch_below_the_smallest_bucket_is_not_cut() -> None:
    """There is no edge to cut at."""
    batcher = MicroBatcher(BatchLimits(128, 1 << 20, DELAY_S, None, (8, 128), padded=True))
    batcher.add(_rows(5), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 5)


def test_without_arrivals_the_next_bucket_is_not_waited_for() -> None:
    """The engine is busy, but nothing comes any more that would fill the next bucket in time."""
    batcher = _padded(_in_proportion)
    batcher.add(_rows(33), 1.0)
    assert _reason(batcher, 1.0) is None
    assert _reason(batcher, 1.0 + 5 * RATE_SPAN_S) == (FlushReason.BUCKET, 32)


def test_arrivals_that_will_fill_the_next_bucket_are_waited_for() -> None:
    """As many in the last moments as are wanted until the deadline."""
    batcher = _padded(_in_proportion)
    for step in range(33):
        batcher.add(_rows(1), 1.0 + step * 0.001)
    assert _reason(batcher, 1.033) is None
    assert _reason(batcher, 1.0 + DELAY_S) == (FlushReason.BUCKET, 32)


def test_no_bucket_is_cut_on_a_processor_that_pads_nothing() -> None:
    """The same costs, unpadded."""
    batcher = _batcher()
    _teach(batcher.calls, _in_proportion)
    batcher.add(_rows(33), 1.0)
    assert _reason(batcher, 1.0, idle=True) == (FlushReason.IDLE, 33)
    assert batcher._due_at == inf
