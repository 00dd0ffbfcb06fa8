"""The front holds what no other trial beats within the limit, and the finalists come from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tuning.studies import LIMIT_S, figures, trial
from worker.tuning.trial import Figures, Objective, Origin, Trial, finalists, front

MEASURED = st.builds(figures, st.integers(1, 6).map(float), st.integers(1, 8).map(lambda tens: tens / 100))


@given(st.lists(st.none() | MEASURED, max_size=12))
def test_front_is_what_nobody_beats(found: list[Figures | None]) -> None:
    """A trial is in the front, or one within the limit is as good in both ways; members do not beat each other."""
    trials = [trial(number, one) for number, one in enumerate(found)]
    points = [_point(one) for one in front(trials, LIMIT_S, Objective.CPU)]
    assert points == sorted(set(points))
    assert [late for _, late in points] == sorted((late for _, late in points), reverse=True)
    for one in trials:
        if one.figures is not None and one.figures.p99_s <= LIMIT_S:
            cost, late = _point(one)
            assert any(other[0] <= cost and other[1] <= late for other in points)
    assert all(late <= LIMIT_S for _, late in points)


def test_objective_decides_the_cost() -> None:
    """By throughput the faster drain is the cheaper one, whatever processor time it takes."""
    slow, fast = figures(cpu_us=10, drained_per_s=10_000), figures(cpu_us=90, drained_per_s=40_000)
    trials = [trial(0, slow), trial(1, fast)]
    assert [one.number for one in front(trials, LIMIT_S, Objective.CPU)] == [0]
    assert [one.number for one in front(trials, LIMIT_S, Objective.THROUGHPUT)] == [1]
    assert [fast.cost(one) for one in Objective] == [90, 50, 25]


def test_finalists_are_the_cheapest_and_what_is_configured() -> None:
    """No candidate twice and not the defaults; what is configured takes part even if it breaks the limit."""
    trials = [
        trial(0, figures(50, 0.04), {"a": 0}, Origin.DEFAULTS),
        trial(1, figures(60, 0.09), {"a": 1}, Origin.CONFIGURED),
        trial(2, figures(40, 0.04), {"a": 2}),
        trial(3, figures(45, 0.02), {"a": 0}),
        trial(4, figures(48, 0.015), {"a": 4}),
        trial(5, figures(49, 0.010), {"a": 5}),
        trial(6, None, {"a": 6}),
    ]
    assert [one.number for one in finalists(trials, LIMIT_S, Objective.CPU, 3)] == [1, 2, 4]


def test_json_of_a_failed_trial_keeps_its_reason() -> None:
    """A failed trial is told like any other, with the reason in the place of figures."""
    told = trial(3, None, {"a": 1}).as_json()
    assert told == {"number": 3, "origin": "searched", "candidate": {"a": 1}, "figures": None, "failure": "boom\nlog"}


def _point(one: Trial) -> tuple[float, float]:
    assert one.figures is not None
    return one.figures.drain_cpu_us, one.figures.p99_s
