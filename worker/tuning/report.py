"""What a study found, for people as lines and for programs as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.tuning.rewrite import assignments
from worker.tuning.space import Candidate, Space, Value
from worker.tuning.trial import Figures, Objective, Plan, Trial, front
from worker.tuning.verdict import Final, Verdict, best, judge, median_p99_s

_HEADER = ("trial", "drain us", "drain/s", "rate us", "p50 ms", "p99 ms", "what differs from the defaults")
_GOALS = {
    Objective.CPU: "processor time per drained event",
    Objective.CPU_AT_RATE: "processor time per event at the rate",
    Objective.THROUGHPUT: "time per drained event",
}


@dataclass(slots=True)
class Study:
    """Everything about a study, also while it runs. ``setup`` is what the figures depend on besides the keys."""

    space: Space
    plan: Plan
    setup: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    repeats: list[tuple[int, Trial]] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)

    @property
    def front(self) -> list[Trial]:
        """The trials within the limit that no other beats."""
        return front(self.trials, self.plan.limit_s, self.plan.objective)

    @property
    def verdicts(self) -> list[Verdict]:
        """Each finalist beside the defaults."""
        return [judge(self.finals[0], one, self.plan.limit_s, self.plan.objective) for one in self.finals[1:]]

    @property
    def chosen(self) -> Trial:
        """The recommended trial: the first, of the defaults, where none is better beyond doubt."""
        verdict = best(self.verdicts)
        return self.trials[0 if verdict is None else verdict.number]

    @property
    def keeps_limit(self) -> bool:
        """Whether the recommended candidate keeps the latency limit, in the median of what was measured of it."""
        again = next((final for final in self.finals if final.trial.number == self.chosen.number), None)
        return self.chosen.keeps(self.plan.limit_s) if again is None else median_p99_s(again) <= self.plan.limit_s

    @property
    def changes(self) -> dict[str, Value]:
        """What to change in the configuration to get the recommended values."""
        return self.space.changes(self.chosen.candidate)

    def as_json(self) -> dict[str, Any]:
        """The document: the recommendation, and every measurement with its values, figures or failure."""
        chosen = self.chosen
        return {
            "recommended": {
                "trial": chosen.number,
                "defaults": chosen.number == 0,
                "keeps_limit": self.keeps_limit,
                "changes": self.changes,
            },
            "verdicts": [one.as_json() for one in self.verdicts],
            "front": [one.number for one in self.front],
            "limit_s": self.plan.limit_s,
            "objective": self.plan.objective,
            "seed": self.plan.seed,
            **self.setup,
            "trials": [one.as_json() | {"settings": self.space.resolve(one.candidate)} for one in self.trials],
            "repeats": [{"round": number, **again.as_json()} for number, again in self.repeats],
        }


def progress(trial: Trial, limit_s: float) -> str:
    """One line about a trial that ended."""
    if trial.figures is None:
        return f"trial {trial.number} failed: {trial.failure.splitlines()[0]}"
    figures = trial.figures
    verdict = "" if trial.keeps(limit_s) else ", over the limit"
    return (
        f"trial {trial.number} ({trial.origin}): drains {figures.drained_per_s:,.0f}/s at {figures.drain_cpu_us:.1f} us"
        f" of processor time per event; at the rate {figures.rate_cpu_us:.1f} us,"
        f" p99 {figures.p99_s * 1000:.1f} ms{verdict}"
    )


def lines(study: Study) -> list[str]:
    """The result in words and tables: the front, the finals, the recommendation."""
    plan, failed = study.plan, [one for one in study.trials if one.figures is None]
    asked = f"{_GOALS[plan.objective]} against p99, within {plan.limit_s * 1000:g} ms"
    text = [f"Front: {asked}; {len(study.trials)} trials, {len(failed)} of them failed"]
    text += _table(study.space, study.front)
    text += [f"  failed: trial {one.number}: {one.failure.splitlines()[0]}" for one in failed]
    if study.finals:
        text += ["", f"Measured again in {plan.repeats} rounds, by turns; gain over the defaults of the same round"]
        text += [_final_line(study.finals[0], None)]
        text += [_final_line(one, verdict) for one, verdict in zip(study.finals[1:], study.verdicts, strict=True)]
    return [*text, "", *_recommendation(study)]


def _table(space: Space, trials: Sequence[Trial]) -> list[str]:
    rows = [
        (str(one.number), *_cells(one.figures), _difference(space, one.candidate))
        for one in trials
        if one.figures is not None
    ]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    return ["  " + "  ".join([*map(str.rjust, row[:-1], widths), row[-1]]) for row in (_HEADER, *rows)]


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.drain_cpu_us:.1f}",
        f"{figures.drained_per_s:,.0f}",
        f"{figures.rate_cpu_us:.1f}",
        f"{figures.p50_s * 1000:.1f}",
        f"{figures.p99_s * 1000:.1f}",
    )


def _difference(space: Space, candidate: Candidate) -> str:
    """The choices that are not the defaults."""
    names = [f"{key.partition('.')[2]}={value}" for key, value in candidate.items() if value != space.defaults[key]]
    return " ".join(names) or "nothing"


def _final_line(final: Final, verdict: Verdict | None) -> str:
    head = f"  trial {final.trial.number} ({final.trial.origin}): "
    if not final.measured:
        return head + "failed in every round"
    drain = sorted(figures.drain_cpu_us for figures in final.measured)
    drained = sorted(figures.drained_per_s for figures in final.measured)
    steady = sorted(figures.rate_cpu_us for figures in final.measured)
    late_ms = sorted(figures.p99_s * 1000 for figures in final.measured)
    head += f"drain {drain[0]:.1f} to {drain[-1]:.1f} us, {drained[0]:,.0f} to {drained[-1]:,.0f}/s;"
    head += f" at the rate {steady[0]:.1f} to {steady[-1]:.1f} us, p99 {late_ms[0]:.1f} to {late_ms[-1]:.1f} ms"
    if verdict is None:
        return head
    gain = f"gain {verdict.gain:+.1%} ({verdict.least:+.1%} to {verdict.most:+.1%}), noise {verdict.noise:.1%}"
    return f"{head}; {gain}: {verdict.reason}"


def _recommendation(study: Study) -> list[str]:
    chosen, limit_ms = study.chosen, study.plan.limit_s * 1000
    if chosen.number:
        gain = next(one for one in study.verdicts if one.number == chosen.number)
        text = [f"Recommended: trial {chosen.number}, a gain of {gain.gain:.1%} over the defaults: {gain.reason}."]
    else:
        text = ["Recommended: the defaults. No candidate was better by more than the noise of this machine."]
    if not study.keeps_limit:
        text.append(f"They do not keep p99 within {limit_ms:g} ms either: lower the rate, or allow more.")
    changes = assignments(study.changes)
    return [*text, *(f"  {line}" for line in changes)] if changes else [*text, "The configuration has these values."]
