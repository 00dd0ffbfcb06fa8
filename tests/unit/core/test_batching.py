"""Batches: what goes together, when a batch closes, by which limit, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from worker.core.batching import Batch, BatchLimits, FlushReason, MicroBatcher
from worker.core.records import Block, Decoded, Slice
from worker.telemetry.catalogue import FLUSH_REASONS
from worker.testing import make_span

DELAY_S = 0.5


def _rows(sizes: list[int], *, first: int = 0, epoch: int = 1, tp: tuple[str, int] = ("in", 0)) -> Slice:
    span = make_span(tp, range(first, first + len(sizes)), [b"v" * size for size in sizes], epoch=epoch)
    return Slice(Block(span, Decoded((np.zeros((len(sizes), 1)),), [], {})), 0, len(sizes))


def _batcher(size: int = 4, size_bytes: int = 100) -> MicroBatcher:
    return MicroBatcher(BatchLimits(size, size_bytes, DELAY_S))


def _offsets(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [offset for rows in batch.slices for offset in rows.span.offsets[rows.start : rows.stop]]


def test_reasons_are_the_closed_set() -> None:
    """The reasons are those that the metrics know."""
    assert [str(reason) for reason in FlushReason] == list(FLUSH_REASONS)


def test_an_empty_queue_has_no_batch() -> None:
    """Neither an idle engine nor a flush makes a batch of nothing, and no deadline runs."""
    batcher = _batcher()
    assert batcher.take(9.0, idle=True, flush=FlushReason.DRAIN) is None
    assert batcher.deadline() is None
    assert batcher.queued_records == 0


def test_an_idle_engine_takes_what_is_there() -> None:
    """One record is a batch when the engine would wait otherwise."""
    batcher = _batcher()
    batcher.add(_rows([7]), 1.0)
    batch = batcher.take(1.25, idle=True)
    assert batch is not None
    assert (batch.size, batch.size_bytes, batch.reason, batch.waited_s) == (1, 7, FlushReason.IDLE, 0.25)
    assert batcher.queued_records == 0
    assert batcher.take(1.25, idle=True) is None


def test_a_busy_engine_lets_the_batch_grow() -> None:
    """Below the limits and before the deadline nothing closes."""
    batcher = _batcher()
    batcher.add(_rows([1, 1]), 1.0)
    assert batcher.take(1.0 + DELAY_S - 0.01, idle=False) is None
    batcher.add(_rows([1], first=2), 1.25)
    assert batcher.take(1.0 + DELAY_S - 0.01, idle=False) is None
    assert batcher.queued_records == 3


def test_the_first_record_arms_the_deadline() -> None:
    """The delay counts from the first record, later ones do not move it; at the deadline the batch closes."""
    batcher = _batcher()
    batcher.add(_rows([1]), 1.0)
    batcher.add(_rows([1], first=1), 1.25)
    assert batcher.deadline() == 1.5
    batch = batcher.take(1.5, idle=False)
    assert _offsets(batch) == [0, 1]
    assert batch is not None
    assert (batch.reason, batch.waited_s) == (FlushReason.DELAY, 0.5)
    assert batcher.deadline() is None


def test_a_late_tick_closes_by_delay_too() -> None:
    """Past the deadline the batch closes as well."""
    batcher = _batcher()
    batcher.add(_rows([1]), 1.0)
    batch = batcher.take(3.0, idle=False)
    assert batch is not None
    assert (batch.reason, batch.waited_s) == (FlushReason.DELAY, 2.0)


@pytest.mark.parametrize("reason", [FlushReason.DRAIN, FlushReason.REVOKE])
def test_a_flush_closes_at_once(reason: FlushReason) -> None:
    """A flush names itself, even to an idle engine."""
    batcher = _batcher()
    batcher.add(_rows([1]), 1.0)
    batch = batcher.take(1.0, idle=True, flush=reason)
    assert batch is not None
    assert batch.reason is reason


@pytest.mark.parametrize(("queued", "taken"), [(3, None), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3])])
def test_a_batch_closes_at_its_size(queued: int, taken: list[int] | None) -> None:
    """The limit itself is full; one below is not."""
    batcher = _batcher(size=4)
    for first in range(queued):
        batcher.add(_rows([1], first=first), 1.0)
    batch = batcher.take(1.0, idle=False)
    if taken is None:
        assert batch is None
    else:
        assert _offsets(batch) == taken
        assert batch is not None
        assert batch.reason is FlushReason.SIZE
        assert batcher.queued_records == queued - 4


@pytest.mark.parametrize(
    ("sizes", "taken", "reason"),
    [
        ([4, 5], None, None),
        ([4, 6], [0, 1], FlushReason.BYTES),
        ([4, 7], [0], FlushReason.BYTES),
        ([4, 5, 2], [0, 1], FlushReason.BYTES),
        ([10], [0], FlushReason.BYTES),
        ([11], [0], FlushReason.BYTES),
        ([11, 1], [0], FlushReason.BYTES),
        ([1, 11], [0], FlushReason.BYTES),
        ([9, 0, 0], None, None),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_batch_closes_at_its_bytes(
    sizes: list[int], taken: list[int] | None, reason: FlushReason | None, together: bool
) -> None:
    """Bytes never exceed the limit, except by a lone oversize record, however the records arrived."""
    batcher = _batcher(size=50, size_bytes=10)
    if together:
        batcher.add(_rows(sizes), 1.0)
    else:
        for first, size in enumerate(sizes):
            batcher.add(_rows([size], first=first), 1.0)
    batch = batcher.take(1.0, idle=False)
    if taken is None:
        assert batch is None
    else:
        assert _offsets(batch) == taken
        assert batch is not None
        assert batch.reason is reason
        assert batch.size_bytes == sum(sizes[: len(taken)])
        assert batch.size == len(taken)


def test_one_add_can_close_several_batches() -> None:
    """A long span is cut into full batches; the rest keeps its time of arrival."""
    batcher = _batcher(size=4)
    batcher.add(_rows([1] * 10), 1.0)
    assert _offsets(batcher.take(1.0, idle=False)) == [0, 1, 2, 3]
    assert batcher.queued_records == 6
    assert _offsets(batcher.take(1.0, idle=False)) == [4, 5, 6, 7]
    assert batcher.take(1.0, idle=False) is None
    assert batcher.deadline() == 1.5
    batch = batcher.take(1.5, idle=False)
    assert _offsets(batch) == [8, 9]
    assert batch is not None
    assert batch.reason is FlushReason.DELAY


def test_a_full_batch_is_named_by_its_limit_not_by_the_flush() -> None:
    """Size wins over idle and flush; the rest closes by the flush."""
    batcher = _batcher(size=2)
    batcher.add(_rows([1] * 3), 1.0)
    reasons = []
    while (batch := batcher.take(1.0, idle=True, flush=FlushReason.DRAIN)) is not None:
        reasons.append((batch.reason, batch.size))
    assert reasons == [(FlushReason.SIZE, 2), (FlushReason.DRAIN, 1)]


def test_size_and_bytes_reached_together_count_as_size() -> None:
    """When the last record fills both limits, the reason is size."""
    batcher = _batcher(size=2, size_bytes=10)
    batcher.add(_rows([5, 5, 1]), 1.0)
    batch = batcher.take(1.0, idle=False)
    assert batch is not None
    assert (batch.reason, batch.size) == (FlushReason.SIZE, 2)


def test_oversize_records_travel_alone() -> None:
    """An oversize record takes no neighbour along, before or behind it."""
    batcher = _batcher(size=50, size_bytes=10)
    batcher.add(_rows([3, 25, 4, 30, 30]), 1.0)
    taken = []
    while (batch := batcher.take(1.0, idle=True)) is not None:
        taken.append((_offsets(batch), batch.size_bytes, str(batch.reason)))
    assert taken == [([0], 3, "bytes"), ([1], 25, "bytes"), ([2], 4, "bytes"), ([3], 30, "bytes"), ([4], 30, "bytes")]


def test_rows_of_several_partitions_share_a_batch() -> None:
    """Order of arrival decides, whatever the partition; slices are cut, never copied."""
    batcher = _batcher(size=4)
    first, second = _rows([1, 2], tp=("in", 0)), _rows([3, 4, 5], first=9, tp=("in", 1))
    batcher.add(first, 1.0)
    batcher.add(second, 1.1)
    batch = batcher.take(1.2, idle=False)
    assert batch is not None
    assert batch.slices == [Slice(first.block, 0, 2), Slice(second.block, 0, 2)]
    assert (batch.size, batch.size_bytes) == (4, 10)
    assert batch.waited_s == pytest.approx(0.2)
    rest = batcher.take(1.2, idle=True)
    assert rest is not None
    assert rest.slices == [Slice(second.block, 2, 3)]
    assert rest.waited_s == pytest.approx(0.1)


def test_a_slice_from_the_middle_of_a_span_is_weighed_by_its_own_rows() -> None:
    """Rows before the slice do not count against its limit."""
    batcher = _batcher(size=50, size_bytes=10)
    whole = _rows([100, 4, 6, 1])
    batcher.add(Slice(whole.block, 1, 4), 1.0)
    assert batcher.queued_records == 3
    assert batcher.drop({2}) == 0
    assert batcher.queued_records == 3
    batch = batcher.take(1.0, idle=False)
    assert _offsets(batch) == [1, 2]
    assert batch is not None
    assert batch.size_bytes == 10


def test_dropping_an_epoch_forgets_its_rows_only() -> None:
    """Rows of ended assignments leave the queue, the others keep their order and deadline."""
    batcher = _batcher(size=50)
    batcher.add(_rows([1, 1], epoch=1), 1.0)
    batcher.add(_rows([1], first=7, epoch=2), 1.25)
    batcher.add(_rows([1, 1, 1], first=2, epoch=1), 1.5)
    batcher.add(_rows([1], first=8, epoch=3), 1.75)
    assert batcher.drop({1, 9}) == 5
    assert batcher.queued_records == 2
    assert batcher.deadline() == 1.75
    assert _offsets(batcher.take(2.0, idle=True)) == [7, 8]
    assert batcher.drop({2, 3}) == 0
