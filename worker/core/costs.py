"""What a call costs by its size, learned from the calls themselves: ``cost(n) = fixed + per_row * n``.

Timings are kept per size bucket, so that a base at all sizes seen remains while one size is in use. Per bucket the
first timings are ignored and of the newest the slowest fifth is dropped: neither a cold start nor pauses of the
machine move the fit. Total and deterministic: any numbers in, finite numbers out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

IGNORED = 2
"""First timings of a bucket that say more of caches and allocations than of its size."""

WINDOW = 40
"""Timings kept per bucket. The cost is forgotten after so many newer ones of the same size."""

REFIT_AFTER = 10
"""New timings of a bucket until its figures are computed anew: sorting 40 is dear, adding one is not."""

DROPPED = 5
"""One timing of so many is dropped, the slowest ones."""

REACH = 2.0
"""How far above the sizes seen, as a factor, the fit is believed."""

SPREAD = 0.1
"""Least relative deviation of the sizes from which a slope is read; from one size there is none."""

_SHORTEST_S, _LONGEST_S = 1e-9, 3600.0
"""What lies outside is no timing."""


class _Bucket:
    """The newest timings of calls of about one size, and the moments of those that were kept at the last fit."""

    __slots__ = ("fresh", "largest", "mean_rows", "mean_s", "rows_s", "rows_variance", "samples", "seen", "weight")

    def __init__(self) -> None:
        self.samples: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self.seen = 0
        self.fresh = self.largest = 0
        self.weight = self.mean_rows = self.mean_s = self.rows_variance = self.rows_s = 0.0

    def summarise(self, per_row_s: float) -> None:
        """Drop the slowest fifth, size for size, and compute the moments of the rest."""
        self.fresh = 0
        kept = sorted(self.samples, key=lambda sample: sample[1] - per_row_s * sample[0])
        del kept[len(kept) - len(kept) // DROPPED :]
        count = len(kept)
        self.largest = max(rows for rows, _ in kept)
        self.mean_rows = sum(rows for rows, _ in kept) / count
        self.mean_s = sum(took_s for _, took_s in kept) / count
        self.rows_variance = sum((rows - self.mean_rows) ** 2 for rows, _ in kept) / count
        self.rows_s = sum((rows - self.mean_rows) * took_s for rows, took_s in kept) / count
        # Errors of a timing grow with it: weighed by its square, a small batch counts as much as a large one.
        self.weight = count / self.mean_s**2


class CostModel:
    """An online fit of seconds per call over rows per call.

    ``buckets`` are ascending sizes, at least one; a larger call counts to the last. With ``padded`` a call computes
    as many rows as its bucket says, else as many as it has. ``fixed_s`` and ``per_row_s`` are the line through all
    that was kept; ``fitted`` says whether the sizes differed enough for one.
    """

    def __init__(self, buckets: Sequence[int], *, padded: bool = False) -> None:
        self.buckets = tuple(buckets)
        self._padded = padded
        self._learned = [_Bucket() for _ in self.buckets]
        self.fixed_s = 0.0
        self.per_row_s = 0.0
        self.fitted = False

    def observe(self, rows: int, took_s: float) -> None:
        """A call of ``rows`` rows took so long; what cannot be a timing is passed over."""
        if rows < 1 or not _SHORTEST_S <= took_s <= _LONGEST_S:
            return
        bucket = self._learned[self._place(rows)]
        bucket.seen += 1
        if bucket.seen <= IGNORED:
            return
        bucket.samples.append((self.computed(rows), took_s))
        bucket.fresh += 1
        if bucket.fresh >= REFIT_AFTER:
            bucket.summarise(self.per_row_s)
            self._fit()

    def computed(self, rows: int) -> int:
        """How many rows a call with ``rows`` really computes."""
        return max(self.buckets[self._place(rows)], rows) if self._padded else rows

    def knows(self, rows: int) -> bool:
        """Whether calls of this bucket, and about this size, have been learned: its cost is no extrapolation."""
        bucket = self._learned[self._place(rows)]
        return bucket.weight > 0 and self.computed(rows) <= bucket.largest * REACH

    def expected_s(self, rows: int) -> float | None:
        """What a call of ``rows`` rows is expected to take; None before anything was learned.

        From the nearest bucket that was learned, along the line; what is above its sizes by more than the factor
        ``REACH`` is taken for that.
        """
        place = self._place(rows)
        bucket = self._learned[place]
        if not bucket.weight:
            known = [at for at, one in enumerate(self._learned) if one.weight]
            if not known:
                return None
            bucket = self._learned[min(known, key=lambda at: abs(at - place))]
        size = min(self.computed(rows), bucket.largest * REACH)
        return max(bucket.mean_s + self.per_row_s * (size - bucket.mean_rows), 0.0)

    def _place(self, rows: int) -> int:
        return min(bisect_left(self.buckets, rows), len(self.buckets) - 1)

    def _fit(self) -> None:
        """Least squares over what the buckets kept; a cost below zero is none."""
        known = [bucket for bucket in self._learned if bucket.weight]
        total = sum(bucket.weight for bucket in known)
        rows = sum(bucket.weight * bucket.mean_rows for bucket in known) / total
        took_s = sum(bucket.weight * bucket.mean_s for bucket in known) / total
        variance = joint = 0.0
        for bucket in known:
            off = bucket.mean_rows - rows
            variance += bucket.weight * (bucket.rows_variance + off * off)
            joint += bucket.weight * (bucket.rows_s + off * (bucket.mean_s - took_s))
        self.fitted = variance >= total * (SPREAD * rows) ** 2
        if not self.fitted:
            self.per_row_s, self.fixed_s = 0.0, took_s
            return
        slope = max(joint / variance, 0.0)
        if slope * rows > took_s:
            slope = (joint + total * rows * took_s) / (variance + total * rows * rows)
        self.per_row_s, self.fixed_s = slope, max(took_s - slope * rows, 0.0)
