"""Snapshots and the report say what the ledger and the worker's metrics say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.demo.test_ledger import FAULTS, score_of
from worker.demo.ledger import Ledger
from worker.demo.snapshot import Batches, Observer, batches, report

SAMPLES = {
    ("headrace_batch_size_records_bucket", "1.0"): 3.0,
    ("headrace_batch_size_records_bucket", "2.0"): 3.0,
    ("headrace_batch_size_records_bucket", "4.0"): 7.0,
    ("headrace_batch_size_records_bucket", "+Inf"): 8.0,
    ("headrace_batch_size_records_count", "idle"): 6.0,
    ("headrace_batch_size_records_count", "size"): 2.0,
    ("headrace_batch_size_records_sum", "idle"): 14.0,
    ("headrace_batch_size_records_sum", "size"): 6.0,
    ("headrace_batches_total", "idle"): 6.0,
    ("headrace_batches_total", "size"): 2.0,
    ("headrace_batches_total", "drain"): 0.0,
    ("headrace_model_info", "cpu"): 1.0,
}


def test_batches_are_read_off_the_metrics() -> None:
    """Ranges of sizes from the histogram's bounds, reasons that occurred, the mean, the provider."""
    read = batches(SAMPLES)
    assert read.sizes == {"1": 3, "3-4": 4, "5-": 1}
    assert read.reasons == {"idle": 6, "size": 2}
    assert (read.mean_size, read.provider) == (2.5, "cpu")


def test_no_metrics_give_empty_batches() -> None:
    """Before the first batch there is nothing to show."""
    assert batches({}) == Batches()


def test_snapshot_counts_and_rates() -> None:
    """Counts are totals; rate and latency cover what arrived between the snapshots of the last seconds."""
    ledger = Ledger(np.array([True, False, False, False]), [])
    observer = Observer(ledger, 4.0)
    observer.take("running", 0.0, Batches())
    for number in range(4):
        ledger.sent_event(number, float(number))
    ledger.received_score(score_of(0, flag=True), 0.1)
    ledger.received_score(score_of(1), 1.3)
    snapshot = observer.take("running", 2.0, Batches())
    assert (snapshot.produced, snapshot.scored, snapshot.in_flight) == (4, 2, 2)
    assert (snapshot.flagged, snapshot.fraud, snapshot.true_fraud_flagged) == (1, 1, 1)
    assert snapshot.rate == pytest.approx(1.0)
    assert snapshot.recent_ms["p50"] == pytest.approx(200.0)
    later = observer.take("draining", 10.0, Batches())
    assert later.rate == pytest.approx(0.0)
    assert later.recent_ms["p50"] is None


def test_report_has_exactly_the_documented_keys() -> None:
    """The report of a complete run, with seconds from the first send to the last arrival."""
    ledger = Ledger(np.array([True, True]), [])
    for number in range(2):
        ledger.sent_event(number, float(number))
        ledger.received_score(score_of(number, flag=number == 0), number + 1.0)
    assert report(ledger, batches(SAMPLES)) == {
        "produced": 2,
        "scored": 2,
        "dead_lettered": 0,
        "missing": 0,
        "duplicates": 0,
        "seconds": 2.0,
        "events_per_second": 1.0,
        "latency_ms": {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0},
        "mean_batch_size": 2.5,
        "flagged": 1,
        "true_fraud_flagged": 1,
        "precision": 1.0,
        "recall": 0.5,
        "model": "m@1",
        "provider": "cpu",
    }


def test_report_of_nothing_has_no_ratios() -> None:
    """Where nothing came back, ratios are None and what was sent is missing."""
    ledger = Ledger(np.array([False]), FAULTS)
    ledger.sent_fault()
    facts = report(ledger, Batches())
    assert (facts["produced"], facts["missing"], facts["seconds"]) == (1, 1, 0.0)
    ratios = ("events_per_second", "mean_batch_size", "precision", "recall", "model", "provider")
    assert {name: facts[name] for name in ratios} == dict.fromkeys(ratios)
