"""What the result says of the machine and of the versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import environments
from benchmarks.harness.places import PROJECT
from benchmarks.systems import SYSTEMS, Runtime
from worker import __version__

PACKAGES = ("aiokafka", "confluent-kafka", "onnxruntime", "numpy", "msgspec", "orjson")


def machine() -> dict[str, str]:
    """Processor, cores, memory, kernel, and how busy the machine was before."""
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
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
        if system.is_present and system.runtime is Runtime.PYTHON:
            found[system.name] = environments.packages(system)
    return found


def _commit() -> str:
    """The commit of the checkout, marked where the worker's sources are changed; ``unknown`` without git."""
    try:
        commit = _output("git", "rev-parse", "--short", "HEAD")
        changed = _output("git", "status", "--porcelain", "--", "worker")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, changed" if changed else commit


def _java() -> str:
    try:
        done = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stderr.splitlines()[0]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout.strip()


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text()) if path.exists() else None
    return found.group(1).strip() if found else ""
