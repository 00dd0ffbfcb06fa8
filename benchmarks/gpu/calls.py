"""One batch at a time: ONNX Runtime as a short script would use it, beside the worker's engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from worker.adapters.bundle import load_bundle
from worker.adapters.engine import Engine
from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_placement import PROVIDERS
from worker.adapters.onnx_rows import Tensors, sample_rows
from worker.adapters.onnx_session import import_runtime
from worker.core.batching import Batch, FlushReason
from worker.core.records import Block, Decoded, Slice
from worker.testing import make_span

WARM_CALLS = 5
LEAST_CALLS = 15
PURE = "ONNX Runtime alone"


class Call(msgspec.Struct, frozen=True):
    """Microseconds per batch of ``rows`` rows, by the caller: the median and the 90th percentile of ``calls``."""

    model: str
    caller: str
    rows: int
    calls: int
    median_us: float
    p90_us: float


class Calls(msgspec.Struct, frozen=True):
    """The calls of one model; ``notes`` say what runs elsewhere, or could not be recorded."""

    timings: list[Call]
    notes: list[str]


def measure(model: str, folder: Path, provider: str, sizes: Sequence[int], seconds: float) -> Calls:
    """Time batches of each size, about ``seconds`` for each way.

    Raises ``EnvironmentFault`` where the provider does not work here.
    """
    bundle = load_bundle(folder)
    notes: list[str] = []
    engines: dict[str, Engine] = {}
    inputs = bundle.inputs
    for has_graphs in (False, True) if provider == "cuda" else (False,):
        loaded = OnnxModel.load(bundle, (provider,), provider, 1, sizes, cuda_graphs=has_graphs)
        loaded.warm_up()
        said = [loaded.placement.left_behind(provider), loaded.no_graphs]
        notes += [note for note in said if note is not None and note not in notes]
        # A model that cannot be recorded would only be measured a second time.
        engines.setdefault(f"engine, {loaded.way}", Engine(loaded, _nobody))
    runtime = import_runtime()
    session = runtime.InferenceSession(str(bundle.model_path), providers=[PROVIDERS[provider]])
    names = [spec.name for spec in inputs]
    timings = []
    for size in sizes:
        tensors = sample_rows(inputs, size)
        ways: dict[str, Callable[[], object]] = {
            PURE: partial(session.run, None, dict(zip(names, tensors, strict=True)))
        }
        batch = _batch(tensors, size)
        ways |= {caller: partial(engine.run, batch) for caller, engine in engines.items()}
        timings += [_timed(model, caller, size, call, seconds) for caller, call in ways.items()]
    return Calls(timings, notes)


def _timed(model: str, caller: str, rows: int, call: Callable[[], object], seconds: float) -> Call:
    for _ in range(WARM_CALLS):
        call()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < LEAST_CALLS or time.perf_counter() < until:
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    median_us, p90_us = (float(value) for value in np.percentile(taken, [50, 90]) * 1e6)
    return Call(model, caller, rows, len(taken), median_us, p90_us)


def _batch(tensors: Tensors, rows: int) -> Batch:
    """A batch as the pipeline makes it, of two slices where there are two rows, so that they must be joined."""
    span = make_span(("benchmark", 0), range(rows))
    block = Block(span, Decoded(tensors, [None] * rows, {}))
    half = rows // 2
    slices = [Slice(block, 0, half), Slice(block, half, rows)] if half else [Slice(block, 0, rows)]
    return Batch(slices, rows, rows, FlushReason.SIZE, 0.0)


def _nobody(_batch: Batch, _result: object) -> None:
    """The engine is called directly; its thread never starts."""
