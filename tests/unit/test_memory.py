"""What the process does with its memory."""

from __future__ import annotations

import gc
import subprocess
import sys

from worker.memory import spare_collector

FAULTS = """
import resource, sys
if sys.argv[1] == "keep":
    from worker.memory import keep_memory
    keep_memory()
def blocks():
    return [bytearray(3 << 20) for _ in range(8)]
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_collector_leaves_alone_what_is_loaded() -> None:
    """Everything that lives now is out of its sight, and young objects are many before it runs."""
    threshold = gc.get_threshold()
    try:
        spare_collector()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() > (10_000, *threshold[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_blocks_of_megabytes_are_used_again() -> None:
    """By its own rule the C library gets their pages from the kernel anew each time."""
    assert _faults("leave") > 10_000
    assert _faults("keep") < 1_000
