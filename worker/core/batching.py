"""Micro-batches: which rows go to the engine together, and why the batch closed."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf

from worker.core.costs import CostModel
from worker.core.records import Slice

GAIN_SHARE = 0.05
"""Waiting for more rows is in vain once a row costs at most this share more than in a batch without end."""

EXPLORED = (1.0, 0.75, 1.25)
"""Batches that close for want of gain vary in size by turns, so that the fit keeps a base."""

HAND_OVER_S = 50e-6
"""What passing a batch to another thread and back costs at least, which neither side's timing shows."""

RATE_SPAN_S = 0.05
"""How far back the arrival rate looks."""

RISE, FALL = 0.25, 0.01
"""The way to the margin follows slow deliveries fast and quick ones slowly: it is one that most do not exceed."""


class FlushReason(StrEnum):
    """Why a batch closed."""

    SIZE = "size"
    BYTES = "bytes"
    DELAY = "delay"
    IDLE = "idle"
    NO_GAIN = "no_gain"
    BUCKET = "bucket"
    AGE = "age"
    DRAIN = "drain"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch: records, bytes of their values, and the wait of its first record.

    ``latency_slo_s`` is the age of a record's Kafka timestamp by which its output should be acknowledged; None: as
    soon as possible, without a bound. ``buckets`` are the sizes by which the cost of a call is learned; with
    ``padded`` a call is filled up to the next of them.
    """

    max_batch_size: int
    max_batch_bytes: int
    max_batch_delay_s: float
    latency_slo_s: float | None = None
    buckets: tuple[int, ...] = ()
    padded: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Rows for one model call, in order of arrival, of any partitions.

    ``expected_s`` is what its call is expected to take, None while nothing is known of calls; ``is_learned`` says
    that calls of this size have been seen.
    """

    slices: list[Slice]
    size: int
    size_bytes: int
    reason: FlushReason
    waited_s: float
    expected_s: float | None = None
    is_learned: bool = False


