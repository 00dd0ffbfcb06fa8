"""The tracker: contiguous settled prefixes, gaps, epochs, commits, and the sums that flow control relies on."""

from __future__ import annotations

import pytest

from worker.core.offsets import Commit, OffsetTracker, Standing
from worker.core.records import Span, TopicPartition
from worker.testing import make_span

A, B = TopicPartition("in", 0), TopicPartition("in", 1)


def _sums(tracker: OffsetTracker) -> tuple[int, int, int]:
    return tracker.in_flight_records, tracker.in_flight_bytes, tracker.uncommitted_records


def _tracked(tracker: OffsetTracker, offsets: list[int], tp: TopicPartition = A, value: bytes = b"xx") -> Span:
    epoch = tracker.epoch(tp)
    assert epoch is not None
    span = make_span(tp, offsets, [value] * len(offsets), epoch=epoch)
    assert tracker.track(span)
    return span


@pytest.fixture
def tracker() -> OffsetTracker:
    """A tracker with partition A assigned."""
    tracker = OffsetTracker()
    tracker.assign(A)
    return tracker


def test_a_new_tracker_is_empty() -> None:
    """Nothing assigned, in flight, uncommitted or committable."""
    tracker = OffsetTracker()
    assert _sums(tracker) == (0, 0, 0)
    assert tracker.partitions() == []
    assert tracker.committable() is None
    assert tracker.oldest_received_at() is None
    assert tracker.next_offsets() == {}
    assert tracker.epoch(A) is None


def test_every_assignment_has_an_epoch_of_its_own() -> None:
    """Epochs count up over all partitions and are never used again."""
    tracker = OffsetTracker()
    assert [tracker.assign(A), tracker.assign(B)] == [1, 2]
    tracker.revoke(A)
    assert tracker.assign(A) == 3
    assert (tracker.epoch(A), tracker.epoch(B)) == (3, 2)
    assert sorted(tracker.partitions()) == [A, B]


def test_an_assigned_partition_starts_without_an_offset(tracker: OffsetTracker) -> None:
    """Before anything is settled there is nothing to commit."""
    _tracked(tracker, [5])
    assert tracker.next_offsets() == {A: -1}
    assert tracker.committable() is None


def test_tracking_counts_records_and_bytes(tracker: OffsetTracker) -> None:
    """Receipt adds to all three sums."""
    _tracked(tracker, [0, 1, 2])
    _tracked(tracker, [3], value=b"yyyyy")
    assert _sums(tracker) == (4, 11, 4)


def test_settling_frees_what_was_in_flight(tracker: OffsetTracker) -> None:
    """Settled rows leave flight, yet stay uncommitted."""
    span = _tracked(tracker, [0, 1, 2])
    assert tracker.settle(span, 0, 2)
    assert _sums(tracker) == (1, 2, 3)


def test_the_next_offset_is_one_past_the_settled_prefix(tracker: OffsetTracker) -> None:
    """The value to commit is the last contiguous settled offset plus one."""
    span = _tracked(tracker, [10, 11, 12])
    tracker.settle(span, 0, 1)
    assert tracker.next_offsets() == {A: 11}
    tracker.settle(span, 1, 3)
    assert tracker.next_offsets() == {A: 13}


def test_offset_zero_is_committable(tracker: OffsetTracker) -> None:
    """The first record of a partition makes 1 the offset to commit."""
    tracker.settle(_tracked(tracker, [0]), 0, 1)
    assert tracker.committable() == Commit({A: 1}, {A: (1, 1)})


def test_an_unsettled_record_stops_the_prefix(tracker: OffsetTracker) -> None:
    """What is settled behind an unsettled record waits for it, then counts at once."""
    first, second = _tracked(tracker, [0, 1, 2]), _tracked(tracker, [3, 4])
    tracker.settle(second, 0, 2)
    tracker.settle(first, 1, 3)
    assert tracker.next_offsets() == {A: -1}
    assert tracker.committable() is None
    assert _sums(tracker) == (1, 2, 5)
    tracker.settle(first, 0, 1)
    assert tracker.committable() == Commit({A: 5}, {A: (1, 5)})


