"""What may not grow: the worker's memory, tasks, sockets, files and threads, judged on samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEBIBYTE = 1024 * 1024
RSS_SLOPE_LIMIT_MIB = 1.0
"""Most growth of the resident memory in ten minutes, after the warm-up."""

COUNT_SLACK = 3
"""Tasks come and go with the load; a leak in each of ninety rebalances is far more."""

COUNTED = ("tasks", "sockets", "files", "threads")


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading of the worker at a time in seconds since the start."""

    at_s: float
    rss_bytes: int
    tasks: int
    sockets: int
    files: int
    threads: int


def reading(pid: int, at_s: float, tasks: int) -> Sample:
    """What the kernel shows of a process."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    targets = [_target(entry) for entry in (process / "fd").iterdir()]
    return Sample(
        at_s,
        int(status["VmRSS"].split()[0]) * 1024,
        tasks,
        sum(target.startswith("socket:") for target in targets),
        len(targets),
        int(status["Threads"]),
    )


def _target(entry: Path) -> str:
    """Where a descriptor leads; nowhere if it was closed meanwhile."""
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""


def rss_slope_mib(samples: Sequence[Sample]) -> float:
    """Growth of the resident memory in MiB per ten minutes, by least squares."""
    times_s = np.array([sample.at_s for sample in samples])
    sizes_mib = np.array([sample.rss_bytes / MEBIBYTE for sample in samples])
    return float(np.polynomial.Polynomial.fit(times_s, sizes_mib, 1).convert().coef[1]) * 600.0


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """The median of a count in the first third and in the last."""
    third = len(samples) // 3
    first, last = samples[:third], samples[-third:]
    return statistics.median(getattr(one, name) for one in first), statistics.median(getattr(one, name) for one in last)


def broken_promises(samples: Sequence[Sample]) -> list[str]:
    """What grew, in words; empty when all was steady. Samples of the warm-up do not belong here."""
    broken = []
    slope = rss_slope_mib(samples)
    if slope >= RSS_SLOPE_LIMIT_MIB:
        broken.append(f"the resident memory grew by {slope:.2f} MiB in ten minutes")
    for name in COUNTED:
        first, last = growth(samples, name)
        if last > first + COUNT_SLACK:
            broken.append(f"{name} grew from {first:g} to {last:g}")
    return broken
