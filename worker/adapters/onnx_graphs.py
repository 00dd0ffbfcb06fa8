"""CUDA graphs: which models can be recorded at all, and whether a replay gives what a plain call gives.

A recorded graph runs the same kernels on the same addresses, without asking anything again. So it needs a graph
whose course does not depend on its data, and all of it on the device. ONNX Runtime refuses some of the others; the
rest would give wrong scores, so both are judged here before anything is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worker.adapters.onnx_rows import SAMPLE_ROWS, Tensors, largest_difference, sample_rows
from worker.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.adapters.onnx_device import DeviceRunner
    from worker.adapters.onnx_placement import Placement
    from worker.core.features import TensorSpec

CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan"})


def graph_obstacle(
    inputs: Sequence[TensorSpec], values: Iterable[Any], placement: Placement, operators: Mapping[str, int]
) -> str | None:
    """Why the model cannot be recorded; None where nothing speaks against it.

    ``values`` are the session's inputs and outputs, ``operators`` those of the file, subgraphs included.
    """
    if texts := [spec.name for spec in inputs if spec.dtype == "string"]:
        return f"the input '{texts[0]}' holds strings"
    if flow := sorted(CONTROL_FLOW & set(operators)):
        return f"the graph has control flow ({', '.join(flow)})"
    if left := placement.left_behind("cuda"):
        return left
    for value in values:
        if not value.shape or any(not isinstance(size, int) for size in value.shape[1:]):
            return f"the shape of '{value.name}' is open beyond the batch dimension"
    return None


def replay_difference(runner: DeviceRunner, inputs: Sequence[TensorSpec], row: Tensors) -> float | str:
    """The largest difference between replays and plain calls over all sizes, or why it cannot be told.

    ``row`` is one that the model takes. Others take turns with it, because a replay that went on reading what it was
    recorded with would be right on the rows of its recording alone: made-up rows, and NaN, which shows also in a score
    that is 0 or 1 for all that is far from real events.
    """
    worst = 0.0
    for size in runner.ladder.sizes:
        made_up = sample_rows(inputs, min(size, SAMPLE_ROWS))
        batches = [_tiled(rows, size) for rows in (made_up, _not_numbers(made_up), row)]
        try:
            expected = [runner.run_unrecorded(batch, size) for batch in batches]
            found = [runner.run(batch, size) for batch in batches]
        except ModelError as error:
            return f"the model fails on made-up rows, so a replay cannot be checked: {error}"
        except Exception as error:  # noqa: BLE001  the binding's exceptions share no base class
            return f"a replay cannot be checked: {error}"
        if not any(_differ(others, expected[-1]) for others in expected[:-1]):
            return "the model scores all made-up rows alike, so a replay cannot be checked"
        for wanted, given in zip(expected, found, strict=True):
            for plain, replayed in zip(wanted, given, strict=True):
                worst = max(worst, largest_difference(replayed, plain)[1])
    return worst


def _differ(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return not all(np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f") for pair in zip(one, other, strict=True))


def _not_numbers(rows: Tensors) -> Tensors:
    """The rows with NaN in each place that can hold it."""
    return tuple(np.full_like(tensor, np.nan) if tensor.dtype.kind == "f" else tensor for tensor in rows)


def _tiled(rows: Tensors, size: int) -> Tensors:
    return tuple(np.resize(tensor, (size, *tensor.shape[1:])) for tensor in rows)
