"""The line of the compose file without containers: its settings and commands on a Kafka of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deployment.checkout import PROJECT, from_image, read_yaml
from tests.kafka import broker as node
from tests.kafka.broker import KafkaBroker
from tests.kafka.processes import free_ports
from tests.kafka.worker_process import WorkerProcess

SERVICES = read_yaml("docker-compose.yml")["services"]
RECORDS = 300
COMMAND_TIMEOUT_S = 60.0
# Read by the image's start script, not by the broker.
NOT_PROPERTIES = ("KAFKA_HEAP_OPTS",)


def broker_properties(ports: dict[str, int]) -> dict[str, str]:
    """The broker's properties as the image makes them from the variables, with the ports of this machine."""
    properties = {}
    for name, value in SERVICES["kafka"]["environment"].items():
        if name in NOT_PROPERTIES:
            continue
        local = (
            value.replace("kafka:", "127.0.0.1:").replace("localhost:", "127.0.0.1:").replace("://:", "://127.0.0.1:")
        )
        moved = re.sub(r":(\d+)\b", lambda match: f":{ports[match.group(1)]}", local)
        properties[name.removeprefix("KAFKA_").lower().replace("_", ".")] = moved
    return properties


@pytest.fixture
def ports() -> dict[str, int]:
    """Free ports for those of the compose file."""
    return dict(zip(("19092", "9092", "9093", "8080"), free_ports(4), strict=True))


@pytest.fixture
def compose_kafka(tmp_path: Path, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaBroker]:
    """A broker with the settings of the compose file, and of the test broker's own only what its small heap needs."""
    small = "log.cleaner.dedupe.buffer.size"
    monkeypatch.setattr(node, "DEFAULT_PROPERTIES", {small: node.DEFAULT_PROPERTIES[small]})
    broker = KafkaBroker(tmp_path / "kafka", broker_properties(ports))
    broker.port, broker.bootstrap = ports["19092"], f"127.0.0.1:{ports['19092']}"
    broker.client = type(broker.client)(broker.bootstrap)
    with broker:
        yield broker


def run_command(service: str, config: Path, replaced: dict[str, str]) -> str:
    """Run a service's command to its end, with some of its arguments replaced; returns what it printed."""
    words = [replaced.get(word, word) for word in SERVICES[service]["command"]]
    words[words.index("--config") + 1] = str(config)
    done = subprocess.run(
        [sys.executable, "-m", "worker", *words],
        cwd=PROJECT, env=clean_environment(), timeout=COMMAND_TIMEOUT_S, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}


def test_the_line_scores_what_the_producer_sends(
    compose_kafka: KafkaBroker, ports: dict[str, int], tmp_path: Path
) -> None:
    """Topics, worker and producer, in this order and with these commands: every record sent comes out scored."""
    text = from_image((PROJECT / "examples/compose/worker.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text.replace("kafka:19092", compose_kafka.bootstrap))
    worker = WorkerProcess(tmp_path / "worker", config | {"probes": {"port": ports["8080"]}})
    run_command("topics", worker.config_path, {})
    partitions = int(SERVICES["topics"]["command"][-3])
    assert compose_kafka.client.partition_count("transactions") == partitions
    worker.start()
    try:
        worker.wait_ready()
        rate = SERVICES["producer"]["command"][-1]
        run_command("producer", worker.config_path, {"1000000": str(RECORDS), rate: "1000"})
        scored = compose_kafka.client.read("scored-transactions", count=RECORDS)
        assert len(scored) == RECORDS
        assert worker.stop() == 0
    finally:
        worker.discard()
