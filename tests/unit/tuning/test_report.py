"""What a study says: the front, the finals, and a recommendation that claims no more than was measured."""

from __future__ import annotations

import json

from tests.unit.tuning.studies import PLAN, figures, settings, trial
from worker.tuning.report import Study, lines, progress
from worker.tuning.space import SIZE, Candidate, space_around
from worker.tuning.trial import Figures, Origin, Trial
from worker.tuning.verdict import Final

SPACE = space_around(settings(), 2, fetch=False)
SMALL: Candidate = {**SPACE.defaults, SIZE: 64}


def study(defaults: Figures, small: Figures | None) -> Study:
    """The defaults and batches of 64; where those succeeded, three rounds with the same figures."""
    trials = [trial(0, defaults, SPACE.defaults, Origin.DEFAULTS), trial(1, small, SMALL)]
    finals = [Final(one, (one.figures,) * 3) for one in trials] if small else []
    return Study(SPACE, PLAN, {"rate": 2000}, trials, _repeats(trials, finals), finals)


def _repeats(trials: list[Trial], finals: list[Final]) -> list[tuple[int, Trial]]:
    return [(0, one) for one in trials] if finals else []


def test_gain_is_recommended_with_its_keys() -> None:
    """The keys to change follow the sentence that says what they gain."""
    found = study(figures(100), figures(80))
    text = "\n".join(lines(found))
    assert found.changes == {SIZE: 64}
    assert found.keeps_limit
    assert "Recommended: trial 1, a gain of 20.0% over the defaults" in text
    assert text.endswith("batching.max_batch_size: 64")
    assert "max_batch_size=64" in text


def test_noise_recommends_the_defaults() -> None:
    """Without a gain the defaults are recommended, with nothing to change."""
    found = study(figures(100), figures(101))
    text = "\n".join(lines(found))
    assert found.changes == {}
    assert "Recommended: the defaults." in text
    assert "not cheaper by more than the noise" in text


def test_broken_limit_is_said() -> None:
    """Where nobody keeps the limit, the defaults are no recommendation without that sentence."""
    found = study(figures(100, 0.2), None)
    text = "\n".join(lines(found))
    assert not found.keeps_limit
    assert "do not keep p99 within 50 ms" in text
    assert "failed: trial 1: boom" in text
    assert "log" not in text


def test_json_holds_every_measurement() -> None:
    """Failed trials, rounds, settings and verdicts are all there, and so is what they depend on."""
    found = json.loads(json.dumps(study(figures(100), figures(80)).as_json()))
    assert [one["settings"][SIZE] for one in found["trials"]] == [512, 64]
    assert (len(found["repeats"]), len(found["verdicts"])) == (2, 1)
    assert found["recommended"] == {"trial": 1, "defaults": False, "keeps_limit": True, "changes": {SIZE: 64}}
    assert (found["rate"], found["objective"], found["limit_s"]) == (2000, "cpu", 0.05)
    failed = study(figures(100), None).as_json()
    assert failed["trials"][1]["failure"] == "boom\nlog"


def test_progress_is_one_line() -> None:
    """A trial is told in one line: its figures, that it breaks the limit, or why it failed."""
    assert progress(trial(1, None), 0.05) == "trial 1 failed: boom"
    assert progress(trial(2, figures(50, 0.07)), 0.05).endswith("at the rate 50.0 us, p99 70.0 ms, over the limit")


def test_round_without_figures_is_no_row_of_the_finals() -> None:
    """A finalist that failed in every round is said to have."""
    found = study(figures(100), figures(80))
    found.finals[1] = Final(found.trials[1], (None, None, None))
    assert "trial 1 (searched): failed in every round" in "\n".join(lines(found))
