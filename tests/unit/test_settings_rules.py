"""Rules between keys: each is found where it was set, says what would go wrong, and leaves sound settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.config_file import load
from worker.errors import ConfigError, Problem
from worker.settings_fields import fields
from worker.settings_rules import RULES

REQUIRED = {
    "HEADRACE__KAFKA__GROUP_ID": "g",
    "HEADRACE__KAFKA__INPUT_TOPICS": "[in]",
    "HEADRACE__KAFKA__OUTPUT_TOPIC": "out",
    "HEADRACE__EVENT__SCHEMA": "worker.yaml",
    "HEADRACE__EVENT__ID_FIELD": "id",
    "HEADRACE__MODEL__PATH": "bundle",
}
LOGIN = {"kafka.sasl_mechanism": "PLAIN", "kafka.sasl_username": "u", "kafka.sasl_password": "p"}

BROKEN: list[tuple[dict[str, str], str, str, str]] = [
    ({"drain.timeout_s": "45"}, "drain_too_long", "drain.timeout_s", "below 45"),
    ({"kafka.rebalance_timeout_s": "20"}, "drain_too_long", "kafka.rebalance_timeout_s", "above 20"),
    ({"kafka.heartbeat_interval_s": "5"}, "heartbeat_too_slow", "kafka.heartbeat_interval_s", "below 5"),
    ({"kafka.session_timeout_s": "3"}, "heartbeat_too_slow", "kafka.session_timeout_s", "above 3"),
    ({"batching.buckets": "[1, 256]"}, "buckets_end", "batching.buckets", "[1, 256, 512]"),
    ({"batching.buckets": "[1, 1024]"}, "buckets_end", "batching.buckets", "max_batch_size to 1024"),
    ({"flow.max_in_flight_records": "511"}, "flow_below_batch", "flow.max_in_flight_records", "512 or more"),
    ({"flow.max_in_flight_bytes": "1"}, "flow_below_batch", "flow.max_in_flight_bytes", "4194304 or more"),
    ({"delivery.transaction_interval_s": "6"}, "transaction_too_long", "delivery.transaction_interval_s",
     "to 12 or more"),
    ({"brakes.max_in_a_row": "1001"}, "brakes_never_reached", "brakes.max_in_a_row", "to 1000 or less"),
    ({"brakes.window_records": "99"}, "brakes_never_reached", "brakes.window_records", "to 99 or less"),
    ({"kafka.output_topic": "in"}, "output_is_input", "kafka.output_topic", "scored-in"),
    ({"kafka.dead_letter_topic": "in"}, "dead_letter_is_input", "kafka.dead_letter_topic", "in.dlq"),
    ({"kafka.dead_letter_topic": "out"}, "dead_letter_is_output", "kafka.dead_letter_topic", "in.dlq"),
    ({"model.require_provider": "cuda", "model.providers": "[cpu]"}, "provider_not_tried", "model.require_provider",
     "add cuda"),
    ({"model.require_provider": "cuda", "model.providers": "auto"}, "provider_not_tried", "model.require_provider",
     "to null"),
    ({"model.gpu_calls": "cuda_graphs", "model.providers": "[cpu]"}, "gpu_calls_unused", "model.gpu_calls",
     "add cuda"),
    ({"kafka.security_protocol": "SASL_SSL"}, "sasl_incomplete", "kafka.security_protocol", "kafka.sasl_mechanism"),
    (LOGIN, "sasl_unused", "kafka.sasl_mechanism", "SASL_SSL"),
    (LOGIN | {"kafka.security_protocol": "SSL"}, "sasl_unused", "kafka.sasl_mechanism", "to SASL_SSL"),
    ({"kafka.ssl_ca_file": "worker.yaml"}, "ssl_unused", "kafka.ssl_ca_file", "to SSL"),
    (LOGIN | {"kafka.security_protocol": "SASL_PLAINTEXT", "kafka.ssl_ca_file": "worker.yaml"}, "ssl_unused",
     "kafka.ssl_ca_file", "to SASL_SSL"),
    ({"kafka.security_protocol": "SSL", "kafka.ssl_key_file": "worker.yaml"}, "ssl_pair", "kafka.ssl_key_file",
     "kafka.ssl_cert_file"),
    ({"kafka.security_protocol": "SSL", "kafka.ssl_cert_file": "worker.yaml"}, "ssl_pair", "kafka.ssl_cert_file",
     "kafka.ssl_key_file"),
]  # fmt: skip
SOUND: list[dict[str, str]] = [
    {},
    {"drain.timeout_s": "44.9"},
    {"kafka.heartbeat_interval_s": "4.9"},
    {"batching.max_batch_size": "64"},
    {"batching.max_batch_size": "4096"},
    {"flow.max_in_flight_records": "512", "flow.max_in_flight_bytes": "4194304"},
    {"model.require_provider": "cpu"},
    {"model.providers": "auto"},
    {"model.providers": "auto", "model.gpu_calls": "cuda_graphs"},
    {"model.gpu_calls": "cuda_graphs"},
    {"brakes.max_in_a_row": "1000"},
    {"brakes.max_in_a_row": "null", "brakes.window_records": "1"},
    {"brakes.max_share": "null", "brakes.window_records": "1"},
    LOGIN | {"kafka.security_protocol": "SASL_PLAINTEXT"},
    LOGIN | {"kafka.security_protocol": "SASL_SSL", "kafka.ssl_ca_file": "worker.yaml"},
    {"kafka.security_protocol": "SSL", "kafka.ssl_key_file": "worker.yaml", "kafka.ssl_cert_file": "worker.yaml"},
]


def variable(key: str) -> str:
    """Return the variable of a dotted key."""
    section, _, name = key.partition(".")
    return fields()[section, name].variable


def problems_of(folder: Path, changes: dict[str, str]) -> tuple[Problem, ...]:
    """Return what is wrong with sound settings after ``changes``."""
    path = folder / "worker.yaml"
    path.write_text("{}", encoding="utf-8")
    try:
        load(path, REQUIRED | {variable(key): text for key, text in changes.items()})
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(("changes", "code", "key", "remedy"), BROKEN)
def test_a_broken_rule_is_reported_where_it_was_set(
    tmp_path: Path, changes: dict[str, str], code: str, key: str, remedy: str
) -> None:
    """The problem names the key that was set, the effect and a value that would do."""
    (problem,) = problems_of(tmp_path, changes)
    assert (problem.code, problem.key) == (code, variable(key))
    assert remedy in problem.remedy
    assert ":" in problem.message


@pytest.mark.parametrize("changes", SOUND)
def test_sound_settings_break_no_rule(tmp_path: Path, changes: dict[str, str]) -> None:
    """Values at the edge of a rule are accepted."""
    assert problems_of(tmp_path, changes) == ()


def test_every_rule_has_a_broken_example() -> None:
    """No rule goes untested, and each names existing keys."""
    assert {rule.code for rule in RULES} == {code for _, code, _, _ in BROKEN}
    assert {key for rule in RULES for key in rule.keys} <= {entry.dotted for entry in fields().values()}


def test_a_rule_is_silent_about_a_key_that_is_wrong_anyway(tmp_path: Path) -> None:
    """A key of the wrong type is one problem; rules that read it do not pile up, others still speak."""
    problems = problems_of(
        tmp_path, {"drain.timeout_s": "soon", "batching.max_batch_size": "-1", "kafka.output_topic": "in"}
    )
    assert sorted(problem.code for problem in problems) == ["bad_value", "output_is_input", "wrong_type"]
