"""Compares a bundle's manifest with the graph: every disagreement is found at once, before any record is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.errors import BundleError, Problem
from worker.yaml_source import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.adapters.bundle import Bundle
    from worker.adapters.bundle_manifest import OutputSource
    from worker.core.features import TensorSpec
    from worker.yaml_source import KeyPath

_DTYPES: Final = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
    **{f"tensor({name})": name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
_ZIPMAP_REMEDY: Final = (
    "Convert again with `convert_sklearn(model, ..., options={id(model): {'zipmap': False}})`, "
    "which gives a tensor of probabilities."
)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How one named output is taken from the graph's output at ``index`` of those fetched.

    ``width`` is None for a scalar. While the graph's shape leaves the number of columns open, ``is_open`` holds and
    ``width`` means nothing.
    """

    name: str
    index: int
    column: int | None
    width: int | None
    is_open: bool = False


def fetched_outputs(sources: Sequence[OutputSource]) -> list[str]:
    """The graph's outputs to fetch, each once, in the order of first use."""
    return list(dict.fromkeys(source.output for source in sources))


def check_graph(bundle: Bundle, inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[OutputPlan, ...]:
    """Compare ``bundle`` with the session's inputs and outputs; raises ``BundleError`` with all that differs.

    A graph's empty shape says nothing (ONNX Runtime gives it for an unknown one), so the rank is checked only where
    one is stated.
    """
    problems = _check_inputs(bundle, {node.name: node for node in inputs})
    by_name = {node.name: node for node in outputs}
    fetched = fetched_outputs(bundle.sources)
    plans = []
    for source in bundle.sources:
        at: KeyPath = ("outputs", source.name)
        node = by_name.get(source.output)
        if node is None:
            message = f"the graph has no output '{source.output}'"
            problems.append(_problem(bundle, (*at, "output"), message, did_you_mean(source.output, by_name)))
        elif (problem := _output_type_problem(bundle, at, node)) is not None:
            problems.append(problem)
        else:
            shape = node.shape
            problems.extend(_output_shape_problems(bundle, at, source, shape))
            columns = _columns(shape)
            width = None if source.column is not None or columns in {1, None} else columns
            plans.append(
                OutputPlan(source.name, fetched.index(source.output), source.column, width, is_open=columns is None)
            )
    if not problems and bundle.decision is not None:
        problems.extend(check_decision(bundle, plans))
    if problems:
        raise BundleError(*problems)
    return tuple(plans)


def check_decision(bundle: Bundle, plans: Sequence[OutputPlan]) -> list[Problem]:
    """A decision compares one number, so its output must be a scalar; an open one passes for now."""
    for plan in plans:
        if bundle.decision is not None and plan.name == bundle.decision.output and plan.width:
            message = f"decision reads '{plan.name}', a vector of {plan.width}; it needs one number per row"
            return [_problem(bundle, ("decision", "output"), message, "Give that output a `column`.")]
    return []


def _check_inputs(bundle: Bundle, nodes: dict[str, Any]) -> list[Problem]:
    problems = []
    named = {spec.name for spec in bundle.inputs}
    for index, spec in enumerate(bundle.inputs):
        at: KeyPath = ("inputs", index)
        node = nodes.get(spec.name)
        if node is None:
            message = f"the graph has no input '{spec.name}'"
            open_names = [name for name in nodes if name not in named] or list(nodes)
            problems.append(_problem(bundle, (*at, "name"), message, did_you_mean(spec.name, open_names)))
            continue
        dtype = _DTYPES.get(node.type)
        if dtype != spec.dtype:
            message = f"input '{spec.name}' is {node.type} in the graph, not {spec.dtype}"
            remedy = f"Write `dtype: {dtype}`." if dtype else "Export the model with tensor inputs of a numpy type."
            problems.append(_problem(bundle, (*at, "dtype"), message, remedy))
        problems.extend(_input_shape_problems(bundle, at, spec, node.shape))
    missing = [name for name in nodes if name not in named]
    if missing:
        message = f"the graph needs {', '.join(repr(name) for name in missing)}, which the manifest does not feed"
        problems.append(_problem(bundle, ("inputs",), message, "Add an entry with fields for each of them."))
    return problems


def _input_shape_problems(bundle: Bundle, at: KeyPath, spec: TensorSpec, shape: Sequence[object]) -> list[Problem]:
    key: KeyPath = (*at, "shape")
    if not shape:
        return []
    problems = []
    if isinstance(shape[0], int):
        message = f"input '{spec.name}' has a fixed batch dimension of {shape[0]}, so it cannot take micro-batches"
        remedy = (
            "Export the model with a dynamic first dimension (torch: `dynamic_shapes`; skl2onnx: "
            "`FloatTensorType([None, n])`)."
        )
        problems.append(_problem(bundle, key, message, remedy, "fixed_batch"))
    rest = shape[1:]
    fits = len(rest) == len(spec.shape) and all(
        not isinstance(size, int) or size == stated for size, stated in zip(rest, spec.shape, strict=True)
    )
    if not fits:
        stated = _shape_text(spec.shape)
        message = f"input '{spec.name}' has shape {_shape_text(rest)} in the graph, not {stated}"
        problems.append(_problem(bundle, key, message, f"Write `shape: {_shape_text(rest)}`."))
    return problems


def _output_type_problem(bundle: Bundle, at: KeyPath, node: Any) -> Problem | None:
    dtype = _DTYPES.get(node.type)
    if dtype is not None and dtype != "string":
        return None
    key = (*at, "output")
    if node.type.startswith("seq(map("):
        message = f"output '{node.name}' is a sequence of maps ({node.type}), one object per row"
        return _problem(bundle, key, message, _ZIPMAP_REMEDY, "zipmap")
    message = f"output '{node.name}' is {node.type}; outputs must be tensors of numbers or booleans"
    return _problem(bundle, key, message, "Name an output that holds numbers.")


def _output_shape_problems(bundle: Bundle, at: KeyPath, source: OutputSource, shape: Sequence[object]) -> list[Problem]:
    if len(shape) > 2:
        message = f"output '{source.output}' has shape {_shape_text(shape[1:])}; a row may hold a number or a vector"
        return [_problem(bundle, (*at, "output"), message, "Add a Reshape to [batch, n] to the graph.")]
    columns = _columns(shape)
    if source.column is not None and columns is not None and source.column >= columns:
        return [column_problem(bundle, source.name, source.output, source.column, columns)]
    return []


def column_problem(bundle: Bundle, name: str, output: str, column: int, columns: int) -> Problem:
    """The problem of a column that the graph's output does not have."""
    message = f"column {column} of output '{output}' does not exist: it has {columns}, counted from 0"
    remedy = f"Use a column from 0 to {columns - 1}, or leave `column` out."
    return _problem(bundle, ("outputs", name, "column"), message, remedy)


def _columns(shape: Sequence[object]) -> int | None:
    """How many values a row holds, or None where only a run can tell."""
    if len(shape) == 1:
        return 1
    size = shape[1] if len(shape) == 2 else None
    return size if isinstance(size, int) else None


def _shape_text(sizes: Sequence[object]) -> str:
    return f"[{', '.join(['batch', *('?' if size is None else str(size) for size in sizes)])}]"


def _problem(bundle: Bundle, at: KeyPath, message: str, remedy: str, code: str = "graph_mismatch") -> Problem:
    return bundle.manifest.problem(at, message, remedy, code)
