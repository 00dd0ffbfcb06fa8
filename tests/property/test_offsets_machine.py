"""The tracker against a plain list of records per assignment, under any order of events; seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from worker.core.offsets import Commit, OffsetTracker
from worker.core.records import Span, TopicPartition
from worker.testing import make_span

TPS = [TopicPartition("in", number) for number in range(3)]


@dataclass
class _Record:
    offset: int
    size: int
    received_at: float
    settled: bool = False


@dataclass
class _Assignment:
    """What the oracle knows of one assignment."""

    epoch: int
    records: list[_Record] = field(default_factory=list)
    covered: int = 0
    committed: int = -1

    @property
    def prefix(self) -> int:
        unsettled = [at for at, record in enumerate(self.records) if not record.settled]
        return unsettled[0] if unsettled else len(self.records)

    @property
    def next_offset(self) -> int:
        return self.records[self.prefix - 1].offset + 1 if self.prefix else -1


class OffsetMachine(RuleBasedStateMachine):
    """Everything a tracker can be told, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.assigned: dict[TopicPartition, _Assignment] = {}
        self.spans: list[tuple[Span, int]] = []
        self.commits: list[Commit] = []
        self.clock = 0.0
        self.epochs = 0

    @rule(tp=st.sampled_from(TPS))
    def assign(self, tp: TopicPartition) -> None:
        """A new assignment has a new epoch, with or without a revocation before."""
        epoch = self.tracker.assign(tp)
        assert epoch > self.epochs
        self.epochs = epoch
        self.assigned[tp] = _Assignment(epoch)

    @rule(tp=st.sampled_from(TPS))
    def revoke(self, tp: TopicPartition) -> None:
        """What was not settled is released."""
        gone = self.assigned.pop(tp, None)
        expected = sum(not record.settled for record in gone.records) if gone else 0
        assert self.tracker.revoke(tp) == expected

    @precondition(lambda self: self.assigned)
    @rule(data=st.data(), gaps=st.lists(st.sampled_from([1, 1, 1, 2, 9]), min_size=1, max_size=6))
    def receive(self, data: st.DataObject, gaps: list[int]) -> None:
        """A span arrives; its offsets ascend with gaps."""
        tp = data.draw(st.sampled_from(sorted(self.assigned)))
        assignment = self.assigned[tp]
        at = assignment.records[-1].offset if assignment.records else data.draw(st.integers(-1, 50))
        offsets = [at := at + gap for gap in gaps]
        sizes = data.draw(st.lists(st.integers(0, 5), min_size=len(gaps), max_size=len(gaps)))
        self.clock += 1
        values: list[bytes | None] = [b"v" * size if size else None for size in sizes]
        span = make_span(tp, offsets, values, epoch=assignment.epoch, received_at=self.clock)
        assert self.tracker.track(span)
        first = len(assignment.records)
        assignment.records += [_Record(o, size, self.clock) for o, size in zip(offsets, sizes, strict=True)]
        self.spans.append((span, first))

    @precondition(lambda self: self.spans)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Some rows of some span, current or stale, settled before or not."""
        span, first = data.draw(st.sampled_from(self.spans))
        start = data.draw(st.integers(0, len(span) - 1))
        stop = data.draw(st.integers(start + 1, len(span)))
        assignment = self.assigned.get(span.tp)
        if assignment is None or assignment.epoch != span.epoch:
            assert not self.tracker.settle(span, start, stop)
            return
        rows = assignment.records[first + start : first + stop]
        if any(record.settled for record in rows):
            with pytest.raises(ValueError, match="settled"):
                self.tracker.settle(span, start, stop)
            return
        assert self.tracker.settle(span, start, stop)
        for record in rows:
            record.settled = True

    @precondition(lambda self: self.spans)
    @rule(data=st.data())
    def receive_again(self, data: st.DataObject) -> None:
        """A span that was received before is refused: as stale, or as going back."""
        span, _ = data.draw(st.sampled_from(self.spans))
        again = make_span(span.tp, span.offsets, epoch=span.epoch)
        if self.tracker.is_current(span):
            with pytest.raises(ValueError, match="goes back"):
                self.tracker.track(again)
        else:
            assert not self.tracker.track(again)

    @rule()
    def start_commit(self) -> None:
        """A commit names exactly what moved, and goes under way."""
        commit = self.tracker.committable()
        moved = {
            tp: assignment.next_offset
            for tp, assignment in self.assigned.items()
            if assignment.prefix and assignment.next_offset != assignment.committed
        }
        assert (dict(commit.offsets) if commit else {}) == moved
        if commit is not None:
            assert commit.covered == {tp: (self.assigned[tp].epoch, self.assigned[tp].prefix) for tp in moved}
            self.commits.append(commit)

    @precondition(lambda self: self.commits)
    @rule(data=st.data())
    def finish_commit(self, data: st.DataObject) -> None:
        """A commit comes back in any order, whatever was reassigned meanwhile."""
        commit = self.commits.pop(data.draw(st.integers(0, len(self.commits) - 1)))
        self.tracker.committed(commit)
        for tp, offset in commit.offsets.items():
            assignment = self.assigned.get(tp)
            epoch, covered = commit.covered[tp]
            if assignment is not None and assignment.epoch == epoch and covered >= assignment.covered:
                assert offset >= assignment.committed
                assignment.covered, assignment.committed = covered, offset

    @invariant()
    def sums_agree(self) -> None:
        """In flight, bytes, uncommitted, offsets and ages are those of the oracle."""
        tracker = self.tracker
        unsettled = [r for a in self.assigned.values() for r in a.records if not r.settled]
        assert tracker.in_flight_records == len(unsettled)
        assert tracker.in_flight_bytes == sum(record.size for record in unsettled)
        assert tracker.uncommitted_records == sum(len(a.records) - a.covered for a in self.assigned.values())
        assert tracker.next_offsets() == {tp: a.next_offset for tp, a in self.assigned.items()}
        assert tracker.oldest_received_at() == min((record.received_at for record in unsettled), default=None)
        for tp, assignment in self.assigned.items():
            assert tracker.epoch(tp) == assignment.epoch


TestOffsets = OffsetMachine.TestCase
TestOffsets.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ---- seeded bugs -----------------------------------------------------------------------------------------------


def _non_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.settle

    def settle(self: OffsetTracker, span: Span, start: int, stop: int) -> bool:
        done = original(self, span, start, stop)
        if done:
            state = self._partitions[span.tp]
            state.next_offset = max(state.next_offset, span.offsets[stop - 1] + 1)
        return done

    monkeypatch.setattr(OffsetTracker, "settle", settle)


def _no_epoch_at_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.committed

    def committed(self: OffsetTracker, commit: Commit) -> None:
        covered = {tp: (self.epoch(tp) or epoch, count) for tp, (epoch, count) in commit.covered.items()}
        original(self, Commit(commit.offsets, covered))

    monkeypatch.setattr(OffsetTracker, "committed", committed)


def _no_epoch_at_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.track

    def track(self: OffsetTracker, span: Span) -> bool:
        state = self._partitions.get(span.tp)
        if state is not None:
            span.epoch = state.epoch
        return original(self, span)

    monkeypatch.setattr(OffsetTracker, "track", track)


def _processed_offset_instead_of_next(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.committable

    def committable(self: OffsetTracker) -> Commit | None:
        commit = original(self)
        return commit and Commit({tp: offset - 1 for tp, offset in commit.offsets.items()}, commit.covered)

    monkeypatch.setattr(OffsetTracker, "committable", committable)


def _bytes_leak_at_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.revoke

    def revoke(self: OffsetTracker, tp: TopicPartition) -> int:
        before = self.in_flight_bytes
        abandoned = original(self, tp)
        self.in_flight_bytes = before
        return abandoned

    monkeypatch.setattr(OffsetTracker, "revoke", revoke)


@pytest.mark.parametrize(
    "seed_bug",
    [
        _non_contiguous,
        _no_epoch_at_commit,
        _no_epoch_at_receipt,
        _processed_offset_instead_of_next,
        _bytes_leak_at_revocation,
    ],
)
def test_seeded_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, seed_bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A tracker with a known bug does not pass the machine."""
    seed_bug(monkeypatch)
    checks = settings(
        max_examples=5_000,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, ValueError)):
        run_state_machine_as_test(OffsetMachine, settings=checks)
