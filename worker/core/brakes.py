"""Brakes on dead letters: a partition whose records are mostly refused is stopped before it fills the topic.

Records are judged in offset order, whenever their verdicts come: refused when the dead letter is made, passed when
the output is acknowledged. A stopped partition admits one record now and then, the canary; if it passes, all goes on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Literal

from worker.core.records import Slice, Span, TopicPartition

MAX_RETRY_S = 60.0
"""Canaries are never further apart, unless the first pause is longer already."""

HEALTHY_WINDOWS = 10
"""A partition that ran for so many windows since it was resumed starts at the first pause again."""

_OPEN, _PASSED, _REFUSED, _PASSED_OVER = range(4)

Limit = Literal["share", "in_a_row"]


@dataclass(frozen=True, slots=True)
class BrakeLimits:
    """When a partition stops, and how often it is tried again; None turns one off.

    ``max_share`` is judged over the last ``window_records`` records, once there are so many.
    """

    max_share: float | None = None
    window_records: int = 1000
    max_in_a_row: int | None = None
    retry_s: float | None = None

    @property
    def off(self) -> bool:
        """Whether no brake is set."""
        return self.max_share is None and self.max_in_a_row is None


NO_BRAKES = BrakeLimits()


class BrakeState(StrEnum):
    """Where a partition stands."""

    RUNNING = "running"
    STOPPED = "stopped"
    TRYING = "trying"


@dataclass(frozen=True, slots=True)
class Stop:
    """A partition that admits nothing, or only its canary: which limit stopped it, and the sentence for people."""

    state: BrakeState
    limit: Limit
    cause: str


@dataclass(slots=True, eq=False)
class _Pending:
    """Verdicts of a span, one byte a row; rows before ``cursor`` are judged."""

    key: int
    verdicts: bytearray
    cursor: int = 0


class _Window:
    """The verdicts of the last ``size`` records, as runs."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._runs: deque[tuple[bool, int]] = deque()
        self.total = 0
        self.refused = 0

    def add(self, count: int, *, refused: bool) -> None:
        """Take in ``count`` equal verdicts and forget the oldest beyond the size."""
        self._runs.append((refused, count))
        self.total += count
        self.refused += count if refused else 0
        while self.total > self._size:
            oldest_refused, length = self._runs.popleft()
            gone = min(length, self.total - self._size)
            self.total -= gone
            self.refused -= gone if oldest_refused else 0
            if gone < length:
                self._runs.appendleft((oldest_refused, length - gone))

    @property
    def full(self) -> bool:
        """Whether it holds as many verdicts as it can."""
        return self.total == self._size


@dataclass(slots=True, eq=False)
class _Track:
    """One partition; outlives its assignments, so that a rebalance is no way around the brake."""

    window: _Window
    state: BrakeState = BrakeState.RUNNING
    stop: tuple[Limit, str] | None = None
    in_a_row: int = 0
    judged: int = 0
    pause_s: float = 0.0
    retry_at: float | None = None
    pending: deque[_Pending] = field(default_factory=deque)
    by_span: dict[int, _Pending] = field(default_factory=dict)
    canary: _Pending | None = None


