"""What an evaluation must reach, and what it says where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evaluate.models import RECIPES
from benchmarks.evaluate.protocol import Labels, Metrics
from benchmarks.evaluate.replay import Counts, Replay
from benchmarks.evaluate.verdict import COUNTED_ROWS, Finding, complaints, find

REGRESSION, _, NETWORK = RECIPES
ALL_SCORED = Counts(produced=67_080, scored=67_080, dead_lettered=0, missing=0, doubled=0)
GOOD = Finding(
    REGRESSION, REGRESSION.published, REGRESSION.published, 5e-7, ALL_SCORED, counted=COUNTED_ROWS, refusals=()
)


def test_good_finding_has_no_complaint() -> None:
    """Everything scored once, equal scores, published metrics."""
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("worse", "sentence"),
    [
        (replace(GOOD, counts=replace(ALL_SCORED, missing=1)), "1 missing and 0 doubled events"),
        (replace(GOOD, counts=replace(ALL_SCORED, doubled=2)), "0 missing and 2 doubled events"),
        (
            replace(GOOD, counts=replace(ALL_SCORED, dead_lettered=3), refusals=("wrong_type: x",)),
            "3 refused events, though all are valid (wrong_type: x)",
        ),
        (replace(GOOD, counted=60_285), "60285 rows count by the protocol, it must be 58264"),
        (replace(GOOD, difference=1.1e-5), "scores differ by 1.1e-05; 1e-05 is allowed"),
        (replace(GOOD, difference=None), "no score came back"),
        (replace(GOOD, worker=Metrics(0.871, 0.6035, 0.291)), "0.0025 away from the published one; 0.002 is allowed"),
    ],
)
def test_each_shortcoming_has_its_sentence(worse: Finding, sentence: str) -> None:
    """One fault, one sentence that names the model and the number."""
    (found,) = complaints(worse)
    assert found.startswith("logistic regression: ")
    assert sentence in found


def test_network_is_not_held_to_the_published_figures() -> None:
    """The published network is another one; its figures are for information."""
    assert complaints(replace(GOOD, recipe=NETWORK, worker=Metrics(0.9, 0.7, 0.3))) == []


def test_find_compares_all_rows_but_measures_the_counted_ones() -> None:
    """Row 3 does not count: its score has no part in the metrics, but in the largest difference."""
    labels = Labels(np.array([1, 2, 3]), np.array([0, 0, 0]), np.array([True, False, True]))
    replay = Replay(np.array([0.9, 0.1, 0.0]), ALL_SCORED, (), 1.0)
    found = find(REGRESSION, replay, np.array([0.9, 0.1, 0.5]), labels, np.array([True, True, False]))
    assert found.difference == 0.5
    assert found.counted == 2
    assert found.worker == found.reference == Metrics(1.0, 1.0, 0.01)


def test_find_without_all_scores_has_no_metrics() -> None:
    """A counted event without a score leaves nothing to measure; the others are still compared."""
    labels = Labels(np.array([1, 2]), np.array([0, 0]), np.array([True, False]))
    replay = Replay(np.array([np.nan, 0.1]), ALL_SCORED, (), 1.0)
    found = find(REGRESSION, replay, np.array([0.9, 0.2]), labels, np.array([True, True]))
    assert found.worker is None
    assert found.difference == pytest.approx(0.1)
    assert found.counted == 1


def test_find_without_any_score_has_no_difference() -> None:
    """Nothing came back: there is nothing to compare."""
    labels = Labels(np.array([1, 2]), np.array([0, 0]), np.array([True, False]))
    replay = Replay(np.full(2, np.nan), ALL_SCORED, (), 1.0)
    found = find(REGRESSION, replay, np.array([0.9, 0.2]), labels, np.array([True, True]))
    assert found.difference is None