def test_slices_settle_in_any_order(tracker: OffsetTracker) -> None:
    """The prefix moves over every hole that closes, within a span and into the next."""
    first, second = _tracked(tracker, [0, 1, 2, 3, 4, 5]), _tracked(tracker, [6, 7])
    reached = []
    for span, start, stop in (
        (first, 4, 5),
        (first, 0, 2),
        (first, 3, 4),
        (second, 0, 1),
        (first, 2, 3),
        (first, 5, 6),
    ):
        tracker.settle(span, start, stop)
        reached.append(tracker.next_offsets()[A])
    assert reached == [-1, 2, 2, 2, 5, 7]
    commit = tracker.committable()
    assert commit == Commit({A: 7}, {A: (1, 7)})


def test_gaps_are_harmless(tracker: OffsetTracker) -> None:
    """Offsets that were never received are neither waited for nor committed to."""
    span = _tracked(tracker, [3, 7, 20])
    tracker.settle(span, 0, 2)
    assert tracker.next_offsets() == {A: 8}
    tracker.settle(span, 2, 3)
    assert tracker.next_offsets() == {A: 21}
    assert tracker.settle(_tracked(tracker, [100]), 0, 1)
    assert tracker.committable() == Commit({A: 101}, {A: (1, 4)})


def test_partitions_do_not_wait_for_each_other(tracker: OffsetTracker) -> None:
    """Each partition has a prefix of its own."""
    tracker.assign(B)
    _tracked(tracker, [0], A)
    tracker.settle(_tracked(tracker, [40, 41], B), 0, 2)
    assert tracker.next_offsets() == {A: -1, B: 42}
    assert tracker.committable() == Commit({B: 42}, {B: (2, 2)})
    assert tracker.in_flight_records == 1


def test_a_commit_is_due_only_after_movement(tracker: OffsetTracker) -> None:
    """What is committed is not committed again; the rest is as soon as it moves."""
    span = _tracked(tracker, [0, 1, 2])
    tracker.settle(span, 0, 2)
    commit = tracker.committable()
    assert commit is not None
    assert tracker.committable() == commit
    tracker.committed(commit)
    assert tracker.committable() is None
    assert _sums(tracker) == (1, 2, 1)
    tracker.settle(span, 2, 3)
    last = tracker.committable()
    assert last == Commit({A: 3}, {A: (1, 3)})
    tracker.committed(last)
    assert _sums(tracker) == (0, 0, 0)


def test_a_commit_covers_what_was_settled_when_it_was_made(tracker: OffsetTracker) -> None:
    """Records settled while a commit is under way stay uncommitted after it."""
    span = _tracked(tracker, [0, 1, 2])
    tracker.settle(span, 0, 1)
    commit = tracker.committable()
    tracker.settle(span, 1, 3)
    assert commit is not None
    tracker.committed(commit)
    assert tracker.uncommitted_records == 2
    assert tracker.committable() == Commit({A: 3}, {A: (1, 3)})


def test_a_commit_of_an_earlier_assignment_changes_nothing(tracker: OffsetTracker) -> None:
    """A commit that comes back after a reassignment says nothing about the new one."""
    tracker.assign(B)
    tracker.settle(_tracked(tracker, [0, 1]), 0, 2)
    tracker.settle(_tracked(tracker, [5], B), 0, 1)
    commit = tracker.committable()
    assert commit is not None
    tracker.assign(A)
    tracker.settle(_tracked(tracker, [0, 1]), 0, 1)
    tracker.committed(commit)
    assert tracker.uncommitted_records == 2
    assert tracker.committable() == Commit({A: 1}, {A: (3, 1)})


def test_a_commit_of_a_revoked_partition_leaves_the_others_right(tracker: OffsetTracker) -> None:
    """Partitions that are gone are passed over, those after them are not."""
    tracker.assign(B)
    tracker.settle(_tracked(tracker, [0, 1]), 0, 2)
    tracker.settle(_tracked(tracker, [5], B), 0, 1)
    commit = tracker.committable()
    assert commit is not None
    assert list(commit.offsets) == [A, B]
    tracker.revoke(A)
    tracker.committed(commit)
    assert _sums(tracker) == (0, 0, 0)
    assert tracker.committable() is None


