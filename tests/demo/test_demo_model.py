"""The shipped demo model: intact, reproducible by its golden rows, and useful on a world it has never seen."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
import yaml
from numpy.typing import NDArray

from worker import resources
from worker.demo import events, simulator

BUNDLE = resources.path("models/fraud")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The bundle's manifest."""
    document: dict[str, Any] = yaml.safe_load((BUNDLE / "model.yaml").read_text(encoding="utf-8"))
    return document


def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of fraud per row."""
    session = onnxruntime.InferenceSession(BUNDLE / "model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"features": features})
    column: NDArray[np.float32] = probabilities[:, 1]
    return column


def test_manifest_names_the_file_that_is_there(manifest: dict[str, Any]) -> None:
    """The hash in the manifest is the file's, the fields are the demo's in order, and the file is small."""
    content = (BUNDLE / manifest["file"]).read_bytes()
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert tuple(manifest["inputs"][0]["fields"]) == events.MODEL_FEATURES
    assert len(content) < 200_000


def test_golden_rows_give_the_golden_scores(manifest: dict[str, Any]) -> None:
    """ONNX Runtime scores the golden rows as recorded, and each row is a valid transaction."""
    golden = json.loads((BUNDLE / manifest["golden"]).read_text(encoding="utf-8"))
    schema = json.loads(resources.path("schemas/transaction.schema.json").read_text(encoding="utf-8"))
    for row in golden["rows"]:
        jsonschema.validate(row, schema)
    features = np.array([[row[field] for field in events.MODEL_FEATURES] for row in golden["rows"]], np.float32)
    np.testing.assert_allclose(score(features), golden["expected"]["score"], rtol=0, atol=golden["tolerance"])
    assert min(golden["expected"]["score"]) < 0.1
    assert max(golden["expected"]["score"]) > 0.9


def test_model_finds_fraud_in_another_world(manifest: dict[str, Any]) -> None:
    """On a seed other than the training seed, most flags are right and most frauds are flagged."""
    unseen = simulator.after_warm_up(simulator.TRAINING_SEED + 1, 40_000)
    flagged = score(events.feature_matrix(unseen)) >= manifest["decision"]["threshold"]
    fraud = unseen.scenario > 0
    assert (flagged & fraud).sum() / flagged.sum() > 0.8
    assert (flagged & fraud).sum() / fraud.sum() > 0.5
