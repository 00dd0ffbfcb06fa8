"""What becomes of a batch that the device has no memory for: smaller sizes, remembered, tried again much later."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from worker.errors import EngineFault, Problem

log = structlog.get_logger("headrace.model")

# Parts of the messages with which ONNX Runtime reports that memory ran out, and where they come from.
OUT_OF_MEMORY: Final = (
    "Failed to allocate memory for requested buffer",  # the arena, when the device gives it no more
    "Available memory of ",  # the arena, at its own limit (gpu_mem_limit): "... is smaller than requested bytes of"
    "CUDA failure 2: ",  # cudaErrorMemoryAllocation, from any call of the CUDA runtime
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",  # up to cuDNN 8
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # from cuDNN 9 on
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "bad_alloc",  # host memory
)
COOL_DOWN_S: Final = 600.0
"""Long enough that failing again costs nothing to speak of: one call in ten minutes."""

_PATIENCE: Final = 2
"""A neighbour on the device may take the last of its memory for a moment, so the smallest size gets a second try."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of ONNX Runtime says that memory, and not the data, is at fault."""
    text = str(error)
    return isinstance(error, MemoryError) or any(part in text for part in OUT_OF_MEMORY)


class MemoryLadder:
    """The sizes that a call may have: ``buckets`` up to the ceiling, which falls where memory runs out.

    A call of ``size`` rows that ran out of memory makes half of it the ceiling, for the rest of the process.
    After ``cool_down_s`` without such a failure one larger call is tried; where it succeeds the ceiling rises to it,
    one step per cool-down. ``changed`` is called with each new ceiling, on the thread that runs the model.
    """

    def __init__(
        self, buckets: Sequence[int], clock: Callable[[], float] = time.monotonic, cool_down_s: float = COOL_DOWN_S
    ) -> None:
        self._buckets = tuple(buckets)
        self._clock = clock
        self._cool_down_s = cool_down_s
        self._retry_at = 0.0
        self._failures = 0
        self.sizes = self._buckets
        self.changed: Callable[[int], None] = _nobody

    @property
    def ceiling(self) -> int:
        """The largest size, in rows."""
        return self.sizes[-1]

    def largest(self) -> int:
        """The size that a call may have now: the ceiling, or the next step above it when that is due."""
        if self.ceiling == self._buckets[-1] or self._clock() < self._retry_at:
            return self.ceiling
        return min(self.ceiling * 2, self._buckets[-1])

    def failed(self, size: int, error: BaseException) -> None:
        """A call of ``size`` rows ran out of memory.

        Raises ``EngineFault`` at the second time in a row that this happens to the smallest bucket.
        """
        self._failures += 1
        self._retry_at = self._clock() + self._cool_down_s
        smallest = self._buckets[0]
        if size > smallest:
            self._failures = 0
            self._move(min(self.ceiling, max(size // 2, smallest)), size, str(error))
        elif self._failures >= _PATIENCE:
            message = f"the device has no memory even for a batch of {size}: {error}"
            remedy = "Free memory on the device, give the worker another one, or use a smaller model."
            raise EngineFault(Problem(message, remedy, code="out_of_memory")) from error
        else:
            log.warning("out_of_memory", rows=size, ceiling=self.ceiling, effect="tried once more", error=str(error))

    def succeeded(self, size: int) -> None:
        """A call of ``size`` rows returned."""
        self._failures = 0
        if size > self.ceiling:
            self._retry_at = self._clock() + self._cool_down_s
            self._move(size, size, "")

    def _move(self, ceiling: int, size: int, error: str) -> None:
        before = self.ceiling
        self.sizes = (*(bucket for bucket in self._buckets if bucket < ceiling), ceiling)
        if error:
            effect = "larger batches run in parts" if ceiling < before else "the ceiling stays"
            log.warning("out_of_memory", rows=size, ceiling=ceiling, effect=effect, error=error)
        else:
            log.info("memory_ceiling_raised", ceiling=ceiling)
        if ceiling != before:
            self.changed(ceiling)


def _nobody(_ceiling: int) -> None:
    """Nobody wants to know yet."""
