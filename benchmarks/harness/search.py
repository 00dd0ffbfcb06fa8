"""Finding the highest rate that holds, with few trials."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.results import Trial

START, UP, DOWN = 0.75, 1.12, 0.85
TRIALS = 5


def highest_held(drained_per_s: float, why_not: Callable[[float], str]) -> tuple[float, list[Trial]]:
    """The highest rate for which ``why_not`` returned nothing, and every trial; 0 where none held.

    Starts at three quarters of the drain's rate, then goes up while rates hold, or down until one does.
    """
    rate, held, trials = drained_per_s * START, 0.0, list[Trial]()
    while len(trials) < TRIALS:
        why = why_not(rate)
        trials.append(Trial(rate, not why, why))
        if not why:
            held = rate
            if not all(trial.held for trial in trials):
                break
            rate *= UP
        elif held:
            break
        else:
            rate *= DOWN
    return held, trials


def nearest_size(sizes: tuple[int, ...], events_per_s: float, seconds: float) -> int:
    """The backlog whose drain takes closest to ``seconds``, as a ratio."""
    wanted = events_per_s * seconds
    return min(sizes, key=lambda size: max(size / wanted, wanted / size))
