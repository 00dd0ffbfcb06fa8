"""A call of one size whose inputs and outputs are bound once: rows are copied in, results copied out.

There is one set of buffers per size, not two. One engine thread runs one call at a time and waits for it, so a second
set could not be filled while the first is in use: the copy to the device would have to run on another thread or
stream, and what it could hide is the copy of a few hundred rows. The batch behind the running one waits as tensors of
its own, which is all the prefetching that this thread can use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from worker.adapters.onnx_placement import PROVIDERS
from worker.errors import EngineFault, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from worker.adapters.onnx_rows import Tensors
    from worker.core.features import TensorSpec

log = structlog.get_logger("headrace.model")


@dataclass(frozen=True, slots=True)
class FetchedOutput:
    """An output of the graph as a call gave it: ``shape`` is that of one row."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """The recorded graph that serves calls of one size, by ONNX Runtime's number for it.

    ``ids`` is the model's one map from size to number. ONNX Runtime itself does not check that a recorded graph fits
    what is bound, and would give wrong scores.
    """

    graph_id: int
    ids: Mapping[int, int]


class BoundCall:
    """Calls with ``size`` rows. Not for use by several threads at once.

    ``replay`` names the CUDA graph to record at the first call and to replay from then on; None runs node by node.
    ``has_graphs`` tells that the session records graphs unless a call says otherwise. ``is_pinned`` tells whether the
    rows are gathered in host memory that the device reads directly.
    """

    def __init__(
        self,
        runtime: ModuleType,
        session: Any,
        provider: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[FetchedOutput],
        size: int,
        *,
        replay: Replay | None = None,
        has_graphs: bool = False,
    ) -> None:
        self.size = size
        self._session = session
        self._provider = provider
        self._replay = replay
        self._options = run_options(runtime, replay.graph_id if replay else -1) if has_graphs else None
        pinned = [pinned_value(runtime, provider, (size, *spec.shape), np.dtype(spec.dtype)) for spec in inputs]
        self.is_pinned = all(value is not None for value in pinned)
        # Kept, because the arrays below are views of them.
        self._pinned = pinned
        self._rows = [
            np.zeros((size, *spec.shape), spec.dtype) if value is None else value.numpy()
            for spec, value in zip(inputs, pinned, strict=True)
        ]
        make = runtime.OrtValue
        # On the CPU the value is the array itself, on a device a copy of it.
        self._inputs = [make.ortvalue_from_numpy(rows, provider, 0) for rows in self._rows]
        self._outputs = [
            make.ortvalue_from_shape_and_type((size, *one.shape), one.dtype.type, provider, 0) for one in outputs
        ]
        self._shapes = [(size, *spec.shape) for spec in inputs] + [(size, *one.shape) for one in outputs]
        self._binding = session.io_binding()
        for spec, value in zip(inputs, self._inputs, strict=True):
            self._binding.bind_ortvalue_input(spec.name, value)
        for one, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(one.name, value)

    def run(self, tensors: Tensors, rows: int) -> list[np.ndarray]:
        """Every output's first ``rows`` rows, in arrays of their own; the last row stands for those that lack.

        Raises what ONNX Runtime raises, and ``EngineFault`` where a recorded graph does not fit.
        """
        for gathered, tensor in zip(self._rows, tensors, strict=True):
            gathered[:rows] = tensor
            if rows < self.size:
                gathered[rows:] = tensor[-1]
        if self._provider != "cpu":
            for value, gathered in zip(self._inputs, self._rows, strict=True):
                value.update_inplace(gathered)
        if self._replay is not None:
            self._check(self._replay)
        self._session.run_with_iobinding(self._binding, self._options)
        if self._provider == "cpu":
            # A view of the bound memory, which the next call overwrites while this result is still being encoded.
            return [value.numpy()[:rows].copy() for value in self._outputs]
        return [value.numpy()[:rows] for value in self._outputs]

    def _check(self, replay: Replay) -> None:
        shapes = [tuple(value.shape()) for value in (*self._inputs, *self._outputs)]
        if replay.ids.get(self.size) == replay.graph_id and shapes == self._shapes:
            return
        message = (
            f"the CUDA graph {replay.graph_id} was recorded for {self._shapes}, but {shapes} is bound for batches of "
            f"{self.size}: its scores would be wrong"
        )
        raise EngineFault(
            Problem(message, "Set model.gpu_calls to bound_buffers, and report this.", code="graph_guard")
        )


def run_options(runtime: ModuleType, graph_id: int) -> Any:
    """Options of a call that records or replays the graph of that number; -1 does neither."""
    options = runtime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def pinned_value(runtime: ModuleType, provider: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Host memory that the provider's device reads directly; None where this ONNX Runtime offers none.

    Builds differ in whether their CUDA provider lists its devices and its host memory.
    """
    if provider == "cpu":
        return None
    try:
        for device in runtime.get_ep_devices():
            memory = device.memory_info(runtime.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            if device.ep_name == PROVIDERS[provider] and memory is not None:
                value = runtime.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, memory_info=memory)
                return value if value.numpy().ctypes.data == value.data_ptr() else None
    except Exception as error:  # noqa: BLE001  the binding's exceptions share no base class
        # Ordinary memory does as well, only slower.
        log.info("no_pinned_memory", provider=provider, error=str(error))
    return None
