"""What an evaluation found, and whether it is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluate.models import Recipe
from benchmarks.evaluate.protocol import Labels, Metrics, measure
from benchmarks.evaluate.replay import Counts, Replay

COUNTED_ROWS = 58_264
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Finding:
    """One model: metrics by the worker's scores and by scikit-learn's, and how far the two are apart.

    ``worker`` is None where a counted event has no score, ``difference`` where no event has one.
    """

    recipe: Recipe
    worker: Metrics | None
    reference: Metrics
    difference: float | None
    counts: Counts
    counted: int
    refusals: tuple[str, ...]


def find(
    recipe: Recipe, replay: Replay, reference: NDArray[np.float64], labels: Labels, counted: NDArray[np.bool_]
) -> Finding:
    """Compare the worker's scores with scikit-learn's on all rows, and both with the labels on the counted ones."""
    scored = np.isfinite(replay.score)
    return Finding(
        recipe=recipe,
        worker=measure(labels.rows(counted), replay.score[counted]) if scored[counted].all() else None,
        reference=measure(labels.rows(counted), reference[counted]),
        difference=float(np.abs(replay.score - reference)[scored].max()) if scored.any() else None,
        counts=replay.counts,
        counted=int((counted & scored).sum()),
        refusals=replay.refusals,
    )


def complaints(finding: Finding) -> list[str]:
    """One sentence for each way in which the finding falls short; empty where it does not."""
    title, counts = finding.recipe.title, finding.counts
    found = []
    if counts.missing or counts.doubled:
        found.append(f"{title}: {counts.missing} missing and {counts.doubled} doubled events")
    if counts.dead_lettered:
        reasons = "; ".join(finding.refusals[:3])
        found.append(f"{title}: {counts.dead_lettered} refused events, though all are valid ({reasons})")
    if finding.counted != COUNTED_ROWS:
        found.append(f"{title}: {finding.counted} rows count by the protocol, it must be {COUNTED_ROWS}")
    if finding.difference is None or finding.difference > SCORE_TOLERANCE:
        apart = "no score came back" if finding.difference is None else f"scores differ by {finding.difference:.1e}"
        found.append(f"{title}: {apart}; {SCORE_TOLERANCE:g} is allowed between worker and scikit-learn")
    limit = finding.recipe.published_within
    if limit is not None and finding.worker is not None:
        distance = finding.worker.furthest_from(finding.recipe.published)
        if distance > limit:
            found.append(f"{title}: a metric is {distance:.4f} away from the published one; {limit:g} is allowed")
    return found
