"""The three models: trained by scikit-learn, scored by it for reference, converted to bundles for the worker."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.evaluate.dataset import FEATURES
from benchmarks.evaluate.protocol import Metrics

SEED = 0
OPSET = 17


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model: how to build it, and what was published for its kind.

    ``published_within`` is how far the metrics may be from the published ones (None: printed, not judged).
    ``repeats_within`` is how far another run may be from the committed table.
    """

    name: str
    title: str
    build: Callable[[], Any]
    published: Metrics
    published_within: float | None
    repeats_within: float


def _logistic_regression() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED))


def _random_forest() -> Any:
    # Without a scaler: a tree asks for order only, and a scaled value rounded to float32 by another routine than
    # scikit-learn's may land on the other side of a threshold.
    return RandomForestClassifier(n_estimators=100, random_state=SEED, n_jobs=-1)


def _network() -> Any:
    return make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=20, random_state=SEED))


RECIPES = (
    Recipe(
        "logistic-regression", "logistic regression", _logistic_regression, Metrics(0.871, 0.606, 0.291), 0.002, 0.002
    ),
    Recipe("random-forest", "random forest", _random_forest, Metrics(0.867, 0.658, 0.287), 0.002, 0.002),
    # The published network has another shape; and training amplifies the last bit of a machine's arithmetic.
    Recipe("network", "feed-forward net", _network, Metrics(0.864, 0.653, 0.286), None, 0.02),
)


def train(recipe: Recipe, features: NDArray[np.float32], fraud: NDArray[np.bool_]) -> Any:
    """Fit the model; a scaler in it learns from the same rows."""
    model = recipe.build()
    with warnings.catch_warnings():
        # The network's number of passes is fixed on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features.astype(np.float64), fraud)
    if isinstance(model, RandomForestClassifier):
        # Threads would add the trees' votes in an order of chance.
        model.set_params(n_jobs=1)
    return model


def reference_scores(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of fraud per row by scikit-learn, ``float64[n]``: float32 inputs, then its own double precision."""
    probabilities: NDArray[np.float64] = model.predict_proba(features.astype(np.float64))
    return probabilities[:, 1]


def write_bundle(folder: Path, recipe: Recipe, model: Any) -> None:
    """Convert the model and write ``model.onnx`` and ``model.yaml`` into the new ``folder``."""
    graph: bytes = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, len(FEATURES)]))],
        options={"zipmap": False},
        target_opset=OPSET,
        name=recipe.name,
    ).SerializeToString()
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    manifest = {
        "name": recipe.name,
        "version": "1.0.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(graph).hexdigest(),
        "inputs": [
            {
                "name": "features",
                "dtype": "float32",
                "shape": ["batch", len(FEATURES)],
                "fields": list(FEATURES),
            }
        ],
        "outputs": {"score": {"output": "probabilities", "column": 1}},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
