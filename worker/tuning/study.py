"""The search, by Optuna, and the repeated measurement of whom it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from worker.errors import HeadraceError
from worker.tuning.space import Candidate, Parameter, Space, Value
from worker.tuning.trial import Figures, Origin, Plan, Trial, finalists
from worker.tuning.verdict import Final

if TYPE_CHECKING:
    import optuna

FINALISTS = 3
# More than any latency that was measured.
_FAILED = 1e9


class Measure(Protocol):
    """Runs the worker with the values of some keys; raises HeadraceError where that fails."""

    def __call__(self, values: Mapping[str, Value], /) -> Figures:
        """The figures of one run."""


def search(space: Space, plan: Plan, measure: Measure, note: Callable[[Trial], None]) -> list[Trial]:
    """Measure ``plan.trials`` candidates; the defaults are the first, and what is configured the second if it differs.

    ``note`` is called with each trial as it ends, also with those that failed. Raises HeadraceError where the
    defaults fail, for then there is nothing to compare with.
    """
    study, trials = _study(space, plan), list[Trial]()
    while len(trials) < plan.trials:
        asked = study.ask()
        candidate = {one.key: _suggest(asked, one) for one in space.parameters}
        trial = _measured(space, candidate, measure, len(trials), _origin(space, candidate, len(trials)))
        _tell(study, asked, trial, plan, trials)
        trials.append(trial)
        note(trial)
        if trial.number == 0 and trial.figures is None:
            raise HeadraceError(f"the defaults could not be measured, so there is nothing to compare: {trial.failure}")
    return trials


def compare(
    space: Space, trials: Sequence[Trial], plan: Plan, measure: Measure, note: Callable[[int, Trial], None]
) -> list[Final]:
    """Measure the defaults and the finalists in ``plan.repeats`` rounds, by turns; the defaults are the first.

    Every second round goes backwards, so that a machine that slowly gets warmer or busier favours nobody. Empty
    where there is no finalist. ``note`` is called with each round's number and figures.
    """
    chosen = finalists(trials, plan.limit_s, plan.objective, FINALISTS)
    if not chosen:
        return []
    entries = [trials[0], *chosen]
    measured: dict[int, list[Trial]] = {one.number: [] for one in entries}
    for number in range(plan.repeats):
        for one in entries if number % 2 == 0 else reversed(entries):
            again = _measured(space, one.candidate, measure, one.number, one.origin)
            measured[one.number].append(again)
            note(number, again)
    return [Final(one, tuple(again.figures for again in measured[one.number])) for one in entries]


def _study(space: Space, plan: Plan) -> optuna.Study:
    """A study of cost and p99 that begins with the known candidates."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Not NSGA-II: it needs generations, and a trial takes a third of a minute.
    sampler = optuna.samplers.TPESampler(seed=plan.seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.enqueue_trial(_positions(space, space.defaults))
    if space.configured != space.defaults:
        study.enqueue_trial(_positions(space, space.configured))
    return study


def _positions(space: Space, candidate: Candidate) -> dict[str, int]:
    return {one.key: one.choices.index(candidate[one.key]) for one in space.parameters}


def _suggest(asked: optuna.Trial, one: Parameter) -> int | float | str:
    """The sampler's choice. It chooses a position, and knows neighbours as such where the choices are ordered."""
    if one.ordered:
        return one.choices[asked.suggest_int(one.key, 0, len(one.choices) - 1)]
    return one.choices[asked.suggest_categorical(one.key, tuple(range(len(one.choices))))]


def _origin(space: Space, candidate: Candidate, number: int) -> Origin:
    if number == 0:
        return Origin.DEFAULTS
    return Origin.CONFIGURED if number == 1 and candidate == space.configured != space.defaults else Origin.SEARCHED


def _measured(space: Space, candidate: Candidate, measure: Measure, number: int, origin: Origin) -> Trial:
    try:
        return Trial(number, origin, candidate, measure(space.resolve(candidate)))
    except HeadraceError as error:
        return Trial(number, origin, candidate, None, str(error))


def _tell(study: optuna.Study, asked: optuna.Trial, trial: Trial, plan: Plan, before: Sequence[Trial]) -> None:
    """Tell the sampler what came of its choice.

    A failed trial is told as the worst of the measured ones, beyond all limits: the sampler overlooks what it is told
    to have failed, and would choose the same again and again.
    """
    measured = [one.figures for one in (*before, trial) if one.figures is not None]
    if not measured:
        return
    told = [trial.figures] if trial.figures is not None else measured
    # Relative to the limit, as the sampler compares by how much constraints are broken.
    over = trial.figures.p99_s / plan.limit_s - 1 if trial.figures is not None else _FAILED
    asked.set_constraint("p99", over)
    study.tell(asked, [max(one.cost(plan.objective) for one in told), max(one.p99_s for one in told)])
