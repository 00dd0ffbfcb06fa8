"""The whole pipeline: a backlog in the in-process broker, drained by the worker as a process of its own.

The broker is the mock cluster of librdkafka, which hands out one produced batch per partition and fetch and shares
this machine with the worker: the figures compare providers and models with each other, not with a real Kafka.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.workloads import Pool
from worker.demo.cluster import MockCluster
from worker.demo.snapshot import batches
from worker.demo.worker_process import (
    DEAD_LETTER_TOPIC,
    INPUT_TOPIC,
    OUTPUT_TOPIC,
    WorkerFailure,
    WorkerProcess,
    configuration,
    free_port,
)

FLUSH_TIMEOUT_S = 60.0
QUIET_S = 20.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.2
MOST_POLLED = 10_000


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One drain. ``per_second`` counts from the first output to the last, so the start of the worker falls out.

    ``mean_batch`` are records per call of the model, ``model_share`` is the part of the time in which one ran.
    ``calls`` says how the worker was told to reach the device.
    """

    model: str
    provider: str
    calls: str
    events: int
    outputs: int
    refused: int
    seconds: float
    per_second: float
    mean_batch: float
    model_share: float


def measure(pool: Pool, model: str, provider: str, gpu_calls: str, events: int, max_batch_size: int) -> Stream:
    """Produce ``events``, let the worker drain them, and read the outputs back.

    Raises ``WorkerFailure`` where the worker does not start or stays silent, ``EnvironmentFault`` without the demo's
    packages.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-gpu-") as folder:
        cluster = MockCluster()
        partitions = {name: cluster.create_topic(name) for name in (INPUT_TOPIC, OUTPUT_TOPIC, DEAD_LETTER_TOPIC)}
        for number in range(events):
            cluster.send(INPUT_TOPIC, pool.key(number), pool.value(number), [])
        if missing := cluster.flush(FLUSH_TIMEOUT_S):
            raise WorkerFailure(f"the mock cluster did not take {missing} records", "", 1)
        changes = _sections(pool, provider, gpu_calls, max_batch_size)
        worker = WorkerProcess(Path(folder), configuration(cluster.bootstrap_servers, free_port()) | changes)
        worker.start()
        try:
            worker.wait_ready()
            outputs, refused, seconds = _drain(cluster, worker, partitions, events)
            samples = worker.samples() or {}
            worker.stop(STOP_TIMEOUT_S)
        finally:
            worker.kill()
    return Stream(
        model=model,
        provider=provider,
        calls=gpu_calls if provider != "cpu" else "host arrays",
        events=events,
        outputs=outputs,
        refused=refused,
        seconds=seconds,
        per_second=outputs / seconds if seconds else 0.0,
        mean_batch=batches(samples).mean_size or 0.0,
        model_share=samples.get(("headrace_inference_duration_seconds_sum", ""), 0.0) / seconds if seconds else 0.0,
    )


def _sections(pool: Pool, provider: str, gpu_calls: str, max_batch_size: int) -> dict[str, dict[str, Any]]:
    """The worker's configuration, as far as it differs from the demo's."""
    sections: dict[str, dict[str, Any]] = yaml.safe_load((pool.folder / "headrace.yaml").read_text())
    model = {"providers": [provider]} | ({"gpu_calls": gpu_calls} if provider != "cpu" else {})
    return {
        **sections,
        "model": sections["model"] | model,
        "batching": {"max_batch_size": max_batch_size},
        "flow": {"max_in_flight_records": max_batch_size * 8},
    }


def _drain(
    cluster: MockCluster, worker: WorkerProcess, partitions: dict[str, int], events: int
) -> tuple[int, int, float]:
    """Outputs, dead letters, and the seconds from the first of them to the last."""
    reader = cluster.reader({name: partitions[name] for name in (OUTPUT_TOPIC, DEAD_LETTER_TOPIC)})
    counts = {OUTPUT_TOPIC: 0, DEAD_LETTER_TOPIC: 0}
    first_at = last_at = time.monotonic()
    try:
        while sum(counts.values()) < events:
            found = reader.consume(MOST_POLLED, POLL_S)
            now = time.monotonic()
            if not found:
                worker.check_alive()
                if now - last_at > QUIET_S:
                    raise WorkerFailure(f"{events - sum(counts.values())} events are missing", worker.log_tail(), 1)
                continue
            if not sum(counts.values()):
                first_at = now
            last_at = now
            for message in found:
                if message.error() is None:
                    counts[str(message.topic())] += 1
    finally:
        reader.close()
    return counts[OUTPUT_TOPIC], counts[DEAD_LETTER_TOPIC], last_at - first_at
