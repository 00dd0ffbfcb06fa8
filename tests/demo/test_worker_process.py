"""The demo's worker gets a valid configuration, and its failures are told with its own words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from worker import config_file
from worker.demo.worker_process import WorkerFailure, WorkerProcess, configuration


def test_configuration_is_valid(tmp_path: Path) -> None:
    """The worker accepts the configuration, and it names the shipped schema and model."""
    file = tmp_path / "worker.yaml"
    file.write_text(yaml.safe_dump(configuration(["127.0.0.1:9092"], 8080)), encoding="utf-8")
    settings = config_file.load(file, {})
    assert settings.event.schema_path.is_file()
    assert (settings.model.path / "model.yaml").is_file()
    assert settings.probes.host == "127.0.0.1"


def test_early_end_is_told_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that refuses its configuration fails the demo with the worker's exit code and words."""
    worker = WorkerProcess(tmp_path, configuration(["127.0.0.1:9"], 9))
    (tmp_path / "worker.yaml").write_text("kafka: {group: x}\n", encoding="utf-8")
    # The user's own settings are not the demo's: this one would change the outcome.
    monkeypatch.setenv("HEADRACE__PROBES__PORT", "not a port")
    worker.start()
    with pytest.raises(WorkerFailure, match="ended by itself with exit code 2") as caught:
        worker.wait_ready()
    assert caught.value.exit_code == 2
    assert "kafka.group" in str(caught.value)
    assert "not a port" not in str(caught.value)


def test_silent_worker_has_no_metrics(tmp_path: Path) -> None:
    """Where nobody answers there are no samples, and killing what never started does nothing."""
    worker = WorkerProcess(tmp_path, configuration(["127.0.0.1:9"], 9))
    worker.kill()
    assert worker.samples() is None
    with pytest.raises(RuntimeError, match="not started"):
        worker.check_alive()
