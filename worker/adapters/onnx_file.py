"""What an ONNX file says about itself, read without ONNX Runtime and without the ``onnx`` package."""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.adapters.onnx_wire import Message, WireError
from worker.errors import BundleError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Protobuf cannot hold more; larger models keep their weights in external data files.
MAX_MODEL_BYTES: Final = (1 << 31) - 1

# By the numbers of TensorProto.DataType, from 1.
_DTYPE_NAMES: Final = (
    *("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool"),
    *("float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16"),
)
_DTYPES: Final = dict(enumerate(_DTYPE_NAMES, start=1))


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output: ``shape`` holds sizes, symbol names and ``?``; None means that the file gives none.

    ``dtype`` is a numpy name for a tensor, else a word such as ``sequence(map(int64, float32))``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """Facts of one model file; ``operators`` counts nodes, those of subgraphs and functions included."""

    ir_version: int
    producer: str
    opsets: dict[str, int]
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    operators: dict[str, int]
    external_data: tuple[str, ...]


def read_onnx_file(path: Path) -> OnnxFile:
    """Read ``path``; raises ``BundleError`` where it is no ONNX model, and ``OSError`` where it cannot be read."""
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise _damaged(path, "it is larger than 2 GiB, which no ONNX file can be", "Move weights to external data.")
    if size == 0:
        raise _damaged(path, "it is empty", "Copy the model again.")
    with path.open("rb") as stream:
        # Not closed by hand: slices of the mapping live on in a traceback, and the last of them frees it.
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _facts(Message(memoryview(mapped)))
    except WireError as error:
        raise _damaged(path, str(error), "Export or copy the model again.") from error
    except RecursionError as error:
        raise _damaged(path, "its graphs are nested too deeply", "Export the model again.") from error


def _damaged(path: Path, reason: str, remedy: str) -> BundleError:
    return BundleError(Problem(f"not a usable ONNX file: {reason}", remedy, str(path), code="damaged_model"))


def _facts(model: Message) -> OnnxFile:
    graphs = list(model.messages(7))
    # Protobuf would merge a second graph into the first: then we would not see what ONNX Runtime sees.
    if len(graphs) != 1:
        raise WireError(f"it holds {len(graphs)} graphs, not one")
    graph = graphs[0]
    if not model.has(8):
        raise WireError("it states no operator set")
    initialized = {tensor.text(8) for tensor in graph.messages(5)}
    values = (_value(value) for value in graph.messages(11))
    nodes: Counter[str] = Counter()
    external: set[str] = set()
    _scan_graph(graph, nodes, external)
    for training in model.messages(20):
        for number in (1, 2):
            for part in training.messages(number):
                _scan_graph(part, nodes, external)
    for function in model.messages(25):
        _scan_nodes(function.messages(7), nodes, external)
        _scan_attributes(function.messages(11), nodes, external)
    return OnnxFile(
        ir_version=model.number(1),
        producer=" ".join(filter(None, (model.text(2), model.text(3)))),
        opsets={opset.text(1) or "ai.onnx": opset.number(2) for opset in model.messages(8)},
        # Old exporters list the weights among the inputs.
        inputs=tuple(value for value in values if value.name not in initialized),
        outputs=tuple(_value(value) for value in graph.messages(12)),
        operators=dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        external_data=tuple(sorted(external)),
    )


def _scan_graph(graph: Message, nodes: Counter[str], external: set[str]) -> None:
    for tensor in graph.messages(5):
        _scan_tensor(tensor, external)
    for sparse in graph.messages(15):
        _scan_sparse(sparse, external)
    _scan_nodes(graph.messages(1), nodes, external)


def _scan_nodes(found: Iterator[Message], nodes: Counter[str], external: set[str]) -> None:
    for node in found:
        domain = node.text(7)
        nodes[f"{domain}:{node.text(4)}" if domain not in {"", "ai.onnx"} else node.text(4)] += 1
        _scan_attributes(node.messages(5), nodes, external)


def _scan_attributes(attributes: Iterator[Message], nodes: Counter[str], external: set[str]) -> None:
    """A tensor or a whole graph may hide in an attribute: constants, branches, loop bodies."""
    for attribute in attributes:
        for number in (5, 10):
            for tensor in attribute.messages(number):
                _scan_tensor(tensor, external)
        for number in (6, 11):
            for graph in attribute.messages(number):
                _scan_graph(graph, nodes, external)
        for number in (22, 23):
            for sparse in attribute.messages(number):
                _scan_sparse(sparse, external)


def _scan_sparse(sparse: Message, external: set[str]) -> None:
    for number in (1, 2):
        for tensor in sparse.messages(number):
            _scan_tensor(tensor, external)


def _scan_tensor(tensor: Message, external: set[str]) -> None:
    if tensor.number(14) == 1 or tensor.has(13):
        # Exactly as written: a location that merely looks like a file's name is not that file.
        external.update(entry.exact_text(2) for entry in tensor.messages(13) if entry.text(1) == "location")


def _value(value: Message) -> GraphValue:
    kind = next(value.messages(2), None)
    if kind is None:
        return GraphValue(value.text(1), "unknown", None)
    tensor = next(kind.messages(1), None)
    shape = next(tensor.messages(2), None) if tensor is not None else None
    dimensions = None if shape is None else tuple(_dimension(dimension) for dimension in shape.messages(1))
    return GraphValue(value.text(1), _type_name(kind), dimensions)


def _dimension(dimension: Message) -> int | str:
    if dimension.has(1) and dimension.number(1) >= 0:
        return dimension.number(1)
    return dimension.text(2) or "?"


def _type_name(kind: Message) -> str:
    for tensor in kind.messages(1):
        return _DTYPES.get(tensor.number(1), f"dtype {tensor.number(1)}")
    for sequence in kind.messages(4):
        return f"sequence({', '.join(_type_name(inner) for inner in sequence.messages(1))})"
    for mapping in kind.messages(5):
        key = _DTYPES.get(mapping.number(1), "?")
        return f"map({key}, {', '.join(_type_name(inner) for inner in mapping.messages(2))})"
    for optional in kind.messages(9):
        return f"optional({', '.join(_type_name(inner) for inner in optional.messages(1))})"
    return "sparse tensor" if kind.has(8) else "unknown"