class MicroBatcher:
    """Queues rows in order of arrival and hands out batches.

    Work-conserving: an idle engine takes whatever is there. A busy one lets the open batch grow until it is full,
    its first record has waited ``max_batch_delay_s``, a record would miss the latency objective, or more rows would
    save nothing. A record above the byte limit travels alone. Records that come when their objective is missed
    already do not close a batch: who is behind needs large ones.

    ``calls`` and ``handling`` are what is known of the costs of a model call and of everything else that is done
    for a batch. ``wall_offset_s`` is the wall clock's time less that of the loop's clock.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._queue: deque[tuple[Slice, float, float]] = deque()
        self._queued_bytes = 0
        self._due_at = inf
        self._margin_s = 0.0
        self._closed_early = 0
        self._recent_records, self._recent_at = 0.0, 0.0
        buckets = limits.buckets or (limits.max_batch_size,)
        self.calls = CostModel(buckets, padded=limits.padded)
        self.handling = CostModel(buckets)
        self.queued_records = 0
        self.wall_offset_s = 0.0

    def add(self, rows: Slice, now: float) -> None:
        """Queue rows that arrived at ``now``."""
        due_at = inf
        if self._limits.latency_slo_s is not None:
            due_at = self._due(rows, now)
            self._due_at = min(self._due_at, due_at)
        count = rows.stop - rows.start
        if self._limits.padded:
            self._recent_records = self._recent_records * exp((self._recent_at - now) / RATE_SPAN_S) + count
            self._recent_at = now
        self._queue.append((rows, now, due_at))
        self._queued_bytes += rows.size_bytes
        self.queued_records += count

    def delivered(self, took_s: float) -> None:
        """An output was acknowledged so long after it was sent; the margin that the objective leaves for that."""
        off_s = took_s - self._margin_s
        self._margin_s += off_s * (RISE if off_s > 0 else FALL)

    def deadline(self) -> float | None:
        """When the open batch closes by delay or age; None while nothing is queued."""
        if not self._queue:
            return None
        delay_at = self._queue[0][1] + self._limits.max_batch_delay_s
        return delay_at if self._due_at == inf else min(delay_at, self._age_at())

    def take(self, now: float, *, idle: bool, flush: FlushReason | None = None) -> Batch | None:
        """The next batch if one is due: full, waited for, wanted by an idle engine, or flushed."""
        if not self._queue:
            return None
        limits = self._limits
        if self.queued_records >= limits.max_batch_size or self._queued_bytes >= limits.max_batch_bytes:
            batch = self._cut(FlushReason.SIZE, now, limits.max_batch_size)
            if batch.size < limits.max_batch_size:
                batch.reason = FlushReason.BYTES
            return batch
        if flush is not None:
            return self._cut(flush, now, limits.max_batch_size)
        if limits.padded:
            edge = self._edge(now, idle=idle)
            if edge:
                return self._cut(FlushReason.BUCKET, now, edge)
        reason = FlushReason.IDLE if idle else self._closing(now)
        return None if reason is None else self._cut(reason, now, limits.max_batch_size)

    def drop(self, epochs: set[int]) -> int:
        """Forget queued rows of ended assignments; returns how many."""
        kept = [entry for entry in self._queue if entry[0].span.epoch not in epochs]
        dropped = self.queued_records
        self._queue = deque(kept)
        self._queued_bytes = sum(rows.size_bytes for rows, _, _ in kept)
        self.queued_records = sum(rows.stop - rows.start for rows, _, _ in kept)
        self._due_at = min((due_at for _, _, due_at in kept), default=inf)
        return dropped - self.queued_records

    def _due(self, rows: Slice, now: float) -> float:
        """When the outputs of these rows are due by the objective; never, where that is past, or without a time.

        The first row speaks for all: within a partition it is the oldest, or close to it.
        """
        since_ms = rows.span.timestamps[rows.start]
        due_at = since_ms / 1000 - self.wall_offset_s + (self._limits.latency_slo_s or 0.0)
        return due_at if since_ms >= 0 and due_at > now else inf

    def _age_at(self) -> float:
        """When the open batch must leave for its most urgent row to be in time."""
        return self._due_at - (self.calls.expected_s(self.queued_records) or 0.0) - self._margin_s

    def _closing(self, now: float) -> FlushReason | None:
        """Why the open batch closes now although the engine is busy; None: it goes on growing."""
        if now >= self._queue[0][1] + self._limits.max_batch_delay_s:
            return FlushReason.DELAY
        if self._due_at < inf and now >= self._age_at():
            return FlushReason.AGE
        if self._limits.latency_slo_s is not None and self._queue[0][2] == inf:
            return None  # behind: what waits is late already, and only large batches catch up
        if self.calls.fitted and self.handling.fitted:
            fixed_s = self.calls.fixed_s + self.handling.fixed_s + HAND_OVER_S
            per_row_s = self.calls.per_row_s + self.handling.per_row_s
            wanted = EXPLORED[self._closed_early % len(EXPLORED)] * fixed_s
            if wanted < self.queued_records * per_row_s * GAIN_SHARE:
                self._closed_early += 1
                return FlushReason.NO_GAIN
        return None

    def _edge(self, now: float, *, idle: bool) -> int:
        """The bucket to cut the open batch at, for that costs less than padding it to the next; 0: do not cut.

        While the engine is busy the batch waits for the next bucket as long as arrivals may fill it in time.
        """
        buckets = self.calls.buckets
        place = bisect_right(buckets, self.queued_records)
        if place == 0 or place == len(buckets):
            return 0
        edge, rows = buckets[place - 1], self.queued_records
        if not idle:
            left_s = max((self.deadline() or now) - now, 0.0)
            rows += int(self._recent_records * exp((self._recent_at - now) / RATE_SPAN_S) / RATE_SPAN_S * left_s)
        if rows == edge or rows >= buckets[place]:
            return 0
        if not (self.calls.knows(edge) and self.calls.knows(rows - edge) and self.calls.knows(rows)):
            return 0
        apart_s = (self.calls.expected_s(edge) or 0.0) + (self.calls.expected_s(rows - edge) or 0.0)
        return edge if apart_s + self.handling.fixed_s < (self.calls.expected_s(rows) or 0.0) else 0

    def _cut(self, reason: FlushReason, now: float, most: int) -> Batch:
        """Take the longest prefix of at most ``most`` rows within the limits."""
        waited_s = now - self._queue[0][1]
        records, size_bytes = most, self._limits.max_batch_bytes
        slices: list[Slice] = []
        while self._queue and records > 0 and size_bytes > 0:
            rows, arrived_at, due_at = self._queue[0]
            fit = _fitting(rows, records, size_bytes, alone=not slices)
            if fit == 0:
                break
            piece = Slice(rows.block, rows.start, rows.start + fit)
            slices.append(piece)
            records -= fit
            size_bytes -= piece.size_bytes
            if fit < rows.stop - rows.start:
                self._queue[0] = (Slice(rows.block, rows.start + fit, rows.stop), arrived_at, due_at)
                break
            self._queue.popleft()
        size, taken_bytes = most - records, self._limits.max_batch_bytes - size_bytes
        self.queued_records -= size
        self._queued_bytes -= taken_bytes
        if self._due_at < inf:
            self._due_at = min((entry[2] for entry in self._queue), default=inf)
        calls = self.calls
        return Batch(slices, size, taken_bytes, reason, waited_s, calls.expected_s(size), calls.knows(size))


def _fitting(rows: Slice, records: int, size_bytes: int, *, alone: bool) -> int:
    """How many rows from the front stay within the limits; with ``alone`` at least one, oversize or not."""
    ends = rows.span.ends
    before = ends[rows.start - 1] if rows.start else 0
    stop = bisect_right(ends, before + size_bytes, rows.start, min(rows.stop, rows.start + records))
    return max(stop - rows.start, 1 if alone else 0)
