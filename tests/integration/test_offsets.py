"""Where reading starts: committed offsets that no longer exist, none at all, and each ``auto_offset_reset``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.readings import meter, readings, source_of
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

RECORDS = 40
FIRST = 20
"""First record that the broker still holds, in partition 0."""


def sources(worker: WorkerProcess, kafka: KafkaBroker, count: int) -> list[tuple[int, int]]:
    """Partition and offset of every scored record, once there are so many."""
    return [source_of(one) for one in kafka.client.read(worker.config["kafka"]["output_topic"], count=count)]


def resets(worker: WorkerProcess) -> float:
    """The worker's count of committed offsets out of range."""
    topic = worker.config["kafka"]["input_topics"][0]
    return worker.metrics().get(f'headrace_offset_resets_total{{topic="{topic}"}}', 0.0)


def damaged(topics: Topics, kafka: KafkaBroker, policy: str) -> dict[str, Any]:
    """Settings for a group that committed an offset too early for partition 0 and one too late for partition 1."""
    source, group = topics.create("in", partitions=2), topics.name("group")
    kafka.client.produce(source, readings(2 * RECORDS, partitions=2))
    kafka.client.commit(group, source, {0: 5, 1: RECORDS + 100})
    kafka.client.delete_records(source, {0: FIRST})
    return {"kafka": {"input_topics": [source], "group_id": group, "auto_offset_reset": policy}}


def reported(worker: WorkerProcess) -> dict[int, int]:
    """Offset out of range per partition, as the log has it at level error."""
    topic = worker.config["kafka"]["input_topics"][0]
    lines = worker.events("offset_out_of_range")
    assert {(line["level"], line["topic"]) for line in lines} == {("error", topic)}
    return {line["partition"]: line["offset"] for line in lines}


def test_offsets_out_of_range_start_again_at_the_earliest(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Offsets out of range are logged as errors with coordinates, counted, and reading starts at the first record."""
    worker = worker_process(meter(tmp_path, damaged(topics, kafka, "earliest")), partitions=2)

    scored = sources(worker, kafka, RECORDS - FIRST + RECORDS)
    assert scored == [(0, at) for at in range(FIRST, RECORDS)] + [(1, at) for at in range(RECORDS)]
    assert reported(worker) == {0: 5, 1: RECORDS + 100}
    assert resets(worker) == 2


def test_offsets_out_of_range_start_again_at_the_latest(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Under ``latest`` reading goes on at the end of both partitions: only new records are scored."""
    worker = worker_process(meter(tmp_path, damaged(topics, kafka, "latest")), partitions=2)
    wait_until(lambda: resets(worker) == 2, timeout_s=10, what=lambda: f"{resets(worker)} resets")
    names = worker.config["kafka"]
    wait_until(
        lambda: kafka.client.committed(names["group_id"], names["input_topics"][0]) == {0: RECORDS, 1: RECORDS},
        timeout_s=10,
        what=lambda: "the new offsets are not committed",
    )
    kafka.client.produce(names["input_topics"][0], readings(4, partitions=2))

    assert sources(worker, kafka, 4) == [(part, at) for part in (0, 1) for at in (RECORDS, RECORDS + 1)]
    assert reported(worker) == {0: 5, 1: RECORDS + 100}


@pytest.mark.parametrize("committed", [True, False], ids=["out of range", "nothing committed"])
def test_no_policy_stops_the_worker_with_advice(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker, *, committed: bool
) -> None:
    """Under ``none`` the worker ends with exit 4, names the partition, its range and what to do, and scores nothing."""
    settings = damaged(topics, kafka, "none")
    if not committed:
        settings["kafka"]["group_id"] = topics.name("group")
    worker = worker_process(meter(tmp_path, settings), partitions=2, ready=False)

    assert worker.wait_exit() == 4
    said = worker.log.read_text()
    source = settings["kafka"]["input_topics"][0]
    found = re.search(rf"{re.escape(source)}/([01]) has (.+?) \((\d+)\.\.(\d+)\)", said)
    assert found is not None
    partition, state = int(found[1]), found[2]
    assert state == (f"the committed offset {(5, 140)[partition]} out of range" if committed else "no committed offset")
    assert (int(found[3]), int(found[4])) == ((FIRST, 0)[partition], RECORDS)
    assert "consumer-groups" in said
    assert "kafka.auto_offset_reset" in said
    assert sources(worker, kafka, 0) == []


def test_records_deleted_ahead_of_a_running_worker_are_reported(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """When retention overtakes a running worker, that is an error in the log, a count, and reading goes on."""
    early, portion, kept = 5, 300, 10
    total = early + 3 * portion
    worker = worker_process(meter(tmp_path, {"kafka": {"max_fetch_bytes": 4096, "session_timeout_s": 20}}))
    source, group = worker.config["kafka"]["input_topics"][0], worker.config["kafka"]["group_id"]
    kafka.client.produce(source, readings(early))
    assert len(sources(worker, kafka, early)) == early
    worker.pause()
    # The fetch under way may still return the first portion, and no more than that.
    for first in range(early, total, portion):
        kafka.client.produce(source, readings(portion, first=first))
    kafka.client.delete_records(source, {0: total - kept})
    worker.resume()
    wait_until(lambda: resets(worker) == 1, timeout_s=30, what=lambda: f"{resets(worker)} resets")
    wait_until(
        lambda: kafka.client.committed(group, source) == {0: total},
        timeout_s=10,
        what=lambda: f"committed {kafka.client.committed(group, source)}",
    )

    lost_at = reported(worker)[0]
    assert lost_at in {early, early + portion}
    assert sources(worker, kafka, lost_at + kept) == [(0, at) for at in (*range(lost_at), *range(total - kept, total))]


def test_latest_is_resolved_once(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """``latest`` is committed at assignment: what arrives between a stop and the restart is scored, not skipped."""
    source = topics.create("in")
    kafka.client.produce(source, readings(5))
    settings = {"kafka": {"input_topics": [source], "auto_offset_reset": "latest"}}
    worker = worker_process(meter(tmp_path, settings))
    group = worker.config["kafka"]["group_id"]
    wait_until(
        lambda: kafka.client.committed(group, source) == {0: 5},
        timeout_s=10,
        what=lambda: f"committed {kafka.client.committed(group, source)}",
    )
    assert worker.stop() == 0
    kafka.client.produce(source, readings(5, first=5))
    worker.start()

    assert sources(worker, kafka, 5) == [(0, at) for at in range(5, 10)]
    assert worker.events("offset_out_of_range") == []
