"""Where calls run: by what they are expected to take, and by trials of those that the thread may make long."""

from __future__ import annotations

import pytest

from worker.core.costs import WINDOW, CostModel
from worker.core.place import FIRST_TRIAL, LAST_TRIAL, SHORT_S, TRIED_S, Place

SEEMING_S = SHORT_S * 2
ROWS = 64


def _until_trial(place: Place, took_s: float) -> int:
    """How many calls go to the thread before one is tried on the loop, which takes so long."""
    calls = 0
    while not place.is_loop(SEEMING_S):
        calls += 1
    place.took(took_s)
    return calls


def test_short_calls_run_on_the_loop_and_long_ones_never() -> None:
    """However often they come, and whatever the short ones took in the end."""
    place = Place()
    for _ in range(2 * FIRST_TRIAL):
        assert place.is_loop(SHORT_S * 0.99)
        place.took(TRIED_S)
        assert not place.is_loop(TRIED_S)


def test_a_short_trial_gives_the_loop_as_many_calls_as_the_cost_model_keeps() -> None:
    """So that it forgets what the thread's calls took; where they still seem long then, it begins anew."""
    place = Place()
    for _ in range(2):
        assert _until_trial(place, SHORT_S / 2) == FIRST_TRIAL - 1
        for _ in range(WINDOW):
            assert place.is_loop(SEEMING_S)
            place.took(SEEMING_S)


def test_a_trial_that_is_not_short_makes_the_next_one_rarer() -> None:
    """Twice as rare each time, up to a bound; a short one makes them frequent again."""
    place = Place()
    waits = [_until_trial(place, SHORT_S) + 1 for _ in range(12)]
    assert waits[:4] == [FIRST_TRIAL * 2**doublings for doublings in range(4)]
    assert waits[-1] == LAST_TRIAL
    _until_trial(place, SHORT_S / 2)
    assert [place.is_loop(SEEMING_S) for _ in range(WINDOW)] == [True] * WINDOW
    assert _until_trial(place, SHORT_S) == FIRST_TRIAL - 1


@pytest.mark.parametrize(
    ("loop_s", "thread_s", "ends_on_loop"),
    [
        (SHORT_S * 0.5, SHORT_S * 3, True),
        (SHORT_S * 0.5, SHORT_S * 0.9, True),
        (SHORT_S * 1.2, SHORT_S * 3, False),
        (SHORT_S * 9, SHORT_S * 9, False),
    ],
)
def test_calls_end_where_they_belong(loop_s: float, thread_s: float, ends_on_loop: bool) -> None:
    """Whatever the thread's calls take: what counts is what they take on the loop."""
    place, costs = Place(), CostModel((ROWS,))
    places: list[bool] = []
    for _ in range(2000):
        expected_s = costs.expected_s(ROWS)
        on_loop = expected_s is not None and place.is_loop(expected_s)
        took_s = loop_s if on_loop else thread_s
        if on_loop:
            place.took(took_s)
        costs.observe(ROWS, took_s)
        places.append(on_loop)
    late = places[1000:]
    assert sum(late) == (len(late) if ends_on_loop else pytest.approx(0, abs=2))
