"""Processor time and memory of process trees, sampled from /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 0.1
RESCAN_SAMPLES = 5
STEAL = 7


class UsageSampler:
    """Samples the trees below some process ids while its ``with`` block runs.

    A tree's processor time is that of its living processes and of their children that have been waited for. Times
    are seconds since 1970, to be compared with append times.
    """

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._at: list[float] = []
        self._cpu_s: dict[str, list[float]] = {name: [] for name in roots}
        self._rss_bytes: dict[str, list[int]] = {name: [] for name in roots}
        self._stolen_s: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def cpu_us_per_event(self, name: str, start_ms: float, stop_ms: float, events: int) -> float:
        """Microseconds of processor time per event between two times, interpolated between samples."""
        used = np.interp((start_ms / 1000, stop_ms / 1000), self._at, self._cpu_s[name])
        return float(used[1] - used[0]) / max(events, 1) * 1e6

    def peak_rss_mib(self, name: str) -> float:
        """The largest memory of the whole tree at one time."""
        return max(self._rss_bytes[name], default=0) / 2**20

    def rss_mib_at(self, name: str, at_ms: float) -> float:
        """Memory of the whole tree at a time."""
        return float(np.interp(at_ms / 1000, self._at, self._rss_bytes[name])) / 2**20

    def stolen_ms(self, start_ms: float, stop_ms: float) -> float:
        """Processor time between two times that the machine's host gave to others, over all cores."""
        stolen = np.interp((start_ms / 1000, stop_ms / 1000), self._at, self._stolen_s)
        return float(stolen[1] - stolen[0]) * 1000

    def _run(self) -> None:
        trees: dict[str, list[int]] = {}
        while True:
            if len(self._at) % RESCAN_SAMPLES == 0:
                trees = {name: tree(root) for name, root in self._roots.items()}
            self._at.append(time.time())
            self._stolen_s.append(stolen_s())
            for name, pids in trees.items():
                usages = [usage for pid in pids if (usage := _usage(pid)) is not None]
                known = self._cpu_s[name][-1] if self._cpu_s[name] else 0.0
                self._cpu_s[name].append(max(known, sum(cpu_s for cpu_s, _ in usages)))
                self._rss_bytes[name].append(sum(rss for _, rss in usages))
            if self._stopped.wait(SAMPLE_S):
                return


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds of processes, and of their children that have been waited for."""
    return sum(usage[0] for pid in pids if (usage := _usage(pid)) is not None)


def processor_ticks() -> list[int]:
    """Ticks of the whole machine since boot: user, nice, system, idle, waiting, interrupts, soft ones, stolen, ..."""
    with Path("/proc/stat").open() as lines:
        return [int(ticks) for ticks in next(lines).split()[1:]]


def stolen_s() -> float:
    """Processor seconds since boot that the machine's host gave to others."""
    return processor_ticks()[STEAL] / TICKS_PER_S


def _usage(pid: int) -> tuple[float, int] | None:
    """Processor seconds and memory of a process; None where it is gone."""
    fields = _stat(pid)
    if fields is None:
        return None
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S, int(fields[21]) * PAGE_BYTES


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
