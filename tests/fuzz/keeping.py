"""Keep the few of many inputs that reach what no other one reaches."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.campaign import PROJECT, found_folder
from tests.fuzz.target import CORPUS, MAX_CORPUS_BYTES, MAX_CORPUS_FILES, Target

_WORKER: Final = str(PROJECT / "worker")
# Tracing is slow; the smallest inputs are the most useful ones.
_MAX_CANDIDATES: Final = 2000

Steps = frozenset[tuple[str, int, int]]


def keep(target: Target) -> list[Path]:
    """Add to the corpus, most new steps first, until nothing is new or the corpus is full; returns the new files."""
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    known: set[tuple[str, int, int]] = set()
    for data in (*target.seeds, *(path.read_bytes() for path in target.corpus())):
        known |= steps_of(target, data)
    reached = {data: steps_of(target, data) - known for data in _candidates(found_folder(target.name).glob("*"))}
    room = MAX_CORPUS_FILES - len(target.corpus())
    kept: list[Path] = []
    while len(kept) < room and reached:
        best = max(reached, key=lambda data: (len(reached[data] - known), -len(data)))
        if not reached[best] - known:
            break
        known |= reached.pop(best)
        path = folder / hashlib.sha256(best).hexdigest()[:16]
        path.write_bytes(best)
        kept.append(path)
    return kept


def _candidates(paths: Iterable[Path]) -> list[bytes]:
    small = sorted(
        (path for path in paths if path.stat().st_size <= MAX_CORPUS_BYTES), key=lambda path: path.stat().st_size
    )
    return [path.read_bytes() for path in small[:_MAX_CANDIDATES]]


def steps_of(target: Target, data: bytes) -> Steps:
    """Every step from line to line that the worker's code takes for this input."""
    steps: set[tuple[str, int, int]] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(_WORKER):
            return None
        last = 0

        def step(inner: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                steps.add((name, last, inner.f_lineno))
                last = inner.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        target.check(data)
    finally:
        sys.settrace(before)
    return frozenset(steps)
