"""Rules between keys. Each says what would go wrong, and is checked wherever the keys it reads are sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.settings import Settings
from worker.settings_types import AUTO


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold: what would go wrong, and what to write instead."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``keys`` are the keys it reads: a problem is reported at the first of them that is set.

    ``sentence`` states the rule for the reference page; ``check`` returns None where it holds.
    """

    code: str
    keys: tuple[str, ...]
    sentence: str
    check: Callable[[Settings], Finding | None]


def _drain(settings: Settings) -> Finding | None:
    drain_s, rebalance_s = settings.drain.timeout_s, settings.kafka.rebalance_timeout_s
    if drain_s < rebalance_s:
        return None
    return Finding(
        f"drain.timeout_s ({drain_s:g}) is not below kafka.rebalance_timeout_s ({rebalance_s:g}): the group would"
        " give the partitions away while this worker still drains, and its last commits would be refused",
        f"set drain.timeout_s below {rebalance_s:g}, or kafka.rebalance_timeout_s above {drain_s:g}",
    )


def _heartbeat(settings: Settings) -> Finding | None:
    heartbeat_s, session_s = settings.kafka.heartbeat_interval_s, settings.kafka.session_timeout_s
    if heartbeat_s * 3 < session_s:
        return None
    return Finding(
        f"kafka.heartbeat_interval_s ({heartbeat_s:g}) is not below a third of kafka.session_timeout_s"
        f" ({session_s:g}): one or two late heartbeats would cost this worker its partitions",
        f"set kafka.heartbeat_interval_s below {session_s / 3:g}, or kafka.session_timeout_s above {heartbeat_s * 3:g}",
    )


def _transaction(settings: Settings) -> Finding | None:
    delivery = settings.delivery
    if delivery.transaction_interval_s * 2 <= delivery.transaction_timeout_s:
        return None
    return Finding(
        f"delivery.transaction_timeout_s ({delivery.transaction_timeout_s:g}) leaves no room above"
        f" delivery.transaction_interval_s ({delivery.transaction_interval_s:g}): the brokers would abort transactions"
        " that are still being filled",
        f"set delivery.transaction_timeout_s to {delivery.transaction_interval_s * 2:g} or more",
    )


def _buckets(settings: Settings) -> Finding | None:
    buckets, size = settings.batching.buckets, settings.batching.max_batch_size
    if buckets[-1] == size:
        return None
    effect = (
        "a full batch would fit no bucket and meet a model that was not warmed up for it"
        if buckets[-1] < size
        else "the model would be warmed up for a size that no batch has"
    )
    fitting = [*(bucket for bucket in buckets if bucket < size), size]
    return Finding(
        f"batching.buckets end at {buckets[-1]}, not at batching.max_batch_size ({size}): {effect}",
        f"set batching.buckets to {fitting}, or batching.max_batch_size to {buckets[-1]}",
    )


def _flow_records(settings: Settings) -> Finding | None:
    mark, size = settings.flow.max_in_flight_records, settings.batching.max_batch_size
    if mark >= size:
        return None
    return Finding(
        f"flow.max_in_flight_records ({mark}) is below batching.max_batch_size ({size}): fetching would stop before"
        " a batch is full, so that none ever fills",
        f"set flow.max_in_flight_records to {size} or more ({size * 16} is usual)",
    )


def _flow_bytes(settings: Settings) -> Finding | None:
    mark, size = settings.flow.max_in_flight_bytes, settings.batching.max_batch_bytes
    if mark >= size:
        return None
    return Finding(
        f"flow.max_in_flight_bytes ({mark}) is below batching.max_batch_bytes ({size}): fetching would stop before"
        " a batch is full, so that none ever fills",
        f"set flow.max_in_flight_bytes to {size} or more ({size * 16} is usual)",
    )


def _brakes(settings: Settings) -> Finding | None:
    brakes = settings.brakes
    if brakes.max_share is None or brakes.max_in_a_row is None or brakes.max_in_a_row <= brakes.window_records:
        return None
    return Finding(
        f"brakes.max_in_a_row ({brakes.max_in_a_row}) is above brakes.window_records ({brakes.window_records}): the"
        " share of the window stops a partition first, always",
        f"set brakes.max_in_a_row to {brakes.window_records} or less, or to null",
    )


