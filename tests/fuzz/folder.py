"""One folder a process for files under test, and a record of every file that is opened meanwhile."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

_OPENED: Final[list[str]] = []
_WATCHING: Final = [False]


@cache
def folder(name: str) -> Path:
    """A folder of this process, inside another one of its own; removed where the process ends as usual."""
    outer = Path(tempfile.mkdtemp(prefix="headrace-fuzz-")).resolve()
    atexit.register(shutil.rmtree, outer, ignore_errors=True)
    path = outer / name
    path.mkdir()
    return path


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The list of all paths that Python opens inside the block."""
    _listen()
    _OPENED.clear()
    _WATCHING[0] = True
    try:
        yield _OPENED
    finally:
        _WATCHING[0] = False


@cache
def _listen() -> None:
    """Begin to listen; an audit hook cannot be taken away, only told to look elsewhere."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING[0] and event == "open" and not isinstance(arguments[0], int):
        _OPENED.append(os.fsdecode(arguments[0]))
