"""The models as ONNX graphs; the same seed gives the same graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
ML_DOMAIN = "ai.onnx.ml"
TREE_ROWS = 4000
Floats = NDArray[np.float32]


def perceptron(
    sizes: Sequence[int], rng: np.random.Generator, *, sample: Floats | None = None, output: str = "score"
) -> ModelProto:
    """Layers of these sizes with ReLU between them, on the input ``features``.

    With a ``sample`` of the inputs their mean and deviation are taken out in the first layer's weights. The output
    called ``score`` is a probability; any other name gives the last layer as it is.
    """
    nodes, constants = _layers("features", sizes, rng, sample, output)
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", sizes[0]])]
    return _model(nodes, inputs, constants, output, sizes[-1])


def encoding_perceptron(
    categories: Sequence[Sequence[str]],
    offsets: Floats,
    scales: Floats,
    hidden: Sequence[int],
    rng: np.random.Generator,
) -> ModelProto:
    """One-hot encoding of the columns of ``categories`` and scaling of ``features`` inside the graph, then layers."""
    nodes, constants = [], {}
    for column, values in enumerate(categories):
        constants[f"column_{column}"] = np.array(column, np.int64)
        nodes += [
            helper.make_node("Gather", ["categories", f"column_{column}"], [f"text_{column}"], axis=1),
            helper.make_node(
                "OneHotEncoder", [f"text_{column}"], [f"hot_{column}"], domain=ML_DOMAIN, cats_strings=list(values)
            ),
        ]
    scaler = {"offset": offsets.tolist(), "scale": (1 / scales).tolist()}
    nodes.append(helper.make_node("Scaler", ["features"], ["scaled"], domain=ML_DOMAIN, **scaler))
    hot = [f"hot_{column}" for column in range(len(categories))]
    nodes.append(helper.make_node("Concat", [*hot, "scaled"], ["joined"], axis=1))
    width = sum(len(values) for values in categories) + len(offsets)
    layers, weights = _layers("joined", (width, *hidden, 1), rng, None, "score")
    inputs = [
        helper.make_tensor_value_info("categories", TensorProto.STRING, ["batch", len(categories)]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(offsets)]),
    ]
    return _model([*nodes, *layers], inputs, constants | weights, "score", 1)


def boosted_trees(features: Floats, rng: np.random.Generator, *, trees: int = 100, leaves: int = 31) -> ModelProto:
    """Gradient-boosted trees, trained by scikit-learn on a made-up target so that their splits are real ones."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor

    sample = features[:TREE_ROWS]
    scaled = (sample - sample.mean(axis=0)) / sample.std(axis=0)
    signal = scaled @ rng.normal(size=features.shape[1]) / 3 + scaled[:, 0] * scaled[:, 1]
    regressor = GradientBoostingRegressor(n_estimators=trees, max_leaf_nodes=leaves, max_depth=None, random_state=0)
    regressor.fit(sample, np.tanh(signal) + rng.normal(scale=0.1, size=len(sample)))
    model: ModelProto = to_onnx(regressor, sample[:1], target_opset={"": OPSET, ML_DOMAIN: ML_OPSET})
    (ensemble,) = model.graph.node
    ensemble.input[0], ensemble.output[0] = "features", "score"
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features.shape[1]])]
    return _model([ensemble], inputs, {}, "score", 1)


def _layers(
    source: str, sizes: Sequence[int], rng: np.random.Generator, sample: Floats | None, output: str
) -> tuple[list[NodeProto], dict[str, Floats]]:
    nodes: list[NodeProto] = []
    constants: dict[str, Floats] = {}
    for layer, (width, height) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(width, height)) * np.sqrt(2 / width)
        bias = rng.normal(size=height, scale=0.1)
        if layer == 0 and sample is not None:
            weights /= sample.std(axis=0)[:, None]
            bias -= sample.mean(axis=0) @ weights
        constants[f"weights_{layer}"] = weights.astype(np.float32)
        constants[f"bias_{layer}"] = bias.astype(np.float32)
        is_last = layer == len(sizes) - 2
        target = output if is_last and output != "score" else f"linear_{layer}"
        nodes.append(helper.make_node("Gemm", [source, f"weights_{layer}", f"bias_{layer}"], [target]))
        source = f"active_{layer}"
        if not is_last:
            nodes.append(helper.make_node("Relu", [target], [source]))
        elif output == "score":
            nodes.append(helper.make_node("Sigmoid", [target], [output]))
    return nodes, constants


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    constants: Mapping[str, NDArray[Any]],
    output: str,
    width: int,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "benchmark",
        list(inputs),
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model)
    return model
