"""``python -m benchmarks.core``: microseconds and, under valgrind, instructions per record of each scene.

Instructions do not depend on what else the machine does, so a regression of a few per cent shows.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.core.scenes import Scene, scenes

FEW, MANY = 2_000, 12_000
"""Instructions are those of the longer run less those of the shorter: the start of Python falls out."""

TIMED_RECORDS = 50_000
REPETITIONS = 7
VALGRIND = "valgrind is needed to count instructions; type: apt-get install --no-install-recommends valgrind"


def microseconds(scene: Scene) -> list[float]:
    """Time per record of each repetition."""
    scene(FEW)
    gc.collect()
    taken = []
    for _ in range(REPETITIONS):
        begun = time.process_time()
        done = scene(TIMED_RECORDS)
        taken.append((time.process_time() - begun) / done * 1e6)
    return taken


def instructions(name: str) -> int:
    """Instructions per record, counted by valgrind's callgrind."""
    if shutil.which("valgrind") is None:
        raise SystemExit(VALGRIND)
    few, many = (_counted(name, records) for records in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def _counted(name: str, records: int) -> int:
    """Instructions of a Python process that plays one scene."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        run = [*tool, sys.executable, "-m", "benchmarks.core", "--play", name, "--records", str(records)]
        answer = subprocess.run(run, capture_output=True, text=True, check=False, env={"PYTHONHASHSEED": "0"})
        found = re.search(r"Collected : (\d+)", answer.stderr)
        if answer.returncode != 0 or found is None:
            raise SystemExit(f"valgrind failed:\n{answer.stderr[-2000:]}")
        return int(found.group(1))


def main(given: Sequence[str]) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__)
    parser.add_argument("--instructions", action="store_true", help="count instructions too (a minute or two)")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, default=FEW, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    known = scenes()
    if arguments.play is not None:
        gc.disable()
        known[arguments.play](arguments.records)
        return 0
    figures = {}
    print(f"{'scene':<10}{'us/record':>11}{'range':>16}{'instructions':>14}")
    for name, scene in known.items():
        taken = microseconds(scene)
        counted = instructions(name) if arguments.instructions else None
        figures[name] = {"microseconds": taken, "instructions": counted}
        span = f"{min(taken):.2f} - {max(taken):.2f}"
        print(f"{name:<10}{statistics.median(taken):>11.2f}{span:>16}{counted if counted is not None else '-':>14}")
    if arguments.out is not None:
        facts = {"python": platform.python_version(), "machine": platform.machine(), "scenes": figures}
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
