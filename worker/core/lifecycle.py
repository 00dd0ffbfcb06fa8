"""The states of a worker as a table; readiness is derived from the state, never set beside it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a worker stands in its life."""

    LOADING = "loading"
    CONNECTING = "connecting"
    JOINING = "joining"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.LOADING: frozenset({State.CONNECTING, State.STOPPED}),
    State.CONNECTING: frozenset({State.JOINING, State.STOPPED}),
    State.JOINING: frozenset({State.RUNNING, State.DRAINING, State.STOPPED}),
    State.RUNNING: frozenset({State.DRAINING, State.STOPPED}),
    State.DRAINING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}

STARTED = frozenset({State.CONNECTING, State.JOINING, State.RUNNING, State.DRAINING})
"""States in which the model is loaded, checked and warm."""


class Lifecycle:
    """The current state; only the table's steps are possible."""

    def __init__(self) -> None:
        self.state = State.LOADING

    def move(self, state: State) -> None:
        """Step to ``state``; ValueError where the table has no such step, and nothing changes."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a worker cannot go from {self.state} to {state}")
        self.state = state

    @property
    def started(self) -> bool:
        """Whether the model is loaded, checked and warm."""
        return self.state in STARTED
