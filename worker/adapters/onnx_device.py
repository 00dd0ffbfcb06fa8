"""Runs a model on a device: in the sizes that are bound, recorded where wanted, and within the memory there is."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from worker.adapters.onnx_bound import BoundCall, FetchedOutput, Replay, run_options
from worker.adapters.onnx_memory import MemoryLadder, is_out_of_memory
from worker.adapters.onnx_rows import padded
from worker.errors import EngineFault, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from worker.adapters.onnx_rows import Tensors
    from worker.core.features import TensorSpec

HOST: Final = "host arrays"
BOUND: Final = "bound buffers"
GRAPH: Final = "graph replay"

log = structlog.get_logger("headrace.model")


class DeviceRunner:
    """Calls of a session on a device. Not for use by several threads at once.

    A batch is filled up to the next size with copies of its last row. The first call of a size goes with host arrays
    and shows the outputs' shapes; the second one has its buffers bound. Strings cannot be bound: a model that takes
    them always runs with host arrays.
    ``has_graphs`` tells that the session was opened with CUDA graphs; each bucket then records one.
    """

    def __init__(
        self,
        runtime: ModuleType,
        session: Any,
        provider: str,
        inputs: Sequence[TensorSpec],
        fetched: Sequence[str],
        ladder: MemoryLadder,
        *,
        has_graphs: bool = False,
    ) -> None:
        self.ladder = ladder
        self._runtime = runtime
        self._session = session
        self._provider = provider
        self._inputs = tuple(inputs)
        self._fetched = list(fetched)
        self._has_graphs = has_graphs
        self._is_bindable = can_bind(inputs)
        self._bound: dict[int, BoundCall] = {}
        # From 1 on: 0 is what ONNX Runtime takes where nothing is said.
        self._graph_ids = {size: number for number, size in enumerate(ladder.sizes, 1)} if has_graphs else {}
        self._unrecorded = run_options(runtime, -1) if has_graphs else None

    @property
    def way(self) -> str:
        """How calls of the largest size are made."""
        bound = self._bound.get(self.ladder.ceiling)
        if bound is None:
            return HOST
        return GRAPH if bound.size in self._graph_ids else BOUND

    @property
    def is_pinned(self) -> bool:
        """Whether all that is bound gathers its rows in pinned memory."""
        return bool(self._bound) and all(bound.is_pinned for bound in self._bound.values())

    def computed(self, rows: int) -> int:
        """How many rows the calls for a batch of ``rows`` compute, padding included."""
        sizes = self.ladder.sizes
        full, rest = divmod(rows, sizes[-1])
        return full * sizes[-1] + (sizes[bisect_left(sizes, rest)] if rest else 0)

    def run(self, tensors: Tensors, rows: int) -> list[np.ndarray]:
        """Every fetched output, ``[rows, ...]`` each; in parts where the batch is larger than the ceiling.

        A call that runs out of memory is no fault of its rows: it is repeated in smaller parts, and ``EngineFault``
        is raised where even the smallest find no memory. ``ModelError`` says that some row may be the culprit.
        """
        parts: list[list[np.ndarray]] = []
        done = 0
        while done < rows:
            left = rows - done
            size = self._size(left)
            count = min(left, size)
            part = tensors if count == rows else tuple(tensor[done : done + count] for tensor in tensors)
            try:
                parts.append(self._attempt(part, count, size))
            except (ModelError, EngineFault):
                raise
            except Exception as error:
                # ONNX Runtime's own exceptions share no base class below Exception.
                if not is_out_of_memory(error):
                    raise ModelError(str(error)) from error
                self.ladder.failed(size, error)
                self._forget_larger()
                continue
            self.ladder.succeeded(size)
            done += count
        return parts[0] if len(parts) == 1 else [np.concatenate(columns) for columns in zip(*parts, strict=True)]

    def run_unrecorded(self, tensors: Tensors, rows: int) -> list[np.ndarray]:
        """One call with host arrays of just these rows, whatever is bound; raises what ONNX Runtime raises."""
        feeds = {spec.name: tensor for spec, tensor in zip(self._inputs, tensors, strict=True)}
        if self._unrecorded is None:
            found: list[np.ndarray] = self._session.run(self._fetched, feeds)
        else:
            found = self._session.run(self._fetched, feeds, self._unrecorded)
        check_rows(self._fetched, found, rows)
        return found

    def bind(self, found: Sequence[np.ndarray], size: int, *, recorded: bool = True) -> BoundCall:
        """Buffers for calls of ``size`` rows whose outputs look like ``found``; with the graph of that size, if any."""
        outputs = [
            FetchedOutput(name, array.dtype, array.shape[1:]) for name, array in zip(self._fetched, found, strict=True)
        ]
        graph_id = self._graph_ids.get(size) if recorded else None
        replay = Replay(graph_id, self._graph_ids) if graph_id is not None else None
        return BoundCall(
            self._runtime,
            self._session,
            self._provider,
            self._inputs,
            outputs,
            size,
            replay=replay,
            has_graphs=self._has_graphs,
        )

    def _size(self, rows: int) -> int:
        """The size of the next call where ``rows`` are left."""
        sizes = self.ladder.sizes
        return sizes[bisect_left(sizes, rows)] if rows <= sizes[-1] else self.ladder.largest()

    def _attempt(self, tensors: Tensors, rows: int, size: int) -> list[np.ndarray]:
        bound = self._bound.get(size)
        if bound is not None:
            return bound.run(tensors, rows)
        found = self.run_unrecorded(padded(tensors, size), size)
        if self._is_bindable:
            self._bind(found, size)
        return [array[:rows] for array in found]

    def _bind(self, found: Sequence[np.ndarray], size: int) -> None:
        try:
            self._bound[size] = self.bind(found, size)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._is_bindable = False
            log.warning("buffers_not_bound", provider=self._provider, rows=size, way=HOST, error=str(error))

    def _forget_larger(self) -> None:
        """Give back the buffers of the sizes that are no more.

        Their graphs stay recorded on buffers that are gone, so their numbers are never used again: should such a
        size come back, it runs node by node.
        """
        for size in [size for size in self._bound if size not in self.ladder.sizes]:
            del self._bound[size]
            self._graph_ids.pop(size, None)


def can_bind(inputs: Sequence[TensorSpec]) -> bool:
    """Whether all inputs can be bound: strings have no memory of a fixed size."""
    return all(spec.dtype != "string" for spec in inputs)


def check_rows(names: Sequence[str], found: Sequence[np.ndarray], rows: int) -> None:
    """Raise ``ModelError`` where an output has another number of rows than the batch."""
    for name, array in zip(names, found, strict=True):
        if array.ndim == 0 or len(array) != rows:
            raise ModelError(f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows")
