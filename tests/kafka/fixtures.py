"""Fixtures of the suites that run on a real broker; ``tests/conftest.py`` loads them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.kafka.broker import KafkaBroker
from tests.kafka.client import KafkaClient
from tests.kafka.processes import free_ports
from tests.kafka.worker_process import LOOPBACK, WorkerProcess, merged

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = PROJECT / "schemas" / "transaction.schema.json"
BUNDLE = PROJECT / "models" / "fraud"


class Topics:
    """Makes topics whose names nobody used before."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client

    def name(self, hint: str = "topic") -> str:
        """A fresh name; nothing is created."""
        return f"{hint}-{uuid.uuid4().hex[:10]}"

    def create(self, hint: str = "topic", *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create a topic; returns its name."""
        name = self.name(hint)
        self._client.create_topic(name, partitions=partitions, config=config)
        return name


class StartWorker(Protocol):
    """Write a configuration, start the worker on it and, unless told otherwise, wait until it is ready.

    The three topics are created where ``overrides`` names none: ``partitions`` for input and output, one for the
    dead letters. Whatever still runs at the end of the test is killed.
    """

    def __call__(
        self,
        overrides: Mapping[str, Any] | None = None,
        *,
        partitions: int = 1,
        broker: KafkaBroker | None = None,
        environ: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> WorkerProcess:
        """Return the started worker; ``worker.config`` holds the configuration with the names of its topics."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """The one broker of this test run; tests keep apart by topics and groups. Do not stop it."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Callable[..., KafkaBroker]]:
    """Start a broker for this test alone, to stop, kill or configure: ``own_kafka({"message.max.bytes": "65536"})``."""
    started: list[KafkaBroker] = []

    def start(properties: Mapping[str, str] | None = None) -> KafkaBroker:
        broker = KafkaBroker(tmp_path / f"kafka-{len(started)}", properties)
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def client(kafka: KafkaBroker) -> KafkaClient:
    """A client of the shared broker."""
    return kafka.client


@pytest.fixture
def topics(client: KafkaClient) -> Topics:
    """Makes topics on the shared broker."""
    return Topics(client)


@pytest.fixture
def worker_process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers as processes of their own, on the shared broker unless another is given."""
    started: list[WorkerProcess] = []

    def start(
        overrides: Mapping[str, Any] | None = None,
        *,
        partitions: int = 1,
        broker: KafkaBroker | None = None,
        environ: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> WorkerProcess:
        at: KafkaBroker = broker if broker is not None else request.getfixturevalue("kafka")
        config = worker_config(at, dict(overrides or {}), partitions)
        process = WorkerProcess(tmp_path / f"worker-{len(started)}", config, environ)
        started.append(process)
        process.start()
        if ready:
            process.wait_ready()
        return process

    yield start
    for process in started:
        process.discard()


def worker_config(broker: KafkaBroker, overrides: Mapping[str, Any], partitions: int) -> dict[str, Any]:
    """The shipped schema and model, with short intervals, on topics of its own; ``overrides`` win."""
    given = overrides.get("kafka", {})
    topics = Topics(broker.client)
    source: list[str] = given.get("input_topics") or [topics.create("in", partitions=partitions)]
    output: str = given.get("output_topic") or topics.create("out", partitions=partitions)
    dead_letters: str = given.get("dead_letter_topic") or topics.create("dlq")
    defaults: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": [broker.bootstrap],
            "group_id": topics.name("group"),
            "input_topics": source,
            "output_topic": output,
            "dead_letter_topic": dead_letters,
            "session_timeout_s": 6,
        },
        "event": {"schema": str(SCHEMA), "id_field": "transaction_id"},
        "model": {"path": str(BUNDLE), "providers": ["cpu"]},
        "output": {"include": ["transaction_id", "customer_id"]},
        "delivery": {"commit_interval_s": 0.2},
        "probes": {"host": LOOPBACK, "port": free_ports(1)[0]},
        "log": {"level": "info", "format": "json"},
    }
    return merged(defaults, overrides)
