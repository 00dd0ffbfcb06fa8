"""Batch invariance: a row scores the same alone, in any bucket, at any position.

It is what lets the worker group rows as the load wants, split a batch around a culprit, and repeat a decision later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.adapters.onnx_rows import SAMPLE_ROWS, SEED, largest_difference
from worker.errors import ModelError

if TYPE_CHECKING:
    from worker.adapters.onnx_model import OnnxModel
    from worker.adapters.onnx_rows import Tensors


@dataclass(frozen=True, slots=True)
class Invariance:
    """What the check saw: the largest difference and where, over ``rows`` rows that the model takes.

    ``refused`` counts rows on which the model raised even alone; they tell nothing about the batch.
    """

    difference: float
    where: str
    rows: int
    refused: int


def check_invariance(model: OnnxModel, rows: Tensors) -> Invariance:
    """Score up to 16 of ``rows`` alone, then in every bucket, forwards, backwards and shuffled, and compare.

    Differences are relative to the lone row's value where that is above one, as in ``largest_difference``. Raises
    ``ModelError`` where the model takes each row alone, but not together.
    """
    alone: list[dict[str, np.ndarray]] = []
    kept: list[int] = []
    count = min(len(rows[0]), SAMPLE_ROWS)
    for row in range(count):
        try:
            alone.append(model.run(tuple(tensor[row : row + 1] for tensor in rows)))
        except ModelError:
            continue
        kept.append(row)
    if not kept:
        return Invariance(0.0, "", 0, count)
    usable = tuple(tensor[kept] for tensor in rows)
    reference = {name: np.concatenate([scores[name] for scores in alone]) for name in alone[0]}
    worst, where = 0.0, ""
    for bucket in model.buckets:
        for order in _orders(bucket, len(kept)):
            found = model.run(tuple(tensor[order] for tensor in usable))
            for name, values in found.items():
                at, difference = largest_difference(values, reference[name][order])
                if difference > worst:
                    worst, where = (
                        difference,
                        f"{name} of row {kept[order[at]]} at position {at} in a batch of {bucket}",
                    )
    return Invariance(worst, where, len(kept), count - len(kept))


def _orders(bucket: int, rows: int) -> list[np.ndarray]:
    """Which row stands where in a batch of ``bucket``: each row at many positions, with changing neighbours."""
    if bucket == 1:
        return [np.array([row]) for row in range(rows)]
    forwards = np.arange(bucket) % rows
    return [forwards, forwards[::-1], np.random.default_rng(SEED).integers(0, rows, bucket)]
