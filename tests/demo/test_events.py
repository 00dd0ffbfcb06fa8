"""Simulated transactions become events that their contract accepts."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from worker import resources
from worker.demo import events, simulator
from worker.demo.simulator import World

SMALL = World(customers=300, terminals=600, side=25.0)


@pytest.fixture(scope="module")
def transactions() -> simulator.Transactions:
    """Two thousand transactions of a small world."""
    return simulator.after_warm_up(5, 2_000, SMALL)


def test_every_event_satisfies_the_contract(transactions: simulator.Transactions) -> None:
    """Each value is a valid transaction with all 23 fields, of about 540 bytes."""
    schema = json.loads(resources.path("schemas/transaction.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    values = events.encode(transactions)
    decoded = [json.loads(value) for value in values]
    assert [error.message for event in decoded for error in validator.iter_errors(event)] == []
    assert all(set(event) == set(schema["properties"]) for event in decoded)
    assert 500 < sum(map(len, values)) / len(values) < 620


def test_matrix_holds_what_the_events_say(transactions: simulator.Transactions) -> None:
    """The feature matrix equals the numbers in the encoded events."""
    decoded = [json.loads(value) for value in events.encode(transactions)]
    expected = np.array([[event[name] for name in events.MODEL_FEATURES] for event in decoded], np.float32)
    np.testing.assert_array_equal(events.feature_matrix(transactions), expected)


def test_identities_count_up_from_the_first_number(transactions: simulator.Transactions) -> None:
    """Identities are unique, run on from the first number, and lead back to it; the key is the customer."""
    decoded = [json.loads(value) for value in events.encode(transactions, first_number=70)]
    assert [events.number_of(event["transaction_id"]) for event in decoded] == list(range(70, 2_070))
    assert [event["customer_id"].encode() for event in decoded] == events.keys(transactions)


@pytest.mark.parametrize("identity", ["", "tx-", "tx-abc", "7", "ty-0000000007"])
def test_foreign_identity_is_refused(identity: str) -> None:
    """An identity that the simulator did not give raises ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        events.number_of(identity)
