"""One bad row costs one row: split a failed model call until the culprits are alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from worker.core.records import Refusal
from worker.errors import ModelError

Tensors = tuple[np.ndarray, ...]
Outputs = dict[str, np.ndarray]


def run_isolating(run: Callable[[Tensors], Outputs], tensors: Tensors) -> tuple[Outputs, dict[int, Refusal]]:
    """Run the model; on ``ModelError`` bisect, so that every row that can be scored is.

    Returns the outputs with one row per input row (rows of culprits are zero) and the culprits' refusals by row.
    Costs at most two calls a row more than the healthy one. Outputs are empty when every row is a culprit.
    """
    rows = len(tensors[0])
    done: list[tuple[int, Outputs]] = []
    refusals: dict[int, Refusal] = {}
    todo = [(0, rows)]
    while todo:
        start, stop = todo.pop()
        try:
            outputs = run(tensors if stop - start == rows else tuple(tensor[start:stop] for tensor in tensors))
        except ModelError as error:
            if stop - start == 1:
                refusals[start] = Refusal("infer", "model_error", str(error))
            else:
                middle = (start + stop) // 2
                todo += [(middle, stop), (start, middle)]
        else:
            done.append((start, outputs))
    if len(done) == 1 and not refusals:
        return done[0][1], refusals
    return _joined(done, rows), refusals


def _joined(parts: list[tuple[int, Outputs]], rows: int) -> Outputs:
    """Put the outputs of the parts at their rows."""
    whole: Outputs = {}
    for start, outputs in parts:
        for name, values in outputs.items():
            if name not in whole:
                whole[name] = np.zeros((rows, *values.shape[1:]), dtype=values.dtype)
            whole[name][start : start + len(values)] = values
    return whole


def not_finite(outputs: Outputs) -> dict[int, Refusal]:
    """Refusals of the rows in which any floating-point output is NaN or infinite."""
    refusals: dict[int, Refusal] = {}
    for name, values in outputs.items():
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(values)
        if finite.all():
            continue
        bad = ~finite if values.ndim == 1 else ~finite.reshape(len(values), -1).all(axis=1)
        for row in np.flatnonzero(bad).tolist():
            refusals.setdefault(
                row, Refusal("infer", "output_not_finite", f"the model's output {name!r} is NaN or infinite")
            )
    return refusals
