"""``headrace tune`` end to end, on the mock cluster and with the real worker."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from worker import resources
from worker.commands.app import execute


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The least that the shipped schema and model need."""
    for name in [name for name in os.environ if name.startswith("HEADRACE__")]:
        monkeypatch.delenv(name)
    path = tmp_path / "worker.yaml"
    sections = {
        "kafka": {"group_id": "g", "input_topics": ["in"], "output_topic": "out"},
        "event": {"schema": str(resources.path("schemas/transaction.schema.json")), "id_field": "transaction_id"},
        "model": {"path": str(resources.path("models/fraud")), "providers": ["cpu"]},
    }
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


@pytest.fixture
def unchanged_process() -> Iterator[None]:
    """Undo what a command changes in its process."""
    interval = sys.getswitchinterval()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    sys.setswitchinterval(interval)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("unchanged_process")
def test_defaults_are_measured_with_the_real_worker(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study of the defaults alone: one trial with all its figures, nothing to change, and files that say so."""
    output = tmp_path / "tuned.yaml"
    options = ["--rate", "200", "--seconds", "1", "--trials", "1", "--repeats", "2", "--output", str(output), "--json"]
    code = execute(["tune", "--config", str(config), "--latency-p99", "30", *options])
    told = capsys.readouterr()
    assert code == 0, told.err
    found = json.loads(told.out)
    assert found["recommended"] == {"trial": 0, "defaults": True, "keeps_limit": True, "changes": {}}
    (trial,) = found["trials"]
    assert (trial["origin"], trial["failure"]) == ("defaults", "")
    assert all(value > 0 for value in trial["figures"].values())
    assert trial["figures"]["p50_s"] <= trial["figures"]["p99_s"] <= trial["figures"]["largest_s"]
    assert json.loads((tmp_path / "tuned.json").read_text(encoding="utf-8")) == found
    assert (tmp_path / "tuned.svg").is_file()
    assert not output.exists()
    assert execute(["tune", "--config", str(config), "--latency-p99", "30", "--output", str(output)]) == 2


@pytest.mark.parametrize("package", ["optuna", "matplotlib", "confluent_kafka"])
def test_missing_extra_is_an_environment_fault(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra: exit 3 and the command to type."""
    monkeypatch.setitem(sys.modules, package, None)
    assert execute(["tune", "--latency-p99", "0.05"]) == 3
    told = capsys.readouterr().err
    assert package in told
    assert "pip install 'headrace[tune]'" in told


def test_latency_limit_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody but the user can say which latency is good enough."""
    assert execute(["tune"]) == 2
    assert "--latency-p99" in capsys.readouterr().err
