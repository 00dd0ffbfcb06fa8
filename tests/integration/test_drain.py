"""Endings under load: SIGTERM loses and repeats nothing, kill -9 loses nothing and repeats within the bound."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.integration.ledger import Ledger
from tests.integration.readings import meter, readings
from tests.integration.traffic import Traffic
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import free_ports, wait_until
from tests.kafka.worker_process import WorkerProcess

RECORDS = 16_000
PARTITIONS = 4
DRAIN_TIMEOUT_S = 10
MAX_IN_FLIGHT = 256
COMMIT_MAX_RECORDS = 512
SLOW = {
    # Small batches and few of them, so that a signal finds the worker in the middle of its work.
    "batching": {"max_batch_size": 8},
    "flow": {"max_in_flight_records": MAX_IN_FLIGHT},
    "delivery": {"commit_interval_s": 30, "commit_max_records": COMMIT_MAX_RECORDS},
    "drain": {"timeout_s": DRAIN_TIMEOUT_S},
}


def backlog(topics: Topics, kafka: KafkaBroker) -> tuple[dict[str, Any], dict[int, int]]:
    """Settings for an input topic full of readings, and its ends."""
    source = topics.create("in", partitions=PARTITIONS)
    kafka.client.produce(source, readings(RECORDS, partitions=PARTITIONS))
    return {"kafka": {"input_topics": [source]}}, kafka.client.end_offsets(source)


def wait_consumed(worker: WorkerProcess, records: int) -> None:
    """Wait until the worker has received so many records since its start."""
    topic = worker.config["kafka"]["input_topics"][0]

    def consumed() -> float:
        return worker.metrics().get(f'headrace_records_consumed_total{{topic="{topic}"}}', 0.0)

    wait_until(lambda: consumed() >= records, timeout_s=60, what=lambda: f"consumed {consumed():g} of {records}")


def wait_partitions(worker: WorkerProcess, count: int) -> None:
    """Wait until so many partitions are assigned to the worker."""
    wait_until(
        lambda: len(worker.status()["partitions"]) == count,
        timeout_s=15,
        what=lambda: f"the worker has {worker.status()['partitions']}",
    )


def outputs(worker: WorkerProcess, kafka: KafkaBroker, count: int = 0) -> Ledger:
    """The ledger of the worker's output topic, once it holds so many records."""
    return Ledger(kafka.client.read(worker.config["kafka"]["output_topic"], count=count))


def committed(worker: WorkerProcess, kafka: KafkaBroker) -> dict[int, int]:
    """What the worker's group has committed."""
    names = worker.config["kafka"]
    return kafka.client.committed(names["group_id"], names["input_topics"][0])


def test_sigterm_under_load_loses_and_repeats_nothing(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """SIGTERM under load ends with 0 in time, all in flight delivered and committed; a restart leaves no gap."""
    source, ends = backlog(topics, kafka)
    worker = worker_process(meter(tmp_path, SLOW, source), partitions=PARTITIONS)
    wait_consumed(worker, 1000)
    begun = time.monotonic()

    assert worker.stop() == 0
    assert time.monotonic() - begun < DRAIN_TIMEOUT_S
    first = outputs(worker, kafka)
    assert 1000 <= sum(map(len, first.offsets.values())) < RECORDS
    assert committed(worker, kafka) == first.reached()
    assert first.missing(first.reached()) == []

    worker.start()
    whole = outputs(worker, kafka, RECORDS)
    assert worker.stop() == 0
    assert (whole.missing(ends), whole.repeated, whole.disorder, whole.moved) == ([], [], [], [])
    assert committed(worker, kafka) == ends


def test_kill_under_load_loses_nothing(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """After kill -9 under load a restart loses nothing, keeps the order, and repeats no more than the limits say."""
    source, ends = backlog(topics, kafka)
    worker = worker_process(meter(tmp_path, SLOW, source), partitions=PARTITIONS)
    wait_consumed(worker, 1000)
    worker.kill9()
    before = outputs(worker, kafka)
    assert 0 < sum(map(len, before.offsets.values())) < RECORDS

    worker.start()
    wait_until(
        lambda: outputs(worker, kafka).missing(ends) == [],
        timeout_s=60,
        what=lambda: f"{len(outputs(worker, kafka).missing(ends))} records are missing",
    )
    assert worker.stop() == 0
    whole = outputs(worker, kafka)
    assert (whole.missing(ends), whole.disorder, whole.moved) == ([], [], [])
    assert whole.repeats <= MAX_IN_FLIGHT + COMMIT_MAX_RECORDS
    assert committed(worker, kafka) == ends


def test_members_come_and_go_without_loss(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """One worker joins a busy group and another leaves it: nothing lost, nothing doubled, order kept per partition."""
    with Traffic(kafka.client, topics.create("in", partitions=PARTITIONS)) as traffic:
        settings = {"kafka": {"input_topics": [traffic.topic]}}
        first = worker_process(meter(tmp_path / "first", settings), partitions=PARTITIONS)
        wait_consumed(first, 300)
        shared = ("group_id", "output_topic", "dead_letter_topic")
        group = {"kafka": {key: first.config["kafka"][key] for key in shared}}
        second = worker_process(meter(tmp_path / "second", settings, group))
        wait_consumed(second, 300)
        wait_partitions(first, PARTITIONS // 2)
        wait_partitions(second, PARTITIONS // 2)
        assert first.stop() == 0
        wait_partitions(second, PARTITIONS)
    ends = kafka.client.end_offsets(traffic.topic)
    whole = outputs(second, kafka, sum(ends.values()))
    assert second.stop() == 0
    assert (whole.missing(ends), whole.repeated, whole.disorder, whole.moved) == ([], [], [], [])
    assert committed(second, kafka) == ends


def test_sigterm_before_ready_ends_with_0(tmp_path: Path, worker_process: StartWorker) -> None:
    """SIGTERM while the worker still looks for its broker ends it with 0."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    worker = worker_process(meter(tmp_path, {"kafka": {"bootstrap_servers": [nobody]}}), ready=False)
    worker.wait_event("broker_unreachable")

    assert worker.stop(timeout_s=10) == 0
    assert worker.events("stopped_before_ready")
