"""Where a run keeps its files, and that a killed run leaves nothing for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness.places import CACHE
from benchmarks.harness.scratch import choose, new_folder


def test_memory_is_chosen_where_there_is_room(tmp_path: Path) -> None:
    """By what is free now; the result names the place."""
    assert choose(tmp_path, needed=1).root.parent == tmp_path
    assert choose(tmp_path, needed=1).description == "in memory"


def test_without_room_the_disk_is_chosen_and_named(tmp_path: Path) -> None:
    """Too little room, or no memory file system at all: never without a word."""
    for place in (choose(tmp_path, needed=2**60), choose(tmp_path / "none", needed=1)):
        assert place.root == CACHE
        assert "disk" in place.description


def test_folders_of_ended_processes_are_removed(tmp_path: Path) -> None:
    """Those of living ones stay."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, mine = tmp_path / f"run-{ended.pid}-x", tmp_path / f"run-{os.getpid()}-x"
    for folder in (left, mine):
        (folder / "kafka").mkdir(parents=True)
    made = new_folder(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, made}