def test_an_older_commit_that_comes_late_moves_nothing_back(tracker: OffsetTracker) -> None:
    """Of two commits of one assignment the larger counts, whichever came back last."""
    span = _tracked(tracker, [0, 1, 2])
    tracker.settle(span, 0, 1)
    older = tracker.committable()
    tracker.settle(span, 1, 2)
    newer = tracker.committable()
    assert older is not None
    assert newer is not None
    tracker.committed(newer)
    tracker.committed(older)
    assert tracker.uncommitted_records == 1
    assert tracker.committable() is None


def test_revocation_releases_what_is_unsettled(tracker: OffsetTracker) -> None:
    """It tells how many records nobody settled, and takes all of the partition out of the sums."""
    tracker.assign(B)
    _tracked(tracker, [0, 1], B)
    span = _tracked(tracker, [0, 1, 2, 3])
    tracker.settle(span, 0, 1)
    tracker.settle(span, 2, 3)
    commit = tracker.committable()
    assert commit is not None
    tracker.committed(commit)
    assert _sums(tracker) == (4, 8, 5)
    assert tracker.revoke(A) == 2
    assert _sums(tracker) == (2, 4, 2)
    assert tracker.partitions() == [B]


def test_revoking_what_is_not_assigned_does_nothing(tracker: OffsetTracker) -> None:
    """An unknown partition releases no record."""
    _tracked(tracker, [0])
    assert tracker.revoke(B) == 0
    assert _sums(tracker) == (1, 2, 1)


def test_assigning_again_ends_the_assignment_before(tracker: OffsetTracker) -> None:
    """A second assignment without a revocation in between starts from nothing."""
    old = _tracked(tracker, [0, 1])
    assert tracker.assign(A) == 2
    assert _sums(tracker) == (0, 0, 0)
    assert not tracker.is_current(old)
    assert tracker.next_offsets() == {A: -1}


def test_stale_spans_are_ignored(tracker: OffsetTracker) -> None:
    """Neither receipt nor settlement under an ended assignment has any effect."""
    old = _tracked(tracker, [0, 1])
    tracker.assign(A)
    assert not tracker.settle(old, 0, 2)
    assert not tracker.track(make_span(A, [5], epoch=1))
    assert not tracker.track(make_span(B, [5], epoch=1))
    assert _sums(tracker) == (0, 0, 0)
    assert tracker.next_offsets() == {A: -1}
    tracker.revoke(A)
    assert not tracker.settle(old, 0, 2)
    assert not tracker.is_current(old)


def test_a_current_span_is_current(tracker: OffsetTracker) -> None:
    """Epoch and partition decide."""
    assert tracker.is_current(make_span(A, [0], epoch=1))
    assert not tracker.is_current(make_span(A, [0], epoch=2))


def test_an_empty_span_is_an_error(tracker: OffsetTracker) -> None:
    """A poll returns no empty spans; one would never be settled."""
    with pytest.raises(ValueError, match=r"^empty span of TopicPartition\(topic='in', partition=0\)$"):
        tracker.track(make_span(A, [], epoch=1))
    assert _sums(tracker) == (0, 0, 0)


@pytest.mark.parametrize("again", [[5], [4], [0]])
def test_a_span_that_goes_back_is_an_error(tracker: OffsetTracker, again: list[int]) -> None:
    """An offset that was received before, settled or not, cannot come again within an assignment."""
    span = _tracked(tracker, [4, 5])
    with pytest.raises(ValueError, match=rf"^span of .* goes back to offset {again[0]}$"):
        tracker.track(make_span(A, again, epoch=1))
    tracker.settle(span, 0, 2)
    with pytest.raises(ValueError, match="goes back"):
        tracker.track(make_span(A, again, epoch=1))
    assert _sums(tracker) == (0, 0, 2)
    assert tracker.track(make_span(A, [6], epoch=1))


def test_the_offset_after_the_last_is_not_back(tracker: OffsetTracker) -> None:
    """The next record may follow at once, whether the one before is settled or not."""
    _tracked(tracker, [4])
    assert tracker.track(make_span(A, [5], epoch=1))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 3), (1, 2), (0, 2)])
