"""Which offsets may be committed, and how much is in flight.

Three rules: only records that were received count (compaction and transaction markers leave gaps), only the
contiguous settled prefix of a partition is committable, and results of an earlier assignment are ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.core.records import Span, TopicPartition


@dataclass(slots=True, eq=False)
class _Tracked:
    """A span and which of its rows are settled; rows before ``cursor`` all are."""

    span: Span
    done: bytearray
    cursor: int = 0


@dataclass(slots=True, eq=False)
class _Partition:
    """One assignment of a partition; the ``*_records`` only grow."""

    epoch: int
    spans: deque[_Tracked] = field(default_factory=deque)
    next_offset: int = -1
    received_records: int = 0
    settled_records: int = 0
    prefix_records: int = 0
    committed_records: int = 0
    committed_offset: int = -1
    newest_ms: int = -1
    in_flight_bytes: int = 0

    @property
    def moved(self) -> bool:
        """Whether there is more to commit than was committed."""
        return self.next_offset >= 0 and self.next_offset != self.committed_offset


@dataclass(frozen=True, slots=True)
class Commit:
    """Offsets to commit, and how many records of each partition they cover since its assignment."""

    offsets: Mapping[TopicPartition, int]
    covered: Mapping[TopicPartition, tuple[int, int]]


class Standing(NamedTuple):
    """How far a partition has come.

    ``next_offset`` follows the settled prefix, ``received_offset`` the last record received; ``newest_ms`` is Kafka's
    timestamp of the latter (-1 each: none yet). ``settled_ahead`` counts what is settled beyond the first unsettled.
    """

    next_offset: int
    received_offset: int
    settled_ahead: int
    newest_ms: int


class OffsetTracker:
    """Tracks spans from receipt to settlement to commit, per assignment of a partition."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._tracked: dict[int, _Tracked] = {}
        self._epochs = 0
        self.in_flight_records = 0
        self.in_flight_bytes = 0
        self.uncommitted_records = 0
        """Records received and not yet covered by a commit: what a crash now would repeat at most."""

    def assign(self, tp: TopicPartition) -> int:
        """Begin a new assignment of ``tp``; returns its epoch, unique over the tracker's life."""
        if tp in self._partitions:
            self.revoke(tp)
        self._epochs += 1
        self._partitions[tp] = _Partition(self._epochs)
        return self._epochs

    def revoke(self, tp: TopicPartition) -> int:
        """End the assignment of ``tp``; returns how many records were received and never settled."""
        state = self._partitions.pop(tp, None)
        if state is None:
            return 0
        for tracked in state.spans:
            self._tracked.pop(id(tracked.span), None)
        abandoned = state.received_records - state.settled_records
        self.in_flight_records -= abandoned
        self.in_flight_bytes -= state.in_flight_bytes
        self.uncommitted_records -= state.received_records - state.committed_records
        return abandoned

    def partitions(self) -> list[TopicPartition]:
        """The partitions assigned now."""
        return list(self._partitions)

    def epoch(self, tp: TopicPartition) -> int | None:
        """The epoch of the current assignment of ``tp``, None when it is not assigned."""
        state = self._partitions.get(tp)
        return None if state is None else state.epoch

    def is_current(self, span: Span) -> bool:
        """Whether the span belongs to the current assignment of its partition."""
        return self.epoch(span.tp) == span.epoch

    def track(self, span: Span) -> bool:
        """Take a received span into account; False (and no effect) when it is stale.

        Spans of a partition arrive in offset order; an empty one is a ValueError, as is one out of order.
        """
        state = self._partitions.get(span.tp)
        if state is None or state.epoch != span.epoch:
            return False
        if not span.offsets:
            raise ValueError(f"empty span of {span.tp}")
        if (state.spans and span.offsets[0] <= state.spans[-1].span.offsets[-1]) or span.offsets[0] < state.next_offset:
            raise ValueError(f"span of {span.tp} goes back to offset {span.offsets[0]}")
        count = len(span)
        size = span.size_bytes(0, count)
        tracked = _Tracked(span, bytearray(count))
        state.spans.append(tracked)
        self._tracked[id(span)] = tracked
        state.received_records += count
        state.newest_ms = span.timestamps[-1]
        state.in_flight_bytes += size
        self.in_flight_records += count
        self.in_flight_bytes += size
        self.uncommitted_records += count
        return True

    def settle(self, span: Span, start: int, stop: int) -> bool:
        """Rows ``[start, stop)`` have reached their fate; False (and no effect) when the span is stale.

        Settling a row twice is a ValueError: two fates for one record are a bug, never data.
        """
        tracked = self._tracked.get(id(span))
        if tracked is None or tracked.span is not span:
            if self.is_current(span):
                raise ValueError(f"rows of {span.tp} settled twice or never tracked")
            return False
        if not 0 <= start < stop <= len(tracked.done) or tracked.done.count(1, start, stop):
            raise ValueError(f"rows {start}..{stop} of a span of {span.tp} cannot be settled (again)")
        count = stop - start
        tracked.done[start:stop] = b"\x01" * count
        size = span.size_bytes(start, stop)
        state = self._partitions[span.tp]
        state.settled_records += count
        state.in_flight_bytes -= size
        self.in_flight_records -= count
        self.in_flight_bytes -= size
        self._advance(state)
        return True

    def _advance(self, state: _Partition) -> None:
        """Move the contiguous prefix as far as it goes."""
        while state.spans:
            head = state.spans[0]
            found = head.done.find(0, head.cursor)
            reached = len(head.done) if found < 0 else found
            if reached > head.cursor:
                state.prefix_records += reached - head.cursor
                state.next_offset = head.span.offsets[reached - 1] + 1
                head.cursor = reached
            if found >= 0:
                return
            state.spans.popleft()
            del self._tracked[id(head.span)]

    @property
    def moved(self) -> bool:
        """Whether ``committable`` would return anything."""
        return any(state.moved for state in self._partitions.values())

    def committable(self) -> Commit | None:
        """The ``next_offset`` of every partition that moved since its last commit; None when none did."""
        moved = {tp: state for tp, state in self._partitions.items() if state.moved}
        if not moved:
            return None
        return Commit(
            {tp: state.next_offset for tp, state in moved.items()},
            {tp: (state.epoch, state.prefix_records) for tp, state in moved.items()},
        )

    def committed(self, commit: Commit) -> None:
        """The broker took this commit; partitions that were reassigned since are left alone."""
        for tp, next_offset in commit.offsets.items():
            epoch, covered = commit.covered[tp]
            state = self._partitions.get(tp)
            if state is None or state.epoch != epoch or covered < state.committed_records:
                continue
            self.uncommitted_records -= covered - state.committed_records
            state.committed_records = covered
            state.committed_offset = next_offset

    def oldest_received_at(self) -> float | None:
        """When the oldest span with unsettled rows was received; None with nothing in flight."""
        heads = (state.spans[0].span for state in self._partitions.values() if state.spans)
        return min((span.received_at for span in heads), default=None)

    def next_offsets(self) -> dict[TopicPartition, int]:
        """The contiguous settled ``next_offset`` of each assigned partition; -1 where nothing is settled yet."""
        return {tp: state.next_offset for tp, state in self._partitions.items()}

    def standings(self) -> dict[TopicPartition, Standing]:
        """How far each assigned partition has come."""
        return {
            tp: Standing(
                state.next_offset,
                state.spans[-1].span.offsets[-1] + 1 if state.spans else state.next_offset,
                state.settled_records - state.prefix_records,
                state.newest_ms,
            )
            for tp, state in self._partitions.items()
        }
