"""The ledger of a replay: what came back for each event that was sent."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from benchmarks.evaluate.failure import EvaluationError
from benchmarks.evaluate.replay import Counts, tally
from tests.kafka.client import Record


def record(value: object, topic: str = "scored", offset: int = 0) -> Record:
    """A record with this JSON value."""
    return Record(topic, 0, offset, 0, b"key", orjson.dumps(value))


def scored(identity: str, score: float) -> Record:
    """A record as the worker writes it."""
    return record({"TRANSACTION_ID": identity, "score": score, "model": "m@1"})


def test_scores_take_the_order_of_the_events() -> None:
    """The order in which scores come back does not matter."""
    score, counts = tally(["a", "b", "c"], [scored("c", 0.3), scored("a", 0.1), scored("b", 0.2)], [])
    np.testing.assert_array_equal(score, [0.1, 0.2, 0.3])
    assert counts == Counts(produced=3, scored=3, dead_lettered=0, missing=0, doubled=0)


def test_missing_and_doubled_are_told_apart() -> None:
    """One event thrice and another never do not cancel out; the first score stands."""
    score, counts = tally(["a", "b"], [scored("a", 0.1), scored("a", 0.7), scored("a", 0.8)], [])
    np.testing.assert_array_equal(score, [0.1, np.nan])
    assert counts == Counts(produced=2, scored=3, dead_lettered=0, missing=1, doubled=2)


def test_refused_event_is_not_missing_but_has_no_score() -> None:
    """A dead letter accounts for its event."""
    score, counts = tally(["a", "b"], [scored("b", 0.2)], [record({"TRANSACTION_ID": "a"}, "refused")])
    np.testing.assert_array_equal(score, [np.nan, 0.2])
    assert counts == Counts(produced=2, scored=1, dead_lettered=1, missing=0, doubled=0)


def test_event_both_scored_and_refused_is_doubled() -> None:
    """Each event ends in one place."""
    counts = tally(["a"], [scored("a", 0.2)], [record({"TRANSACTION_ID": "a"}, "refused")])[1]
    assert (counts.missing, counts.doubled) == (0, 1)


@pytest.mark.parametrize("value", [{"TRANSACTION_ID": "stranger", "score": 0.5}, {"score": 0.5}, [1], None])
def test_output_of_no_event_is_an_error(value: object) -> None:
    """An output that nobody asked for is named with its place."""
    with pytest.raises(EvaluationError, match=r"scored/0/7 holds .* belongs to no event"):
        tally(["a"], [record(value, offset=7)], [])
