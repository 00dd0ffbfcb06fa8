"""Training and conversion: what the worker loads gives scikit-learn's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluate import models
from benchmarks.evaluate.verdict import SCORE_TOLERANCE
from tests.evaluate.weeks import made_up_week
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_model import OnnxModel


@pytest.mark.parametrize("recipe", models.RECIPES, ids=lambda recipe: recipe.name)
def test_bundle_scores_like_scikit_learn(recipe: models.Recipe, tmp_path: Path) -> None:
    """The written bundle passes the worker's checks and agrees on rows that the model never saw."""
    week, unseen = made_up_week(600), made_up_week(64, seed=1)
    model = models.train(recipe, week.features, week.labels.fraud)
    models.write_bundle(tmp_path / recipe.name, recipe, model)
    onnx = OnnxModel.load(load_bundle(tmp_path / recipe.name), providers=("cpu",))
    scores = onnx.run((unseen.features,))["score"]
    reference = models.reference_scores(model, unseen.features)
    assert reference.max() - reference.min() > 0.1
    np.testing.assert_allclose(scores, reference, rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("recipe", models.RECIPES, ids=lambda recipe: recipe.name)
def test_training_repeats(recipe: models.Recipe) -> None:
    """The same rows give the same model twice: every source of chance has its seed."""
    week = made_up_week(300)
    first, second = (
        models.reference_scores(models.train(recipe, week.features, week.labels.fraud), week.features) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