class Brakes:
    """Stops partitions and lets them go on. Facts come in; ``stopped`` and ``due`` say what to leave out and to try."""

    def __init__(self, limits: BrakeLimits) -> None:
        self._limits = limits
        self._tracks: dict[TopicPartition, _Track] = {}
        self._assigned: set[TopicPartition] = set()
        self.trips: dict[Limit, int] = {"share": 0, "in_a_row": 0}
        """How often each limit stopped a partition; a canary that fails does not count again."""

    # ---- facts -------------------------------------------------------------------------------------------

    def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """Assignments begin, or begin again: open verdicts are void, a stopped partition may be tried at once."""
        for tp in tps:
            self._assigned.add(tp)
            track = self._tracks.get(tp)
            if track is None:
                continue
            self._forget_open(track)
            if track.state is not BrakeState.RUNNING:
                track.state = BrakeState.STOPPED
                track.retry_at = -math.inf

    def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Assignments end; what is known of the partitions is kept for the case that they come back."""
        for tp in tps:
            self._assigned.discard(tp)
            track = self._tracks.get(tp)
            if track is not None:
                self._forget_open(track)

    def received(self, span: Span) -> None:
        """A span was admitted; of a stopped partition it is the canary."""
        if self._limits.off:
            return
        track = self._tracks.get(span.tp)
        if track is None:
            track = self._tracks[span.tp] = _Track(_Window(self._limits.window_records))
        pending = _Pending(id(span), bytearray(len(span)))
        track.pending.append(pending)
        track.by_span[pending.key] = pending
        if track.state is BrakeState.STOPPED:
            track.state, track.canary = BrakeState.TRYING, pending

    def refused(self, rows: Slice) -> None:
        """These rows become dead letters."""
        self._judge(rows, _REFUSED)

    def passed(self, rows: Slice) -> None:
        """The outputs of these rows were acknowledged."""
        self._judge(rows, _PASSED)

    def passed_over(self, rows: Slice) -> None:
        """These rows were skipped by configuration, which says nothing about the partition."""
        self._judge(rows, _PASSED_OVER)

    def resume(self) -> list[TopicPartition]:
        """An operator resumes every stopped partition; returns those that are assigned here."""
        resumed = []
        for tp, track in self._tracks.items():
            if track.state is not BrakeState.RUNNING:
                self._run(track)
                track.pause_s = 0.0
                if tp in self._assigned:
                    resumed.append(tp)
        return resumed

    # ---- decisions ---------------------------------------------------------------------------------------

    def stopped(self) -> dict[TopicPartition, Stop]:
        """The assigned partitions to leave out of the poll, with the cause."""
        return {
            tp: Stop(track.state, *track.stop)
            for tp, track in self._tracks.items()
            if track.stop is not None and tp in self._assigned
        }

    def due(self, now: float) -> list[TopicPartition]:
        """The stopped partitions of which one record may be admitted now. The pause begins with the first call."""
        retry_s = self._limits.retry_s
        if retry_s is None:
            return []
        found = []
        for tp, track in self._tracks.items():
            if track.state is not BrakeState.STOPPED or tp not in self._assigned:
                continue
            if track.retry_at is None:
                track.pause_s = min(track.pause_s * 2, max(MAX_RETRY_S, retry_s)) if track.pause_s else retry_s
                track.retry_at = now + track.pause_s
            if now >= track.retry_at:
                found.append(tp)
        return found

    # ---- inside ------------------------------------------------------------------------------------------

    @staticmethod
    def _forget_open(track: _Track) -> None:
        """Drop the verdicts that are still open; the results of these rows are stale, or come again."""
        track.pending.clear()
        track.by_span.clear()
        track.canary = None

    def _judge(self, rows: Slice, verdict: int) -> None:
        """Note a verdict and take in what is now judged without a gap; of an unknown span: nothing."""
        track = self._tracks.get(rows.span.tp)
        pending = None if track is None else track.by_span.get(id(rows.span))
        if track is None or pending is None:
            return
        pending.verdicts[rows.start : rows.stop] = bytes((verdict,)) * (rows.stop - rows.start)
        while track.pending:
            head = track.pending[0]
            found = head.verdicts.find(_OPEN, head.cursor)
            reached = len(head.verdicts) if found < 0 else found
            begun, head.cursor = head.cursor, reached
            for kind, count in _runs(head.verdicts[begun:reached]):
                self._take(track, head, kind, count)
            if found >= 0:
                return
            self._finish(track, track.pending.popleft())

    def _finish(self, track: _Track, done: _Pending) -> None:
        """A span is judged; a canary of which every row was passed over gives way to the next one at once."""
        del track.by_span[done.key]
        if track.canary is done:
            track.state, track.canary, track.retry_at = BrakeState.STOPPED, None, -math.inf

    def _take(self, track: _Track, source: _Pending, kind: int, count: int) -> None:
        """Take in a run of equal verdicts; those of records admitted before the stop are over and done."""
        if kind == _PASSED_OVER:
            return
        if track.canary is source:
            self._try(track, passed=kind == _PASSED)
            return
        if track.state is not BrakeState.RUNNING:
            return
        track.judged += count
        track.in_a_row = track.in_a_row + count if kind == _REFUSED else 0
        track.window.add(count, refused=kind == _REFUSED)
        if kind == _REFUSED:
            self._check(track)

    def _check(self, track: _Track) -> None:
        """Stop the partition where a limit is reached."""
        limits, window = self._limits, track.window
        if limits.max_in_a_row is not None and track.in_a_row >= limits.max_in_a_row:
            self._stop(track, "in_a_row", f"{track.in_a_row} records in a row were refused")
        elif limits.max_share is not None and window.full and window.refused > limits.max_share * window.total:
            self._stop(track, "share", f"{window.refused} of the last {window.total} records were refused")

    def _stop(self, track: _Track, limit: Limit, cause: str) -> None:
        """Admission ends; the first canary comes after a pause that grows unless the partition was healthy."""
        if track.judged > HEALTHY_WINDOWS * self._limits.window_records:
            track.pause_s = 0.0
        self.trips[limit] += 1
        track.state, track.stop, track.retry_at = BrakeState.STOPPED, (limit, cause), None

    def _try(self, track: _Track, *, passed: bool) -> None:
        """The verdict on a canary."""
        track.canary = None
        if passed:
            self._run(track)
        else:
            track.state, track.retry_at = BrakeState.STOPPED, None

    def _run(self, track: _Track) -> None:
        """All goes on, with a clean record."""
        track.state, track.stop, track.retry_at, track.canary = BrakeState.RUNNING, None, None, None
        track.in_a_row, track.judged = 0, 0
        track.window = _Window(self._limits.window_records)


def _runs(verdicts: bytearray) -> Iterable[tuple[int, int]]:
    """Verdicts as (verdict, how often in a row); nearly always one run."""
    if verdicts and verdicts.count(verdicts[0]) == len(verdicts):
        return ((verdicts[0], len(verdicts)),)
    return ((kind, sum(1 for _ in run)) for kind, run in groupby(verdicts))
