"""The engine: runs the model, one batch after the other.

Long calls run on a thread of their own: ONNX Runtime releases the interpreter lock while it computes, so the loop
decodes, encodes and talks to Kafka meanwhile. Short ones run where they are asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from worker.core.actions import Outcome
from worker.core.batching import Batch
from worker.core.isolation import Outputs, Tensors, not_finite, run_isolating
from worker.core.place import Place
from worker.core.records import Refusal
from worker.errors import ModelError


class Model(Protocol):
    """A loaded model; ``thread_bound`` where all calls must come from one thread."""

    @property
    def thread_bound(self) -> bool:
        """Whether calls must come from the engine's thread."""
        ...

    def run(self, tensors: Tensors) -> Outputs:
        """One row out per row in; raises ModelError when the call fails."""
        ...

    def probe(self) -> None:
        """Run a row known to be good; raises EngineFault when even that fails."""
        ...


class Engine:
    """Runs batches in the order they are given; ``finished`` is called on the engine's thread."""

    def __init__(self, model: Model, finished: Callable[[Batch, Outcome | BaseException], None]) -> None:
        self._model = model
        self._finished = finished
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._busy_since: float | None = None
        self._submitted = 0
        self._place = Place()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, batch: Batch) -> Outcome | BaseException | None:
        """Run a batch that promises to be short here and now, and return its result; queue any other for the thread.

        Batches queued before are never overtaken.
        """
        if self._submitted == 0 and self._is_short(batch):
            begun = time.perf_counter()
            result = self._result(batch)
            self._place.took(time.perf_counter() - begun)
            return result
        self._submitted += 1
        self._batches.put(batch)
        return None

    def _is_short(self, batch: Batch) -> bool:
        """Whether the call may run on the event loop: a device's calls belong to one thread."""
        if batch.expected_s is None or not batch.is_learned or self._model.thread_bound:
            return False
        return self._place.is_loop(batch.expected_s)

    def returned(self) -> None:
        """The loop has taken a result of the thread's."""
        self._submitted -= 1

    def stop(self) -> None:
        """Let the thread end after the batches it has; does not wait for a hung model call."""
        self._batches.put(None)

    def busy_s(self) -> float:
        """How long the running batch has taken so far; 0 while idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _work(self) -> None:
        """The thread."""
        while (batch := self._batches.get()) is not None:
            self._finished(batch, self._result(batch))

    def _result(self, batch: Batch) -> Outcome | BaseException:
        """The outcome, or what the loop ends the worker with."""
        self._busy_since = time.monotonic()
        try:
            return self.run(batch)
        except BaseException as error:  # noqa: BLE001 # handed to the loop
            return error
        finally:
            self._busy_since = None

    def run(self, batch: Batch) -> Outcome:
        """Score one batch: rows the model fails on are refused, the others keep the scores they have without them."""
        begun = time.perf_counter()
        tensors = assemble(batch)
        assembled = time.perf_counter()
        refusals: dict[int, Refusal] = {}
        try:
            outputs = self._model.run(tensors)
        except ModelError:
            self._model.probe()
            outputs, refusals = run_isolating(self._model.run, tensors)
        for row, refusal in not_finite(outputs).items():
            refusals.setdefault(row, refusal)
        return Outcome(outputs, refusals, assembled - begun, time.perf_counter() - assembled)


def assemble(batch: Batch) -> Tensors:
    """The batch's input tensors, each ``[batch.size, ...]``; a single slice is not copied."""
    if len(batch.slices) == 1:
        rows = batch.slices[0]
        return tuple(tensor[rows.start : rows.stop] for tensor in rows.block.decoded.tensors)
    inputs = range(len(batch.slices[0].block.decoded.tensors))
    return tuple(
        np.concatenate([rows.block.decoded.tensors[at][rows.start : rows.stop] for rows in batch.slices])
        for at in inputs
    )
