"""What a trial's worker is told, and how its figures come from what was seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.tuning.studies import settings
from worker import resources
from worker.errors import ConfigError, HeadraceError
from worker.settings import Settings
from worker.tuning.brokers import MockPlace, Stage, Topics
from worker.tuning.rig import drain_rates, processor_s, trial_config
from worker.tuning.sample import DEMO_SCHEMA, demo_sample, read_sample
from worker.tuning.space import Value

TOPICS = Topics("t-in", "t-out", "t-dlq")
SECURE = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me", "sasl_password": "secret"}


def stage(**kafka: object) -> Stage:
    """A stage of one partition."""
    return Stage({}, {"input_topics": ["t-in"], **kafka}, TOPICS, 1, 1, 1)


def test_worker_gets_the_settings_on_other_topics() -> None:
    """What was set stays, the trial's values and topics win, and one process with probes on loopback runs."""
    given = settings(batching={"max_batch_size": 8, "gather_s": 0.0}, run={"processes": 4}, probes={"port": 80})
    values: dict[str, Value] = {"batching.max_batch_size": 64, "batching.buckets": (1, 64), "model.intra_op_threads": 2}
    config, variables = trial_config(given, values, stage(), 1234)
    assert config["batching"] == {"max_batch_size": 64, "gather_s": 0.0, "buckets": [1, 64]}
    assert config["kafka"]["input_topics"] == ["t-in"]
    assert (config["run"], config["probes"]) == ({"processes": 1}, {"host": "127.0.0.1", "port": 1234})
    assert variables == {}
    assert Settings.model_validate(config).model.intra_op_threads == 2


def test_secrets_are_in_no_file() -> None:
    """A password goes by the environment; on the mock cluster, which asks for none, not at all."""
    config, variables = trial_config(settings(kafka=SECURE), {}, stage(), 1)
    assert "secret" not in str(config)
    assert "sasl_password" not in config["kafka"]
    assert variables == {"HEADRACE__KAFKA__SASL_PASSWORD": "secret"}
    with MockPlace(settings(kafka=SECURE)).stage() as mock:
        config, variables = trial_config(settings(kafka=SECURE), {}, mock, 1)
    assert variables == {}
    assert Settings.model_validate(config).kafka.security_protocol == "PLAINTEXT"


def test_drain_is_measured_amid_it() -> None:
    """Start-up and the end, whose time is uncertain, do not count; a short drain is bounded from outside."""
    start, end = [(0.0, 0, 0.0), (9.0, 0, 5.0)], [(10.5, 1000, 5.9)]
    amid = [(10.0, 200, 5.1), (10.1, 400, 5.2), (10.3, 800, 5.4)]
    assert drain_rates([*start, (9.9, 50, 5.05), *amid, *end], 1000) == pytest.approx((2000, 500))
    for short in (amid[:1], [*amid[:1], (10.02, 200, 5.11)], []):
        assert drain_rates([*start, *short, *end], 1000) == pytest.approx((1000 / 1.5, 900))
    with pytest.raises(HeadraceError, match="at once"):
        drain_rates(end, 1000)


def test_processor_time_is_that_of_the_process() -> None:
    """The clock of another process agrees with what that process says; a process that is gone has none."""
    before = processor_s(os.getpid())
    while time.process_time() < before + 0.01:
        pass
    assert processor_s(os.getpid()) >= before + 0.01
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(HeadraceError, match="processor time"):
        processor_s(gone.pid)


def test_sample_is_lines_of_a_file(tmp_path: Path) -> None:
    """Blank lines are no events; a file without any, or none at all, is refused."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}')
    assert read_sample(path) == [b'{"a": 1}', b'{"a": 2}']
    path.write_bytes(b" \n")
    with pytest.raises(ConfigError, match="holds no event"):
        read_sample(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sample(tmp_path / "none")


def test_demo_events_are_for_the_demo_schema_alone(tmp_path: Path) -> None:
    """The same seed gives the same events; for another schema a file must be named."""
    shipped = resources.path(DEMO_SCHEMA)
    assert demo_sample(shipped, 7)[:10] == demo_sample(shipped, 7)[:10]
    other = tmp_path / "event.json"
    other.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        demo_sample(other, 7)
    assert "--sample" in caught.value.problems[0].remedy
