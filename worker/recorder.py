"""Turns what happens into metrics: once per span, batch or parcel, never per record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np

from worker.core.actions import Outcome
from worker.core.batching import Batch
from worker.core.costs import CostModel
from worker.core.records import Parcel, Span, TopicPartition
from worker.telemetry import M, Metrics

PARTITION_GAUGES = (
    M.CONSUMER_LAG_RECORDS,
    M.CONSUMER_LAG_SECONDS,
    M.OFFSET_COMMITTED,
    M.OFFSET_COMMITTABLE,
    M.OFFSET_RECEIVED,
    M.SETTLED_AHEAD,
)
"""What is said about a partition only while it is assigned."""

OBSERVED_TOGETHER = 2048
"""So many latencies are taken in by one call; numpy costs much for a handful."""


DECODE_BUCKETS = (1, 8, 32, 128, 512)
"""Sizes by which the cost of decoding is learned; a poll seldom returns more."""


class ModelFacts(Protocol):
    """What the metrics say about the model."""

    provider: str

    def bucket(self, rows: int) -> int:
        """How many rows a call with ``rows`` really computes."""
        ...


class Recorder:
    """Counts, sums and distributions; read by ``/metrics`` at any time."""

    def __init__(self, metrics: Metrics, model: ModelFacts, name: str, version: str) -> None:
        self._metrics = metrics
        self._model = model
        self._labels: dict[str, Any] = {"model": name, "version": version}
        self._delivered_at: list[float] = []
        self._created_ms: list[Sequence[int | None]] = []
        self._unobserved = 0
        self.decoding = CostModel(DECODE_BUCKETS)
        self.rebalances = 0
        self.last_progress_s = time.time()

    def assigned(self, epochs: Mapping[TopicPartition, int]) -> None:
        """Partitions were assigned."""
        self.rebalances += 1
        self._metrics.count(M.REBALANCES, event="assigned")
        if epochs:
            self._metrics.gauge(M.ASSIGNMENT_EPOCH, max(epochs.values()))

    def revoked(self, tps: Iterable[TopicPartition], took_s: float, abandoned: int, *, lost: bool) -> None:
        """Partitions were given up."""
        self._metrics.count(M.REBALANCES, event="lost" if lost else "revoked")
        self._metrics.observe(M.REBALANCE_DURATION, took_s)
        self._metrics.count(M.ABANDONED_RECORDS, abandoned)
        for tp in tps:
            for gauge in PARTITION_GAUGES:
                self._metrics.drop(gauge, topic=tp.topic, partition=tp.partition)

    def offset_reset(self, tp: TopicPartition, why: Literal["none_committed", "out_of_range"]) -> None:
        """Reading starts by policy; only what was out of range counts as a reset."""
        if why == "out_of_range":
            self._metrics.count(M.OFFSET_RESETS, topic=tp.topic)

    def received(self, spans: Iterable[Span], decode_s: float) -> None:
        """The spans of one poll were decoded and admitted."""
        records = 0
        for span in spans:
            self._metrics.count(M.RECORDS_CONSUMED, len(span), topic=span.tp.topic)
            records += len(span)
        self._metrics.observe(M.STAGE_DURATION, decode_s, stage="decode")
        self.decoding.observe(records, decode_s)

    def waited_for_room(self, took_s: float) -> None:
        """Back-pressure held the poll."""
        self._metrics.count(M.BACKPRESSURE, took_s)

    def engine_failed(self) -> None:
        """The engine failed on a good row."""
        self._metrics.count(M.INFERENCE_FAILURES, reason="engine_fault")

    def batch_done(self, batch: Batch, outcome: Outcome, encode_s: float) -> None:
        """A batch was scored and its outputs encoded."""
        metrics, labels = self._metrics, self._labels
        culprits = sum(refusal.reason == "model_error" for refusal in outcome.refusals.values())
        if culprits:
            metrics.count(M.INFERENCE_FAILURES, culprits, reason="model_error")
        metrics.count(M.BATCHES, reason=batch.reason.value)
        metrics.observe(M.BATCH_SIZE, batch.size, reason=batch.reason.value)
        metrics.observe(M.BATCH_WAIT, batch.waited_s)
        metrics.observe(M.BATCH_PADDING, 1 - batch.size / self._model.bucket(batch.size))
        metrics.observe(M.STAGE_DURATION, batch.waited_s, stage="queue")
        metrics.observe(M.STAGE_DURATION, outcome.assemble_s, stage="assemble")
        metrics.observe(M.STAGE_DURATION, outcome.infer_s, stage="infer")
        metrics.observe(M.STAGE_DURATION, encode_s, stage="encode")
        metrics.observe(M.INFERENCE_DURATION, outcome.infer_s, **labels)
        if batch.expected_s:
            metrics.observe(M.COST_ERROR, abs(outcome.infer_s / batch.expected_s - 1))
        metrics.count(M.INFERENCE_EXECUTIONS, provider=self._model.provider, **labels)
        metrics.count(M.INFERENCE_RECORDS, batch.size, provider=self._model.provider, **labels)

    def delivered(self, parcel: Parcel, refused: int, took_s: float) -> None:
        """The brokers' verdict on a parcel, ``took_s`` after it was handed to the sink."""
        metrics = self._metrics
        metrics.observe(M.STAGE_DURATION, took_s, stage="produce")
        self.last_progress_s = now_s = time.time()
        if parcel.dead_letter is not None:
            topic = parcel.origin[0].span.tp.topic
            metrics.count(M.RECORDS_DEAD_LETTERED, topic=topic, reason=parcel.dead_letter.reason)
            return
        metrics.count(M.RECORDS_PRODUCED, len(parcel) - refused, topic=parcel.tp.topic, outcome="delivered")
        if refused:
            metrics.count(M.RECORDS_PRODUCED, refused, topic=parcel.tp.topic, outcome="refused")
        self._delivered_at.append(now_s)
        self._created_ms.append(parcel.timestamps)
        self._unobserved += len(parcel)
        if self._unobserved >= OBSERVED_TOGETHER:
            self.observe_latencies()

    def observe_latencies(self) -> None:
        """Take in the latencies of what was delivered since the last call."""
        if not self._unobserved:
            return
        now_s = np.repeat(self._delivered_at, [len(times) for times in self._created_ms])
        created_s = np.array(list(chain.from_iterable(self._created_ms)), dtype=np.float64) / 1000.0
        self._metrics.observe_many(M.END_TO_END_LATENCY, np.maximum(now_s - created_s, 0.0))
        self._delivered_at.clear()
        self._created_ms.clear()
        self._unobserved = 0

    def transaction(self, outcome: Literal["committed", "aborted", "fenced"], took_s: float) -> None:
        """A transaction ended."""
        self._metrics.count(M.TRANSACTIONS, outcome=outcome)
        if outcome == "committed":
            self._metrics.observe(M.TRANSACTION_DURATION, took_s)

    def committed(self, offsets: Mapping[TopicPartition, int], took_s: float, *, done: bool) -> None:
        """A commit ended."""
        self._metrics.count(M.COMMITS, outcome="succeeded" if done else "failed")
        self._metrics.observe(M.COMMIT_DURATION, took_s)
        self._metrics.observe(M.STAGE_DURATION, took_s, stage="commit")
        if done:
            for tp, offset in offsets.items():
                self._metrics.gauge(M.OFFSET_COMMITTED, offset, topic=tp.topic, partition=tp.partition)
