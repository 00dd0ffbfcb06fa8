"""Back-pressure as two numbers per resource: stop admitting at the high mark, go on at the low one."""

from __future__ import annotations

from dataclasses import dataclass

AHEAD_BYTES = 262_144
"""A partition with fewer unread bytes is fetched again: records arrive while others are worked on."""

FEW_BYTES = 65_536
"""An answer shorter than this is followed by the gathering pause: the reader keeps up."""

LOW_SHARE = 0.75
"""Reopening a quarter below the mark keeps the gate from flapping at every settled batch."""

STARVED_SHARE = 0.25
"""With less in flight than this share of the mark, a gate that only a commit can open will soon idle the engine."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """High marks of what may be in flight; ``max_uncommitted_records`` bounds the repeats after a crash."""

    max_in_flight_records: int
    max_in_flight_bytes: int
    max_uncommitted_records: int


class FlowGate:
    """Decides how many records may still be admitted."""

    def __init__(self, limits: FlowLimits) -> None:
        self._limits = limits
        self._open = True

    def room(self, records: int, size_bytes: int, uncommitted: int) -> int:
        """How many records may be admitted now; 0 closes the gate until all is at or below the low mark.

        Records in flight never exceed the high mark, bytes by at most one poll, uncommitted records never.
        """
        limits = self._limits
        share = 1.0 if self._open else LOW_SHARE
        self._open = (
            records < limits.max_in_flight_records * share
            and size_bytes < limits.max_in_flight_bytes * share
            and uncommitted < limits.max_uncommitted_records
        )
        if not self._open:
            return 0
        return min(limits.max_in_flight_records - records, limits.max_uncommitted_records - uncommitted)

    def starved(self, records: int, uncommitted: int) -> bool:
        """Whether the gate stays closed until a commit, and little is left to do before it."""
        limits = self._limits
        return uncommitted >= limits.max_uncommitted_records and records <= limits.max_in_flight_records * STARVED_SHARE
