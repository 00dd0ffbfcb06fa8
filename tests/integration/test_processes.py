"""Several worker processes in one pod: one set of probes, restarts after crashes, one drain for all."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.readings import meter, readings
from tests.integration.test_drain import outputs
from tests.integration.traffic import Traffic
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess, merged

PARTITIONS = 4
RECORDS = 4000

pytestmark = pytest.mark.usefixtures("kafka")


def _two(folder: Path, topics: Topics, **overrides: Any) -> dict[str, Any]:
    """Settings of two processes on an input with four partitions."""
    source = topics.create("in", partitions=PARTITIONS)
    own = {"kafka": {"input_topics": [source]}, "run": {"processes": 2}}
    return merged(meter(folder, own), overrides)


def _processes(worker: WorkerProcess) -> dict[str, dict[str, Any]]:
    """What each process says of itself."""
    found: dict[str, dict[str, Any]] = worker.status()["processes"]
    return found


def _shared(worker: WorkerProcess) -> bool:
    """Whether each process has half of the partitions."""
    return [len(one.get("partitions", {})) for one in _processes(worker).values()] == [PARTITIONS // 2] * 2


def _wait_shared(worker: WorkerProcess) -> None:
    wait_until(lambda: _shared(worker), timeout_s=60, what=lambda: f"the processes have {_processes(worker)}")


def test_two_processes_share_the_work_and_the_probes(
    worker_process: StartWorker, tmp_path: Path, topics: Topics, kafka: KafkaBroker
) -> None:
    """Each scores its partitions; metrics tell them apart; SIGTERM drains both, and the pod ends with 0."""
    worker = worker_process(_two(tmp_path, topics), partitions=PARTITIONS)
    source = worker.config["kafka"]["input_topics"][0]
    _wait_shared(worker)
    kafka.client.produce(source, readings(RECORDS, partitions=PARTITIONS))
    ledger = outputs(worker, kafka, RECORDS)
    samples = worker.metrics()
    consumed = [samples[f'headrace_records_consumed_total{{process="{at}",topic="{source}"}}'] for at in range(2)]
    assert sum(consumed) == RECORDS
    assert min(consumed) > 0
    assert [samples[f'headrace_process_restarts_total{{process="{at}"}}'] for at in range(2)] == [0, 0]
    assert worker.probe("/livez") == worker.probe("/startupz") == 200
    assert worker.stop() == 0
    assert (ledger.missing(kafka.client.end_offsets(source)), ledger.repeats) == ([], 0)
    assert {line.get("process") for line in worker.events("drained")} == {0, 1}


def test_a_process_that_is_killed_comes_back(
    worker_process: StartWorker, tmp_path: Path, topics: Topics, kafka: KafkaBroker
) -> None:
    """The others take its partitions over, it is started again and counted, and nothing is lost."""
    worker = worker_process(_two(tmp_path, topics), partitions=PARTITIONS)
    source = worker.config["kafka"]["input_topics"][0]
    _wait_shared(worker)
    victim = next(line["pid"] for line in worker.events("starting") if line["process"] == 1)
    with Traffic(kafka.client, source):
        wait_until(
            lambda: len(kafka.client.end_offsets(worker.config["kafka"]["output_topic"])) == PARTITIONS,
            timeout_s=30,
            what=lambda: "nothing comes out",
        )
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: worker.metrics().get('headrace_process_restarts_total{process="1"}') == 1.0,
            timeout_s=30,
            what=lambda: "no restart was counted",
        )
        _wait_shared(worker)
    ends = kafka.client.end_offsets(source)
    ledger = outputs(worker, kafka, sum(ends.values()))
    wait_until(lambda: worker.probe("/readyz") == 200, timeout_s=30, what=lambda: "the pod is not ready again")
    assert worker.stop() == 0
    assert ledger.missing(ends) == []


def test_a_process_that_gives_up_ends_the_pod(worker_process: StartWorker, tmp_path: Path, topics: Topics) -> None:
    """An error that a restart would not cure is told once, with its exit code, and the others drain."""
    output = topics.create("out", partitions=1)
    worker = worker_process(_two(tmp_path, topics, kafka={"output_topic": output}), ready=False)
    assert worker.wait_exit() == 4
    text = worker.log.read_text()
    assert f"{output} has 1 partition" in text
    assert "kafka.output_topic" in text or "output.partitioning" in text


def test_processes_end_with_their_supervisor(worker_process: StartWorker, tmp_path: Path, topics: Topics) -> None:
    """Killed outright, it leaves nobody behind: they drain and end."""
    worker = worker_process(_two(tmp_path, topics), partitions=PARTITIONS)
    _wait_shared(worker)
    pids = [line["pid"] for line in worker.events("starting")]
    worker.kill9()
    wait_until(
        lambda: not any(_is_running(pid) for pid in pids),
        timeout_s=30,
        what=lambda: f"without their supervisor the processes {pids} go on",
    )
    assert len(pids) == 2


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
