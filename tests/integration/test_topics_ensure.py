"""``topics ensure``: what is missing is created to fit, what exists is left as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics, worker_config
from tests.kafka.processes import free_ports
from worker.__main__ import main


class Ensure:
    """Runs the command on a configuration."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._path = folder / "ensure.yaml"
        self._capsys = capsys

    def __call__(self, config: Mapping[str, Any], *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON of ``topics ensure``."""
        self._path.write_text(yaml.safe_dump(dict(config)))
        code = main(["topics", "ensure", "--config", str(self._path), "--json", *options])
        report: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return code, report

    def text(self, config: Mapping[str, Any], *options: str) -> str:
        """Standard output without ``--json``."""
        self._path.write_text(yaml.safe_dump(dict(config)))
        main(["topics", "ensure", "--config", str(self._path), *options])
        return self._capsys.readouterr().out


@pytest.fixture
def ensure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ensure:
    """The command."""
    return Ensure(tmp_path, capsys)


@pytest.fixture
def absent(kafka: KafkaBroker, topics: Topics) -> dict[str, Any]:
    """A configuration whose topics do not exist."""
    config = worker_config(kafka, {}, 1)
    names = {"output_topic": topics.name("out"), "dead_letter_topic": topics.name("dlq")}
    config["kafka"] |= {"input_topics": [topics.name("in")], **names}
    return config


def outcomes(report: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What became of input, output and dead-letter topic, and their partitions."""
    return [(topic["outcome"], topic["partitions"]) for topic in report["topics"]]


def setting(kafka: KafkaBroker, topic: str, name: str) -> str:
    """One setting of a topic as the broker has it."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return str(admin.describe_configs([resource])[resource].result(20)[name].value)


def test_created_topics_serve_a_worker_at_once(
    kafka: KafkaBroker, ensure: Ensure, absent: dict[str, Any], worker_process: StartWorker
) -> None:
    """Three missing topics come to be, dead letters with room for headers, and a worker starts on them."""
    code, report = ensure(absent, "--partitions", "3")
    assert (code, report["ok"], report["problems"]) == (0, True, [])
    assert outcomes(report) == [("created", 3), ("created", 3), ("created", 1)]
    section = absent["kafka"]
    assert kafka.client.partition_count(section["output_topic"]) == 3
    dead_letters, source = section["dead_letter_topic"], section["input_topics"][0]
    assert setting(kafka, dead_letters, "cleanup.policy") == "delete"
    room = int(setting(kafka, dead_letters, "max.message.bytes")) - int(setting(kafka, source, "max.message.bytes"))
    assert room >= 65_536 - 12
    assert worker_process(absent).stop() == 0


def test_second_run_changes_nothing(ensure: Ensure, absent: dict[str, Any]) -> None:
    """Existing topics are reported as such, whatever numbers are asked for."""
    ensure(absent, "--partitions", "2")
    code, report = ensure(absent, "--partitions", "5")
    assert code == 0
    assert outcomes(report) == [("exists", 2), ("exists", 2), ("exists", 1)]
    assert ensure.text(absent).splitlines()[0] == f"{absent['kafka']['input_topics'][0]}: exists (2 partitions)"


def test_dry_run_creates_nothing(kafka: KafkaBroker, ensure: Ensure, absent: dict[str, Any]) -> None:
    """The plan is told, judged by the broker, and not carried out."""
    code, report = ensure(absent, "--partitions", "2", "--dry-run")
    assert code == 0
    assert outcomes(report) == [("would_create", 2), ("would_create", 2), ("would_create", 1)]
    with pytest.raises(LookupError):
        kafka.client.partition_count(absent["kafka"]["output_topic"])


@pytest.mark.parametrize(("partitioning", "expected"), [("source", 4), ("key", 2)])
def test_output_gets_the_partitions_of_the_largest_input_under_source(
    ensure: Ensure, topics: Topics, absent: dict[str, Any], partitioning: str, expected: int
) -> None:
    """Under ``source`` the largest input decides, under ``key`` the number asked for."""
    absent["kafka"]["input_topics"] = [topics.create("in", partitions=4), absent["kafka"]["input_topics"][0]]
    absent["output"] = {"partitioning": partitioning}
    code, report = ensure(absent, "--partitions", "2")
    assert code == 0
    assert outcomes(report) == [("exists", 4), ("created", 2), ("created", expected), ("created", 1)]


def test_dead_letters_follow_the_largest_input(
    kafka: KafkaBroker, ensure: Ensure, topics: Topics, absent: dict[str, Any]
) -> None:
    """An input that takes large records gets a dead-letter topic that takes them too."""
    absent["kafka"]["input_topics"] = [topics.create("in", config={"max.message.bytes": "4000000"})]
    assert ensure(absent)[0] == 0
    assert int(setting(kafka, absent["kafka"]["dead_letter_topic"], "max.message.bytes")) == 4_000_000 + 65_536


def test_refusal_of_the_broker_is_a_problem_of_each_topic(ensure: Ensure, absent: dict[str, Any]) -> None:
    """More copies than brokers: exit 4, every topic failed, and the option to change is named; also in a dry run."""
    for mode in ((), ("--dry-run",)):
        code, report = ensure(absent, "--replication-factor", "3", *mode)
        assert code == 4
        assert outcomes(report) == [("failed", 0), ("failed", 0), ("failed", 0)]
        assert {problem["code"] for problem in report["problems"]} == {"topic_not_created"}
        assert all("--replication-factor" in problem["remedy"] for problem in report["problems"])


def test_existing_topics_that_do_not_fit_are_reported_and_left_alone(
    kafka: KafkaBroker, ensure: Ensure, topics: Topics
) -> None:
    """Too few partitions and a compacted dead-letter topic give exit 4 with advice; nothing is altered."""
    output, dead_letters = topics.create("out"), topics.create("dlq", config={"cleanup.policy": "compact"})
    names = {"output_topic": output, "dead_letter_topic": dead_letters}
    code, report = ensure(worker_config(kafka, {"kafka": names}, 3))
    assert code == 4
    assert {problem["code"] for problem in report["problems"]} == {"too_few_partitions", "dead_letter_compacted"}
    assert kafka.client.partition_count(output) == 1
    assert setting(kafka, dead_letters, "cleanup.policy") == "compact"


@pytest.mark.logs_errors
def test_unreachable_broker_ends_the_command(ensure: Ensure, absent: dict[str, Any]) -> None:
    """Exit 4 with the addresses that were tried."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    absent["kafka"]["bootstrap_servers"] = [address]
    code, report = ensure(absent)
    assert code == 4
    assert address in report["problems"][0]["message"]
