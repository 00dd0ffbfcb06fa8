"""Where the files of a run live, the broker's log above all: in memory where there is room, else on the disk.

A disk that is slow for 0.1 s delays every append meanwhile, and that is what the tail of a latency would show.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.places import CACHE

MEMORY = Path("/dev/shm")  # noqa: S108 - the folder itself is made by mkdtemp
# What a run keeps at most: backlogs of a workload, a load of a minute, and what a broker has not deleted yet.
NEEDED_BYTES = 12 * 2**30


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for folders of runs, and what a result says of it."""

    root: Path
    description: str


def choose(memory: Path = MEMORY, needed: int = NEEDED_BYTES) -> Place:
    """A memory file system, where it and the machine have so many bytes free; else the disk."""
    if memory.is_dir() and min(shutil.disk_usage(memory).free, _available()) >= needed:
        return Place(memory / "headrace-bench", "in memory")
    return Place(CACHE, "on the disk, where a slow append shows in the latency")


def new_folder(root: Path) -> Path:
    """A fresh folder of this process; those of processes that were killed are removed."""
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob("run-*"):
        owner = re.match(r"run-(\d+)-", old.name)
        if owner is not None and not Path("/proc", owner[1]).exists():
            shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=root))


def _available() -> int:
    """Bytes that programs can still get, by the kernel's estimate."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found is not None else 0
