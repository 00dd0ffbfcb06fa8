"""What an operator can set: frozen sections, their defaults, and what each key trades.

The YAML key, the environment variable, the JSON Schema and ``docs/configuration.md`` all come from the fields below.
Two keys have another Python name because pydantic uses theirs: ``event.schema`` is ``event.schema_path`` and
``event.validate`` is ``event.validate_``. Rules between fields are in ``worker.settings_rules``; files and variables
are read by ``worker.config_file``, which is the way to get a ``Settings``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from worker.settings_types import (
    Count,
    EventField,
    FilePath,
    HeaderName,
    Provider,
    Providers,
    Seconds,
    Server,
    Text,
    Topic,
    Unique,
    check_ascending,
    list_field,
)

_BUCKETS = (1, 8, 32, 128, 512, 2048, 8192, 32768)


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no silent conversion between types, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class KafkaSection(Section):
    """Where records come from and go to, and how the consumer group behaves."""

    bootstrap_servers: Annotated[tuple[Server, ...], Unique] = list_field(
        default=("localhost:9092",),
        min_length=1,
        description="Brokers asked first, as host:port; they name the rest. Two or three outlive the loss of one.",
    )
    group_id: Text = Field(
        examples=["fraud-scoring"],
        description="Consumer group. Workers with the same name share the partitions; a new name starts afresh at"
        " `auto_offset_reset`.",
    )
    input_topics: Annotated[tuple[Topic, ...], Unique] = list_field(
        examples=[["transactions"]],
        min_length=1,
        description="Topics to read. All of them carry events of the one schema.",
    )
    output_topic: Topic = Field(
        examples=["scored-transactions"],
        description="Topic for scored events. It must exist, with as many partitions as the input under"
        " `output.partitioning: source`.",
    )
    dead_letter_topic: Topic = Field(
        default_factory=lambda data: f"{data['input_topics'][0]}.dlq",
        json_schema_extra={"x-default": "<first input topic>.dlq"},
        description="Topic for refused records, byte-exact and with the reason in headers. It must exist: without it"
        " the worker does not start.",
    )
    auto_offset_reset: Literal["earliest", "latest", "none"] = Field(
        default="earliest",
        description="Where to start when nothing is committed: `earliest` scores the backlog, `latest` skips it,"
        " `none` stops. Resolved once and committed at assignment.",
    )
    client_id: Text = Field(
        default="headrace", description="Name of this client in the broker's logs, quotas and metrics."
    )
    session_timeout_s: Seconds = Field(
        default=15.0,
        description="Silence after which the broker gives the partitions away: also the time until another worker"
        " takes over after a kill -9. Shorter takes over sooner, but a pause of this length costs a rebalance."
        " Brokers refuse less than 6 unless told otherwise.",
    )
    heartbeat_interval_s: Seconds = Field(
        default=1.0,
        description="Pause between heartbeats. Shorter notices a rebalance sooner, for a few more requests.",
    )
    rebalance_timeout_s: Seconds = Field(
        default=45.0,
        description="Time that members have to finish their work in a rebalance. Longer lets a slow batch end in"
        " peace; meanwhile the group waits. Must exceed `drain.timeout_s`.",
    )
    isolation_level: Literal["read_uncommitted", "read_committed"] = Field(
        default="read_uncommitted",
        description="`read_committed` hides records of aborted transactions and waits for open ones.",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none",
        description="Compression of the output. It saves network and disk for processor time: lz4 is the cheap one,"
        " zstd the small one.",
    )
    max_fetch_bytes: Count = Field(
        default=4194304,
        description="Most bytes of one fetch. Larger catches up faster and takes more memory; at least the largest"
        " record in the input.",
    )
    group_instance_id: Text | None = Field(
        default=None,
        description="Static membership: a stable name, unique in the group. A restart within `session_timeout_s` then"
        " keeps its partitions without a rebalance; after a scale-in they idle that long. Null: dynamic.",
    )
    fetch_max_wait_s: Annotated[float, Field(ge=0.001, le=5)] = Field(
        default=0.25,
        description="How long a broker may hold a fetch while there is nothing to read. New records end the wait at "
        "once, so this is no latency; but it delays the first read of a newly assigned partition, and a short wait "
        "costs CPU on idle topics.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="How the brokers' listener is protected. `SASL_PLAINTEXT` sends the password unencrypted.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in; with `SASL_PLAINTEXT` and `SASL_SSL` only, and required there."
    )
    sasl_username: Text | None = Field(default=None, description="User name to log in with.")
    sasl_password: SecretStr | None = Field(
        default=None,
        description="Password to log in with; never printed. Better in a file: `sasl_password_file`, whose one"
        " trailing newline is dropped.",
    )
    ssl_ca_file: FilePath | None = Field(
        default=None, description="PEM file with the authorities to trust; null trusts those of the system."
    )
    ssl_cert_file: FilePath | None = Field(
        default=None, description="PEM file with the worker's own certificate, where the brokers ask for one."
    )
    ssl_key_file: FilePath | None = Field(
        default=None, description="PEM file with the key of that certificate, without a pass phrase."
    )


class EventSection(Section):
    """What an event looks like."""

    format: Literal["json"] = Field(default="json", description="Encoding of the record values.")
    schema_path: FilePath = Field(
        alias="schema",
        examples=["schemas/transaction.schema.json"],
        description="JSON Schema 2020-12 of an event. It is compiled at start; a keyword that cannot be enforced is"
        " an error.",
    )
    id_field: EventField = Field(
        examples=["transaction_id"],
        description="Field that identifies an event; always part of the output. Consumers can tell repeats by it.",
    )
    validate_: Literal["model", "full"] = Field(
        default="model",
        alias="validate",
        description="`model` judges only the fields in use, at the least cost; `full` judges every field, so that a"
        " fault in a field that nobody reads refuses the record too.",
    )
    on_tombstone: Literal["dead_letter", "skip"] = Field(
        default="dead_letter",
        description="What becomes of a record with a null value: `skip` counts it and goes on, for compacted topics.",
    )


class ModelSection(Section):
    """Which model scores the events, and on what."""

    path: FilePath = Field(
        examples=["models/fraud"], description="Folder of the model bundle: `model.onnx` and `model.yaml`."
    )
    providers: Providers = Field(
        default=("cuda", "cpu"),
        description="Where to run the model, tried in order. `auto` times every bucket on each that works here and"
        " takes the one whose calls are expected to be the shortest. The one in use is logged and exported.",
    )
    require_provider: Provider | None = Field(
        default=None,
        description="Refuse to start on any other provider: set cuda where a silent fall-back to the processor would"
        " be too slow.",
    )
    intra_op_threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="Threads within one model call. More help a large model; a small one gets slower, and the"
        " decoder loses a core.",
    )
    gpu_calls: Literal["bound_buffers", "cuda_graphs"] = Field(
        default="bound_buffers",
        description="How batches reach a GPU. `bound_buffers` keeps memory for each bucket and copies rows into it;"
        " `cuda_graphs` also records each bucket once and replays it, which helps small models and starts slower."
        " A model that cannot be recorded runs with bound buffers, and the log says why.",
    )


class BatchingSection(Section):
    """How records become batches. An idle engine takes what is there; a busy one lets the batch grow."""

    max_batch_size: Annotated[int, Field(ge=1, le=1048576)] = Field(
        default=512,
        description="Most records of a batch. Larger raises the throughput under load and the latency of its first"
        " record.",
    )
    max_batch_bytes: Count = Field(
        default=4194304,
        description="Most bytes of record values in a batch; a larger record travels alone. Bounds the memory of a"
        " batch.",
    )
    max_batch_delay_s: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.005,
        description="Longest time that a batch waits for more records, counted from its first. An upper bound: an idle"
        " engine never waits for it.",
    )
    latency_slo_s: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None,
        description="Age, by its Kafka timestamp, at which a record's output should be acknowledged. A batch closes"
        " early where waiting would miss it; records that come too late for it do not, so that a backlog keeps large"
        " batches. Shorter makes smaller batches while the engine is busy. Null: no such bound.",
    )
    gather_s: Annotated[float, Field(ge=0, le=0.001)] = Field(
        default=0.0005,
        description="Pause before the next fetch when all that was fetched is worked on, in which more records come"
        " together: fewer and fuller batches cost less CPU and add at most this latency. A reader that is behind does"
        " not pause.",
    )
    buckets: Annotated[tuple[Count, ...], AfterValidator(check_ascending)] = list_field(
        default_factory=lambda data: (
            *(bucket for bucket in _BUCKETS if bucket < data["max_batch_size"]),
            data["max_batch_size"],
        ),
        min_length=1,
        json_schema_extra={"x-default": "[1, 8, 32, 128, 512], cut or continued to end at max_batch_size"},
        description="Batch sizes that the model is warmed up for; on a GPU a batch is padded to the next one. More"
        " buckets pad less and start slower.",
    )


class FlowSection(Section):
    """How much may be in flight: read, but not yet delivered. At a mark the worker stops fetching until it falls."""

    max_in_flight_records: Count = Field(
        default=8192,
        description="Most records in flight; at least one batch. Four to sixteen batches keep the engine busy.",
    )
    max_in_flight_bytes: Count = Field(
        default=67108864, description="Most bytes in flight; at least one batch. Bounds the worker's memory."
    )


class OutputSection(Section):
    """What a scored event carries, and which partition it goes to."""

    include: Annotated[tuple[EventField, ...], Unique] = list_field(
        default=(), description="Event fields copied into the output; one that an event lacks is left out."
    )
    headers: Annotated[tuple[HeaderName, ...], Unique] = list_field(
        default=(), description="Names of input headers copied to the output. Trace headers always are."
    )
    partitioning: Literal["source", "key"] = Field(
        default="source",
        description="`source` writes to the partition number the record came from and keeps its order; `key` uses"
        " Kafka's default hash of the key and keeps the order per key.",
    )


class DeliverySection(Section):
    """What is promised about each record, and how often that is written down."""

    guarantee: Literal["at_least_once", "exactly_once"] = Field(
        default="at_least_once",
        description="`at_least_once`: no record is lost; after a crash some outputs repeat, at most"
        " `flow.max_in_flight_records` + `delivery.commit_max_records`. `exactly_once`: outputs, dead letters and"
        " offsets share a transaction that the group fences; readers need `read_committed`, and see an output when"
        " its transaction has ended. Needs Kafka 2.5 or newer.",
    )
    transaction_interval_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.1,
        description="Length of a transaction under `exactly_once`. It is the latency that `read_committed` readers"
        " see; shorter costs more round trips to the brokers. Ends sooner where `flow.max_in_flight_records` +"
        " `commit_max_records` are waiting for its end, so that the engine need not.",
    )
    transaction_timeout_s: Annotated[float, Field(ge=1, le=900)] = Field(
        default=10.0,
        description="When the brokers abort the transaction of a worker that died. Until then, and up to 10 s more,"
        " readers and the next owner wait. Must exceed the interval plus the longest batch.",
    )
    commit_interval_s: Seconds = Field(
        default=1.0,
        description="Longest time between commits of delivered offsets. Shorter repeats less after a kill, for more"
        " requests.",
    )
    commit_max_records: Count = Field(
        default=8192,
        description="Commit sooner after this many delivered records; bounds the repeats after a kill.",
    )


class BrakesSection(Section):
    """When a partition of which too much is refused stops. It holds while the others go on; null turns a brake off."""

    max_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=0.5,
        description="Stop where more than this share of the last `window_records` records of a partition is refused."
        " Lower stops a bad deployment sooner, and more often for nothing.",
    )
    window_records: Count = Field(
        default=1000,
        description="Records of a partition over which the share is judged, once there are so many. Longer forgives"
        " longer bursts.",
    )
    max_in_a_row: Count | None = Field(
        default=100,
        description="Stop after so many refused records of a partition with no good one between them.",
    )
    retry_s: Seconds | None = Field(
        default=5.0,
        description="First pause until one record of a stopped partition is tried; if it is scored, the partition goes"
        " on, else the pause doubles, up to 60. null: only SIGUSR1 or a restart resumes.",
    )


class DrainSection(Section):
    """How the worker ends."""

    timeout_s: Seconds = Field(
        default=20.0,
        description="Time after SIGTERM to deliver and commit what is in flight. Must stay below"
        " `kafka.rebalance_timeout_s` and below the grace period of whatever stops the worker.",
    )


class ProbesSection(Section):
    """The HTTP server for `/livez`, `/readyz`, `/startupz`, `/metrics` and `/status`."""

    host: Text = Field(
        default="0.0.0.0",  # noqa: S104 - the orchestrator asks from outside the pod
        description="Address to listen on; 127.0.0.1 keeps it on this machine.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Port to listen on; 0 takes any free one, and the log tells which."
    )


class RunSection(Section):
    """How the worker uses the machine."""

    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Worker processes in this pod, each a member of the group. One uses about one core; more than"
        " one run under a supervisor that restarts what crashes and serves the probes of all.",
    )


class LogSection(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged. `debug` is for hunting, not for production."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )


class Settings(Section):
    """Everything an operator can set, by section."""

    kafka: KafkaSection
    event: EventSection
    model: ModelSection
    batching: BatchingSection = Field(default_factory=BatchingSection)
    flow: FlowSection = Field(default_factory=FlowSection)
    output: OutputSection = Field(default_factory=OutputSection)
    delivery: DeliverySection = Field(default_factory=DeliverySection)
    brakes: BrakesSection = Field(default_factory=BrakesSection)
    drain: DrainSection = Field(default_factory=DrainSection)
    probes: ProbesSection = Field(default_factory=ProbesSection)
    run: RunSection = Field(default_factory=RunSection)
    log: LogSection = Field(default_factory=LogSection)
