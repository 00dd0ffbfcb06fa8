"""One trial, its figures, and which trials no other beats. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from worker.tuning.space import Candidate


class Objective(StrEnum):
    """What shall fall, besides the latency: processor time of draining, the same at the rate, or time of draining."""

    CPU = "cpu"
    CPU_AT_RATE = "cpu-at-rate"
    THROUGHPUT = "throughput"


class Origin(StrEnum):
    """Where a candidate comes from."""

    DEFAULTS = "defaults"
    CONFIGURED = "configured"
    SEARCHED = "searched"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked: p99 within ``limit_s``, so many ``trials``, and ``repeats`` rounds with the finalists."""

    limit_s: float
    objective: Objective
    trials: int
    repeats: int
    seed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of the worker showed.

    ``drained_per_s`` events a second of a backlog, at ``drain_cpu_us`` microseconds of processor time each; then at
    the steady rate ``rate_cpu_us`` each, and latency from the planned sending of an event to the arrival of its output.
    ``sender_p99_s`` is how late the sender was: what the latency owes to this machine and not to the worker.
    """

    drained_per_s: float
    drain_cpu_us: float
    rate_cpu_us: float
    p50_s: float
    p99_s: float
    largest_s: float
    sender_p99_s: float

    def cost(self, objective: Objective) -> float:
        """What shall fall, in microseconds per event."""
        return {
            Objective.CPU: self.drain_cpu_us,
            Objective.CPU_AT_RATE: self.rate_cpu_us,
            Objective.THROUGHPUT: 1e6 / self.drained_per_s,
        }[objective]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and its figures; without any, ``failure`` says why."""

    number: int
    origin: Origin
    candidate: Candidate
    figures: Figures | None
    failure: str = ""

    def keeps(self, limit_s: float) -> bool:
        """Whether it was measured and its p99 is within the limit."""
        return self.figures is not None and self.figures.p99_s <= limit_s

    def as_json(self) -> dict[str, Any]:
        """Everything that is known of it."""
        return {**asdict(self), "candidate": dict(self.candidate)}


def front(trials: Iterable[Trial], limit_s: float, objective: Objective) -> list[Trial]:
    """The trials within the limit that no other beats in cost and p99 at once, cheapest first.

    Of equals the first one stays.
    """
    measured = [(one.figures.cost(objective), one.figures.p99_s, one) for one in trials if one.figures is not None]
    ranked = sorted(
        ((cost, p99_s, one.number, one) for cost, p99_s, one in measured if one.keeps(limit_s)),
        key=lambda entry: entry[:3],
    )
    found: list[Trial] = []
    least_s = float("inf")
    for _, p99_s, _, one in ranked:
        if p99_s < least_s:
            found.append(one)
            least_s = p99_s
    return found


def finalists(trials: Sequence[Trial], limit_s: float, objective: Objective, count: int) -> list[Trial]:
    """Whom to measure again beside the defaults: the ``count`` cheapest of the front, and what is configured.

    No candidate twice, and the defaults never.
    """
    chosen = [one for one in front(trials, limit_s, objective) if one.origin is Origin.SEARCHED]
    chosen = [*(one for one in trials if one.origin is Origin.CONFIGURED), *chosen[:count]]
    known = [one.candidate for one in trials if one.origin is Origin.DEFAULTS]
    distinct = []
    for one in chosen:
        if one.candidate not in known:
            known.append(one.candidate)
            distinct.append(one)
    return distinct
