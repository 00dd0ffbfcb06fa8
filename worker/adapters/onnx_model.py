"""The model on ONNX Runtime: loaded and checked, warmed up, run. Blocking; the caller owns the thread."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.adapters.onnx_graph import OutputPlan, check_decision, check_graph, column_problem, fetched_outputs
from worker.adapters.onnx_session import Opened, import_runtime, open_session
from worker.core.features import OutputSpec
from worker.errors import BundleError, EngineFault, ModelError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.adapters.bundle import Bundle
    from worker.core.decoder import Decoder
    from worker.core.features import TensorSpec

Tensors = tuple[np.ndarray, ...]


class OnnxModel:
    """A bundle's model, ready to run. Not for use by several threads at once.

    ``provider`` is the one in use (``cuda`` or ``cpu``); ``fallback`` is a sentence where that is not the one asked
    for first, and belongs into the log. ``nodes`` counts the graph's nodes by provider. ``golden_difference`` is the
    largest one that ``check_golden`` saw.
    """

    def __init__(self, bundle: Bundle, opened: Opened, buckets: Sequence[int]) -> None:
        self.label = bundle.label
        self.sha256 = bundle.sha256
        self.inputs = bundle.inputs
        self.decision = bundle.decision
        self.provider = opened.provider
        self.fallback = opened.fallback
        self.nodes = opened.nodes
        self.buckets = tuple(sorted(set(buckets)))
        self.golden_difference: float | None = None
        self._bundle = bundle
        self._session = opened.session
        self._fetched = fetched_outputs(bundle.sources)
        self._plans = check_graph(bundle, opened.session.get_inputs(), opened.session.get_outputs())
        self._good_row: Tensors | None = None

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        providers: Sequence[str] = ("cuda", "cpu"),
        require_provider: str | None = None,
        intra_op_threads: int = 1,
        buckets: Sequence[int] = (1, 8, 32, 128, 512),
    ) -> OnnxModel:
        """Open the session and check it against the manifest; one row of zeros is run where widths are unknown.

        Raises ``EnvironmentFault`` (onnxruntime or provider missing) and ``BundleError`` (the graph does not fit).
        """
        opened = open_session(bundle.model_path, providers, require_provider, intra_op_threads)
        model = cls(bundle, opened, buckets)
        model._learn_widths()
        return model

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The named outputs with their widths, in the manifest's order."""
        return tuple(OutputSpec(plan.name, plan.width) for plan in self._plans)

    def bucket(self, rows: int) -> int:
        """How many rows a call with ``rows`` really computes: the next bucket, except on the CPU."""
        if self.provider == "cpu" or rows > self.buckets[-1]:
            return rows
        return self.buckets[bisect_left(self.buckets, rows)]

    def run(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Named outputs, ``[n]`` or ``[n, width]`` each, of ``tensors`` in the order of ``inputs``, ``[n, ...]`` each.

        Off the CPU the batch is filled up to the next bucket with copies of its last row. Raises ``ModelError``
        where the call raises or gives another number of rows; some row may be the culprit.
        """
        rows = len(tensors[0])
        bucket = self.bucket(rows)
        if bucket != rows:
            tensors = tuple(_pad(tensor, bucket) for tensor in tensors)
        found = self._call(tensors, bucket)
        return {plan.name: _take(found[plan.index], plan, rows) for plan in self._plans}

    def bound_call(self, tensors: Tensors) -> Callable[[], None] | None:
        """A call on these rows with inputs and outputs bound once; None where an input holds strings.

        Each call copies the rows into the bound inputs, as a worker would have to. ``tensors`` as for ``run``.
        """
        if any(spec.dtype == "string" for spec in self.inputs):
            return None
        runtime, session, binding = import_runtime(), self._session, self._session.io_binding()
        bound = [runtime.OrtValue.ortvalue_from_numpy(tensor, self.provider, 0) for tensor in tensors]
        for spec, value in zip(self.inputs, bound, strict=True):
            binding.bind_ortvalue_input(spec.name, value)
        for name in self._fetched:
            binding.bind_output(name, "cpu")

        def call() -> None:
            for value, tensor in zip(bound, tensors, strict=True):
                value.update_inplace(tensor)
            session.run_with_iobinding(binding)

        return call

    def warm_up(self) -> None:
        """Run every bucket, the largest first, twice each; raises ``BundleError`` where the model fails on that.

        The rows are the first golden row where ``check_golden`` came before, else zeros and empty strings.
        """
        row = self._probe_row()
        for bucket in reversed(self.buckets):
            batch = tuple(np.repeat(tensor, bucket, axis=0) for tensor in row)
            for _ in range(2):
                try:
                    self.run(batch)
                except ModelError as error:
                    raise BundleError(self._warm_up_problem(bucket, error)) from error

    def probe(self) -> None:
        """Run one row that worked before; raises ``EngineFault`` where even that fails."""
        try:
            self.run(self._probe_row())
        except ModelError as error:
            message = f"the engine fails on a row that worked before: {error}"
            remedy = f"Restart the worker; if that does not help, check the {self.provider} device."
            raise EngineFault(Problem(message, remedy, code="engine_fault")) from error

    def golden_tensors(self, decoder: Decoder) -> Tensors | None:
        """The golden rows as tensors, ``[rows, ...]`` each, or None without golden rows.

        Raises ``BundleError`` where the decoder refuses a row.
        """
        golden = self._bundle.golden
        if golden is None:
            return None
        decoded = decoder.decode(golden.rows)
        if decoded.refusals:
            problems = []
            for row, refusal in sorted(decoded.refusals.items()):
                message = f"golden row {row} is refused as {refusal.reason}: {refusal.error}"
                remedy = "Correct the row, or the event schema."
                problems.append(Problem(message, remedy, str(golden.path), 0, f"/rows/{row}", "golden"))
            raise BundleError(*problems)
        return decoded.tensors

    def check_golden(self, decoder: Decoder) -> None:
        """Compare the golden rows' outputs with what is expected; nothing to do without golden rows.

        Raises ``BundleError`` naming the largest difference of each output that is off.
        """
        golden, tensors = self._bundle.golden, self.golden_tensors(decoder)
        if golden is None or tensors is None:
            return
        found = self._run_golden(tensors)
        self._good_row = tuple(tensor[:1] for tensor in tensors)
        problems, largest = [], 0.0
        for name, expected in golden.expected.items():
            key, actual = f"/expected/{name}", found[name]
            if actual.shape != expected.shape:
                message = f"golden '{name}' has shape {list(expected.shape)}, but the model gives {list(actual.shape)}"
                problems.append(Problem(message, "Correct the expected values.", str(golden.path), 0, key, "golden"))
                continue
            row, difference = largest_difference(actual, expected)
            largest = max(largest, difference)
            if difference > golden.tolerance:
                message = (
                    f"golden row {row} gives {name} = {actual[row]}, expected {expected[row]}: off by "
                    f"{difference:.3g}, tolerance {golden.tolerance:g}"
                )
                remedy = "Check that model, fields and golden rows belong together, and the order of the fields."
                problems.append(Problem(message, remedy, str(golden.path), 0, key, "golden"))
        self.golden_difference = largest
        if problems:
            raise BundleError(*problems)

    def zero_rows(self, rows: int) -> Tensors:
        """``rows`` rows of zeros, and of empty strings for string inputs."""
        return tuple(_zeros(spec, rows) for spec in self.inputs)

    def _run_golden(self, tensors: Tensors) -> dict[str, np.ndarray]:
        size, rows = self.buckets[-1], len(tensors[0])
        try:
            parts = [self.run(tuple(tensor[at : at + size] for tensor in tensors)) for at in range(0, rows, size)]
        except ModelError as error:
            message = f"the model fails on its golden rows: {error}"
            raise BundleError(Problem(message, "Correct the rows or the model.", code="golden")) from error
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, tensors: Tensors, rows: int) -> list[Any]:
        feeds = {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
        try:
            found: list[Any] = self._session.run(self._fetched, feeds)
        except Exception as error:
            # ONNX Runtime's own exceptions share no base class below Exception.
            raise ModelError(str(error)) from error
        for name, array in zip(self._fetched, found, strict=True):
            if array.ndim == 0 or len(array) != rows:
                raise ModelError(f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows")
        return found

    def _probe_row(self) -> Tensors:
        return self._good_row if self._good_row is not None else self.zero_rows(1)

    def _learn_widths(self) -> None:
        """Settle what the graph's shapes leave open by a run of two rows (one would hide a fixed row count)."""
        if not any(plan.is_open for plan in self._plans):
            return
        try:
            found = self._call(self.zero_rows(2), 2)
        except ModelError as error:
            raise BundleError(self._warm_up_problem(2, error)) from error
        problems, plans = [], []
        for plan in self._plans:
            array, output = found[plan.index], self._fetched[plan.index]
            columns = 1 if array.ndim == 1 else array.shape[1]
            if array.ndim > 2:
                message = f"output '{output}' gives shape {list(array.shape)}; a row may hold a number or a vector"
                at = ("outputs", plan.name, "output")
                problems.append(self._bundle.manifest.problem(at, message, "Add a Reshape to [batch, n] to the graph."))
            elif plan.column is not None and plan.column >= columns:
                problems.append(column_problem(self._bundle, plan.name, output, plan.column, columns))
            else:
                width = None if plan.column is not None or columns == 1 else columns
                plans.append(replace(plan, width=width, is_open=False))
        problems.extend(check_decision(self._bundle, plans))
        if problems:
            raise BundleError(*problems)
        self._plans = tuple(plans)

    def _warm_up_problem(self, rows: int, error: ModelError) -> Problem:
        message = f"the model fails on {rows} warm-up rows: {error}"
        remedy = (
            "Where it cannot take zeros, add golden rows, which are used instead, and state the sizes of its outputs; "
            "else correct the graph."
        )
        return Problem(message, remedy, str(self._bundle.model_path), code="warm_up")


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """The row that is off most, and by how much, relative to the expected value where that is above one.

    Arrays of one shape, at least one row; a value that is not finite in only one of them is off by infinity.
    """
    left, right = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        off = np.abs(left - right) / np.maximum(1.0, np.abs(right))
    off = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
    by_row = off.reshape(len(off), -1).max(axis=1)
    row = int(by_row.argmax())
    return row, float(by_row[row])


def _take(array: np.ndarray, plan: OutputPlan, rows: int) -> np.ndarray:
    """The ``rows`` first rows of a plan's part of a fetched output."""
    part = array[:rows]
    if plan.width is not None:
        return part
    return part if part.ndim == 1 else part[:, plan.column or 0]


def _pad(tensor: np.ndarray, rows: int) -> np.ndarray:
    # A real row, because zeros may be outside of what the model can take.
    return np.concatenate([tensor, np.repeat(tensor[-1:], rows - len(tensor), axis=0)])


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray:
    shape = (rows, *spec.shape)
    return np.full(shape, "", dtype=object) if spec.dtype == "string" else np.zeros(shape, dtype=spec.dtype)
