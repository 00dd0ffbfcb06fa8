"""Trains the demo's fraud model on simulated transactions and writes its bundle.

    pip install 'headrace[convert,cpu]'
    python models/train_demo.py [--out models/fraud]

One fixed seed governs world and training, so the same packages on the same kind of machine write the same files.
The demo refuses that seed: what it shows is always a world that the model has never seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from worker.demo import events, simulator

NAME, VERSION = "fraud", "1.0.0"
TRAINING_DAYS, VALIDATION_DAYS, TEST_DAYS = 60, 15, 15
OPSET = 17
MINIMUM_PRECISION = 0.9
TOLERANCE = 1e-5


def main() -> None:
    """Simulate, train, choose the threshold, convert, check against scikit-learn, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / NAME)
    out: Path = arguments.parse_args().out
    training, validation, test = split()
    model = make_pipeline(
        StandardScaler(),
        MLPClassifier((32, 16), random_state=simulator.TRAINING_SEED, early_stopping=True, n_iter_no_change=8),
    )
    model.fit(events.feature_matrix(training), training.scenario > 0)
    threshold = choose_threshold(validation.scenario > 0, scores(model, validation))
    report(test, scores(model, test), threshold)
    graph = convert(model)
    check(graph, model, test)
    write(out, graph, threshold, golden(graph, test))


def split() -> tuple[simulator.Transactions, simulator.Transactions, simulator.Transactions]:
    """Three stretches of days that follow one another, after the warm-up."""
    ends = np.cumsum([simulator.WARM_UP_DAYS, TRAINING_DAYS, VALIDATION_DAYS, TEST_DAYS])
    everything = simulator.simulate(simulator.TRAINING_SEED, int(ends[-1]))
    cuts = np.searchsorted(everything.day, ends).tolist()
    first, second, third = (everything.part(slice(a, b)) for a, b in pairwise(cuts))
    return first, second, third


def scores(model: Pipeline, transactions: simulator.Transactions) -> NDArray[np.float64]:
    """Probability of fraud per transaction, by scikit-learn."""
    probabilities: NDArray[np.float64] = model.predict_proba(events.feature_matrix(transactions))
    return probabilities[:, 1]


def choose_threshold(fraud: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """The lowest threshold, to three digits, that keeps ``MINIMUM_PRECISION``: as many frauds as that allows."""
    precision, _, threshold = precision_recall_curve(fraud, score)
    return round(float(threshold[precision[:-1] >= MINIMUM_PRECISION][0]) + 0.0005, 3)


def report(test: simulator.Transactions, score: NDArray[np.float64], threshold: float) -> None:
    """Print how good the model is on days after those it was trained on."""
    fraud, flagged = test.scenario > 0, score >= threshold
    print(f"test: {len(test)} transactions, {fraud.sum()} frauds")
    print(f"AUC {roc_auc_score(fraud, score):.3f}, average precision {average_precision_score(fraud, score):.3f}")
    print(
        f"at {threshold}: precision {(fraud & flagged).sum() / flagged.sum():.3f}, "
        f"recall {(fraud & flagged).sum() / fraud.sum():.3f}"
    )


def convert(model: Pipeline) -> bytes:
    """The pipeline as an ONNX graph with the probabilities as its one output."""
    graph: Any = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, len(events.MODEL_FEATURES)]))],
        options={"zipmap": False},
        target_opset=OPSET,
        name=NAME,
    )
    graph = select_model_inputs_outputs(graph, outputs=["probabilities"])
    # Dropping the label output loses the declared shapes and leaves its constants behind.
    used = {name for node in graph.graph.node for name in node.input}
    for constant in [constant for constant in graph.graph.initializer if constant.name not in used]:
        graph.graph.initializer.remove(constant)
    columns = {"features": len(events.MODEL_FEATURES), "probabilities": 2}
    for tensor in (graph.graph.input[0], graph.graph.output[0]):
        tensor.CopyFrom(make_tensor_value_info(tensor.name, TensorProto.FLOAT, ["batch", columns[tensor.name]]))
    serialized: bytes = graph.SerializeToString(deterministic=True)
    return serialized


def run(graph: bytes, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of fraud per row, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"features": features})
    column: NDArray[np.float32] = probabilities[:, 1]
    return column


def check(graph: bytes, model: Pipeline, test: simulator.Transactions) -> None:
    """Refuse a conversion that changes a score by more than ``TOLERANCE``."""
    difference = float(np.abs(run(graph, events.feature_matrix(test)) - scores(model, test)).max())
    print(f"largest difference to scikit-learn: {difference:.1e}")
    if not difference <= TOLERANCE:
        raise SystemExit(f"the converted model differs from scikit-learn by {difference}")


def golden(graph: bytes, test: simulator.Transactions) -> dict[str, Any]:
    """Ten transactions, honest and of each fraud scenario, with the scores that the bundle must give."""
    chosen = np.sort(np.concatenate([np.flatnonzero(test.scenario == kind)[:n] for kind, n in enumerate((4, 2, 2, 2))]))
    values = [values for number, values in enumerate(events.rows(test)) if number in set(chosen.tolist())]
    score = run(graph, events.feature_matrix(test)[chosen])
    return {
        "rows": [dict(zip(events.FIELDS, row, strict=True)) for row in values],
        "expected": {"score": [round(float(value), 7) for value in score]},
        "tolerance": TOLERANCE,
    }


def write(out: Path, graph: bytes, threshold: float, expected: dict[str, Any]) -> None:
    """Write ``model.onnx``, ``golden.json`` and ``model.yaml`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(graph)
    (out / "golden.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    manifest = {
        "name": NAME,
        "version": VERSION,
        "file": "model.onnx",
        "sha256": hashlib.sha256(graph).hexdigest(),
        "inputs": [
            {
                "name": "features",
                "dtype": "float32",
                "shape": ["batch", len(events.MODEL_FEATURES)],
                "fields": list(events.MODEL_FEATURES),
            }
        ],
        "outputs": {"score": {"output": "probabilities", "column": 1}},
        "decision": {"output": "score", "threshold": threshold, "field": "flag"},
        "golden": "golden.json",
    }
    (out / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    print(f"{out}: {len(graph)} bytes")


if __name__ == "__main__":
    main()
