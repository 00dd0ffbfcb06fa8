"""The front as a picture, by matplotlib without its global state.

The charts of ``benchmarks/harness`` are not part of an installation, and Optuna's own plot of a front shows neither the
limit nor how far repeated measurements lie apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worker.tuning.report import Study
from worker.tuning.trial import Figures, Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (8.0, 5.0)
_COSTS = {
    Objective.CPU: "processor time per drained event, microseconds",
    Objective.CPU_AT_RATE: "processor time per event at the rate, microseconds",
    Objective.THROUGHPUT: "time per drained event, microseconds",
}


def save_plot(study: Study, path: Path) -> None:
    """Draw trials, front, limit and finals as SVG; the same study gives the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    _draw(study, axes)
    with mpl.rc_context({"svg.hashsalt": "headrace", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(study: Study, axes: Axes) -> None:
    goal, limit_s = study.plan.objective, study.plan.limit_s
    measured = [(one.figures, one.keeps(limit_s)) for one in study.trials if one.figures is not None]
    for kept, colour, label in ((True, "tab:blue", "within the limit"), (False, "tab:gray", "over the limit")):
        some = [figures for figures, keeps in measured if keeps is kept]
        axes.scatter(_costs(some, goal), _late_ms(some), color=colour, label=label, zorder=2)
    best = [one.figures for one in study.front if one.figures is not None]
    axes.step(_costs(best, goal), _late_ms(best), where="post", color="tab:blue", label="front", zorder=1)
    for final in study.finals:
        if final.measured:
            x, left, right = _spread(_costs(final.measured, goal))
            y, below, above = _spread(_late_ms(final.measured))
            label = f"trial {final.trial.number} ({final.trial.origin}), all rounds"
            across, along = [[left], [right]], [[below], [above]]
            axes.errorbar([x], [y], xerr=across, yerr=along, fmt="D", capsize=3, zorder=3, label=label)
    axes.axhline(limit_s * 1000, color="tab:red", linestyle="--", label="latency limit")
    axes.set_yscale("log")
    axes.set_xlabel(_COSTS[goal])
    axes.set_ylabel("p99 latency, milliseconds")
    axes.legend(fontsize="small")


def _costs(figures: Sequence[Figures], goal: Objective) -> list[float]:
    return [one.cost(goal) for one in figures]


def _late_ms(figures: Sequence[Figures]) -> list[float]:
    return [one.p99_s * 1000 for one in figures]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and how far the least and the largest value are from it."""
    middle = statistics.median(values)
    return middle, middle - min(values), max(values) - middle
