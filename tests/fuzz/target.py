"""What a fuzz target is, which ones there are, and how one input carries several files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
MAX_CORPUS_FILES: Final = 60
MAX_CORPUS_BYTES: Final = 4096

SEPARATOR: Final = b"\n%%%%\n"
"""Stands between the files that one input holds."""

# Modules, not targets: importing one loads what it tests, which the coverage-guided run must instrument first.
_MODULES: Final = {
    "decoder": "tests.fuzz.decoder",
    "schema": "tests.fuzz.schema",
    "bundle": "tests.fuzz.bundle",
    "config": "tests.fuzz.configuration",
    "headers": "tests.fuzz.headers",
}
NAMES: Final = tuple(_MODULES)


@dataclass(frozen=True, slots=True)
class Target:
    """``check`` takes any bytes and raises where the code under test breaks its word; it keeps no state.

    ``seeds`` are inputs that reach the accepting branches, ``tokens`` are words that matter to the code.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]

    def corpus(self) -> list[Path]:
        """The inputs that are kept in the repository, by name."""
        return sorted((CORPUS / self.name).glob("*"))


def load(name: str) -> Target:
    """The target of that name; imports what it tests."""
    target = importlib.import_module(_MODULES[name]).TARGET
    assert isinstance(target, Target)
    return target


def split(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` files; those that the input lacks are empty."""
    parts = data.split(SEPARATOR, count - 1)
    return parts + [b""] * (count - len(parts))


def join(*parts: bytes | str) -> bytes:
    """The input that ``split`` takes apart."""
    return SEPARATOR.join(part.encode() if isinstance(part, str) else part for part in parts)
