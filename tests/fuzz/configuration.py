"""Configuration: any file and environment give settings, or every problem with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.fuzz.folder import folder
from tests.fuzz.target import Target, join, split
from worker.commands.config import effective_values, origin_names
from worker.config_file import Loaded, load_with_origins
from worker.errors import ConfigError
from worker.settings_fields import fields

_SECRET: Final = "Zq7-canary-9xW"  # noqa: S105 # a marker that no message may repeat
_PASSWORD: Final = "HEADRACE__KAFKA__SASL_PASSWORD"  # noqa: S105 # the name of a variable
_ENVIRONMENT: Final = "environment"


def check(data: bytes) -> None:
    """Settings whose printed form means the same, or problems that name where they are and tell no secret.

    The input holds the file and, one a line, the variables of the environment.
    """
    text, variables = split(data, 2)
    home = folder("config")
    path = home / "worker.yaml"
    path.write_bytes(text)
    (home / "event.schema.json").write_text("{}")
    (home / "password").write_text("from-a-file\n")
    environ = _environ(variables)
    try:
        loaded = load_with_origins(path, environ)
    except ConfigError as error:
        _check_problems(error, path, text, environ)
        return
    _check_settings(loaded, home, environ)


def _environ(variables: bytes) -> dict[str, str]:
    """What a process could find in its environment: no empty name, no NUL."""
    lines = variables.replace(b"\x00", b"").decode("utf-8", "surrogateescape").split("\n")
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs if name}


def _check_problems(error: ConfigError, path: Path, text: bytes, environ: dict[str, str]) -> None:
    last = text.count(b"\n") + text.count(b"\r") + text.count("\x85".encode()) + text.count("\u2028".encode()) + 2
    hidden = _SECRET in environ.get(_PASSWORD, "") and _SECRET.encode() not in text
    hidden = hidden and not any(_SECRET in name + environ[name] for name in environ.keys() - {_PASSWORD})
    assert error.problems
    for problem in error.problems:
        assert problem.message, problem
        assert problem.remedy, problem
        assert problem.file in {str(path), _ENVIRONMENT}, problem
        if problem.file == _ENVIRONMENT:
            assert problem.key in environ, problem
        else:
            assert 1 <= problem.line <= last or "nested too deep" in problem.message, problem
        if hidden:
            assert _SECRET not in problem.message + problem.remedy + problem.key, "a secret is shown"


def _check_settings(loaded: Loaded, home: Path, environ: dict[str, str]) -> None:
    """What ``headrace config show --json`` prints is complete, hides secrets, and loads to the same values."""
    shown, origins = effective_values(loaded), origin_names(loaded)
    assert origins.keys() == {entry.dotted for entry in fields().values()}
    if environ.get(_PASSWORD) == _SECRET:
        assert _SECRET not in json.dumps(shown)
    again = home / "again.yaml"
    again.write_text(json.dumps(shown), encoding="utf-8")
    assert effective_values(load_with_origins(again, {})) == shown


_FILE: Final = """kafka:
  bootstrap_servers: [broker:9092]
  group_id: scorer
  input_topics:
    - events
  output_topic: scores
event: {schema: event.schema.json, id_field: id}
model:
  path: model
"""
_RICH: Final = (
    _FILE
    + """batching: {max_batch_size: 64, max_batch_delay_s: 5e-3, buckets: [1, 8, 64]}
delivery: {guarantee: exactly_once}
output: {include: [amount, shop.risk], partitioning: key}
brakes: {max_share: null, max_in_a_row: ~}
"""
)

TARGET: Final = Target(
    "config",
    check,
    seeds=(
        join(_FILE),
        join(_RICH, "HEADRACE__LOG__LEVEL=debug\nHEADRACE__KAFKA__INPUT_TOPICS=[a, b]"),
        join(_FILE + "log: {level: loud}\nkafak: 1\nrun: [1]\n", "HEADRACE__LOG__LEVLE=info\nHEADRACE__LOG__FORMAT="),
        join(_FILE, f"{_PASSWORD}={_SECRET}\nHEADRACE__KAFKA__SECURITY_PROTOCOL=SASL_PLAINTEXT\n"
             "HEADRACE__KAFKA__SASL_MECHANISM=PLAIN\nHEADRACE__KAFKA__SASL_USERNAME=010"),
        join(_FILE, f"{_PASSWORD}_FILE=password\nHEADRACE__KAFKA__SECURITY_PROTOCOL=SASL_SSL\n"
             f"HEADRACE__KAFKA__SASL_MECHANISM=SCRAM-SHA-256\nHEADRACE__KAFKA__SASL_USERNAME=u"),
        join("kafka: &k {group_id: g, group_id: h}\nevent: *k\nmodel: !x y\n", f"{_PASSWORD}={_SECRET}"),
        join("kafka:\n\tgroup_id: g\n"),
        join("- a\n---\n- b\n"),
    ),
    tokens=(
        *(f"{entry.key}: ".encode() for entry in fields().values()),
        *(f"\n{entry.variable}=".encode() for entry in fields().values()),
        *(b"&a ", b"*a", b"!!bool ", b"!!int ", b"!!float ", b"!x ", b"<<: ", b".inf", b".nan", b"~", b"? [", b"0x10"),
        *(b"null", b"true", b"yes", b"010", b"1e400", b"9" * 400, b"[[", b"]]", b"{", b"}", b"|\n  ", b"\n---\n"),
        *(b"\n%%%%\n", b"\xef\xbb\xbf", b"\xff", b"\x00", b"\x07", b"\xc2\x85", b"password", b"/dev/null", b"_FILE="),
    ),
)  # fmt: skip
