"""The sequencer: what it lets go always covers a contiguous run of each input partition, and goes in input order."""

from __future__ import annotations

import itertools
import random

import pytest

from worker.core.records import Block, Decoded, Parcel, Slice, Span, TopicPartition
from worker.core.sequencing import Sequencer
from worker.testing import make_span

A, B = TopicPartition("in", 0), TopicPartition("in", 1)
OUT = TopicPartition("out", 0)


def _span(first: int, count: int, tp: TopicPartition = A, epoch: int = 1) -> Span:
    return make_span(tp, range(first, first + count), epoch=epoch)


def _rows(span: Span, start: int, stop: int | None = None) -> Slice:
    return Slice(Block(span, Decoded((), [], {})), start, start + 1 if stop is None else stop)


def _parcel(*rows: Slice) -> Parcel:
    count = sum(piece.stop - piece.start for piece in rows)
    return Parcel(OUT, [None] * count, [b""] * count, [[] for _ in range(count)], [0] * count, list(rows))


def _received(*spans: Span) -> Sequencer:
    sequencer = Sequencer()
    for span in spans:
        sequencer.received(span)
    return sequencer


def test_what_comes_in_order_goes_at_once() -> None:
    """Each parcel whose predecessors are gone is released by its own offer, and only then."""
    span = _span(0, 4)
    sequencer = _received(span)
    first, second = _parcel(_rows(span, 0, 3)), _parcel(_rows(span, 3))
    assert sequencer.offer([first]) == [first]
    assert sequencer.offer([second]) == [second]


def test_a_parcel_waits_for_the_rows_before_it() -> None:
    """A later row's parcel is held until the gap closes, and then follows the one that closed it."""
    span = _span(0, 4)
    sequencer = _received(span)
    early, gap, last = _parcel(_rows(span, 2)), _parcel(_rows(span, 0, 2)), _parcel(_rows(span, 3))
    assert sequencer.offer([early]) == []
    assert sequencer.offer([last]) == []
    assert sequencer.offer([gap]) == [gap, early, last]


def test_a_gap_that_closes_in_part_releases_in_part() -> None:
    """What lies behind the first row that is still missing stays; nothing is released twice."""
    span = _span(0, 6)
    sequencer = _received(span)
    parcels = [_parcel(_rows(span, row)) for row in range(6)]
    assert sequencer.offer([parcels[1], parcels[3], parcels[5]]) == []
    assert sequencer.offer([parcels[0]]) == [parcels[0], parcels[1]]
    assert sequencer.offer([parcels[2]]) == [parcels[2], parcels[3]]
    assert sequencer.offer([parcels[4]]) == [parcels[4], parcels[5]]


def test_parcels_offered_together_leave_in_input_order() -> None:
    """Dead letters are built before the scores of their batch; the rows decide, not the offer."""
    span = _span(0, 3)
    sequencer = _received(span)
    letter, scores, last = _parcel(_rows(span, 1)), _parcel(_rows(span, 0)), _parcel(_rows(span, 2))
    assert sequencer.offer([last, letter, scores]) == [scores, letter, last]


def test_a_parcel_that_skips_rows_goes_with_those_between() -> None:
    """Under ``key`` partitioning rows interleave: all parcels of a run leave together, the shorter one first."""
    span = _span(0, 4)
    sequencer = _received(span)
    outer, inner = _parcel(_rows(span, 0), _rows(span, 3)), _parcel(_rows(span, 1), _rows(span, 2))
    assert sequencer.offer([outer]) == []
    assert sequencer.offer([inner]) == [inner, outer]


def test_every_row_of_a_parcel_counts() -> None:
    """A parcel that is released is ready with its first rows too: what waited behind those may go before it."""
    span = _span(0, 4)
    sequencer = _received(span)
    outer, between = _parcel(_rows(span, 0), _rows(span, 3)), _parcel(_rows(span, 1))
    assert sequencer.offer([outer]) == []
    assert sequencer.offer([between]) == [between]
    last = _parcel(_rows(span, 2))
    assert sequencer.offer([last]) == [last, outer]


def test_spans_of_a_partition_wait_for_each_other() -> None:
    """A later span is held until the one before is complete, however many come in between."""
    spans = [_span(0, 2), _span(2, 1), _span(3, 2)]
    sequencer = _received(*spans)
    middle, last = _parcel(_rows(spans[1], 0)), _parcel(_rows(spans[2], 0))
    assert sequencer.offer([last, middle]) == []
    head, rest = _parcel(_rows(spans[0], 0)), _parcel(_rows(spans[0], 1))
    assert sequencer.offer([head]) == [head]
    assert sequencer.offer([rest]) == [rest, middle, last]
    tail = _parcel(_rows(spans[2], 1))
    assert sequencer.offer([tail]) == [tail]


