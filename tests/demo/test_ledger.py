"""The ledger finds every loss, repetition and surprise, and nothing where all is well."""

from __future__ import annotations

import json

import numpy as np
import pytest

from worker.demo.events import transaction_id
from worker.demo.faults import FAULT_HEADER, Fault
from worker.demo.ledger import Ledger, percentiles_ms

FAULTS = [Fault(1, "invalid_json", b"c1", b"{"), Fault(2, "tombstone", b"c2", None)]


def score_of(number: int, *, flag: bool = False, score: float = 0.2) -> bytes:
    """The value that the worker would write for a good event."""
    value = {"transaction_id": transaction_id(number), "customer_id": "c", "score": score, "flag": flag, "model": "m@1"}
    return json.dumps(value).encode()


def headers_of(number: int, reason: str) -> list[tuple[str, str | bytes | None]]:
    """The headers of a dead letter for the fault with this number."""
    return [(FAULT_HEADER, str(number).encode()), ("headrace-dlq-reason", reason.encode())]


@pytest.fixture
def ledger() -> Ledger:
    """Three good events, the second a fraud, and both faults, all sent."""
    ledger = Ledger(np.array([False, True, False]), FAULTS)
    for number in range(3):
        ledger.sent_event(number, 10.0 + number)
    ledger.sent_fault()
    ledger.sent_fault()
    return ledger


def settle(ledger: Ledger) -> None:
    """Everything comes back as it should; events 1 and 2 are flagged."""
    for number in range(3):
        ledger.received_score(score_of(number, flag=number > 0), 10.5 + number)
    ledger.received_dead_letter(b"c1", b"{", headers_of(0, "invalid_json"))
    ledger.received_dead_letter(b"c2", None, headers_of(1, "tombstone"))


def test_complete_run_has_no_problem(ledger: Ledger) -> None:
    """With everything back nothing is missing, and flags are counted against the truth."""
    assert ledger.missing == 5
    settle(ledger)
    assert (ledger.produced, ledger.missing, ledger.duplicates, ledger.surprises) == (5, 0, 0, [])
    assert ledger.outcome() == {"scored": 3, "fraud": 1, "flagged": 2, "true_fraud_flagged": 1}
    assert ledger.latencies_s == [0.5, 0.5, 0.5]
    assert (ledger.model, ledger.last_received_at) == ("m@1", 12.5)
    assert dict(ledger.reasons) == {"invalid_json": 1, "tombstone": 1}


def test_repetitions_are_duplicates(ledger: Ledger) -> None:
    """A second score and a second dead letter of one record are duplicates, no matter how they differ."""
    settle(ledger)
    ledger.received_score(score_of(1, flag=False), 99.0)
    ledger.received_dead_letter(b"c2", None, headers_of(1, "tombstone"))
    assert (ledger.missing, ledger.duplicates, ledger.surprises) == (0, 2, [])
    assert ledger.outcome()["flagged"] == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"\xff",
        score_of(3),
        score_of(0, score=1.5),
        score_of(0).replace(b"tx-", b"id-"),
        score_of(0).replace(b"false", b"0"),
    ],
)
def test_strange_output_is_a_surprise(ledger: Ledger, value: bytes | None) -> None:
    """A record of the output topic that is no score of an event sent is a surprise and settles nothing."""
    ledger.received_score(value, 11.0)
    assert (ledger.missing, ledger.duplicates, len(ledger.surprises)) == (5, 0, 1)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"c1", b"{", headers_of(0, "invalid_utf8")),
        (b"c1", b"{ ", headers_of(0, "invalid_json")),
        (b"c2", b"{", headers_of(0, "invalid_json")),
        (b"c1", b"{", headers_of(2, "invalid_json")),
        (b"c1", b"{", [("headrace-dlq-reason", b"invalid_json")]),
        (b"c1", b"{", [(FAULT_HEADER, b"0")]),
        (b"c1", b"{", []),
    ],
)
def test_strange_dead_letter_is_a_surprise(
    ledger: Ledger, key: bytes, value: bytes, headers: list[tuple[str, str | bytes | None]]
) -> None:
    """A dead letter with another reason, key or value, or of a good record, is a surprise and settles nothing."""
    ledger.received_dead_letter(key, value, headers)
    assert (ledger.missing, ledger.duplicates, len(ledger.surprises)) == (5, 0, 1)


def test_surprises_are_bounded(ledger: Ledger) -> None:
    """A flood of strange records is cut off instead of filling memory."""
    for _ in range(1_000):
        ledger.received_score(b"", 11.0)
    assert len(ledger.surprises) == 20


def test_percentiles_are_in_milliseconds() -> None:
    """Percentiles of nothing are None; else they are milliseconds to a hundredth."""
    assert percentiles_ms([]) == {"p50": None, "p95": None, "p99": None}
    assert percentiles_ms([0.0123456]) == {"p50": 12.35, "p95": 12.35, "p99": 12.35}
