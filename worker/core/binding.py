"""Fit a model's inputs to the event schema: which field fills which slots, and every reason why one cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from worker.core.features import TensorSpec
from worker.core.plan import NAN, Node, Path, expand, steps_to, unknown_field
from worker.core.specs import ArraySpec, BooleanSpec, NumberSpec, ObjectSpec, Spec, StringSpec
from worker.core.tensors import Column
from worker.errors import Problem

_REMEDY_FOR_TEXT: Final = "name its encoding in the input (csv, base64 or epoch_s), or give the field a numeric type"


class Binder:
    """Resolves dotted paths against one schema, growing the plan; ``problems`` collects what does not fit."""

    def __init__(self, schema: ObjectSpec) -> None:
        self.schema = schema
        self.root = Node(schema)
        self.problems: list[Problem] = []

    def path(self, text: str, place: str) -> Path | None:
        """The path, its nodes now in use, or None with a problem noted."""
        steps = steps_to(text, self.schema)
        if steps is None:
            self.problems.append(unknown_field(text, self.schema, place))
            return None
        return Path(text, self.root, steps)

    def columns(self, tensor: TensorSpec) -> tuple[Column, ...]:
        """Columns that fill the tensor's slots; empty, with problems noted, where the fields do not fit."""
        place = f"inputs.{tensor.name}"
        dtype_problem = _dtype_problem(tensor, place)
        if dtype_problem:
            self.problems.append(dtype_problem)
            return ()
        paths = [self.path(text, f"{place}.fields") for text in tensor.fields]
        known = [path for path in paths if path is not None]
        faults = [fault for path in known for fault in _misfits(tensor, path.node.spec, path.text, place)]
        if not paths:
            faults.append(Problem(f"{place} names no fields", "list the event fields", key=place, code="no_fields"))
        if tensor.encoding and len(paths) > 1:
            message = f"{place} has encoding {tensor.encoding} and {len(paths)} fields"
            faults.append(Problem(message, "name the one field that holds the text", key=place, code="too_many_fields"))
        self.problems += faults
        if faults or len(known) < len(paths):
            return ()
        shapes = _shapes(tensor, known)
        if shapes is None:
            self.problems.append(_width_problem(tensor, known, place))
            return ()
        columns = tuple(Column(path, shape) for path, shape in zip(known, shapes, strict=True))
        for column in columns:
            _feed(column)
        return columns

    def settle(self, inputs: tuple[tuple[TensorSpec, tuple[Column, ...]], ...]) -> None:
        """Give scalars that only feed float tensors their number for absence, so that bulk packing sees no gap."""
        feeds: dict[int, list[TensorSpec]] = {}
        nodes: dict[int, Node] = {}
        for tensor, columns in inputs:
            for column in columns:
                nodes[id(column.path.node)] = column.path.node
                feeds.setdefault(id(column.path.node), []).append(tensor)
        for key, node in nodes.items():
            plain = all(_is_float(tensor) for tensor in feeds[key])
            if plain and not node.whole and isinstance(node.spec, NumberSpec | BooleanSpec):
                default = node.spec.default
                node.absent = default if isinstance(default, int | float) else NAN


def _is_float(tensor: TensorSpec) -> bool:
    return tensor.dtype.startswith("float")


def _feed(column: Column) -> None:
    node = column.path.node
    node.fed = True
    if isinstance(node.spec, ArraySpec):
        node.length = column.shape
        expand(node, whole=False)


