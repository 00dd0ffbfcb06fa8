"""Isolation: culprits are found by bisection, all other rows keep the scores they have without them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker.core.isolation import Outputs, Tensors, not_finite, run_isolating
from worker.core.records import Refusal
from worker.errors import ModelError


class _Model:
    """Doubles a float column and labels rows; raises where a row is among the culprits."""

    def __init__(self, *culprits: float) -> None:
        self.culprits = culprits
        self.calls: list[list[float]] = []
        self.widths: list[int] = []

    def __call__(self, tensors: Tensors) -> Outputs:
        values = tensors[0].tolist()
        self.calls.append(values)
        self.widths.append(len(tensors[1]))
        for culprit in self.culprits:
            if culprit in values:
                raise ModelError(f"bad row {culprit:g}")
        return {"score": tensors[0] * 2, "pair": np.stack([tensors[0], -tensors[0]], axis=1)}


def _tensors(rows: int) -> Tensors:
    column = np.arange(1, rows + 1, dtype=np.float32)
    return column, np.zeros((rows, 3), dtype=np.int64)


def test_a_healthy_batch_costs_one_call() -> None:
    """Without a failure, the tensors go in as they are and the outputs come back untouched."""
    model = _Model()
    tensors = _tensors(5)
    seen: list[Tensors] = []

    def run(given: Tensors) -> Outputs:
        seen.append(given)
        return model(given)

    outputs, refusals = run_isolating(run, tensors)
    assert refusals == {}
    assert outputs["score"].tolist() == [2, 4, 6, 8, 10]
    assert seen[0] is tensors
    assert len(seen) == 1


@pytest.mark.parametrize("culprit", range(1, 8))
def test_one_culprit_is_found_wherever_it_stands(culprit: int) -> None:
    """Exactly the culprit is refused; every other row has its own score, in its own place."""
    outputs, refusals = run_isolating(_Model(culprit), _tensors(7))
    assert refusals == {culprit - 1: Refusal("infer", "model_error", f"bad row {culprit}")}
    expected = [0.0 if row == culprit else 2.0 * row for row in range(1, 8)]
    assert outputs["score"].tolist() == expected
    assert outputs["score"].dtype == np.float32
    assert outputs["pair"].shape == (7, 2)
    assert outputs["pair"][:, 1].tolist() == [0.0 if row == culprit else -float(row) for row in range(1, 8)]


def test_halves_are_tried_from_front_to_back() -> None:
    """Bisection order is fixed: whole, first half down to the culprit, then the rest; all inputs are cut alike."""
    model = _Model(2)
    run_isolating(model, _tensors(5))
    assert model.calls == [[1, 2, 3, 4, 5], [1, 2], [1], [2], [3, 4, 5]]
    assert model.widths == [5, 2, 1, 1, 3]


def test_several_culprits_leave_the_rest() -> None:
    """Neighbouring and distant culprits are all found."""
    outputs, refusals = run_isolating(_Model(1, 4, 5, 8), _tensors(8))
    assert sorted(refusals) == [0, 3, 4, 7]
    assert outputs["score"].tolist() == [0, 4, 6, 0, 0, 12, 14, 0]


def test_one_good_row_among_culprits_keeps_its_place() -> None:
    """A single successful part is not mistaken for the whole batch."""
    outputs, refusals = run_isolating(_Model(1, 3), _tensors(3))
    assert sorted(refusals) == [0, 2]
    assert outputs["score"].tolist() == [0, 4, 0]


def test_a_batch_of_culprits_has_no_outputs() -> None:
    """When every row fails, all are refused and there is nothing to encode."""
    outputs, refusals = run_isolating(_Model(1, 2), _tensors(2))
    assert outputs == {}
    assert sorted(refusals) == [0, 1]


def test_a_failure_that_does_not_repeat_refuses_nobody() -> None:
    """If both halves work after the whole failed, every row has its score."""
    calls = 0

    def run(tensors: Tensors) -> Outputs:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ModelError("once")
        return {"score": tensors[0] * 2}

    outputs, refusals = run_isolating(run, _tensors(4))
    assert refusals == {}
    assert outputs["score"].tolist() == [2, 4, 6, 8]


def test_any_other_exception_passes_through() -> None:
    """Only a model error is data's fault; a bug is not bisected."""

    def run(_: Tensors) -> Outputs:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        run_isolating(run, _tensors(4))


def test_the_cost_of_one_culprit_is_logarithmic() -> None:
    """One culprit among 512 rows costs two calls per halving."""
    model = _Model(300)
    run_isolating(model, _tensors(512))
    assert len(model.calls) == 1 + 2 * int(math.log2(512))


def test_finite_outputs_refuse_nobody() -> None:
    """Numbers, integers and texts pass."""
    outputs = {"a": np.array([1.0, -2.0]), "b": np.array([1, 2]), "c": np.array(["x", "y"], dtype=object)}
    assert not_finite(outputs) == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_with_a_bad_scalar_are_refused(bad: float) -> None:
    """NaN and either infinity refuse their row, and only it."""
    found = not_finite({"score": np.array([0.5, bad, 0.25], dtype=np.float32)})
    assert found == {1: Refusal("infer", "output_not_finite", "the model's output 'score' is NaN or infinite")}


def test_rows_of_any_width_are_judged_whole() -> None:
    """One bad number anywhere in a row's vector or matrix refuses the row."""
    vector = np.ones((3, 2))
    vector[2, 1] = math.nan
    matrix = np.ones((3, 2, 2))
    matrix[0, 1, 0] = math.inf
    assert sorted(not_finite({"vector": vector, "matrix": matrix})) == [0, 2]


def test_the_first_bad_output_is_named() -> None:
    """A row that is bad twice is refused once, by the first output; later outputs are still judged."""
    outputs = {
        "fine": np.ones(2),
        "kind": np.array([1, 2]),
        "first": np.array([math.nan, 1.0]),
        "second": np.array([math.nan, math.nan]),
    }
    found = not_finite(outputs)
    assert [found[row].error for row in (0, 1)] == [
        "the model's output 'first' is NaN or infinite",
        "the model's output 'second' is NaN or infinite",
    ]
