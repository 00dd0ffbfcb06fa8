"""The stretches of one record's way through the core that are measured, on card transactions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from worker.adapters.bundle import load_bundle
from worker.core.actions import CommitOffsets, Outcome, Policy, Produce, RunBatch
from worker.core.batching import BatchLimits
from worker.core.decoder import Decoder
from worker.core.features import OutputSpec
from worker.core.flow import FlowLimits
from worker.core.outgoing import Dispatcher, Routing
from worker.core.output import OutputEncoder
from worker.core.pipeline import Pipeline
from worker.core.records import Span, TopicPartition
from worker.core.schema import compile_schema
from worker.demo import events
from worker.demo.simulator import World, after_warm_up

PROJECT = Path(__file__).resolve().parents[2]
SPAN = 500
"""Records of one poll of one partition."""

BATCH = 256
PARTITIONS = 8
SMALL_WORLD = World(customers=400, terminals=800, side=30.0)

Scene = Callable[[int], int]
"""Takes a number of records, handles at least so many, and returns how many it handled."""


class Fraud:
    """Schema, bundle and a span's worth of events of the shipped fraud model."""

    def __init__(self) -> None:
        schema = json.loads((PROJECT / "schemas" / "transaction.schema.json").read_text())
        bundle = load_bundle(PROJECT / "models" / "fraud")
        self.decoder = Decoder(compile_schema(schema), bundle.inputs, "transaction_id", ("transaction_id",), full=False)
        self.encoder = OutputEncoder(self.decoder, (OutputSpec("score", None),), bundle.decision, bundle.label)
        transactions = after_warm_up(1, SPAN, SMALL_WORLD)
        self.values: list[bytes | None] = list(events.encode(transactions))
        self.keys: list[bytes | None] = list(events.keys(transactions))
        self.scores = np.random.default_rng(1).random(BATCH, dtype=np.float32)

    def decode(self, records: int) -> int:
        """Values to tensors and rows."""
        return _repeated(records, lambda: len(self.decoder.decode(self.values).rows))

    def encode(self, records: int) -> int:
        """Rows and scores to output values."""
        rows = self.decoder.decode(self.values).rows[:BATCH]
        return _repeated(records, lambda: len(self.encoder.encode(rows, {"score": self.scores})))

    def journey(self, records: int) -> int:
        """Everything the core does for a record: admit, batch, encode, dispatch, settle, commit."""
        routing = Routing("out", PARTITIONS, 1 << 20, "dlq", 1, 1 << 20, "source", (), "g", "fraud@1", "0123456789ab")
        flow = FlowLimits(10_000, 1 << 26, 20_000)
        policy = Policy(BatchLimits(BATCH, 1 << 20, 0.005), flow, 0.1, 5_000)
        dispatcher = Dispatcher(routing, lambda key: key[0] % PARTITIONS)
        pipeline = Pipeline(self.decoder, self.encoder, dispatcher, policy)
        tps = [TopicPartition("in", partition) for partition in range(PARTITIONS)]
        epochs = pipeline.partitions_assigned(tps, 0.0)
        done = 0
        while done < records:
            tp = tps[done // SPAN % PARTITIONS]
            first, now = done // (SPAN * PARTITIONS) * SPAN, done * 1e-5
            offsets = list(range(first, first + SPAN))
            span = Span(tp, epochs[tp], offsets, offsets, self.keys, self.values, [()] * SPAN, now)
            pipeline.records_received([span], now)
            self._carry_out(pipeline, now)
            done += SPAN
        return done

    def _carry_out(self, pipeline: Pipeline, now: float) -> None:
        """A model and brokers that answer at once."""
        while actions := pipeline.take_actions():
            for action in actions:
                match action:
                    case RunBatch(batch):
                        pipeline.batch_succeeded(batch, Outcome({"score": self.scores[: batch.size]}, {}), now)
                    case Produce(parcels):
                        for parcel in parcels:
                            pipeline.parcel_delivered(parcel, {}, now)
                    case CommitOffsets(commit):
                        pipeline.commit_ended(commit, now, done=True)


def _repeated(records: int, once: Callable[[], int]) -> int:
    done = 0
    while done < records:
        done += once()
    return done


def scenes() -> Mapping[str, Scene]:
    """Every scene by name."""
    fraud = Fraud()
    return {"decode": fraud.decode, "encode": fraud.encode, "journey": fraud.journey}
