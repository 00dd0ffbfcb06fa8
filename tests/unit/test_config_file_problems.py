"""Broken configurations: each problem names file, line, key and remedy, and all of them come at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from worker.config_file import load
from worker.errors import ConfigError, Problem

SOUND = """\
kafka:
  group_id: fraud-scoring
  input_topics: [transactions]
  output_topic: scored
event:
  schema: event.json
  id_field: id
model:
  path: bundle
"""


class Case(NamedTuple):
    """A change to the sound file (old text, new text) and the one problem that it makes."""

    old: str
    new: str
    line: int
    key: str
    code: str
    remedy: str


CASES = {
    "unknown key": Case(
        "  group_id: fraud-scoring", "  gruop_id: x", 2, "kafka.gruop_id", "unknown_key", "did you mean group_id?"
    ),
    "unknown section": Case("model:", "modle:", 8, "modle", "unknown_key", "did you mean model?"),
    "key of another section": Case(
        "  path: bundle", "  path: bundle\n  include: [a]", 10, "model.include", "unknown_key", "move it below output:"
    ),
    "key without a section": Case(
        "model:", "max_batch_size: 4\nmodel:", 8, "max_batch_size", "unknown_key", "move it below batching:"
    ),
    "nothing like it": Case(
        "  path: bundle", "  path: bundle\n  zzz: 1", 10, "model.zzz", "unknown_key",
        "remove it; model takes path, providers, require_provider, intra_op_threads, gpu_calls",
    ),
    "missing key": Case(
        "  id_field: id\n", "", 5, "event.id_field", "missing_key", "add id_field: transaction_id below event:"
    ),
    "missing section": Case(
        "model:\n  path: bundle\n", "", 1, "model.path", "missing_key", "add path: models/fraud below model:"
    ),
    "empty section": Case(
        "model:\n  path: bundle\n", "model:\n", 8, "model.path", "missing_key", "add path: models/fraud below model:"
    ),
    "section without keys": Case(
        "model:\n  path: bundle\n", "model: bundle\n", 8, "model", "wrong_type",
        "write model: and, indented below it, keys such as path:",
    ),
    "key twice": Case(
        "  path: bundle", "  path: bundle\n  path: other", 10, "model.path", "duplicate_key", "keep one of them"
    ),
    "text for a list": Case(
        "[transactions]", "a,b", 3, "kafka.input_topics", "wrong_type", "write input_topics: [a, b]"
    ),
    "number for text": Case("fraud-scoring", "42", 2, "kafka.group_id", "wrong_type", 'write group_id: "42"'),
    "quoted number": Case(
        "model:", "probes:\n  port: '8080'\nmodel:", 9, "probes.port", "wrong_type", "write port: 8080"
    ),
    "out of range": Case(
        "model:", "probes:\n  port: 70000\nmodel:", 9, "probes.port", "bad_value",
        "write port: 8080, or another value: a whole number from 0 up to 65535",
    ),
    "off as zero": Case(
        "model:", "batching:\n  max_batch_delay_s: 0\nmodel:", 9, "batching.max_batch_delay_s", "bad_value",
        "write max_batch_delay_s: 0.005, or another value: a number above 0 up to 10",
    ),
    "infinity": Case(
        "model:", "drain:\n  timeout_s: .inf\nmodel:", 9, "drain.timeout_s", "bad_value",
        "write timeout_s: 20.0, or another value: a number above 0 up to 86400",
    ),
    "truth value for text": Case(
        "model:", "log:\n  format: true\nmodel:", 9, "log.format", "bad_value",
        "write format: auto, or another value: one of auto, json, console",
    ),
    "misspelled choice": Case(
        "model:", "log:\n  level: WARN\nmodel:", 9, "log.level", "bad_value", "write level: warning"
    ),
    "misspelled word beside a list": Case(
        "path: bundle", "path: bundle\n  providers: atuo", 10, "model.providers", "wrong_type", "write providers: auto"
    ),
    "item of a list": Case(
        "[transactions]", "\n    - a\n    - 7", 5, "kafka.input_topics", "wrong_type",
        "write input_topics: [transactions], or another value: a list of text, at least one",
    ),
    "item twice": Case("[transactions]", "[a, a]", 3, "kafka.input_topics", "refused", "list 'a' once"),
    "topic name": Case(
        "output_topic: scored", "output_topic: a b", 4, "kafka.output_topic", "refused",
        "name the topic with those characters only, such as transactions",
    ),
    "broker without port": Case(
        "  group_id", "  bootstrap_servers: [broker]\n  group_id", 2, "kafka.bootstrap_servers", "refused",
        "write host:port, such as localhost:9092",
    ),
    "event field": Case(
        "id_field: id", "id_field: a..b", 7, "event.id_field", "refused",
        "write a path such as transaction_id or merchant.risk",
    ),
    "header of ours": Case(
        "model:", "output:\n  headers: [headrace-source]\nmodel:", 9, "output.headers", "refused",
        "take 'headrace-source' out of the list",
    ),
    "transactions that outlast their timeout": Case(
        "model:", "delivery:\n  transaction_interval_s: 6\nmodel:", 9, "delivery.transaction_interval_s",
        "transaction_too_long", "set delivery.transaction_timeout_s to 12 or more",
    ),
    "no process": Case(
        "model:", "run:\n  processes: 0\nmodel:", 9, "run.processes", "bad_value",
        "write processes: 1, or another value: a whole number from 1 up to 64",
    ),
    "tag": Case("path: bundle", "path: !env bundle", 9, "model.path", "unknown_tag", "write the value without a tag"),
    "tag that does not fit": Case(
        "model:", "brakes:\n  max_share: !!null 0.5\nmodel:", 9, "brakes.max_share", "unknown_tag",
        "write the value without a tag",
    ),
    "tag of a list": Case(
        "[transactions]", "!own [transactions]", 3, "kafka.input_topics", "unknown_tag",
        "write the value without a tag",
    ),
    "tag of a section": Case(
        "event:", "event: !own", 5, "event", "unknown_tag", "write the value without a tag"
    ),
    "tag of the file": Case("kafka:", "--- !own\nkafka:", 1, "", "unknown_tag", "write the value without a tag"),
    "buckets descend": Case(
        "model:", "batching:\n  buckets: [8, 1, 512]\nmodel:", 9, "batching.buckets", "refused",
        "write buckets: [1, 8, 512]",
    ),
    "nested value": Case(
        "path: bundle", "path: {a: {b: c}}", 9, "model.path", "wrong_type",
        "write path: models/fraud, or another value: a path",
    ),
}  # fmt: skip


def problems_of(folder: Path, text: str, environ: dict[str, str] | None = None) -> tuple[Problem, ...]:
    """Write ``text`` as a configuration and return what is wrong with it."""
    path = folder / "worker.yaml"
    path.write_text(text, encoding="utf-8")
    (folder / "event.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.problems


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_mistake_makes_one_problem(tmp_path: Path, case: Case) -> None:
    """A broken file gives one problem with its file, line, key, code and remedy."""
    assert case.old in SOUND
    problems = problems_of(tmp_path, SOUND.replace(case.old, case.new, 1))
    assert [(problem.line, problem.key, problem.code, problem.remedy) for problem in problems] == [
        (case.line, case.key, case.code, case.remedy)
    ]
    assert problems[0].file == str(tmp_path / "worker.yaml")
    assert problems[0].message


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    """Unknown, missing, mistyped and conflicting keys and variables are reported by one error."""
    text = "kafka:\n  group: x\n  output_topic: 1\ndrain:\n  timeout_s: 60\nevent:\n  schema: gone.json\n"
    problems = problems_of(tmp_path, text, {"HEADRACE__LOG__LEVL": "info"})
    assert [(problem.line, problem.key, problem.code) for problem in problems] == [
        (1, "kafka.input_topics", "missing_key"),
        (1, "model.path", "missing_key"),
        (2, "kafka.group", "unknown_key"),
        (3, "kafka.output_topic", "wrong_type"),
        (5, "drain.timeout_s", "drain_too_long"),
        (6, "event.id_field", "missing_key"),
        (7, "event.schema", "file_not_found"),
        (0, "HEADRACE__LOG__LEVL", "unknown_variable"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("", 1, "empty_file"),
        ("# nothing\n", 1, "empty_file"),
        ("- kafka\n", 1, "not_a_mapping"),
        ("kafka\n", 1, "not_a_mapping"),
        ("kafka:\n\tgroup_id: x\n", 2, "yaml_syntax"),
        ("kafka:\n  group_id: 'x\n", 3, "yaml_syntax"),
        ("kafka:\n  input_topics: [a\nevent:\n", 3, "yaml_syntax"),
        ("kafka:\n  group_id: a: b\n", 2, "yaml_syntax"),
        ("kafka:\n  group_id: *hidden\n", 2, "yaml_syntax"),
        ("kafka: {}\n---\nevent: {}\n", 2, "yaml_syntax"),
        ("kafka:\n  group_id: \x07\n", 2, "yaml_syntax"),
        ('kafka:\n  group_id: "\\UFFFFFFFF"\n', 2, "yaml_syntax"),
        ('kafka:\n  group_id: "\\U00110000"\n', 2, "yaml_syntax"),
        ('kafka:\n  group_id: "\\uD800"\n', 2, "yaml_syntax"),
        ("a: " + "[" * 1200, 0, "yaml_syntax"),
    ],
)
def test_what_is_no_yaml_is_located(tmp_path: Path, text: str, line: int, code: str) -> None:
    """A file that YAML cannot read, or that is no mapping, is one problem with its line and a remedy."""
    (problem,) = problems_of(tmp_path, text)
    assert (problem.line, problem.code) == (line, code)
    assert problem.remedy


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file and a folder are problems, and so are the variables beside them."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "gone.yaml", {"HEADRACE__X__Y": "1"})
    assert [problem.code for problem in caught.value.problems] == ["file_not_found", "unknown_variable"]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert [(problem.file, problem.code) for problem in caught.value.problems] == [(str(tmp_path), "file_unreadable")]


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    """A file in another encoding is refused with the line of the first such byte."""
    path = tmp_path / "worker.yaml"
    path.write_bytes(b"kafka:\n  group_id: caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [(2, "not_utf8")]


@pytest.mark.parametrize("name", ["folder", "gone/event.json"])
def test_a_file_key_needs_a_file(tmp_path: Path, name: str) -> None:
    """A schema path that is a folder, or nothing, is reported where it stands."""
    (tmp_path / "folder").mkdir()
    (problem,) = problems_of(tmp_path, SOUND.replace("event.json", name))
    assert (problem.line, problem.key, problem.code) == (6, "event.schema", "file_not_found")
    assert str(tmp_path) in problem.remedy


def test_a_path_that_the_machine_cannot_look_up_is_a_problem(tmp_path: Path) -> None:
    """A file name that is too long for any file system is reported where it stands."""
    (problem,) = problems_of(tmp_path, SOUND.replace("event.json", "x" * 5000))
    assert (problem.line, problem.key, problem.code) == (6, "event.schema", "file_not_found")
    assert "cannot be read" in problem.message


@pytest.mark.parametrize("target", ['"a\\0b"', "/dev/zero"])
def test_a_secret_comes_from_a_file_of_sane_size(tmp_path: Path, target: str) -> None:
    """A path that is none, and a device without an end, are problems; nothing is read forever."""
    text = SOUND.replace("  group_id", f"  sasl_password_file: {target}\n  group_id")
    problem = problems_of(tmp_path, text)[0]
    assert (problem.line, problem.key, problem.code) == (2, "kafka.sasl_password_file", "file_unreadable")


def test_a_variable_nested_beyond_reason_is_a_problem(tmp_path: Path) -> None:
    """A variable that no parser can follow is text like any other, and refused as such."""
    (problem,) = problems_of(tmp_path, SOUND, {"HEADRACE__BATCHING__BUCKETS": "[" * 5000})
    assert (problem.key, problem.code) == ("HEADRACE__BATCHING__BUCKETS", "wrong_type")


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A mapping key that is itself a list is located at its section."""
    problems = problems_of(tmp_path, SOUND + "  ? [a, b]\n  : 1\n")
    assert [(problem.line, problem.key, problem.code) for problem in problems] == [(10, "model", "wrong_type")]


@pytest.mark.parametrize(
    "lines",
    [
        "  sasl_password: 271828\n",
        "  sasl_password: [hunter271828]\n",
        "  sasl_password: *hunter271828\n",
        "  sasl_password: !!int hunter271828\n",
        "  sasl_pasword: hunter271828\n",
        "  sasl_password: 'hunter271828\n",
        "  sasl_password: @hunter271828\n",
        "  sasl_password: hunter271828: x\n",
        "  sasl_password: hunter271828\n",
    ],
)
def test_a_secret_is_in_no_problem(tmp_path: Path, lines: str) -> None:
    """Whatever is wrong with a secret or around it, its text is not repeated."""
    problems = problems_of(tmp_path, "kafka:\n" + lines + SOUND.removeprefix("kafka:\n"))
    shown = repr(problems)
    assert problems
    assert "hunter" not in shown
    assert "271828" not in shown
