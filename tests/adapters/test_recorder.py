"""The recorder's numbers: once per span, batch and parcel, by the catalogue's names."""

from __future__ import annotations

import numpy as np
import pytest

from worker import recorder as recorder_module
from worker.core.actions import Outcome
from worker.core.batching import Batch, FlushReason
from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, TopicPartition
from worker.recorder import OBSERVED_TOGETHER, PARTITION_GAUGES, Recorder
from worker.telemetry import M, Metrics
from worker.testing import FakeModel, ManualClock, make_span

A, B = TopicPartition("in", 0), TopicPartition("in", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The recorder's clock, at 1000 s."""
    clock = ManualClock()
    monkeypatch.setattr(recorder_module, "time", clock)
    return clock


@pytest.fixture
def metrics() -> Metrics:
    """Fresh metrics."""
    return Metrics()


@pytest.fixture
def recorder(metrics: Metrics, clock: ManualClock) -> Recorder:
    """A recorder for the model fraud 1.0.0."""
    assert clock.now == 1000.0
    return Recorder(metrics, FakeModel(), "fraud", "1.0.0")


def _parcel(offsets: list[int], letter: Refusal | None = None) -> Parcel:
    span = make_span(A, offsets)
    rows = Slice(Block(span, Decoded((), [], {})), 0, len(span))
    timestamps = [999_000] * len(span)
    return Parcel(TopicPartition("out", 0), list(span.keys), list(span.values), [], timestamps, [rows], letter)


def test_a_batch_counts_records_calls_and_culprits(metrics: Metrics, recorder: Recorder) -> None:
    """Failures count the culprit rows of the model, not the rows that are merely not finite."""
    refusals = {at: Refusal("infer", "model_error", "") for at in (0, 1)} | {
        2: Refusal("infer", "output_not_finite", "")
    }
    outcome = Outcome({"score": np.zeros(6)}, refusals, assemble_s=0.25, infer_s=0.5)
    recorder.batch_done(Batch([], 6, 0, FlushReason.DELAY, 0.125), outcome, 0.0625)
    assert metrics.value(M.INFERENCE_FAILURES, reason="model_error") == 2
    assert metrics.value(M.BATCHES, reason="delay") == 1
    assert metrics.value(M.BATCHES) == 1
    assert metrics.value(M.INFERENCE_RECORDS, model="fraud", version="1.0.0", provider="cpu") == 6
    assert metrics.value(M.INFERENCE_EXECUTIONS) == 1
    assert metrics.snapshot(M.BATCH_SIZE, reason="delay").total == metrics.snapshot(M.BATCH_SIZE).total == 6
    assert metrics.snapshot(M.COST_ERROR).count == 0
    assert metrics.snapshot(M.BATCH_WAIT).total == 0.125
    assert metrics.snapshot(M.BATCH_PADDING).total == 0.25
    assert metrics.snapshot(M.INFERENCE_DURATION).total == 0.5
    stages = {stage: metrics.snapshot(M.STAGE_DURATION, stage=stage).total for stage in ("queue", "assemble", "infer")}
    assert stages == {"queue": 0.125, "assemble": 0.25, "infer": 0.5}
    assert metrics.snapshot(M.STAGE_DURATION, stage="encode").total == 0.0625


@pytest.mark.parametrize(("took_s", "error"), [(0.5, 0.0), (0.75, 0.5), (0.25, 0.5)])
def test_a_batch_tells_how_far_off_its_prediction_was(
    metrics: Metrics, recorder: Recorder, took_s: float, error: float
) -> None:
    """Relative to what was expected, whichever way."""
    batch = Batch([], 1, 0, FlushReason.IDLE, 0.0, expected_s=0.5)
    recorder.batch_done(batch, Outcome({}, {}, infer_s=took_s), 0.0)
    assert (metrics.snapshot(M.COST_ERROR).count, metrics.snapshot(M.COST_ERROR).total) == (1, error)


def test_a_healthy_batch_has_no_failures(metrics: Metrics, recorder: Recorder) -> None:
    """Nothing is counted where nothing failed; an engine fault counts for itself."""
    recorder.batch_done(Batch([], 1, 0, FlushReason.IDLE, 0.0), Outcome({}, {}), 0.0)
    assert metrics.value(M.INFERENCE_FAILURES) == 0
    recorder.engine_failed()
    assert metrics.series(M.INFERENCE_FAILURES) == {("model_error",): 0, ("engine_fault",): 1}


def test_a_poll_counts_by_topic(metrics: Metrics, recorder: Recorder) -> None:
    """Records and the time of their decoding."""
    recorder.received([make_span(A, [1, 2, 3]), make_span(A, [4])], 0.25)
    assert metrics.value(M.RECORDS_CONSUMED, topic="in") == 4
    assert metrics.snapshot(M.STAGE_DURATION, stage="decode").total == 0.25


def test_a_delivered_parcel_counts_its_records_and_their_age(metrics: Metrics, recorder: Recorder) -> None:
    """Refused records count apart; the age runs from the input's timestamp to now."""
    recorder.delivered(_parcel([1, 2, 3]), 1, 0.5)
    assert metrics.value(M.RECORDS_PRODUCED, topic="out", outcome="delivered") == 2
    assert metrics.value(M.RECORDS_PRODUCED, topic="out", outcome="refused") == 1
    recorder.observe_latencies()
    recorder.observe_latencies()
    latency = metrics.snapshot(M.END_TO_END_LATENCY)
    assert latency.count == 3
    assert latency.mean == pytest.approx(1.0)
    assert metrics.snapshot(M.STAGE_DURATION, stage="produce").total == 0.5


def test_many_latencies_are_taken_in_without_being_asked_for(metrics: Metrics, recorder: Recorder) -> None:
    """They are not gathered without bound."""
    recorder.delivered(_parcel(list(range(OBSERVED_TOGETHER - 1))), 0, 0.0)
    assert metrics.snapshot(M.END_TO_END_LATENCY).count == 0
    recorder.delivered(_parcel([0]), 0, 0.0)
    assert metrics.snapshot(M.END_TO_END_LATENCY).count == OBSERVED_TOGETHER


def test_a_delivered_dead_letter_counts_by_reason_and_source(
    metrics: Metrics, recorder: Recorder, clock: ManualClock
) -> None:
    """It is no output: neither produced nor in the latency. Progress it is."""
    clock.advance(5.0)
    recorder.delivered(_parcel([1], Refusal("decode", "invalid_json", "")), 0, 0.0)
    assert metrics.value(M.RECORDS_DEAD_LETTERED, topic="in", reason="invalid_json") == 1
    assert metrics.value(M.RECORDS_PRODUCED) == 0
    recorder.observe_latencies()
    assert metrics.snapshot(M.END_TO_END_LATENCY).count == 0
    assert recorder.last_progress_s == 1005.0


@pytest.mark.parametrize(("done", "outcome"), [(True, "succeeded"), (False, "failed")])
def test_a_commit_counts_by_its_outcome(metrics: Metrics, recorder: Recorder, done: bool, outcome: str) -> None:
    """Only a commit that succeeded moves the committed offset."""
    recorder.committed({A: 7}, 0.5, done=done)
    assert metrics.value(M.COMMITS, outcome=outcome) == 1
    assert metrics.value(M.COMMITS) == 1
    assert metrics.snapshot(M.COMMIT_DURATION).total == 0.5
    assert metrics.series(M.OFFSET_COMMITTED) == ({("in", "0"): 7.0} if done else {})


def test_revoked_partitions_leave_no_gauge_behind(metrics: Metrics, recorder: Recorder) -> None:
    """Every gauge of the partition goes, those of other partitions stay."""
    for gauge in PARTITION_GAUGES:
        for tp in (A, B):
            metrics.gauge(gauge, 5, topic=tp.topic, partition=tp.partition)
    recorder.revoked([A], 0.5, 3, lost=False)
    assert [metrics.series(gauge) for gauge in PARTITION_GAUGES] == [{("in", "1"): 5.0}] * len(PARTITION_GAUGES)
    assert metrics.value(M.REBALANCES, event="revoked") == 1
    assert metrics.value(M.ABANDONED_RECORDS) == 3
    assert metrics.snapshot(M.REBALANCE_DURATION).total == 0.5
    recorder.revoked([B], 0.5, 0, lost=True)
    assert metrics.value(M.REBALANCES, event="lost") == 1


def test_assignments_count_and_number_themselves(metrics: Metrics, recorder: Recorder) -> None:
    """The newest epoch shows; an empty assignment counts and moves nothing."""
    recorder.assigned({A: 3, B: 4})
    recorder.assigned({})
    assert (recorder.rebalances, metrics.value(M.REBALANCES, event="assigned")) == (2, 2)
    assert metrics.value(M.ASSIGNMENT_EPOCH) == 4


@pytest.mark.parametrize(("why", "resets"), [("out_of_range", 1), ("none_committed", 0)])
def test_only_lost_offsets_count_as_resets(metrics: Metrics, recorder: Recorder, why: str, resets: int) -> None:
    """A first start without a commit is no reset."""
    recorder.offset_reset(A, why)  # type: ignore[arg-type]  # one of the two literals
    assert metrics.value(M.OFFSET_RESETS) == resets


def test_back_pressure_adds_up(metrics: Metrics, recorder: Recorder) -> None:
    """Seconds without room."""
    recorder.waited_for_room(0.5)
    recorder.waited_for_room(0.25)
    assert metrics.value(M.BACKPRESSURE) == 0.75
