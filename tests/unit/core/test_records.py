"""Value types: sizes by prefix sums, slices, and the way back from an output record to its input row."""

from __future__ import annotations

import numpy as np
import pytest

from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, Span, TopicPartition
from worker.testing import make_span


def _block(span: Span) -> Block:
    return Block(span, Decoded((np.zeros((len(span), 1)),), list(span.values), {}))


def test_a_topic_partition_equals_any_such_pair() -> None:
    """Addresses compare and hash as plain tuples do, whichever library made them."""
    tp = TopicPartition("in", 3)
    assert tp == ("in", 3)
    assert {tp: 1}[("in", 3)] == 1  # type: ignore[index]  # the point of the test
    assert (tp.topic, tp.partition) == ("in", 3)


def test_a_refusal_names_stage_reason_and_error() -> None:
    """The fields stand in the order of the dead-letter contract."""
    assert Refusal("decode", "tombstone", "null") == ("decode", "tombstone", "null")


def test_a_span_counts_its_records_and_bytes() -> None:
    """Bytes of any range come from prefix sums; missing and empty values weigh nothing."""
    span = make_span(("in", 0), [4, 5, 9, 10], [b"abc", None, b"", b"de"])
    assert len(span) == 4
    assert span.ends == [3, 3, 3, 5]
    assert [span.size_bytes(0, 4), span.size_bytes(0, 1), span.size_bytes(1, 3), span.size_bytes(1, 4)] == [5, 3, 0, 2]
    assert [span.size_bytes(3, 4), span.size_bytes(2, 2), span.size_bytes(3, 1), span.size_bytes(0, 0)] == [2, 0, 0, 0]


def test_a_span_is_received_when_told() -> None:
    """The time of receipt starts at zero, and prefix sums are never taken over from the caller."""
    span = Span(TopicPartition("in", 0), 7, [1], [2], [b"k"], [b"vv"], [()], ends=[99])
    assert span.received_at == 0.0
    assert span.ends == [2]
    assert span.epoch == 7


def test_a_slice_knows_its_span_and_size() -> None:
    """A slice weighs what its own rows weigh."""
    block = _block(make_span(("in", 0), [0, 1, 2], [b"a", b"bb", b"cccc"]))
    rows = Slice(block, 1, 3)
    assert rows.span is block.span
    assert rows.size_bytes == 6
    assert Slice(block, 0, 1).size_bytes == 1


def test_a_parcel_finds_the_row_behind_each_record() -> None:
    """Records map to the rows of the parcel's slices, one after the other."""
    first, second = _block(make_span(("in", 0), [0, 1, 2, 3])), _block(make_span(("in", 1), [7, 8]))
    origin = [Slice(first, 1, 3), Slice(second, 0, 1), Slice(first, 3, 4)]
    parcel = Parcel(TopicPartition("out", 0), [None] * 4, [b""] * 4, [[]] * 4, [0] * 4, origin)
    assert len(parcel) == 4
    assert [parcel.row(index) for index in range(4)] == [
        Slice(first, 1, 2),
        Slice(first, 2, 3),
        Slice(second, 0, 1),
        Slice(first, 3, 4),
    ]
    assert parcel.dead_letter is None
    assert parcel.sent_at == 0.0


def test_a_parcel_has_no_row_beyond_its_last() -> None:
    """An index past the end is an error, not the last row."""
    parcel = Parcel(
        TopicPartition("out", 0), [None], [b""], [[]], [0], [Slice(_block(make_span(("in", 0), [0])), 0, 1)]
    )
    with pytest.raises(IndexError):
        parcel.row(1)