_DTYPES: Final = frozenset(
    ["float16", "float32", "float64", "bool", "string"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def _dtype_problem(tensor: TensorSpec, place: str) -> Problem | None:
    if tensor.dtype not in _DTYPES:
        known = ", ".join(sorted(_DTYPES))
        return Problem(f"{place} has the unknown dtype {tensor.dtype}", f"one of {known}", key=place, code="bad_dtype")
    allowed = {
        "csv": tensor.dtype not in ("bool", "string"),
        "base64": tensor.dtype == "float32",
        "epoch_s": np.dtype("O" if tensor.dtype == "string" else tensor.dtype).kind in "iuf",
    }
    if tensor.encoding is not None and not allowed[tensor.encoding]:
        message = f"{place}: encoding {tensor.encoding} cannot fill dtype {tensor.dtype}"
        return Problem(message, "use csv or epoch_s for numbers, base64 for float32", key=place, code="bad_encoding")
    return None


def _misfits(tensor: TensorSpec, spec: Spec, text: str, place: str) -> Iterator[Problem]:
    """The problem, if any, of feeding values of ``spec`` to the tensor."""
    leaf = spec
    while isinstance(leaf, ArraySpec) and tensor.encoding is None:
        leaf = leaf.items
    fits, remedy = _fit(tensor, leaf)
    if not fits:
        what = f"{leaf.kind}s in an array" if leaf is not spec else leaf.kind
        message = f"{place}: field {text} ({what}) cannot feed dtype {tensor.dtype}"
        if tensor.encoding:
            message += f" with encoding {tensor.encoding}"
        yield Problem(message, remedy, key=place, code="type_mismatch")


def _fit(tensor: TensorSpec, leaf: Spec) -> tuple[bool, str]:
    if tensor.encoding is not None:
        return isinstance(leaf, StringSpec), "give the field type string, or drop the encoding"
    if tensor.dtype == "string":
        return isinstance(leaf, StringSpec), "give the field type string"
    if isinstance(leaf, StringSpec):
        return False, _REMEDY_FOR_TEXT
    if tensor.dtype == "bool":
        return isinstance(leaf, BooleanSpec), "give the field type boolean"
    if isinstance(leaf, NumberSpec) and not leaf.integer and not _is_float(tensor):
        return False, "give the field type integer, or the model's input a float dtype"
    return isinstance(leaf, NumberSpec | BooleanSpec), "give the field type number, integer or boolean"


def _shapes(tensor: TensorSpec, paths: list[Path]) -> list[tuple[int, ...]] | None:
    """Shape of each column, None if they cannot fill the tensor. One array may take what the others leave."""
    if tensor.encoding is not None:
        fits = tensor.encoding != "epoch_s" or tensor.width == 1
        return [(tensor.width,)] if fits else None
    depths = [_depth(path.node.spec) for path in paths]
    if max(depths) > 1:
        fits = len(paths) == 1 and depths[0] == len(tensor.shape)
        return [tensor.shape] if fits else None
    sizes = [_fixed_size(path.node.spec) for path in paths]
    unknown = [index for index, size in enumerate(sizes) if size is None]
    rest = tensor.width - sum(size for size in sizes if size is not None)
    if len(unknown) > 1 or rest < 0 or (rest and not unknown):
        return None
    filled = [rest if size is None else size for size in sizes]
    return [(size,) if depth else () for size, depth in zip(filled, depths, strict=True)]


def _depth(spec: Spec) -> int:
    return 1 + _depth(spec.items) if isinstance(spec, ArraySpec) else 0


def _fixed_size(spec: Spec) -> int | None:
    """Slots that a field takes, None for an array whose length the schema leaves open."""
    if not isinstance(spec, ArraySpec):
        return 1
    return spec.min_items if spec.min_items == spec.max_items else None


def _width_problem(tensor: TensorSpec, paths: list[Path], place: str) -> Problem:
    sizes = [_fixed_size(path.node.spec) for path in paths]
    given = " + ".join("an open array" if size is None else str(size) for size in sizes[:20])
    shape = ", ".join(["batch", *map(str, tensor.shape)])
    message = f"{place}: its fields give {given} values, the shape [{shape}] needs {math.prod(tensor.shape)} a row"
    remedy = "list as many scalars as the shape has slots, or one array of that length (minItems equal to maxItems)"
    return Problem(message, remedy, key=place, code="wrong_width")
