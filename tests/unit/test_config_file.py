"""Loading a configuration: defaults, files, variables, secrets and where each value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.config_file import load, load_with_origins
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
SASL = {
    "HEADRACE__KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
    "HEADRACE__KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
    "HEADRACE__KAFKA__SASL_USERNAME": "worker",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sound configuration file, with the schema that it names beside it."""
    (tmp_path / "event.json").write_text("{}", encoding="utf-8")
    path = tmp_path / "worker.yaml"
    path.write_text(SOUND, encoding="utf-8")
    return path


def problems_of(config: Path, environ: dict[str, str]) -> tuple[Problem, ...]:
    """Return what is wrong with the sound file under ``environ``."""
    with pytest.raises(ConfigError) as caught:
        load(config, environ)
    return caught.value.problems


def test_the_least_file_takes_the_defaults(config: Path) -> None:
    """What is not set takes its default; the dead-letter topic follows the first input topic."""
    settings = load(config, {})
    assert settings.kafka.bootstrap_servers == ("localhost:9092",)
    assert settings.kafka.dead_letter_topic == "transactions.dlq"
    assert settings.batching.buckets == (1, 8, 32, 128, 512)
    assert settings.event.validate_ == "model"
    assert settings.event.on_tombstone == "dead_letter"
    assert settings.kafka.sasl_password is None


def test_relative_paths_start_at_the_folder_of_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the current folder nor a variable changes where a relative path starts."""
    monkeypatch.chdir("/")
    settings = load(config, {"HEADRACE__MODEL__PATH": "other/../bundles/x"})
    assert settings.event.schema_path == config.parent / "event.json"
    assert settings.model.path == config.parent / "bundles" / "x"


def test_links_stay_in_paths(config: Path, tmp_path: Path) -> None:
    """A linked configuration file looks for its neighbours beside the link."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "worker.yaml").symlink_to(config)
    (mounted / "event.json").write_text("{}", encoding="utf-8")
    assert load(mounted / "worker.yaml", {}).model.path == mounted / "bundle"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("KAFKA__INPUT_TOPICS", "[a, b]", ("a", "b")),
        ("KAFKA__GROUP_ID", "42", "42"),
        ("KAFKA__GROUP_ID", "'42'", "42"),
        ("KAFKA__GROUP_ID", "true", "true"),
        ("KAFKA__GROUP_ID", "null", "null"),
        ("KAFKA__GROUP_ID", "a: b", "a: b"),
        ("KAFKA__GROUP_ID", "[", "["),
        ("PROBES__PORT", "0", 0),
        ("BATCHING__MAX_BATCH_DELAY_S", "5e-3", 0.005),
        ("DRAIN__TIMEOUT_S", "7", 7.0),
        ("MODEL__REQUIRE_PROVIDER", "cpu", "cpu"),
        ("MODEL__REQUIRE_PROVIDER", "null", None),
    ],
)
def test_a_variable_wins_over_file_and_default(config: Path, variable: str, text: str, expected: object) -> None:
    """Lists and numbers are YAML; text stands as it is, whatever it looks like."""
    settings = load(config, {f"HEADRACE__{variable}": text, "HEADRACE_OTHER": "x", "PATH": "y"})
    section, key = variable.lower().split("__")
    assert getattr(getattr(settings, section), key) == expected


def test_a_variable_replaces_a_missing_or_broken_key(config: Path) -> None:
    """A key given by a variable is neither missing nor wrong in the file."""
    config.write_text(SOUND.replace("  group_id: fraud-scoring\n", "").replace("scored", "[]"), encoding="utf-8")
    settings = load(config, {"HEADRACE__KAFKA__GROUP_ID": "g", "HEADRACE__KAFKA__OUTPUT_TOPIC": "out"})
    assert (settings.kafka.group_id, settings.kafka.output_topic) == ("g", "out")