def test_settling_twice_is_an_error(tracker: OffsetTracker, start: int, stop: int) -> None:
    """Two fates for one record raise, and nothing changes."""
    span = _tracked(tracker, [0, 1, 2])
    tracker.settle(span, 0, 2)
    with pytest.raises(ValueError, match=rf"^rows {start}\.\.{stop} of a span of .* cannot be settled \(again\)$"):
        tracker.settle(span, start, stop)
    assert _sums(tracker) == (1, 2, 3)
    assert tracker.next_offsets() == {A: 2}
    assert tracker.settle(span, 2, 3)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 1), (2, 1), (0, 4), (3, 4)])
def test_rows_outside_the_span_are_an_error(tracker: OffsetTracker, start: int, stop: int) -> None:
    """A range that is empty or leaves the span raises, and nothing changes."""
    span = _tracked(tracker, [0, 1, 2])
    with pytest.raises(ValueError, match="cannot be settled"):
        tracker.settle(span, start, stop)
    assert _sums(tracker) == (3, 6, 3)
    assert tracker.settle(span, 0, 3)


def test_settling_a_finished_or_unknown_span_is_an_error(tracker: OffsetTracker) -> None:
    """A current span that is not tracked (any more) raises."""
    span = _tracked(tracker, [0])
    tracker.settle(span, 0, 1)
    with pytest.raises(ValueError, match=r"^rows of .* settled twice or never tracked$"):
        tracker.settle(span, 0, 1)
    with pytest.raises(ValueError, match="never tracked"):
        tracker.settle(make_span(A, [9], epoch=1), 0, 1)
    assert _sums(tracker) == (0, 0, 1)


def test_standings_tell_how_far_each_partition_has_come(tracker: OffsetTracker) -> None:
    """The settled prefix, the last record received, and what is settled beyond the first unsettled record."""
    tracker.assign(B)
    assert tracker.standings() == {A: (-1, -1, 0, -1), B: (-1, -1, 0, -1)}
    first, second = _tracked(tracker, [3, 4, 9]), _tracked(tracker, [20, 30])
    assert [standing[:3] for standing in tracker.standings().values()] == [(-1, 31, 0), (-1, -1, 0)]
    tracker.settle(first, 1, 3)
    tracker.settle(second, 0, 1)
    assert tracker.standings()[A][:3] == (-1, 31, 3)
    tracker.settle(first, 0, 1)
    assert tracker.standings()[A]._replace(newest_ms=0) == Standing(21, 31, settled_ahead=0, newest_ms=0)
    tracker.settle(second, 1, 2)
    assert tracker.standings()[A][:3] == (31, 31, 0)
    _tracked(tracker, [40, 41, 50])
    assert tracker.standings()[A][:3] == (31, 51, 0)


def test_the_oldest_receipt_is_that_of_unsettled_rows(tracker: OffsetTracker) -> None:
    """A span counts until its last row is settled, over all partitions."""
    tracker.assign(B)
    spans = [
        make_span(A, [0, 1], epoch=1, received_at=5.0),
        make_span(A, [2], epoch=1, received_at=7.0),
        make_span(B, [0], epoch=2, received_at=6.0),
    ]
    assert all(tracker.track(span) for span in spans)
    assert tracker.oldest_received_at() == 5.0
    tracker.settle(spans[0], 0, 1)
    assert tracker.oldest_received_at() == 5.0
    tracker.settle(spans[0], 1, 2)
    assert tracker.oldest_received_at() == 6.0
    tracker.settle(spans[2], 0, 1)
    assert tracker.oldest_received_at() == 7.0
    tracker.settle(spans[1], 0, 1)
    assert tracker.oldest_received_at() is None


def test_the_newest_timestamp_is_that_of_the_last_record() -> None:
    """Before the first span there is none; then it is the last record's, and it ends with the assignment."""
    tracker = OffsetTracker()
    tp = TopicPartition("t", 0)
    epoch = tracker.assign(tp)
    assert tracker.standings()[tp].newest_ms == -1
    tracker.track(Span(tp, epoch, [4, 5], [1000, 2000], [None] * 2, [b"a"] * 2, [()] * 2))
    assert tracker.standings()[tp].newest_ms == 2000
    tracker.revoke(tp)
    assert tracker.standings() == {}
