"""``check --online`` on a real broker: silence where all fits, one located problem for each thing that does not."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Consumer

from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import Topics, worker_config
from tests.kafka.processes import free_ports, wait_until
from worker.__main__ import main
from worker.adapters import kafka_check
from worker.adapters.kafka_check import check_online
from worker.config_file import load
from worker.errors import Problem


def problems_of(config: Mapping[str, Any], folder: Path, notes: list[str] | None = None) -> list[Problem]:
    """Problems that the check finds for a configuration."""
    path = folder / "check.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    return check_online(load(path, {}), (notes if notes is not None else []).append)


def found(problems: list[Problem]) -> list[tuple[str, str]]:
    """Key and code of each problem."""
    return [(problem.key, problem.code) for problem in problems]


def test_fitting_topics_give_no_problem(kafka: KafkaBroker, tmp_path: Path) -> None:
    """Plain topics with the broker's defaults pass, and nothing is created or written by asking."""
    config = worker_config(kafka, {}, 2)
    assert problems_of(config, tmp_path) == []
    section = config["kafka"]
    for name in (*section["input_topics"], section["output_topic"], section["dead_letter_topic"]):
        assert set(kafka.client.end_offsets(name).values()) == {0}


def test_missing_topics_are_named_each(kafka: KafkaBroker, topics: Topics, tmp_path: Path) -> None:
    """Every missing topic is a problem of its own at the key that names it."""
    names = {"output_topic": topics.name("out"), "dead_letter_topic": topics.name("dlq")}
    problems = problems_of(worker_config(kafka, {"kafka": names}, 1), tmp_path)
    expected = {("kafka.output_topic", "missing_topic"), ("kafka.dead_letter_topic", "missing_topic")}
    assert set(found(problems)) == expected
    assert all("topics ensure" in problem.remedy for problem in problems)


def test_output_with_fewer_partitions_is_reported_under_source_only(
    kafka: KafkaBroker, topics: Topics, tmp_path: Path
) -> None:
    """Partition numbers matter where the output follows the input's, and nowhere else."""
    output = topics.create("out", partitions=1)
    config = worker_config(kafka, {"kafka": {"output_topic": output}}, 3)
    assert found(problems_of(config, tmp_path)) == [("output.partitioning", "too_few_partitions")]
    assert problems_of(config | {"output": {"partitioning": "key"}}, tmp_path) == []


@pytest.mark.parametrize(
    ("hint", "setting", "key", "code"),
    [
        ("in", {"max.message.bytes": "16000000"}, "kafka.max_fetch_bytes", "fetch_too_small"),
        ("dlq", {"max.message.bytes": "65536"}, "kafka.dead_letter_topic", "dead_letter_too_small"),
        ("dlq", {"cleanup.policy": "compact"}, "kafka.dead_letter_topic", "dead_letter_compacted"),
        ("dlq", {"message.timestamp.before.max.ms": "1000"}, "kafka.dead_letter_topic", "timestamp_limit"),
        ("out", {"max.message.bytes": "512"}, "kafka.output_topic", "output_too_small"),
        ("out", {"message.timestamp.type": "LogAppendTime"}, "kafka.output_topic", "timestamp_type"),
    ],
)
def test_unfit_topic_setting_is_reported(
    kafka: KafkaBroker, topics: Topics, tmp_path: Path, hint: str, setting: dict[str, str], key: str, code: str
) -> None:
    """A topic setting that would lose or refuse records is reported at the key of what to change."""
    name = topics.create(hint, config=setting)
    keys = {"in": ("input_topics", [name]), "out": ("output_topic", name), "dlq": ("dead_letter_topic", name)}
    field, value = keys[hint]
    problems = problems_of(worker_config(kafka, {"kafka": {field: value}}, 1), tmp_path)
    assert (key, code) in found(problems)
    assert all(problem.remedy for problem in problems)


def test_compacted_output_is_worth_a_note_only(kafka: KafkaBroker, topics: Topics, tmp_path: Path) -> None:
    """A table of last scores is a fair use: the risk for records without key is told, not refused."""
    output = topics.create("out", config={"cleanup.policy": "compact"})
    notes: list[str] = []
    assert problems_of(worker_config(kafka, {"kafka": {"output_topic": output}}, 1), tmp_path, notes) == []
    assert any("compacted" in note for note in notes)


@pytest.mark.parametrize("session_timeout_s", [4, 3000])
def test_session_timeout_outside_the_brokers_limits_is_reported(
    kafka: KafkaBroker, tmp_path: Path, session_timeout_s: int
) -> None:
    """What the group coordinator would refuse is found before joining."""
    changes = {"kafka": {"session_timeout_s": session_timeout_s, "rebalance_timeout_s": 3600}}
    problems = problems_of(worker_config(kafka, changes, 1), tmp_path)
    assert found(problems) == [("kafka.session_timeout_s", "session_timeout")]


def test_group_of_another_program_is_reported(kafka: KafkaBroker, tmp_path: Path) -> None:
    """A group whose members share out partitions in a way that is not ours is named, with its members."""
    config = worker_config(kafka, {}, 1)
    section = config["kafka"]
    other = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": section["group_id"],
            "client.id": "another-program",
            "partition.assignment.strategy": "range",
        }
    )
    try:
        other.subscribe(section["input_topics"])

        def is_assigned() -> bool:
            other.poll(0.1)
            return bool(other.assignment())

        wait_until(is_assigned, timeout_s=30, what=lambda: "the other program did not join")
        problems = problems_of(config, tmp_path)
    finally:
        other.close()
    assert found(problems) == [("kafka.group_id", "group_in_use")]
    assert "another-program" in problems[0].message


@pytest.mark.logs_errors
def test_unreachable_broker_is_one_problem(kafka: KafkaBroker, tmp_path: Path) -> None:
    """Nobody listening is told at once instead of being waited for."""
    config = worker_config(kafka, {}, 1)
    config["kafka"]["bootstrap_servers"] = [f"127.0.0.1:{free_ports(1)[0]}"]
    assert found(problems_of(config, tmp_path)) == [("kafka.bootstrap_servers", "unreachable")]


@pytest.mark.logs_errors
def test_silent_broker_is_not_waited_for(kafka: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that accepts connections but answers nothing is a problem once the time limit is over."""
    config = worker_config(kafka, {}, 1)
    monkeypatch.setattr(kafka_check, "CHECK_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config["kafka"]["bootstrap_servers"] = [f"127.0.0.1:{silent.getsockname()[1]}"]
        problems = problems_of(config, tmp_path)
    assert found(problems) == [("kafka.bootstrap_servers", "unreachable")]


def test_command_places_problems_in_the_file(
    kafka: KafkaBroker, topics: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``check --online --json`` exits 4 and gives file and line of the key behind each finding."""
    missing = topics.name("out")
    path = tmp_path / "worker.yaml"
    path.write_text(yaml.safe_dump(worker_config(kafka, {"kafka": {"output_topic": missing}}, 1), sort_keys=False))
    assert main(["check", "--online", "--json", "--config", str(path)]) == 4
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if missing in text)
    assert (problem["file"], problem["line"], problem["key"]) == (str(path), line, "kafka.output_topic")
