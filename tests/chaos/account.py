"""What the ledger knows: an account per lane, the totals, and watches for outages."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

Lane = tuple[str, int]
"""An input topic and partition."""

NOTHING = -1
DEAD = -2


@dataclass(slots=True)
class Account:
    """What is known of one lane; columns are by offset."""

    written: array[int] = field(default_factory=lambda: array("q"))
    found: array[int] = field(default_factory=lambda: array("q"))
    reasons: dict[int, str] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    fates: int = 0

    def wrote(self, offset: int, seq: int) -> None:
        """The broker has record ``seq`` at this offset."""
        grow(self.written, offset)
        self.written[offset] = seq

    def unknown(self, end: int) -> list[int]:
        """Offsets before the lane's end at which no record is known."""
        known = len(self.written)
        return [offset for offset in range(end) if offset >= known or self.written[offset] == NOTHING]

    def place(self, stored: Mapping[int, bytes | None], values: Mapping[int, bytes | None]) -> None:
        """Enter records, given by number and value, where one of them is ``stored``; equal ones share their fate.

        Raises LookupError for a record that is nowhere.
        """
        left = dict(values)
        for offset, value in sorted(stored.items()):
            for seq, wanted in left.items():
                if wanted == value:
                    self.wrote(offset, seq)
                    del left[seq]
                    break
        if left:
            raise LookupError(f"the broker confirmed records {sorted(left)}, and holds none of them")


@dataclass(slots=True)
class Counts:
    """Totals; the lists hold a few examples each."""

    written: int = 0
    scored: int = 0
    dead_lettered: int = 0
    repeats: int = 0
    out_of_order: int = 0
    wrong_scores: int = 0
    unidentified: int = 0
    lost: int = 0
    wrong_fates: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep an example, if there are not many yet."""
        if len(self.examples) < 20:
            self.examples.append(text)

    @property
    def faultless(self) -> bool:
        """Nothing lost, reordered, wrong or unknown; repeats are judged by the guarantee."""
        return not (self.lost or self.out_of_order or self.wrong_scores or self.wrong_fates or self.unidentified)


class Watch:
    """The longest time that any lane with waiting records was without a new fate, since ``began``."""

    def __init__(self, began: float) -> None:
        self.began = began
        self._last: dict[Lane, float] = {}
        self.longest_s = 0.0

    def saw(self, lanes: set[Lane], now: float) -> None:
        """New fates of these lanes."""
        for lane in lanes:
            self.longest_s = max(self.longest_s, now - self._last.get(lane, self.began))
            self._last[lane] = now


def grow(column: array[int], offset: int) -> None:
    """Make the column reach as far as ``offset``."""
    missing = offset + 1 - len(column)
    if missing > 0:
        column.extend([NOTHING] * missing)


def missing(account: Account, mark: int) -> int:
    """Records before the mark without a fate."""
    found = account.found
    return sum(1 for offset in range(mark) if offset >= len(found) or found[offset] == NOTHING)


def complete(account: Account, mark: int) -> bool:
    """Whether every record before the mark has a fate."""
    found = account.found
    if len(found) < mark:
        return False
    # Fates without a gap: the count says so without a look at each.
    return account.fates == len(found) or NOTHING not in found[:mark]
