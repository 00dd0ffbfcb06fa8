"""Each fault is bad in the one way it names, by the judgement of the worker's own decoder."""

from __future__ import annotations

import json

import pytest

from worker import resources
from worker.core.decoder import Decoder
from worker.core.features import TensorSpec
from worker.core.schema import compile_schema
from worker.demo import events, faults, simulator
from worker.demo.simulator import World

SMALL = World(customers=300, terminals=600, side=25.0)


@pytest.fixture(scope="module")
def sample() -> bytes:
    """One good event."""
    return events.encode(simulator.after_warm_up(5, 1, SMALL))[0]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """The decoder that the worker builds for the demo."""
    schema = compile_schema(json.loads(resources.path("schemas/transaction.schema.json").read_text(encoding="utf-8")))
    inputs = (TensorSpec("features", "float32", (15,), events.MODEL_FEATURES),)
    return Decoder(schema, inputs, "transaction_id", ("transaction_id", "customer_id"), full=False)


@pytest.mark.parametrize("reason", faults.KINDS)
def test_decoder_gives_the_named_reason(decoder: Decoder, sample: bytes, reason: str) -> None:
    """The decoder refuses the record for the reason that the fault names, and not the good event beside it."""
    decoded = decoder.decode([sample, faults.KINDS[reason](sample)])
    assert {row: refusal.reason for row, refusal in decoded.refusals.items()} == {1: reason}


def test_plan_spreads_all_kinds_over_the_events(sample: bytes) -> None:
    """All kinds in turn, at rising places inside the stream, with the given key."""
    planned = faults.plan(sample, b"key", events=100, count=10)
    assert [fault.reason for fault in planned] == [*faults.KINDS, *list(faults.KINDS)[:2]]
    assert [fault.before for fault in planned] == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert {fault.key for fault in planned} == {b"key"}


def test_plan_fits_into_few_events(sample: bytes) -> None:
    """With fewer events than faults, every fault still comes before one of them."""
    planned = faults.plan(sample, b"key", events=3, count=8)
    assert [fault.before for fault in planned] == [0, 0, 0, 1, 1, 2, 2, 2]
