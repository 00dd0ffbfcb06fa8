"""Micro-batches: which rows go to the engine together, and why the batch closed."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from worker.core.records import Slice


class FlushReason(StrEnum):
    """Why a batch closed."""

    SIZE = "size"
    BYTES = "bytes"
    DELAY = "delay"
    IDLE = "idle"
    DRAIN = "drain"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Hard limits of a batch: records, bytes of their values, and the wait of its first record."""

    max_batch_size: int
    max_batch_bytes: int
    max_batch_delay_s: float


@dataclass(slots=True, eq=False)
class Batch:
    """Rows for one model call, in order of arrival, of any partitions."""

    slices: list[Slice]
    size: int
    size_bytes: int
    reason: FlushReason
    waited_s: float


class MicroBatcher:
    """Queues rows in order of arrival and hands out batches.

    Work-conserving: an idle engine takes whatever is there. A busy one lets the open batch grow until it is
    full or its first record has waited ``max_batch_delay_s``. A record above the byte limit travels alone.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._queue: deque[tuple[Slice, float]] = deque()
        self.queued_records = 0

    def add(self, rows: Slice, now: float) -> None:
        """Queue rows that arrived at ``now``."""
        self._queue.append((rows, now))
        self.queued_records += rows.stop - rows.start

    def deadline(self) -> float | None:
        """When the open batch closes by delay; None while nothing is queued."""
        return self._queue[0][1] + self._limits.max_batch_delay_s if self._queue else None

    def take(self, now: float, *, idle: bool, flush: FlushReason | None = None) -> Batch | None:
        """The next batch if one is due: full, waited for, wanted by an idle engine, or flushed."""
        if not self._queue:
            return None
        reason = self._full()
        if reason is None:
            if flush is not None:
                reason = flush
            elif idle:
                reason = FlushReason.IDLE
            elif now >= self._queue[0][1] + self._limits.max_batch_delay_s:
                reason = FlushReason.DELAY
            else:
                return None
        return self._cut(reason, now)

    def drop(self, epochs: set[int]) -> int:
        """Forget queued rows of ended assignments; returns how many."""
        kept = [entry for entry in self._queue if entry[0].span.epoch not in epochs]
        dropped = self.queued_records
        self._queue = deque(kept)
        self.queued_records = sum(rows.stop - rows.start for rows, _ in kept)
        return dropped - self.queued_records

    def _full(self) -> FlushReason | None:
        """Whether the queue holds at least one full batch, and by which limit it closes."""
        records = self._limits.max_batch_size
        size_bytes = self._limits.max_batch_bytes
        first = True
        for rows, _ in self._queue:
            fit = _fitting(rows, records, size_bytes, alone=first)
            records -= fit
            size_bytes -= rows.span.size_bytes(rows.start, rows.start + fit)
            if fit < rows.stop - rows.start:
                return FlushReason.SIZE if records == 0 else FlushReason.BYTES
            if records == 0:
                return FlushReason.SIZE
            if size_bytes <= 0:
                return FlushReason.BYTES
            first = False
        return None

    def _cut(self, reason: FlushReason, now: float) -> Batch:
        """Take the longest prefix within the limits."""
        waited_s = now - self._queue[0][1]
        records, size_bytes = self._limits.max_batch_size, self._limits.max_batch_bytes
        slices: list[Slice] = []
        while self._queue and records > 0 and size_bytes > 0:
            rows, arrived_at = self._queue[0]
            fit = _fitting(rows, records, size_bytes, alone=not slices)
            if fit == 0:
                break
            piece = Slice(rows.block, rows.start, rows.start + fit)
            slices.append(piece)
            records -= fit
            size_bytes -= piece.size_bytes
            if fit < rows.stop - rows.start:
                self._queue[0] = (Slice(rows.block, rows.start + fit, rows.stop), arrived_at)
                break
            self._queue.popleft()
        size = self._limits.max_batch_size - records
        self.queued_records -= size
        return Batch(slices, size, self._limits.max_batch_bytes - size_bytes, reason, waited_s)


def _fitting(rows: Slice, records: int, size_bytes: int, *, alone: bool) -> int:
    """How many rows from the front stay within the limits; with ``alone`` at least one, oversize or not."""
    ends = rows.span.ends
    before = ends[rows.start - 1] if rows.start else 0
    stop = bisect_right(ends, before + size_bytes, rows.start, min(rows.stop, rows.start + records))
    return max(stop - rows.start, 1 if alone else 0)
