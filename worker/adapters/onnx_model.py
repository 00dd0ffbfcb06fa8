"""The model on ONNX Runtime: loaded and checked, warmed up, run. Blocking; the caller owns the thread."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.adapters.bundle import DEFAULT_TOLERANCE
from worker.adapters.onnx_device import BOUND, GRAPH, HOST, DeviceRunner, can_bind, check_rows
from worker.adapters.onnx_file import read_onnx_file
from worker.adapters.onnx_graph import OutputPlan, check_decision, check_graph, column_problem, fetched_outputs
from worker.adapters.onnx_graphs import graph_obstacle, replay_difference
from worker.adapters.onnx_memory import MemoryLadder
from worker.adapters.onnx_rows import Tensors, largest_difference, repeated, zero_rows
from worker.adapters.onnx_session import Opened, import_runtime, open_session, reopen_with_graphs
from worker.core.features import OutputSpec
from worker.errors import BundleError, EngineFault, ModelError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.adapters.bundle import Bundle
    from worker.core.decoder import Decoder


class OnnxModel:
    """A bundle's model, ready to run. Not for use by several threads at once.

    ``provider`` is the one in use (``cuda`` or ``cpu``); ``fallback`` is a sentence where that is not the one asked
    for first, and belongs into the log; so does ``no_graphs``, which says why CUDA graphs that were asked for are not
    used. ``placement`` says where the graph's nodes run. ``golden_difference`` is the largest one that
    ``check_golden`` saw.
    """

    def __init__(
        self, bundle: Bundle, opened: Opened, buckets: Sequence[int], intra_op_threads: int, *, cuda_graphs: bool
    ) -> None:
        self.label = bundle.label
        self.sha256 = bundle.sha256
        self.inputs = bundle.inputs
        self.decision = bundle.decision
        self.provider = opened.provider
        self.fallback = opened.fallback
        self.no_graphs: str | None = None
        self.placement = opened.placement
        self.buckets = tuple(sorted(set(buckets)))
        self.golden_difference: float | None = None
        self._bundle = bundle
        self._intra_op_threads = intra_op_threads
        self._wants_graphs = cuda_graphs and opened.provider == "cuda"
        self._fetched = fetched_outputs(bundle.sources)
        self._plans = check_graph(bundle, opened.session.get_inputs(), opened.session.get_outputs())
        self._good_row: Tensors | None = None
        self._use(opened)

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        providers: Sequence[str] = ("cuda", "cpu"),
        require_provider: str | None = None,
        intra_op_threads: int = 1,
        buckets: Sequence[int] = (1, 8, 32, 128, 512),
        *,
        cuda_graphs: bool = False,
    ) -> OnnxModel:
        """Open the session and check it against the manifest; one row of zeros is run where widths are unknown.

        With ``cuda_graphs`` the warm-up records calls on CUDA once per bucket, where the model permits.
        Raises ``EnvironmentFault`` (onnxruntime or provider missing) and ``BundleError`` (the graph does not fit).
        """
        opened = open_session(bundle.model_path, providers, require_provider, intra_op_threads)
        model = cls(bundle, opened, buckets, intra_op_threads, cuda_graphs=cuda_graphs)
        model._learn_widths()
        return model

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The named outputs with their widths, in the manifest's order."""
        return tuple(OutputSpec(plan.name, plan.width) for plan in self._plans)

    @property
    def thread_bound(self) -> bool:
        """A device's recorded graphs belong to the thread that runs them."""
        return self._device is not None

    @property
    def way(self) -> str:
        """How a call reaches the model: with host arrays, over bound buffers, or as the replay of a graph."""
        return HOST if self._device is None else self._device.way

    @property
    def ladder(self) -> MemoryLadder | None:
        """The sizes that fit the device's memory; None on the CPU, which computes just the rows it gets."""
        return None if self._device is None else self._device.ladder

    @property
    def is_pinned(self) -> bool:
        """Whether rows reach the device from pinned memory."""
        return self._device is not None and self._device.is_pinned

    def bucket(self, rows: int) -> int:
        """How many rows a call with ``rows`` really computes: the next bucket, except on the CPU."""
        return rows if self._device is None else self._device.computed(rows)

    def run(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Named outputs, ``[n]`` or ``[n, width]`` each, of ``tensors`` in the order of ``inputs``, ``[n, ...]`` each.

        Off the CPU the batch is filled up to the next bucket with copies of its last row, and runs in parts where the
        device lacks the memory for it. Raises ``ModelError`` where the call raises or gives another number of rows,
        so that some row may be the culprit, and ``EngineFault`` where the device is at fault.
        """
        rows = len(tensors[0])
        found = self._call(tensors, rows) if self._device is None else self._device.run(tensors, rows)
        return {plan.name: _take(found[plan.index], plan, rows) for plan in self._plans}

    def calls(self, tensors: Tensors) -> dict[str, Callable[[], object]]:
        """By way, a call on these rows to be timed: with host arrays, over bound buffers, as a graph's replay.

        A way that this model cannot go is left out. ``tensors`` as for ``run``, as many rows as a bucket has.
        """
        rows = len(tensors[0])
        runner = self._device or self._runner(self._session, has_graphs=False)
        found = runner.run_unrecorded(tensors, rows)
        calls: dict[str, Callable[[], object]] = {HOST: partial(runner.run_unrecorded, tensors, rows)}
        if self._device is None:
            calls[HOST] = partial(self.run, tensors)
        if can_bind(self.inputs):
            calls[BOUND] = partial(runner.bind(found, rows, recorded=False).run, tensors, rows)
        if self._has_graphs:
            calls[GRAPH] = partial(runner.run, tensors, rows)
        return calls

    def warm_up(self) -> None:
        """Run every bucket, the largest first, twice each; raises ``BundleError`` where the model fails on that.

        The rows are the first golden row where ``check_golden`` came before, else zeros and empty strings. Graphs are
        recorded here and their replay is compared with plain calls; where it differs the model goes on without them.
        """
        if self._wants_graphs:
            self._record_graphs()
        try:
            self._warm_buckets()
        except BundleError as error:
            if not self._has_graphs:
                raise
            self._forgo_graphs(f"recording failed: {error}")
        if self._has_graphs and (reason := self._replay_fault()) is not None:
            self._forgo_graphs(reason)

    def _warm_buckets(self) -> None:
        row = self.good_row()
        for bucket in reversed(self.buckets):
            batch = repeated(row, bucket)
            for _ in range(2):
                try:
                    self.run(batch)
                except ModelError as error:
                    raise BundleError(self._warm_up_problem(bucket, error)) from error

    def _use(self, opened: Opened) -> None:
        """Run on this session from now on."""
        self._session = opened.session
        self._has_graphs = opened.has_graphs
        on_device = opened.provider != "cpu"
        self._device = self._runner(opened.session, has_graphs=opened.has_graphs) if on_device else None

    def _runner(self, session: Any, *, has_graphs: bool) -> DeviceRunner:
        ladder = MemoryLadder(self.buckets)
        runtime = import_runtime()
        return DeviceRunner(runtime, session, self.provider, self.inputs, self._fetched, ladder, has_graphs=has_graphs)

    def _record_graphs(self) -> None:
        """Change to a session that records graphs, or note why not."""
        self._wants_graphs = False
        path, values = self._bundle.model_path, (*self._session.get_inputs(), *self._session.get_outputs())
        reason = graph_obstacle(self.inputs, values, self.placement, read_onnx_file(path).operators)
        if reason is None:
            again, reason = reopen_with_graphs(path, self.provider, self._intra_op_threads)
            if again is not None:
                self._use(again)
                return
        self.no_graphs = f"no CUDA graphs, bound buffers instead: {reason}"

    def _replay_fault(self) -> str | None:
        """Why the recorded graphs must not be used; None where their replay gives what a plain call gives."""
        if self._device is None:
            return None
        golden = self._bundle.golden
        tolerance = DEFAULT_TOLERANCE if golden is None else golden.tolerance
        difference = replay_difference(self._device, self.inputs, self.good_row())
        if isinstance(difference, str):
            return difference
        return None if difference <= tolerance else f"a replay is off by {difference:.3g}, tolerance {tolerance:g}"

    def _forgo_graphs(self, reason: str) -> None:
        """Go on without graphs, on a new session: one that failed while recording is of no more use."""
        self.no_graphs = f"no CUDA graphs, bound buffers instead: {reason}"
        self._use(open_session(self._bundle.model_path, (self.provider,), self.provider, self._intra_op_threads))
        self._warm_buckets()

    def probe(self) -> None:
        """Run one row that worked before; raises ``EngineFault`` where even that fails."""
        try:
            self.run(self.good_row())
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
        check_rows(self._fetched, found, rows)
        return found

    def good_row(self) -> Tensors:
        """A row that the model takes, ``[1, ...]`` each: the first golden one, once checked, else zeros."""
        return self._good_row if self._good_row is not None else zero_rows(self.inputs, 1)

    def _learn_widths(self) -> None:
        """Settle what the graph's shapes leave open by a run of two rows (one would hide a fixed row count)."""
        if not any(plan.is_open for plan in self._plans):
            return
        try:
            found = self._call(zero_rows(self.inputs, 2), 2)
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


def _take(array: np.ndarray, plan: OutputPlan, rows: int) -> np.ndarray:
    """The ``rows`` first rows of a plan's part of a fetched output."""
    part = array[:rows]
    if plan.width is not None:
        return part
    return part if part.ndim == 1 else part[:, plan.column or 0]
