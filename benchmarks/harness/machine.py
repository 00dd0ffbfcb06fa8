"""What the result says of the machine, of who else used it, and of the versions."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import environments
from benchmarks.harness.places import PROJECT
from benchmarks.harness.usage import TICKS_PER_S, cpu_s, processor_ticks, stolen_s, tree
from benchmarks.systems import SYSTEMS, Runtime
from worker import __version__

PACKAGES = ("aiokafka", "confluent-kafka", "onnxruntime", "numpy", "msgspec", "orjson")


class Surroundings:
    """Who else uses the processors from now on."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._others_s, self._stolen_s = _others_s(), stolen_s()

    def cores(self) -> tuple[float, float]:
        """Processor seconds per second that other processes took, and that the machine's host did."""
        passed_s = time.monotonic() - self._at
        return max(0.0, _others_s() - self._others_s) / passed_s, (stolen_s() - self._stolen_s) / passed_s


def machine() -> dict[str, str]:
    """Processor, cores, memory and kernel."""
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Python, Java, the packages of the project, and the direct requirements of every other system."""
    found = {
        "headrace": f"{__version__} ({_commit()})",
        "python": platform.python_version(),
        "java": _java(),
        **{name: version(name) for name in PACKAGES},
    }
    for system in SYSTEMS.values():
        if system.runtime is not Runtime.PROJECT:
            found[system.name] = environments.packages(system)
    return found


def _commit() -> str:
    """The newest commit that changed the worker, and a mark for what is not committed; ``unknown`` without git."""
    try:
        commit = _output("git", "log", "-1", "--format=%h", "--", "worker")
        changes = _output("git", "status", "--porcelain", "--", "worker")
        changes += _output("git", "diff", "HEAD", "--", "worker")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, changed: {hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit


def _java() -> str:
    try:
        done = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stderr.splitlines()[0]


def _others_s() -> float:
    """Processor seconds since boot of everything but this process and all that it started."""
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = processor_ticks()
    return (user + nice + system + interrupts + soft_interrupts) / TICKS_PER_S - cpu_s(tree(os.getpid()))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout.strip()


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text()) if path.exists() else None
    return found.group(1).strip() if found else ""
