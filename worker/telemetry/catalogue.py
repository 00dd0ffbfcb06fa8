"""Every metric of the worker, declared once: name, kind, unit, labels, buckets, meaning.

Counters, gauges and histograms are separate types, so that counting on a gauge is a type error, and so is a
mistyped metric. A label either takes any value (``OPEN``) or one of a closed set. Series whose labels are all
closed exist from the start, with the value 0, so that a rate never misses the first event.
Record keys, user ids and error texts are never labels; ``partition`` is a label of gauges only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

PREFIX = "headrace_"
OPEN: tuple[str, ...] = ()

DEAD_LETTER_REASONS = (
    "tombstone",
    "empty_value",
    "invalid_utf8",
    "invalid_json",
    "not_an_object",
    "too_deep",
    "missing_field",
    "wrong_type",
    "out_of_range",
    "wrong_length",
    "not_finite",
    "model_error",
    "output_not_finite",
    "output_oversize",
    "broker_refused",
    "oversize",
    "corrupt_record",
)
STAGES = ("decode", "queue", "assemble", "infer", "encode", "produce", "commit")
COST_STAGES = ("call", "handle", "decode")
FLUSH_REASONS = ("size", "bytes", "delay", "idle", "no_gain", "bucket", "age", "drain", "revoke")


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; ``labels`` maps each label to its closed set of values, or to ``OPEN``."""

    name: str
    unit: str
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    kind: ClassVar[str]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in the order of their declaration."""
        return tuple(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Counter(Metric):
    """A sum that only grows; the name ends in ``_total``."""

    kind: ClassVar[str] = "counter"


@dataclass(frozen=True, slots=True, eq=False)
class Gauge(Metric):
    """A value that moves both ways.

    A gauge without labels shows 0 before it is set, or, with ``unset``, is absent until then.
    """

    unset: bool = False

    kind: ClassVar[str] = "gauge"


@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Metric):
    """Counts per bucket; ``buckets`` are rising upper bounds (inclusive), the last one, infinity, left out."""

    buckets: tuple[float, ...] = field(kw_only=True)

    kind: ClassVar[str] = "histogram"


def _one_two_five(lowest: float, highest: float) -> tuple[float, ...]:
    """All numbers 1, 2 or 5 times a power of ten from ``lowest`` to ``highest``, both included."""
    grid = [float(f"{digit}e{exponent}") for exponent in range(-6, 4) for digit in (1, 2, 5)]
    return tuple(bound for bound in grid if lowest <= bound <= highest)


LATENCY_BUCKETS_S = _one_two_five(0.0005, 10)
# A decode, an assembly or a CPU inference takes 6 us to a few ms: with the range above all of them would
# share the first bucket.
WORK_BUCKETS_S = _one_two_five(0.00001, 10)
REBALANCE_BUCKETS_S = _one_two_five(0.01, 100)
SIZE_BUCKETS = tuple(float(2**power) for power in range(14))
ERROR_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
RATIO_BUCKETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

_PARTITION = {"topic": OPEN, "partition": OPEN}
_MODEL = {"model": OPEN, "version": OPEN}

# Kafka

RECORDS_CONSUMED = Counter(
    "headrace_records_consumed_total", "records", "Records received from an input topic.", {"topic": OPEN}
)
RECORDS_PRODUCED = Counter(
    "headrace_records_produced_total",
    "records",
    "Scored records sent to the output topic: acknowledged, or refused for good.",
    {"topic": OPEN, "outcome": ("delivered", "refused")},
)
RECORDS_DEAD_LETTERED = Counter(
    "headrace_records_dead_lettered_total",
    "records",
    "Records of an input topic whose dead letter was acknowledged.",
    {"topic": OPEN, "reason": DEAD_LETTER_REASONS},
)
RECORDS_SKIPPED = Counter(
    "headrace_records_skipped_total",
    "records",
    "Records that the configuration says to pass over without output or dead letter.",
    {"reason": ("tombstone",)},
)
CONSUMER_LAG_RECORDS = Gauge(
    "headrace_consumer_lag_records",
    "records",
    "Log end, as the brokers last said, minus the next offset to commit, of an assigned partition.",
    _PARTITION,
)
CONSUMER_LAG_SECONDS = Gauge(
    "headrace_consumer_lag_seconds",
    "seconds",
    "Age of the newest record that was received of an assigned partition, while more are waiting; 0 without lag.",
    _PARTITION,
)
CONSUMER_ASSIGNED_PARTITIONS = Gauge(
    "headrace_consumer_assigned_partitions", "partitions", "Partitions assigned to this worker.", {"topic": OPEN}
)
CONSUMER_PAUSED_PARTITIONS = Gauge(
    "headrace_consumer_paused_partitions",
    "partitions",
    "Assigned partitions that are not read: held for want of an output partition, or stopped by a brake.",
)
REBALANCES = Counter(
    "headrace_rebalances_total",
    "rebalances",
    "Changes of the assignment.",
    {"event": ("assigned", "revoked", "lost")},
)
REBALANCE_DURATION = Histogram(
    "headrace_rebalance_duration_seconds",
    "seconds",
    "Time to finish and commit what was in flight when partitions were taken away; what the group takes is not in it.",
    buckets=REBALANCE_BUCKETS_S,
)
COMMITS = Counter(
    "headrace_commits_total", "commits", "Offset commits by their outcome.", {"outcome": ("succeeded", "failed")}
)
COMMIT_DURATION = Histogram(
    "headrace_commit_duration_seconds",
    "seconds",
    "From an offset commit's request to the broker's answer; under exactly_once: the whole transaction.",
    buckets=LATENCY_BUCKETS_S,
)

TRANSACTIONS = Counter(
    "headrace_transactions_total",
    "transactions",
    "Transactions by their end; fenced: the group or the brokers refused this worker.",
    {"outcome": ("committed", "aborted", "fenced")},
)
TRANSACTION_DURATION = Histogram(
    "headrace_transaction_duration_seconds",
    "seconds",
    "From a transaction's first record to its end at the brokers.",
    buckets=LATENCY_BUCKETS_S,
)

# Offsets

OFFSET_COMMITTED = Gauge(
    "headrace_offset_committed", "offset", "Next offset that is committed, per partition.", _PARTITION
)
OFFSET_COMMITTABLE = Gauge(
    "headrace_offset_committable",
    "offset",
    "Next offset after the contiguous run of settled records, per partition.",
    _PARTITION,
)
OFFSET_RECEIVED = Gauge(
    "headrace_offset_received", "offset", "Next offset after the last record received, per partition.", _PARTITION
)
SETTLED_AHEAD = Gauge(
    "headrace_offset_settled_ahead_records",
    "records",
    "Records settled beyond the first unsettled one, per partition: repeated after a kill.",
    _PARTITION,
)
ASSIGNMENT_EPOCH = Gauge(
    "headrace_assignment_epoch", "epoch", "Number of the newest assignment since the process started."
)
STALE_RECORDS = Counter(
    "headrace_stale_epoch_drops_total",
    "records",
    "Records whose results came after their partition was taken away; another worker scores them.",
)
ABANDONED_RECORDS = Counter(
    "headrace_drain_abandoned_records_total",
    "records",
    "Records received and still unsettled when their partition was given up in a rebalance.",
)
OFFSET_RESETS = Counter(
    "headrace_offset_resets_total",
    "resets",
    "Committed offsets out of the log's range, replaced as auto_offset_reset says.",
    {"topic": OPEN},
)
PRODUCER_REBUILDS = Counter(
    "headrace_producer_rebuilds_total", "rebuilds", "Producers replaced after an error they cannot recover from."
)

# Pipeline

END_TO_END_LATENCY = Histogram(
    "headrace_end_to_end_latency_seconds",
    "seconds",
    "From the input record's timestamp to the acknowledgement of its output, per record.",
    buckets=LATENCY_BUCKETS_S,
)
STAGE_DURATION = Histogram(
    "headrace_stage_duration_seconds",
    "seconds",
    "Time of one batch (decode: of one poll) in a stage.",
    {"stage": STAGES},
    buckets=WORK_BUCKETS_S,
)
BATCH_SIZE = Histogram(
    "headrace_batch_size_records",
    "records",
    "Records in a batch given to the model, by why it closed.",
    {"reason": FLUSH_REASONS},
    buckets=SIZE_BUCKETS,
)
BATCH_WAIT = Histogram(
    "headrace_batch_wait_seconds",
    "seconds",
    "From a batch's first record until the batch closed.",
    buckets=WORK_BUCKETS_S,
)
BATCHES = Counter("headrace_batches_total", "batches", "Batches by why they closed.", {"reason": FLUSH_REASONS})
BATCH_PADDING = Histogram(
    "headrace_batch_padding_ratio",
    "ratio",
    "Share of padding rows in what the model ran: 1 - records / bucket.",
    buckets=RATIO_BUCKETS,
)
INFLIGHT_RECORDS = Gauge(
    "headrace_inflight_records", "records", "Records received and neither delivered, dead-lettered nor released."
)
INFLIGHT_BYTES = Gauge("headrace_inflight_bytes", "bytes", "Value bytes of the records in flight.")
INFLIGHT_BATCHES = Gauge("headrace_inflight_batches", "batches", "Batches that run or are prefetched.")
QUEUE_RECORDS = Gauge("headrace_queue_records", "records", "Decoded records that wait for a batch to be dispatched.")
BACKPRESSURE = Counter(
    "headrace_backpressure_seconds_total",
    "seconds",
    "Time during which nothing was polled, because as much was in flight as `flow` allows.",
)
EVENT_LOOP_LAG = Histogram(
    "headrace_event_loop_lag_seconds",
    "seconds",
    "How late the event loop ran its regular heartbeat.",
    buckets=WORK_BUCKETS_S,
)
BRAKES_STOPPED = Gauge(
    "headrace_brakes_stopped_partitions",
    "partitions",
    "Assigned partitions that stand still because too many of their records were refused.",
)
BRAKES_TRIPS = Counter(
    "headrace_brakes_trips_total",
    "trips",
    "Partitions stopped for their refused records, by the limit that was reached.",
    {"limit": ("share", "in_a_row")},
)
LAST_PROGRESS = Gauge(
    "headrace_last_progress_timestamp_seconds",
    "seconds since 1970",
    "When a record was last settled, or the worker last had nothing in flight.",
    unset=True,
)
OLDEST_IN_FLIGHT = Gauge(
    "headrace_oldest_in_flight_seconds", "seconds", "Age of the oldest record in flight since its receipt; 0: none."
)

# Model

INFERENCE_EXECUTIONS = Counter(
    "headrace_inference_executions_total",
    "calls",
    "Calls of the model that returned.",
    {**_MODEL, "provider": OPEN},
)
INFERENCE_RECORDS = Counter(
    "headrace_inference_records_total",
    "records",
    "Records in the calls of the model that returned, padding left out.",
    {**_MODEL, "provider": OPEN},
)
INFERENCE_FAILURES = Counter(
    "headrace_inference_failures_total",
    "failures",
    "Records that the model raised on, alone in a call (model_error), and faults on known good rows (engine_fault).",
    {"reason": ("model_error", "engine_fault")},
)
COST_FIXED = Gauge(
    "headrace_cost_fixed_seconds",
    "seconds",
    "Learned: what a model call (call), the handling of its results (handle) and the decoding of a poll's records"
    " (decode) cost whatever their size; 0 until known.",
    {"stage": COST_STAGES},
)
COST_RECORD = Gauge(
    "headrace_cost_record_seconds",
    "seconds",
    "Learned: what one more record adds to that; 0 until known.",
    {"stage": COST_STAGES},
)
COST_ERROR = Histogram(
    "headrace_cost_error_ratio",
    "ratio",
    "How far a model call's duration was from what was expected of its size: 0.1 is a tenth, either way.",
    buckets=ERROR_BUCKETS,
)
INFERENCE_DURATION = Histogram(
    "headrace_inference_duration_seconds", "seconds", "Time of one call of the model.", _MODEL, buckets=WORK_BUCKETS_S
)
MODEL_INFO = Gauge(
    "headrace_model_info",
    "info",
    "Always 1; the labels name the model in use and where it runs.",
    {**_MODEL, "sha256": OPEN, "provider": OPEN},
)
MODEL_READY = Gauge("headrace_model_ready", "bool", "1 once the model is loaded, warm and checked, else 0.")
MODEL_LOAD_DURATION = Gauge(
    "headrace_model_load_duration_seconds",
    "seconds",
    "Time from reading the bundle until the model was ready.",
    unset=True,
)
MODEL_RACE = Gauge(
    "headrace_model_race_seconds",
    "seconds",
    "Time of one call per bucket and provider, as timed at the start; only with `model.providers: auto`.",
    {"provider": OPEN, "bucket": OPEN},
)
MODEL_BATCH_CEILING = Gauge(
    "headrace_model_batch_ceiling_records",
    "records",
    "Most records of one call on a GPU; below the largest bucket once the device ran out of memory.",
    unset=True,
)
BUILD_INFO = Gauge(
    "headrace_build_info",
    "info",
    "Always 1; the labels name the versions of Headrace and of ONNX Runtime.",
    {"version": OPEN, "ort": OPEN},
)
PROCESS_RESTARTS = Counter(
    "headrace_process_restarts_total",
    "restarts",
    "Worker processes that crashed and were started again; only with `run.processes` above 1.",
    {"process": OPEN},
)

CATALOGUE: tuple[Metric, ...] = tuple(item for item in list(globals().values()) if isinstance(item, Metric))
