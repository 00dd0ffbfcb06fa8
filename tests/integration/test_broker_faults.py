"""A broker that comes late, dies, or falls silent; these tests have a broker of their own to maltreat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ledger import Ledger
from tests.integration.readings import meter, readings
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

PARTITIONS = 2
RECORDS = 16_000
NOT_READY_WITHIN_S = 10
MAX_IN_FLIGHT = 256
COMMIT_MAX_RECORDS = 512
DRAIN_TIMEOUT_S = 3
CLOSE_TIMEOUT_S = 2
"""What the worker allows itself to hang up on a silent broker."""
UNCOMMITTED = 50


@pytest.fixture(scope="module")
def broker_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that the tests of this module may stop, kill and freeze."""
    with KafkaBroker(tmp_path_factory.mktemp("faulty")) as broker:
        yield broker


@pytest.fixture
def broker(broker_of_module: KafkaBroker) -> Iterator[KafkaBroker]:
    """That broker, up and answering before and after each test."""
    yield broker_of_module
    if broker_of_module.pid is None:
        broker_of_module.start()
    broker_of_module.resume()


def topics_of(broker: KafkaBroker, partitions: int = 1) -> dict[str, Any]:
    """The section ``kafka`` with topics that exist already, so that a worker can be configured while nobody answers."""
    topics = Topics(broker.client)
    names = {
        "input_topics": [topics.create("in", partitions=partitions)],
        "output_topic": topics.create("out", partitions=partitions),
        "dead_letter_topic": topics.create("dlq"),
    }
    return {"kafka": names}


def outputs(worker: WorkerProcess, broker: KafkaBroker, count: int = 0) -> Ledger:
    """The ledger of the worker's output topic, once it holds so many records."""
    return Ledger(broker.client.read(worker.config["kafka"]["output_topic"], count=count))


def watch_until_unready(worker: WorkerProcess) -> None:
    """Within 10 s the worker must not be ready any more; all the while it is alive."""
    deadline = time.monotonic() + NOT_READY_WITHIN_S
    while worker.probe("/readyz") != 503:
        assert worker.probe("/livez") == 200
        assert time.monotonic() < deadline, f"ready without a broker for {NOT_READY_WITHIN_S} s"
    assert worker.probe("/livez") == 200
    assert "broker" in worker.status()["ready"]["cause"]


def with_uncommitted(worker: WorkerProcess, broker: KafkaBroker) -> None:
    """Let the worker deliver some records that it does not commit yet, then freeze the broker."""
    broker.client.produce(worker.config["kafka"]["input_topics"][0], readings(UNCOMMITTED))
    assert outputs(worker, broker, UNCOMMITTED).missing({0: UNCOMMITTED}) == []
    broker.pause()


def test_a_broker_that_comes_late_is_waited_for(
    tmp_path: Path, broker: KafkaBroker, worker_process: StartWorker
) -> None:
    """A worker without a broker says so again and again, alive and not ready; when it comes, all records are scored."""
    names = topics_of(broker)
    broker.client.produce(names["kafka"]["input_topics"][0], readings(30))
    broker.stop()
    worker = worker_process(meter(tmp_path, names), broker=broker, ready=False)
    wait_until(
        lambda: len(worker.events("broker_unreachable")) >= 2,
        timeout_s=20,
        what=lambda: f"said only {worker.events('broker_unreachable')}",
    )
    first, last, *_ = worker.events("broker_unreachable")
    assert (worker.probe("/livez"), worker.probe("/readyz")) == (200, 503)
    assert first["level"] == "error"
    assert first["bootstrap_servers"] == [broker.bootstrap]
    assert first["next_attempt_s"] < last["next_attempt_s"] <= 5

    broker.start()
    worker.wait_ready()
    ledger = outputs(worker, broker, 30)
    assert (ledger.missing({0: 30}), ledger.repeated, ledger.disorder) == ([], [], [])


def test_a_broker_that_dies_under_load_costs_nothing(
    tmp_path: Path, broker: KafkaBroker, worker_process: StartWorker
) -> None:
    """After kill -9 of the broker the worker is not ready in time, alive throughout, and goes on without loss."""
    names = topics_of(broker, PARTITIONS)
    source = names["kafka"]["input_topics"][0]
    broker.client.produce(source, readings(RECORDS, partitions=PARTITIONS))
    ends = broker.client.end_offsets(source)
    limits = {
        "batching": {"max_batch_size": 8},
        "flow": {"max_in_flight_records": MAX_IN_FLIGHT},
        "delivery": {"commit_max_records": COMMIT_MAX_RECORDS},
    }
    worker = worker_process(meter(tmp_path, limits, names), broker=broker)
    consumed = f'headrace_records_consumed_total{{topic="{source}"}}'
    wait_until(lambda: worker.metrics().get(consumed, 0) >= 1000, timeout_s=30, what=lambda: "the worker does not read")
    broker.kill()
    assert worker.metrics()[consumed] < RECORDS
    watch_until_unready(worker)

    broker.start()
    worker.wait_ready()
    ledger = outputs(worker, broker, RECORDS)
    assert (ledger.missing(ends), ledger.disorder, ledger.moved) == ([], [], [])
    assert ledger.repeats <= MAX_IN_FLIGHT + COMMIT_MAX_RECORDS
    assert worker.events("broker_silent")
    assert worker.events("broker_answers")
    assert worker.stop() == 0
    assert broker.client.committed(worker.config["kafka"]["group_id"], source) == ends


def test_a_drain_without_a_broker_ends_at_its_deadline(
    tmp_path: Path, broker: KafkaBroker, worker_process: StartWorker
) -> None:
    """With a silent broker the worker stays alive, turns unready, and SIGTERM ends it with exit 4 and a count."""
    settings = {"delivery": {"commit_interval_s": 300}, "drain": {"timeout_s": DRAIN_TIMEOUT_S}}
    worker = worker_process(meter(tmp_path, settings, topics_of(broker)), broker=broker)
    with_uncommitted(worker, broker)
    watch_until_unready(worker)
    begun = time.monotonic()

    assert worker.stop() == 4
    assert time.monotonic() - begun < DRAIN_TIMEOUT_S + CLOSE_TIMEOUT_S + 1
    said = worker.log.read_text()
    assert f"{UNCOMMITTED} records uncommitted" in said
    assert "Traceback" not in said

    # The frozen broker may still take the commit that nobody waits for any more; then nothing is repeated.
    broker.resume()
    broker.client.produce(worker.config["kafka"]["input_topics"][0], readings(1, first=UNCOMMITTED))
    worker.start()
    wait_until(
        lambda: outputs(worker, broker).missing({0: UNCOMMITTED + 1}) == [],
        timeout_s=30,
        what=lambda: f"missing: {outputs(worker, broker).missing({0: UNCOMMITTED + 1})}",
    )
    assert outputs(worker, broker).repeats in {0, UNCOMMITTED}


def test_a_second_signal_ends_the_worker_at_once(
    tmp_path: Path, broker: KafkaBroker, worker_process: StartWorker
) -> None:
    """A second SIGTERM during a drain that cannot finish ends the worker at once, with a non-zero exit code."""
    settings = {"delivery": {"commit_interval_s": 300}}
    worker = worker_process(meter(tmp_path, settings, topics_of(broker)), broker=broker)
    with_uncommitted(worker, broker)
    worker.sigterm()
    worker.wait_event("signal")
    assert worker.is_alive
    begun = time.monotonic()
    worker.sigterm()

    assert worker.wait_exit(timeout_s=5) == 1
    assert time.monotonic() - begun < 2
    assert worker.events("second_signal")