def _output_loop(settings: Settings) -> Finding | None:
    topic = settings.kafka.output_topic
    if topic not in settings.kafka.input_topics:
        return None
    return Finding(
        f"kafka.output_topic {topic!r} is an input topic too: the worker would read its own output, for ever",
        f"write another topic, such as scored-{topic}",
    )


def _dead_letter_loop(settings: Settings) -> Finding | None:
    topic = settings.kafka.dead_letter_topic
    if topic not in settings.kafka.input_topics:
        return None
    return Finding(
        f"kafka.dead_letter_topic {topic!r} is an input topic too: the worker would read its own dead letters and"
        " refuse them again, for ever",
        f"write another topic, such as {topic}.dlq",
    )


def _dead_letter_output(settings: Settings) -> Finding | None:
    topic = settings.kafka.dead_letter_topic
    if topic != settings.kafka.output_topic:
        return None
    return Finding(
        f"kafka.dead_letter_topic {topic!r} is the output topic too: readers of scores would get refused records",
        f"write another topic, such as {settings.kafka.input_topics[0]}.dlq",
    )


def _provider(settings: Settings) -> Finding | None:
    required, providers = settings.model.require_provider, settings.model.providers
    if required is None or required in providers:
        return None
    if providers == AUTO:
        return Finding(
            f"model.require_provider {required!r} leaves model.providers auto nothing to choose: the race would be"
            " decided before it begins",
            f"set model.require_provider to null, or model.providers to [{required}]",
        )
    return Finding(
        f"model.require_provider {required!r} is not among model.providers {list(providers)}: it would never be"
        " tried, so that the worker could not start",
        f"add {required} to model.providers, or set model.require_provider to null",
    )


def _gpu_calls(settings: Settings) -> Finding | None:
    calls, providers = settings.model.gpu_calls, settings.model.providers
    if calls == "bound_buffers" or providers == AUTO or "cuda" in providers:
        return None
    return Finding(
        f"model.gpu_calls {calls} would be ignored under model.providers {list(providers)}: no GPU is asked for",
        "add cuda to model.providers, or take model.gpu_calls out",
    )


def _sasl_missing(settings: Settings) -> Finding | None:
    kafka = settings.kafka
    missing = [key for key in ("sasl_mechanism", "sasl_username", "sasl_password") if getattr(kafka, key) is None]
    if not kafka.security_protocol.startswith("SASL") or not missing:
        return None
    return Finding(
        f"kafka.security_protocol {kafka.security_protocol} needs {', '.join(missing)}: the brokers would refuse the"
        " login",
        "set " + " and ".join(f"kafka.{key}" for key in missing) + ", or choose PLAINTEXT or SSL",
    )


def _sasl_unused(settings: Settings) -> Finding | None:
    kafka = settings.kafka
    given = [key for key in ("sasl_mechanism", "sasl_username", "sasl_password") if getattr(kafka, key) is not None]
    if kafka.security_protocol.startswith("SASL") or not given:
        return None
    better = "SASL_SSL" if kafka.security_protocol == "SSL" else "SASL_SSL or SASL_PLAINTEXT"
    return Finding(
        f"{', '.join(given)} would be ignored under kafka.security_protocol {kafka.security_protocol}: the worker"
        " would connect without logging in",
        f"set kafka.security_protocol to {better}, or take the sasl keys out",
    )


