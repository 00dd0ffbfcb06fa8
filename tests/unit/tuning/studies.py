"""Settings, figures and trials for the tests of tuning."""

from __future__ import annotations

from typing import Any

from worker.settings import Settings
from worker.tuning.space import Candidate
from worker.tuning.trial import Figures, Objective, Origin, Plan, Trial
from worker.tuning.verdict import Final

LIMIT_S = 0.05
PLAN = Plan(LIMIT_S, Objective.CPU, 6, 3, 7)


def settings(**sections: dict[str, Any]) -> Settings:
    """Settings with what is required, and the given keys of sections."""
    base: dict[str, dict[str, Any]] = {
        "kafka": {"group_id": "g", "input_topics": ["in"], "output_topic": "out"},
        "event": {"schema": "/event.json", "id_field": "id"},
        "model": {"path": "/bundle"},
    }
    for name, keys in sections.items():
        base[name] = base.get(name, {}) | keys
    return Settings.model_validate(base)


def figures(
    cpu_us: float = 15.0, p99_s: float = 0.01, drained_per_s: float = 50_000.0, rate_cpu_us: float = 50.0
) -> Figures:
    """Figures with these costs; ``cpu_us`` is that of draining."""
    return Figures(drained_per_s, cpu_us, rate_cpu_us, p99_s / 2, p99_s, p99_s * 2, 0.001)


def trial(
    number: int, found: Figures | None, candidate: Candidate | None = None, origin: Origin = Origin.SEARCHED
) -> Trial:
    """A trial whose candidate is its own unless given."""
    return Trial(number, origin, candidate or {"batching.max_batch_size": number}, found, "" if found else "boom\nlog")


def final(*rounds: Figures | None, number: int = 1) -> Final:
    """A finalist with these rounds."""
    return Final(trial(number, figures()), rounds)
