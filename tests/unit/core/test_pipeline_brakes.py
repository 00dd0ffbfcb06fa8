"""The pipeline tells the brakes the fate of every record, whichever way it took."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from worker.core.actions import Outcome, Policy, Produce, RunBatch
from worker.core.batching import BatchLimits
from worker.core.brakes import BrakeLimits
from worker.core.flow import FlowLimits
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import Pipeline
from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, TopicPartition
from worker.testing import FakeDecoder, FakeEncoder, make_span

TP = TopicPartition("in", 0)
ROUTING = Routing("out", 1, 10_000, "dlq", 1, 10_000, "source", (), "group", "fraud@1.0.0", "0123456789ab")
NO = Refusal("infer", "model_error", "no")
LIMIT = 3


def pipeline_with_brakes() -> Pipeline:
    """A pipeline that stops a partition after three refusals in a row, and skips tombstones."""
    policy = Policy(
        BatchLimits(10, 1000, 0.5),
        FlowLimits(100, 10_000, 1000),
        10.0,
        1000,
        skip_tombstones=True,
        brakes=BrakeLimits(None, 1000, LIMIT, 5.0),
    )
    pipeline = Pipeline(FakeDecoder(), FakeEncoder(), Dispatcher(ROUTING, len), policy)
    pipeline.partitions_assigned([TP], 0.0)
    return pipeline


def receive(pipeline: Pipeline, first: int, values: list[bytes | None]) -> None:
    """Feed one span."""
    epoch = pipeline.epoch(TP)
    assert epoch is not None
    offsets = list(range(first, first + len(values)))
    pipeline.records_received([make_span(TP, offsets, values, epoch=epoch)], 0.0)


def answer(pipeline: Pipeline, *, raising: bool = False, broker: Refusal | None = None) -> None:
    """Carry out all that the pipeline asks for; the model or the broker may refuse every row."""
    while actions := pipeline.take_actions():
        for action in actions:
            if isinstance(action, RunBatch):
                rows = action.batch.size
                refusals = dict.fromkeys(range(rows), NO) if raising else {}
                pipeline.batch_succeeded(action.batch, Outcome({"score": np.zeros(rows)}, refusals), 0.0)
            elif isinstance(action, Produce):
                for parcel in action.parcels:
                    pipeline.parcel_delivered(parcel, _refused(parcel, broker), 0.0)


def _refused(parcel: Parcel, broker: Refusal | None) -> dict[int, Refusal]:
    return {} if broker is None or parcel.dead_letter is not None else dict.fromkeys(range(len(parcel)), broker)


def _undecodable(pipeline: Pipeline) -> None:
    receive(pipeline, 0, [b"x"] * LIMIT)


def _unreadable(pipeline: Pipeline) -> None:
    for offset in range(LIMIT):
        span = make_span(TP, [offset], [None], epoch=pipeline.epoch(TP) or 0)
        pipeline.record_unreadable(span, Refusal("decode", "corrupt_record", "no"))


def _raising(pipeline: Pipeline) -> None:
    receive(pipeline, 0, [b"1"] * LIMIT)
    answer(pipeline, raising=True)


def _refused_by_the_broker(pipeline: Pipeline) -> None:
    receive(pipeline, 0, [b"1"] * LIMIT)
    answer(pipeline, broker=Refusal("produce", "broker_refused", "no"))


@pytest.mark.parametrize("refuse", [_undecodable, _unreadable, _raising, _refused_by_the_broker])
def test_every_kind_of_refusal_counts(refuse: Callable[[Pipeline], None]) -> None:
    """Refusals of decoder, source, model and broker stop the partition, and leave nothing in flight."""
    pipeline = pipeline_with_brakes()
    refuse(pipeline)
    assert list(pipeline.brakes.stopped()) == [TP]
    answer(pipeline)
    assert pipeline.in_flight_records == 0


def test_an_acknowledged_output_counts_as_passed() -> None:
    """A scored record ends the row once it is acknowledged; an acknowledged dead letter does not."""
    pipeline = pipeline_with_brakes()
    receive(pipeline, 0, [b"x", b"x", b"1", b"x", b"x"])
    answer(pipeline)
    assert not pipeline.brakes.stopped()
    receive(pipeline, 5, [b"x"])
    assert pipeline.brakes.stopped()


def test_a_skipped_tombstone_says_nothing() -> None:
    """It neither ends the row nor adds to it."""
    pipeline = pipeline_with_brakes()
    receive(pipeline, 0, [b"x", b"x", None, None, None])
    assert not pipeline.brakes.stopped()
    receive(pipeline, 5, [b"x"])
    assert pipeline.brakes.stopped()


def test_records_of_a_lost_assignment_say_nothing() -> None:
    """Refusals that come after the partition was taken away, or read anew, are not counted twice."""
    pipeline = pipeline_with_brakes()
    receive(pipeline, 0, [b"1"] * LIMIT)
    pipeline.partitions_revoked([TP])
    pipeline.partitions_assigned([TP], 0.0)
    answer(pipeline, raising=True)
    stale = make_span(TP, [0], [b"x"], epoch=1)
    assert pipeline.records_received([stale], 0.0) == []
    pipeline.brakes.refused(Slice(Block(stale, Decoded((), [None], {})), 0, 1))
    assert not pipeline.brakes.stopped()
