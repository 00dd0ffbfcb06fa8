"""What one call of a model costs, by batch size and provider: measured here, on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_rows import sample_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.adapters.bundle import Bundle

SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_WARM_CALLS: Final = 3
_LEAST_CALLS: Final = 15
_LEVEL: Final = 1.1
"""Within a tenth of the cheapest row, larger batches gain nothing worth waiting for."""

_WASTE: Final = 1.25
"""A bucket is worth having where filling up to the next larger one would cost a quarter more."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per call of ``rows`` rows: the median, and the tenth and ninetieth percentile of ``calls``.

    ``way`` is ``host arrays`` (a plain call, as the worker makes it on the CPU), ``bound buffers`` (inputs and
    outputs bound once; rows are copied in and results out) or ``graph replay`` (the same, recorded on the device).
    """

    provider: str
    way: str
    rows: int
    calls: int = 0
    median_us: float = 0.0
    p10_us: float = 0.0
    p90_us: float = 0.0

    @property
    def row_us(self) -> float:
        """Microseconds per row."""
        return self.median_us / self.rows


@dataclass(frozen=True, slots=True)
class Bench:
    """What ``bench_bundle`` saw; ``notes`` are sentences on what could not be measured, or runs elsewhere.

    ``way`` is how the worker would make its calls on this provider.
    """

    timings: tuple[Timing, ...]
    way: str
    notes: tuple[str, ...]


def bench_bundle(
    bundle: Bundle,
    provider: str,
    intra_op_threads: int = 1,
    sizes: Sequence[int] = SIZES,
    seconds: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
) -> Bench:
    """Time calls of each size on one provider, about ``seconds`` each, on random rows that the model takes.

    Raises ``EnvironmentFault`` where the provider does not work here, ``BundleError`` where the graph does not fit.
    """
    model = OnnxModel.load(bundle, (provider,), provider, intra_op_threads, sizes, cuda_graphs=True)
    if provider != "cpu":
        model.warm_up()
    rows = sample_rows(model.inputs, max(sizes))
    timings = []
    for size in sizes:
        batch = tuple(tensor[:size] for tensor in rows)
        for way, call in model.calls(batch).items():
            timings.append(_timed(call, seconds, clock, Timing(provider, way, size)))
    notes = (model.placement.left_behind(provider), model.no_graphs)
    return Bench(tuple(timings), model.way, tuple(note for note in notes if note is not None))


def _timed(call: Callable[[], object], seconds: float, clock: Callable[[], float], point: Timing) -> Timing:
    """``point`` with its figures, from at least ``seconds`` of calls."""
    for _ in range(_WARM_CALLS):
        call()
    taken: list[float] = []
    until = clock() + seconds
    while len(taken) < _LEAST_CALLS or clock() < until:
        begun = clock()
        call()
        taken.append(clock() - begun)
    p10_us, median_us, p90_us = (float(value) for value in np.percentile(taken, [10, 50, 90]) * 1e6)
    return replace(point, calls=len(taken), median_us=median_us, p10_us=p10_us, p90_us=p90_us)


def level_size(timings: Sequence[Timing]) -> int:
    """The smallest batch whose rows cost within a tenth of the cheapest; ``timings`` of one provider and way."""
    cheapest_us = min(timing.row_us for timing in timings)
    return min(timing.rows for timing in timings if timing.row_us <= cheapest_us * _LEVEL)


def recommended_buckets(timings: Sequence[Timing]) -> tuple[int, ...]:
    """Batch sizes worth a bucket of their own, ascending: the largest, and each that saves a quarter of the next."""
    kept: list[Timing] = []
    for timing in sorted(timings, key=lambda one: one.rows, reverse=True):
        if not kept or kept[-1].median_us >= timing.median_us * _WASTE:
            kept.append(timing)
    smallest = min(timings, key=lambda one: one.rows)
    sizes = {timing.rows for timing in kept} | {smallest.rows}
    return tuple(sorted(sizes))
