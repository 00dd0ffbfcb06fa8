"""The models of this benchmark: a small network, a wide one, and one of the shape that Crayfish published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.harness.places import CACHE
from benchmarks.workloads import Pool, Workload, graphs, prepare, recipes
from benchmarks.workloads.recipes import Recipe

POOL = 2_000
WIDE_LAYERS = (2048, 2048, 1024, 1)


def wide(rng: np.random.Generator, count: int) -> Recipe:
    """The card transactions of ``fraud``, scored by six million weights: what a GPU is for."""
    recipe = recipes.fraud(rng, count)
    (features,) = recipe.tensors.values()
    model = graphs.perceptron((features.shape[1], *WIDE_LAYERS), rng, sample=features)
    return Recipe(recipe.rows, recipe.tensors, model, recipe.properties, recipe.inputs, key=recipe.key)


MODELS = {
    "small": Workload("small", recipes.fraud, POOL),
    "wide": Workload("wide", wide, POOL),
    "crayfish": Workload("crayfish", recipes.crayfish, POOL),
}


def pool(name: str, root: Path = CACHE / "gpu") -> Pool:
    """The model of that name on disk, with its events; made anew when its sources change."""
    return prepare(MODELS[name], root)