def test_partitions_do_not_wait_for_each_other() -> None:
    """A gap in one input partition holds nothing of another, and one offer may serve both, first come first."""
    one, other = _span(0, 2, A), _span(0, 1, B)
    sequencer = _received(one, other)
    held, free, gap = _parcel(_rows(one, 1)), _parcel(_rows(other, 0)), _parcel(_rows(one, 0))
    assert sequencer.offer([held, free]) == [free]
    assert sequencer.offer([gap]) == [gap, held]


def test_one_offer_may_release_of_several_partitions() -> None:
    """What may go of each partition comes out of the same offer."""
    one, other = _span(0, 1, A), _span(0, 1, B)
    sequencer = _received(one, other)
    second, first = _parcel(_rows(other, 0)), _parcel(_rows(one, 0))
    assert sequencer.offer([second, first]) == [second, first]


def test_rows_that_need_no_parcel_close_gaps() -> None:
    """A skipped record releases what waited for it; alone it releases nothing."""
    span, later = _span(0, 3), _span(3, 1)
    sequencer = _received(span, later)
    held, next_span = _parcel(_rows(span, 2)), _parcel(_rows(later, 0))
    assert sequencer.offer([held, next_span]) == []
    assert sequencer.passed(_rows(span, 1)) == []
    assert sequencer.passed(_rows(span, 0)) == [held, next_span]


def test_skipped_rows_alone_complete_a_span() -> None:
    """A span of skipped records holds nobody back, and is gone when it is done."""
    span, later = _span(0, 2), _span(2, 1)
    sequencer = _received(span, later)
    assert sequencer.passed(_rows(span, 0, 2)) == []
    parcel = _parcel(_rows(later, 0))
    assert sequencer.offer([parcel]) == [parcel]
    assert sequencer.passed(_rows(span, 0)) == []


def test_a_forgotten_partition_releases_nothing() -> None:
    """What was held is dropped, late parcels and skips are ignored, and other partitions go on."""
    gone, kept = _span(0, 2, A), _span(0, 2, B)
    sequencer = _received(gone, kept)
    held = _parcel(_rows(kept, 1))
    assert sequencer.offer([_parcel(_rows(gone, 1)), held]) == []
    sequencer.forget(A)
    closing = _parcel(_rows(kept, 0))
    assert sequencer.offer([_parcel(_rows(gone, 0)), closing]) == [closing, held]
    assert sequencer.passed(_rows(gone, 0)) == []


def test_a_new_assignment_starts_afresh() -> None:
    """After forgetting, the same offsets come again, and the old ones neither hold nor release anything."""
    old, new = _span(0, 2, epoch=1), _span(0, 2, epoch=2)
    sequencer = _received(old)
    assert sequencer.offer([_parcel(_rows(old, 1))]) == []
    sequencer.forget(A)
    sequencer.received(new)
    assert sequencer.offer([_parcel(_rows(old, 0))]) == []
    parcel = _parcel(_rows(new, 0, 2))
    assert sequencer.offer([parcel]) == [parcel]


def test_forgetting_an_unknown_partition_does_nothing() -> None:
    """A partition that never had a record may be revoked."""
    span = _span(0, 1)
    sequencer = _received(span)
    sequencer.forget(B)
    parcel = _parcel(_rows(span, 0))
    assert sequencer.offer([parcel]) == [parcel]


def test_nothing_is_kept_of_what_is_done() -> None:
    """Memory is bounded by what is in flight: complete and forgotten spans leave no trace."""
    spans = [_span(10 * at, 2) for at in range(3)] + [_span(0, 1, B)]
    sequencer = _received(*spans)
    for span in spans[:3]:
        sequencer.offer([_parcel(_rows(span, 0, 2))])
    sequencer.forget(B)
    assert sequencer._pending == {}
    assert not any(sequencer._queues.values())


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_offers_comes_out_in_input_order(seed: int) -> None:
    """However the parcels of several spans are shuffled, after each offer the released rows have no gap."""
    chance = random.Random(seed)
    spans = [_span(100 * at, chance.randint(1, 6)) for at in range(chance.randint(1, 4))]
    sequencer = _received(*spans)
    todo: list[tuple[Slice, bool]] = []
    for span in spans:
        cuts = sorted({0, len(span), *(chance.randrange(len(span)) for _ in range(2))})
        todo += [(_rows(span, start, stop), chance.random() < 0.2) for start, stop in itertools.pairwise(cuts)]
    expected = [offset for rows, skipped in todo if not skipped for offset in _offsets(rows)]
    chance.shuffle(todo)
    settled: set[int] = set()
    released: list[int] = []
    every = [offset for span in spans for offset in span.offsets]
    for rows, skipped in todo:
        out = sequencer.passed(rows) if skipped else sequencer.offer([_parcel(rows)])
        settled.update(_offsets(rows))
        released += [offset for parcel in out for piece in parcel.origin for offset in _offsets(piece)]
        run = list(itertools.takewhile(settled.__contains__, every))
        assert released == [offset for offset in expected if offset in run]
    assert released == expected


def _offsets(rows: Slice) -> list[int]:
    return rows.span.offsets[rows.start : rows.stop]
