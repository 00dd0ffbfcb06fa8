"""The table of states: every step in it works, every other is an error that changes nothing."""

from __future__ import annotations

from itertools import product

import pytest

from worker.core.lifecycle import STARTED, TRANSITIONS, Lifecycle, State

STEPS = {
    ("loading", "connecting"),
    ("loading", "stopped"),
    ("connecting", "joining"),
    ("connecting", "stopped"),
    ("joining", "running"),
    ("joining", "draining"),
    ("joining", "stopped"),
    ("running", "draining"),
    ("running", "stopped"),
    ("draining", "stopped"),
}


def _at(state: State) -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.state = state
    return lifecycle


def test_a_worker_begins_by_loading() -> None:
    """The first state is loading."""
    assert Lifecycle().state is State.LOADING


def test_the_table_covers_every_state() -> None:
    """The table has a row per state and no step but those a worker takes."""
    assert set(TRANSITIONS) == set(State)
    assert {(str(old), str(new)) for old, news in TRANSITIONS.items() for new in news} == STEPS


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_only_the_tables_steps_are_possible(old: State, new: State) -> None:
    """A step of the table is taken; any other raises and leaves the state as it was."""
    lifecycle = _at(old)
    if (str(old), str(new)) in STEPS:
        lifecycle.move(new)
        assert lifecycle.state is new
    else:
        with pytest.raises(ValueError, match=f"^a worker cannot go from {old} to {new}$"):
            lifecycle.move(new)
        assert lifecycle.state is old


def test_started_means_that_the_model_is_ready() -> None:
    """From connecting until it stops, a worker counts as started."""
    assert [str(state) for state in State if _at(state).started] == ["connecting", "joining", "running", "draining"]
    assert State.LOADING not in STARTED