@pytest.mark.parametrize(
    ("name", "text", "code", "remedy"),
    [
        ("HEADRACE__KAFKA__GROUPID", "x", "unknown_variable", "did you mean HEADRACE__KAFKA__GROUP_ID?"),
        ("HEADRACE__Kafka__group_id", "x", "unknown_variable", "did you mean HEADRACE__KAFKA__GROUP_ID?"),
        ("HEADRACE__Q", "x", "unknown_variable", "unset it, or name a key: HEADRACE__SECTION__KEY"),
        ("HEADRACE__LOG__LEVEL", " ", "empty_value",
         "unset it, or give it a value; off is null, where the key takes null"),
        ("HEADRACE__EVENT__ID_FIELD", "\udc80", "not_utf8", "write it in UTF-8"),
        ("HEADRACE__KAFKA__SASL_PASSWORD", "a\udcff", "not_utf8", "write it in UTF-8"),
        ("HEADRACE__LOG__LEVEL", "warn", "bad_value", "write HEADRACE__LOG__LEVEL=warning"),
        ("HEADRACE__MODEL__PROVIDERS", "cpu,cuda", "wrong_type", "write HEADRACE__MODEL__PROVIDERS=[cpu, cuda]"),
        ("HEADRACE__PROBES__PORT", "http", "wrong_type",
         "write HEADRACE__PROBES__PORT=8080, or another value: a whole number from 0 up to 65535"),
        ("HEADRACE__FLOW__MAX_IN_FLIGHT_RECORDS", "12", "flow_below_batch",
         "set flow.max_in_flight_records to 512 or more (8192 is usual)"),
    ],
)  # fmt: skip
def test_a_broken_variable_is_named(config: Path, name: str, text: str, code: str, remedy: str) -> None:
    """A problem with a variable carries its name as key and the environment as file."""
    (problem,) = problems_of(config, {name: text})
    assert (problem.file, problem.line, problem.key) == ("environment", 0, name)
    assert (problem.code, problem.remedy) == (code, remedy)


@pytest.mark.parametrize(
    ("content", "secret"), [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("s3cret\n\n", "s3cret\n"), ("1", "1")]
)
def test_a_secret_comes_from_a_file_less_one_newline(config: Path, content: str, secret: str) -> None:
    """Both the variable and the YAML key name a file, relative to the configuration."""
    (config.parent / "password").write_bytes(content.encode())
    for environ, line in [({"HEADRACE__KAFKA__SASL_PASSWORD_FILE": "password"}, ""),
                          ({}, "  sasl_password_file: password\n")]:  # fmt: skip
        config.write_text(SOUND.replace("event:", line + "event:", 1), encoding="utf-8")
        password = load(config, SASL | environ).kafka.sasl_password
        assert password is not None
        assert password.get_secret_value() == secret


def test_a_secret_variable_stands_as_it_is_and_wins(config: Path) -> None:
    """A password of digits or YAML signs needs no quotes, and replaces the file that the configuration names."""
    config.write_text(SOUND.replace("event:", "  sasl_password_file: gone\nevent:", 1), encoding="utf-8")
    for text in ("271828", "null", "{a: [", " x "):
        password = load(config, SASL | {"HEADRACE__KAFKA__SASL_PASSWORD": text}).kafka.sasl_password
        assert password is not None
        assert password.get_secret_value() == text


@pytest.mark.parametrize(
    ("line", "content", "code"),
    [
        ("sasl_password_file: gone", b"", "file_unreadable"),
        ("sasl_password_file: password", b"\n", "file_unreadable"),
        ("sasl_password_file: password", b"\xff", "file_unreadable"),
        ("sasl_password_file: 5", b"x", "wrong_type"),
        ("sasl_password_file: password\n  sasl_password: x", b"x", "conflict"),
    ],
)
def test_a_broken_secret_file_is_located(config: Path, line: str, content: bytes, code: str) -> None:
    """A secret's file that cannot serve is one problem at its own key."""
    (config.parent / "password").write_bytes(content)
    config.write_text(SOUND.replace("event:", f"  {line}\nevent:", 1), encoding="utf-8")
    (problem,) = problems_of(config, SASL)
    assert (problem.line, problem.key, problem.code) == (5, "kafka.sasl_password_file", code)


def test_a_secret_is_not_in_the_text_of_settings(config: Path) -> None:
    """Printing or dumping the settings does not show the password."""
    settings = load(config, SASL | {"HEADRACE__KAFKA__SASL_PASSWORD": "hunter2"})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_origins_tell_where_each_value_was_set(config: Path) -> None:
    """A key from the file has its line, one from a variable its name, a default none."""
    origins = load_with_origins(config, {"HEADRACE__LOG__LEVEL": "debug"}).origins
    assert (origins["kafka", "group_id"].file, origins["kafka", "group_id"].line) == (str(config), 2)
    assert origins["log", "level"].name == "HEADRACE__LOG__LEVEL"
    assert ("probes", "port") not in origins


def test_words_of_older_yaml_stay_text(config: Path) -> None:
    """Words and digits that YAML 1.1 converts are what they look like."""
    for word in ("yes", "off", "12:30", "2026-01-01", "1_000"):
        config.write_text(SOUND.replace("fraud-scoring", word), encoding="utf-8")
        assert load(config, {}).kafka.group_id == word
