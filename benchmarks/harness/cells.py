"""What tables are made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.results import Measured, Tally
from benchmarks.systems import SYSTEMS, Entry

NONE = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows; the first column is text, the others are figures. ``note`` explains columns."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def title(one: Measured) -> str:
    """The system and its variant."""
    return Entry(SYSTEMS[one.system], one.variant).title


def lost(tally: Tally) -> str:
    """How many events were lost and repeated, and what else was not right."""
    parts = [f"**{tally.lost:,} lost**" if tally.lost else "0 lost", f"{tally.repeated:,} repeated"]
    parts += [f"**{tally.unknown:,} unknown**"] if tally.unknown else []
    parts += [f"**{tally.wrong:,} wrong scores**"] if tally.wrong else []
    return ", ".join(parts)
