"""Tiny ONNX models and bundles, written to disk for one test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None

DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def value(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    """An input or output of a graph; None as a dimension leaves its size open, None as a shape all of it."""
    return helper.make_tensor_value_info(name, DTYPES[dtype], shape)


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """A serialised model of the given graph."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="tests")
    return bytes(model.SerializeToString())


def row_sum(
    batch: int | str | None = None, width: int | str | None = 3, out_shape: Shape = (None, 1), dtype: str = "float32"
) -> bytes:
    """``y[batch, 1]`` is the sum of the row ``x[batch, width]``."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)]
    axes = {"axes": np.array([1], np.int64)}
    return model_bytes(nodes, [value("x", dtype, [batch, width])], [value("y", dtype, out_shape)], axes)


def identity(shape: Shape = (None, 3), dtype: str = "float32", out_shape: Shape = (None, 3)) -> bytes:
    """``y`` is ``x``."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model_bytes(nodes, [value("x", dtype, shape)], [value("y", dtype, out_shape)])


def minus_batch_mean() -> bytes:
    """``y`` is ``x`` minus the mean over the batch: each row depends on its neighbours."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 3])])


def table_lookup(rows: int) -> bytes:
    """``y`` is ``table[x]``; an index from ``rows`` on makes the call raise."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    table = {"table": np.arange(rows, dtype=np.float32) * 10}
    return model_bytes(nodes, [value("x", "int64", [None])], [value("y", "float32", [None])], table)


def write_bundle(folder: Path, model: bytes, **changes: object) -> Path:
    """A bundle in ``folder`` for ``model``, by default ``x[batch, 3]`` from a, b, c to ``score`` from ``y``.

    ``changes`` replace keys of the manifest; None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    manifest: dict[str, object] = {
        "name": "fraud",
        "version": "1.0.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}],
        "outputs": {"score": {"output": "y"}},
    }
    manifest |= changes
    kept = {key: content for key, content in manifest.items() if content is not None}
    (folder / "model.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return folder


def write_golden(folder: Path, rows: Sequence[object], expected: object, **more: object) -> None:
    """Golden rows beside the manifest, as ``golden.json``."""
    (folder / "golden.json").write_text(json.dumps({"rows": rows, "expected": expected, **more}), encoding="utf-8")
