"""A stream of bad records stops its partition before it fills the dead letters; the others go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.readings import encoded, letter_of, meter, reading, readings, scores
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing
from tests.kafka.fixtures import StartWorker
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

LIMIT = 20
BAD, GOOD = 3000, 200
POLL_RECORDS = 512
"""What one poll may bring in before the brakes see it."""


def bad(partition: int, count: int) -> list[Outgoing]:
    """Records without one of the fields that the model needs."""
    return [Outgoing(encoded({"id": f"bad{number}"}), partition=partition) for number in range(count)]


def braked(folder: Path, retry_s: float | None, **delivery: Any) -> dict[str, Any]:
    """Settings that stop after few refusals in a row."""
    brakes = {"max_in_a_row": LIMIT, "retry_s": retry_s}
    return meter(folder, {"brakes": brakes, "batching": {"max_batch_size": 64}, "delivery": delivery})


def wait_metric(worker: WorkerProcess, name: str, value: float) -> None:
    """Wait until a sample of ``/metrics`` has this value."""
    wait_until(
        lambda: worker.metrics()[name] == value,
        timeout_s=20,
        what=lambda: f"{name} is {worker.metrics()[name]}, not {value}",
    )


def test_bad_records_stop_their_partition_until_the_operator_resumes_it(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """The dead letters end soon after the limit, the other partition is scored, and SIGUSR1 lets the stream go on."""
    worker = worker_process(braked(tmp_path, None), partitions=2)
    names = worker.config["kafka"]
    source, output, dead_letters = names["input_topics"][0], names["output_topic"], names["dead_letter_topic"]
    kafka.client.produce(source, bad(0, BAD))
    stopped = worker.wait_event("brakes_stopped")
    assert (stopped["partition"], stopped["limit"], stopped["level"]) == (f"{source}/0", "in_a_row", "error")
    wait_metric(worker, "headrace_brakes_stopped_partitions", 1)
    letters = kafka.client.read(dead_letters, count=LIMIT)
    assert LIMIT <= len(letters) <= LIMIT + POLL_RECORDS

    sent = [Outgoing(record.value, record.key, partition=1) for record in readings(GOOD)]
    kafka.client.produce(source, sent)
    assert len(scores(kafka.client.read(output, count=GOOD))) == GOOD
    assert len(kafka.client.read_all(dead_letters)) == len(letters)
    assert (worker.probe("/readyz"), worker.probe("/livez")) == (503, 200)
    status = worker.status()
    assert f"{source}/0 stopped: " in status["ready"]["cause"]
    assert "records in a row were refused" in status["brakes"][f"{source}/0"]["cause"]
    assert status["rebalances"] == 1

    os.kill(worker._started().pid, signal.SIGUSR1)
    wait_metric(worker, 'headrace_brakes_trips_total{limit="in_a_row"}', 2)
    again = kafka.client.read(dead_letters, count=len(letters) + LIMIT)
    assert len(again) <= len(letters) + LIMIT + POLL_RECORDS
    assert [letter_of(letter) for letter in again] == [(0, offset) for offset in range(len(again))]
    assert len(worker.events("brakes_stopped")) <= 2
    assert worker.stop() == 0


def test_the_lag_of_a_stopped_partition_grows_with_it(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """What comes in while nothing is read shows in the lag, also once more is waiting than is fetched ahead."""
    worker = worker_process(braked(tmp_path, None))
    source = worker.config["kafka"]["input_topics"][0]
    large = encoded({"id": "x" * 1000})
    kafka.client.produce(source, [large] * BAD)
    worker.wait_event("brakes_stopped")
    kafka.client.produce(source, [large] * GOOD)
    where = f'{{partition="0",topic="{source}"}}'

    def counted() -> float:
        found = worker.metrics()
        return found[f"headrace_offset_committable{where}"] + found[f"headrace_consumer_lag_records{where}"]

    wait_until(lambda: counted() == BAD + GOOD, timeout_s=20, what=lambda: f"{counted()}, not {BAD + GOOD}")
    assert worker.stop() == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_canary_that_is_scored_resumes_the_partition(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker, guarantee: str
) -> None:
    """One record at a time is tried; bad ones keep the partition stopped, a good one lets all others follow."""
    worker = worker_process(braked(tmp_path, 0.2, guarantee=guarantee))
    names = worker.config["kafka"]
    source, dead_letters = names["input_topics"][0], names["dead_letter_topic"]
    kafka.client.produce(source, bad(0, LIMIT))
    worker.wait_event("brakes_stopped")
    kafka.client.produce(source, bad(0, 2))
    kafka.client.read(dead_letters, count=LIMIT + 2, committed_only=True)
    kafka.client.produce(source, [encoded(reading(number)) for number in range(GOOD)])

    scored = scores(kafka.client.read(names["output_topic"], count=GOOD, committed_only=True))
    assert list(scored) == [f"r{number}" for number in range(GOOD)]
    assert len(kafka.client.read(dead_letters, count=0, committed_only=True)) == LIMIT + 2
    worker.wait_event("brakes_resumed")
    wait_metric(worker, "headrace_brakes_stopped_partitions", 0)
    assert worker.metrics()['headrace_brakes_trips_total{limit="in_a_row"}'] == 1
    assert worker.probe("/readyz") == 200
