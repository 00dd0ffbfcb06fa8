"""What was predicted beside what was measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.harness.figures import Times, Trace, percentiles
from worker.core.simulation import Load, Machine, Rules, simulate

MEDIAN_WITHIN, TAIL_WITHIN = 0.25, 0.35
GOLDEN = 0.6180339887498949
"""Multiples of it fall evenly between whole numbers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load: its share of the capacity, and percentiles of append to append in milliseconds, real and predicted."""

    share: float
    rate: float
    real: tuple[float, float]
    predicted: tuple[float, float]

    @property
    def errors(self) -> tuple[float, float]:
        """How far off median and 99th percentile are, relative to the real ones."""
        median, tail = (said / real - 1 for said, real in zip(self.predicted, self.real, strict=True))
        return median, tail

    @property
    def holds(self) -> bool:
        """Whether both are within their tolerance."""
        median, tail = self.errors
        return abs(median) <= MEDIAN_WITHIN and abs(tail) <= TAIL_WITHIN


def load_of(trace: Trace, partitions: int, value_bytes: int) -> Load:
    """The arrivals of an open loop, which sends to the partitions in turns.

    Append times are whole milliseconds: each is given a fraction, the same for what was appended together.
    """
    known = np.isfinite(trace.appended_in)
    turns = np.arange(len(trace.planned)) % partitions
    _, groups = np.unique(trace.appended_in[known], return_inverse=True)
    times_s = (trace.appended_in[known] + (groups + 1) * GOLDEN % 1.0) / 1000
    order = np.argsort(times_s, kind="stable")
    return Load(times_s[order] - times_s.min(), turns[known][order], value_bytes)


def predict(machine: Machine, rules: Rules, load: Load, warm_up_s: float) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds, from append to append, of what arrives after the warm-up."""
    result = simulate(machine, rules, load)
    return _figures(result.appended_s[result.sent_at >= warm_up_s] * 1000, whole=False)


def real(trace: Trace) -> tuple[float, float]:
    """The same of a real run."""
    return _figures(trace.appended_out - trace.appended_in, whole=True)


def table(rows: list[Row]) -> list[str]:
    """A line per load, in milliseconds."""
    lines = [f"{'load':>6}{'events/s':>10}{'p50 real':>10}{'said':>8}{'off':>7}{'p99 real':>10}{'said':>8}{'off':>7}"]
    for row in rows:
        line = f"{row.share:>6.0%}{row.rate:>10.0f}"
        for measured, said, off in zip(row.real, row.predicted, row.errors, strict=True):
            line += f"{measured:>10.2f}{said:>8.2f}{off:>+7.0%}"
        lines.append(line + ("" if row.holds else "  missed"))
    return lines


def _figures(values_ms: Times, *, whole: bool) -> tuple[float, float]:
    found = percentiles(values_ms, whole=whole)
    return found.p50, found.p99
