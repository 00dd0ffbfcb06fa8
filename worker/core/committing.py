"""When offsets are committed."""

from __future__ import annotations

from worker.core.flow import FlowGate
from worker.core.offsets import Commit, OffsetTracker

COMMIT_RETRY_S = 1.0
"""A failed commit is tried again so soon, or after the interval of commits if that is shorter."""


class CommitSchedule:
    """After an interval, or sooner when enough is settled; never two commits at a time."""

    def __init__(self, tracker: OffsetTracker, interval_s: float, max_records: int) -> None:
        """``max_records`` settled and uncommitted records are enough."""
        self._tracker = tracker
        self._interval_s = interval_s
        self._max_records = max_records
        self._outstanding = False
        self._failed = False
        self._at = 0.0

    def restart(self, now: float) -> None:
        """The next commit is due an interval from now."""
        self._at = now + self._interval_s
        self._failed = False

    def due(self, now: float) -> Commit | None:
        """The commit to make now, outstanding until it ``ended``; None while there is none to make."""
        tracker = self._tracker
        if self._outstanding:
            return None
        enough = tracker.uncommitted_records - tracker.in_flight_records >= self._max_records and not self._failed
        if now < self._at and not enough:
            return None
        commit = tracker.committable()
        if commit is not None:
            self._outstanding = True
            self.restart(now)
        return commit

    def ended(self, now: float, *, done: bool) -> None:
        """The outstanding commit has ended; one that failed is tried again soon, however much is settled."""
        self._outstanding = False
        if not done:
            self._failed = True
            self._at = now + min(self._interval_s, COMMIT_RETRY_S)

    def wakeup(self) -> float | None:
        """When a commit is due; None while there is nothing to commit, or one is outstanding."""
        return self._at if self._tracker.moved and not self._outstanding else None


class CommitInNeed:
    """With the outputs, by their transactions, which have an interval of their own; sooner only where it is needed.

    That is where only a commit lets more records in, and most of those that are in have been settled.
    """

    def __init__(self, tracker: OffsetTracker, gate: FlowGate) -> None:
        self._tracker = tracker
        self._gate = gate

    def restart(self, now: float) -> None:
        """Time decides nothing here."""

    def due(self, now: float) -> Commit | None:  # noqa: ARG002 # as above
        """The commit that is needed now; told again until it has been made."""
        tracker = self._tracker
        starved = self._gate.starved(tracker.in_flight_records, tracker.uncommitted_records)
        return tracker.committable() if starved else None

    def ended(self, now: float, *, done: bool) -> None:
        """The tracker knows what is committed; a failed transaction ends the assignment."""

    def wakeup(self) -> None:
        """Never."""
