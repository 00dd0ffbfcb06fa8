"""The search through the real Optuna, with figures from a formula in the place of the worker."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.tuning.studies import PLAN, figures, settings
from worker.errors import HeadraceError
from worker.tuning.plot import save_plot
from worker.tuning.report import Study
from worker.tuning.space import SIZE, Space, Value, space_around
from worker.tuning.study import compare, search
from worker.tuning.trial import Figures, Origin, Plan, Trial

FRESH = space_around(settings(), 4, fetch=True)
OWN = space_around(settings(batching={"max_batch_size": 100}), 4, fetch=True)


def measure(values: Mapping[str, Value]) -> Figures:
    """Small batches take more processor time, large ones are late; zstd fails."""
    size, delay_s = values[SIZE], values["batching.max_batch_delay_s"]
    assert isinstance(size, int)
    assert isinstance(delay_s, float)
    if values["kafka.compression"] == "zstd":
        raise HeadraceError("no zstd here\nthe log")
    return figures(30 + 2000 / size, size / 20_000 + delay_s)


@pytest.mark.parametrize("space", [FRESH, OWN], ids=["defaults", "own values"])
def test_known_candidates_come_first(space: Space) -> None:
    """The defaults are trial 0, what is configured is trial 1 if it differs, and each trial is noted as it ends."""
    noted: list[Trial] = []
    trials = search(space, PLAN, measure, noted.append)
    assert noted == trials
    assert [one.number for one in trials] == list(range(PLAN.trials))
    assert (trials[0].origin, trials[0].candidate) == (Origin.DEFAULTS, space.defaults)
    own = [one.candidate for one in trials if one.origin is Origin.CONFIGURED]
    assert own == ([OWN.configured] if space is OWN else [])


def test_seed_repeats_the_search() -> None:
    """The same seed and the same figures give the same candidates."""
    first, second = (search(FRESH, PLAN, measure, lambda _: None) for _ in range(2))
    assert [one.candidate for one in first] == [one.candidate for one in second]


def test_failures_are_recorded_and_the_limit_steers() -> None:
    """A failed trial keeps its reason; most of the later trials neither fail nor break the limit."""
    plan = Plan(PLAN.limit_s, PLAN.objective, 40, 2, 3)
    trials = search(FRESH, plan, measure, lambda _: None)
    failed = [one for one in trials if one.figures is None]
    assert {one.failure for one in failed} == {"no zstd here\nthe log"}
    assert all(one.candidate["kafka.compression"] == "zstd" for one in failed)
    assert sum(one.keeps(plan.limit_s) for one in trials[20:]) > 10


def test_failing_defaults_end_the_study() -> None:
    """Without figures of the defaults there is nothing to compare with; the failure is noted and told."""
    noted: list[Trial] = []

    def fail(_: Mapping[str, Value]) -> Figures:
        raise HeadraceError("no broker")

    with pytest.raises(HeadraceError, match=r"the defaults could not be measured.*no broker"):
        search(FRESH, PLAN, fail, noted.append)
    assert [one.failure for one in noted] == ["no broker"]


def test_rounds_alternate() -> None:
    """Every round measures the defaults and the finalists, every second one backwards; a failure stays a gap."""
    order: list[tuple[int, int]] = []
    calls = 0

    def flaky(values: Mapping[str, Value]) -> Figures:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise HeadraceError("once")
        return measure(values)

    trials = [
        Trial(0, Origin.DEFAULTS, FRESH.defaults, figures()),
        Trial(1, Origin.SEARCHED, {**FRESH.defaults, SIZE: 256}, figures(10)),
    ]
    finals = compare(FRESH, trials, PLAN, flaky, lambda number, again: order.append((number, again.number)))
    assert order == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert [one is None for one in finals[0].rounds] == [False, True, False]
    assert [one is None for one in finals[1].rounds] == [False, False, False]


def test_no_finalist_no_rounds() -> None:
    """With the defaults alone nothing is measured again."""
    trials = [Trial(0, Origin.DEFAULTS, FRESH.defaults, figures())]
    assert compare(FRESH, trials, PLAN, measure, lambda *_: None) == []


def test_plot_is_the_same_for_the_same_study(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The SVG names what it shows as text and holds no date or random name."""
    folder = tmp_path_factory.mktemp("plots")
    study = Study(FRESH, PLAN, {}, search(FRESH, PLAN, measure, lambda _: None))
    study.finals = compare(FRESH, study.trials, PLAN, measure, lambda *_: None)
    assert study.finals
    for name in ("a.svg", "b.svg"):
        save_plot(study, folder / name)
    text = (folder / "a.svg").read_text(encoding="utf-8")
    assert text == (folder / "b.svg").read_text(encoding="utf-8")
    assert "latency limit" in text
    assert "trial 0 (defaults)" in text
