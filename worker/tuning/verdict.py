"""Whether a candidate is better than the defaults by more than the machine's noise. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.tuning.trial import Figures, Objective, Trial

_PRICES = {
    Objective.CPU: "takes more processor time per drained event",
    Objective.CPU_AT_RATE: "takes more processor time at the rate",
    Objective.THROUGHPUT: "drains more slowly",
}


@dataclass(frozen=True, slots=True)
class Final:
    """A candidate measured again, once in each round; None where the run failed."""

    trial: Trial
    rounds: tuple[Figures | None, ...]

    @property
    def measured(self) -> tuple[Figures, ...]:
        """The rounds that succeeded."""
        return tuple(one for one in self.rounds if one is not None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a candidate gained over the defaults of the same round, as shares of the defaults' cost.

    ``gain`` is the median of the rounds, between ``least`` and ``most``; ``noise`` is the distance between the
    cheapest and the dearest round of the defaults themselves. ``reason`` is a sentence.
    """

    number: int
    gain: float
    least: float
    most: float
    noise: float
    is_better: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def judge(defaults: Final, one: Final, limit_s: float, objective: Objective) -> Verdict:
    """Compare round by round; a candidate is better only where nothing speaks against it.

    Better means: no round failed, p99 within the limit in every round, and either the defaults break the limit, or
    the candidate is cheaper in every round and in the median by more than the noise. It must not pay for that in
    another cost by more than the noise of that one.
    """
    gains = _gains(defaults, one, objective)
    if not gains:
        return Verdict(one.trial.number, 0.0, 0.0, 0.0, 0.0, False, "no round in which both could be measured")
    gain, noise = statistics.median(gains), _noise(defaults, objective)
    is_better, reason = _reason(defaults, one, limit_s, objective)
    return Verdict(one.trial.number, gain, min(gains), max(gains), noise, is_better, reason)


def best(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The better one with the largest gain; None where the defaults are to be kept."""
    return max((one for one in verdicts if one.is_better), key=lambda one: one.gain, default=None)


def median_p99_s(final: Final) -> float:
    """The median p99 of the rounds that succeeded; infinite without any."""
    return statistics.median(figures.p99_s for figures in final.measured) if final.measured else float("inf")


def _reason(defaults: Final, one: Final, limit_s: float, objective: Objective) -> tuple[bool, str]:
    """Whether it is better, and why or why not."""
    failed = len(one.rounds) - len(one.measured)
    broken = sum(figures.p99_s > limit_s for figures in one.measured)
    if failed:
        return False, f"failed in {failed} of {len(one.rounds)} rounds"
    if broken:
        return False, f"breaks the latency limit in {broken} of {len(one.rounds)} rounds"
    if median_p99_s(defaults) > limit_s:
        return True, "keeps the latency limit, which the defaults break"
    gains, noise = _gains(defaults, one, objective), _noise(defaults, objective)
    if min(gains) <= 0 or statistics.median(gains) <= noise:
        return False, "not cheaper by more than the noise"
    for other, words in _PRICES.items():
        loss = -statistics.median(_gains(defaults, one, other))
        if loss > _noise(defaults, other):
            return False, f"{words}, by {loss:.1%}"
    return True, "cheaper in every round, by more than the noise"


def _gains(defaults: Final, one: Final, objective: Objective) -> list[float]:
    """The share of the defaults' cost that it saves, for each round in which both succeeded."""
    return [
        1 - mine.cost(objective) / theirs.cost(objective)
        for theirs, mine in zip(defaults.rounds, one.rounds, strict=True)
        if theirs is not None and mine is not None
    ]


def _noise(defaults: Final, objective: Objective) -> float:
    """The distance between the defaults' own rounds, as a share of their median cost; without two rounds infinite."""
    costs = [figures.cost(objective) for figures in defaults.measured]
    return (max(costs) - min(costs)) / statistics.median(costs) if len(costs) > 1 else float("inf")