def _ssl_unused(settings: Settings) -> Finding | None:
    kafka = settings.kafka
    given = [key for key in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file") if getattr(kafka, key) is not None]
    if kafka.security_protocol in {"SSL", "SASL_SSL"} or not given:
        return None
    better = "SASL_SSL" if kafka.security_protocol == "SASL_PLAINTEXT" else "SSL"
    return Finding(
        f"{', '.join(given)} would be ignored under kafka.security_protocol {kafka.security_protocol}: the traffic"
        " would not be encrypted",
        f"set kafka.security_protocol to {better}, or take the ssl keys out",
    )


def _ssl_pair(settings: Settings) -> Finding | None:
    certificate, key = settings.kafka.ssl_cert_file, settings.kafka.ssl_key_file
    if (certificate is None) == (key is None):
        return None
    given, missing = ("ssl_key_file", "ssl_cert_file") if certificate is None else ("ssl_cert_file", "ssl_key_file")
    return Finding(
        f"kafka.{given} is set without kafka.{missing}: the worker could not prove who it is",
        f"set kafka.{missing} too, or take kafka.{given} out",
    )


_SASL = ("kafka.security_protocol", "kafka.sasl_mechanism", "kafka.sasl_username", "kafka.sasl_password")
_SSL = ("kafka.ssl_ca_file", "kafka.ssl_cert_file", "kafka.ssl_key_file", "kafka.security_protocol")

RULES: tuple[Rule, ...] = (
    Rule(
        "drain_too_long",
        ("drain.timeout_s", "kafka.rebalance_timeout_s"),
        "`drain.timeout_s` is below `kafka.rebalance_timeout_s`: else the group gives the partitions away while the"
        " worker drains.",
        _drain,
    ),
    Rule(
        "heartbeat_too_slow",
        ("kafka.heartbeat_interval_s", "kafka.session_timeout_s"),
        "`kafka.heartbeat_interval_s` is below a third of `kafka.session_timeout_s`: else one late heartbeat costs"
        " the partitions.",
        _heartbeat,
    ),
    Rule(
        "transaction_too_long",
        ("delivery.transaction_timeout_s", "delivery.transaction_interval_s"),
        "`delivery.transaction_timeout_s` is at least twice `delivery.transaction_interval_s`: else the brokers abort"
        " transactions that are still being filled.",
        _transaction,
    ),
    Rule(
        "buckets_end",
        ("batching.buckets", "batching.max_batch_size"),
        "`batching.buckets` ascend and end at `batching.max_batch_size`: else a full batch meets a cold model.",
        _buckets,
    ),
    Rule(
        "flow_below_batch",
        ("flow.max_in_flight_records", "batching.max_batch_size"),
        "`flow.max_in_flight_records` is at least `batching.max_batch_size`: else no batch ever fills.",
        _flow_records,
    ),
    Rule(
        "flow_below_batch",
        ("flow.max_in_flight_bytes", "batching.max_batch_bytes"),
        "`flow.max_in_flight_bytes` is at least `batching.max_batch_bytes`: else no batch ever fills.",
        _flow_bytes,
    ),
    Rule(
        "brakes_never_reached",
        ("brakes.max_in_a_row", "brakes.window_records"),
        "`brakes.max_in_a_row` is at most `brakes.window_records`: else the share always stops a partition first.",
        _brakes,
    ),
    Rule(
        "output_is_input",
        ("kafka.output_topic", "kafka.input_topics"),
        "`kafka.output_topic` is none of `kafka.input_topics`: else the worker reads its own output.",
        _output_loop,
    ),
    Rule(
        "dead_letter_is_input",
        ("kafka.dead_letter_topic", "kafka.input_topics"),
        "`kafka.dead_letter_topic` is none of `kafka.input_topics`: else the worker reads its own dead letters.",
        _dead_letter_loop,
    ),
    Rule(
        "dead_letter_is_output",
        ("kafka.dead_letter_topic", "kafka.output_topic", "kafka.input_topics"),
        "`kafka.dead_letter_topic` is not `kafka.output_topic`: else readers of scores get refused records.",
        _dead_letter_output,
    ),
    Rule(
        "provider_not_tried",
        ("model.require_provider", "model.providers"),
        "`model.require_provider` is one of `model.providers`: else the worker cannot start; under `auto` it is null:"
        " else there is nothing to choose.",
        _provider,
    ),
    Rule(
        "gpu_calls_unused",
        ("model.gpu_calls", "model.providers"),
        "`model.gpu_calls: cuda_graphs` needs `cuda` or `auto` in `model.providers`: else nothing is recorded.",
        _gpu_calls,
    ),
    Rule(
        "sasl_incomplete",
        _SASL,
        "`SASL_PLAINTEXT` and `SASL_SSL` need `sasl_mechanism`, `sasl_username` and `sasl_password`.",
        _sasl_missing,
    ),
    Rule(
        "sasl_unused",
        (*_SASL[1:], _SASL[0]),
        "The `sasl_*` keys need `SASL_PLAINTEXT` or `SASL_SSL`: else the worker connects without logging in.",
        _sasl_unused,
    ),
    Rule(
        "ssl_unused",
        _SSL,
        "The `ssl_*` keys need `SSL` or `SASL_SSL`: else the traffic is not encrypted.",
        _ssl_unused,
    ),
    Rule(
        "ssl_pair",
        ("kafka.ssl_cert_file", "kafka.ssl_key_file"),
        "`kafka.ssl_cert_file` and `kafka.ssl_key_file` come together.",
        _ssl_pair,
    ),
)
