"""Where a call of the model runs: on the event loop, or on a thread of its own.

A short call is best made where it is asked for: going to another thread and back costs more than it, and waits for a
processor twice. But what a call takes on the thread says little of what it would take on the loop: it waits there for
the interpreter, which the loop holds. So a call that seems too long is tried on the loop now and then.
"""

from __future__ import annotations

from worker.core.costs import WINDOW

SHORT_S = 0.000_3
"""A call this short is no pause worth mentioning for the event loop."""

TRIED_S = 0.002
"""A call that takes longer than this on the thread is never tried on the loop."""

FIRST_TRIAL, LAST_TRIAL = 10, 10_000
"""So many calls go to the thread before one is tried on the loop, twice as many after each that was not short."""


class Place:
    """Decides call by call, from what each is expected to take."""

    def __init__(self) -> None:
        self._patience = FIRST_TRIAL
        self._untried = self._granted = 0
        self._is_trial = False

    def is_loop(self, expected_s: float) -> bool:
        """Whether this call runs on the loop; if so, ``took`` is told of it."""
        if expected_s < SHORT_S:
            return True
        if expected_s >= TRIED_S:
            return False
        if self._granted:
            self._granted -= 1
            return True
        self._untried += 1
        self._is_trial = self._untried >= self._patience
        return self._is_trial

    def took(self, took_s: float) -> None:
        """How long a call on the loop took: after a trial that was short, the cost model sees only such calls."""
        if not self._is_trial:
            return
        self._is_trial, self._untried = False, 0
        if took_s < SHORT_S:
            self._granted, self._patience = WINDOW, FIRST_TRIAL
        else:
            self._patience = min(2 * self._patience, LAST_TRIAL)
