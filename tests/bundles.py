"""Small ONNX bundles, written on the fly, for tests that need a model with a certain behaviour."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSET = 18
ML_OPSET = 3
IR_VERSION = 10


def write_bundle(
    folder: Path,
    model: ModelProto,
    *,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, Mapping[str, Any]],
    **manifest: Any,
) -> Path:
    """Write ``model.onnx`` and ``model.yaml``; further keywords replace or add keys of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    document: dict[str, Any] = {
        "name": folder.name,
        "version": "1.0.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": [dict(one) for one in inputs],
        "outputs": {name: dict(entry) for name, entry in outputs.items()},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document | manifest, sort_keys=False))
    return folder


def linear_bundle(folder: Path, fields: Sequence[str], weights: Sequence[float], **manifest: Any) -> Path:
    """``score = sum(weight * field)``."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    return _scalar_bundle(folder, fields, nodes, {"weights": _column(weights)}, manifest)


def raising_bundle(folder: Path, field: str, magic: float, **manifest: Any) -> Path:
    """``score = field``; the whole call raises when any row of the batch holds exactly ``magic``.

    The one element of a table is looked up at index 0, or at 1, which does not exist, for the magic value.
    """
    nodes = [
        helper.make_node("Equal", ["features", "magic"], ["is_magic"]),
        helper.make_node("Cast", ["is_magic"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["found"], axis=0),
        helper.make_node("Add", ["features", "found"], ["score"]),
    ]
    constants = {"magic": np.array([[magic]], np.float32), "table": np.zeros(1, np.float32)}
    return _scalar_bundle(folder, [field], nodes, constants, manifest)


def logarithm_bundle(folder: Path, field: str, **manifest: Any) -> Path:
    """``score = log(field)``: NaN for a negative value, minus infinity for 0."""
    return _scalar_bundle(folder, [field], [helper.make_node("Log", ["features"], ["score"])], {}, manifest)


def wide_bundle(folder: Path, field: str, width: int, **manifest: Any) -> Path:
    """``score`` is a vector of ``width`` numbers, each the field divided by 3: long as text, unless it is 0."""
    node = helper.make_node("MatMul", ["features", "weights"], ["score"])
    constants = {"weights": np.full((1, width), 1 / 3, np.float32)}
    return _scalar_bundle(folder, [field], [node], constants, manifest, width=width)


def image_bundle(folder: Path, field: str, width: int = 784, **manifest: Any) -> Path:
    """Float tensor ``[batch, 1, width]`` from comma-separated text; ``score`` is its mean."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["score"]),
    ]
    model = _model(
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        {"axes": np.array([1, 2], np.int64), "column": np.array([-1, 1], np.int64)},
    )
    shape = ["batch", 1, width]
    inputs = [{"name": "image", "dtype": "float32", "shape": shape, "fields": [field], "encoding": "csv"}]
    return write_bundle(folder, model, inputs=inputs, outputs={"score": {"output": "score"}}, **manifest)


def mixed_bundle(
    folder: Path, fields: Sequence[str], text_field: str, values: Mapping[str, float], **manifest: Any
) -> Path:
    """A float matrix and a string input: ``score = sum(fields) + values[text]`` (0 for an unknown text)."""
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["text"],
            ["bonus"],
            domain="ai.onnx.ml",
            keys_strings=list(values),
            values_floats=list(values.values()),
            default_float=0.0,
        ),
        helper.make_node("MatMul", ["features", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bonus"], ["score"]),
    ]
    model = _model(
        nodes,
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(fields)]),
            helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 1]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        {"weights": _column([1.0] * len(fields))},
    )
    inputs = [
        {"name": "features", "dtype": "float32", "shape": ["batch", len(fields)], "fields": list(fields)},
        {"name": "text", "dtype": "string", "shape": ["batch", 1], "fields": [text_field]},
    ]
    return write_bundle(folder, model, inputs=inputs, outputs={"score": {"output": "score"}}, **manifest)


def _scalar_bundle(
    folder: Path,
    fields: Sequence[str],
    nodes: Sequence[NodeProto],
    constants: Mapping[str, np.ndarray[Any, Any]],
    manifest: Mapping[str, Any],
    *,
    width: int = 1,
) -> Path:
    shape: list[str | int | None] = ["batch", len(fields)]
    model = _model(
        nodes,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", width])],
        constants,
    )
    inputs = [{"name": "features", "dtype": "float32", "shape": shape, "fields": list(fields)}]
    return write_bundle(folder, model, inputs=inputs, outputs={"score": {"output": "score"}}, **manifest)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, np.ndarray[Any, Any]],
) -> ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def _column(weights: Sequence[float]) -> np.ndarray[Any, Any]:
    return np.array(weights, np.float32).reshape(-1, 1)
