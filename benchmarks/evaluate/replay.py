"""Sends the test week through a real Apache Kafka and the worker as its own process, and reads the scores back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.evaluate.dataset import ID_FIELD
from benchmarks.evaluate.failure import EvaluationError
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing, Record
from tests.kafka.processes import free_ports, tail, wait_until
from tests.kafka.worker_process import LOOPBACK, WorkerProcess

INPUT_TOPIC = "transactions"
PARTITIONS = 4
SCORING_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events: each of ``produced`` must be among ``scored``, once.

    ``missing`` ended nowhere; ``doubled`` are records too many, over the output and the dead-letter topic.
    """

    produced: int
    scored: int
    dead_lettered: int
    missing: int
    doubled: int


@dataclass(frozen=True, slots=True)
class Replay:
    """``score`` is ``float64[produced]`` in the order of the events, NaN where none came back.

    ``seconds`` passed from the start of the process to the commit of the last offset; commits come once a second.
    """

    score: NDArray[np.float64]
    counts: Counts
    refusals: tuple[str, ...]
    seconds: float


def produce(broker: KafkaBroker, events: Iterable[tuple[bytes, bytes]]) -> int:
    """Create the input topic and write key and value of every event; returns how many were acknowledged."""
    broker.client.create_topic(INPUT_TOPIC, partitions=PARTITIONS)
    return len(broker.client.produce(INPUT_TOPIC, (Outgoing(value, key) for key, value in events)))


def replay(broker: KafkaBroker, folder: Path, name: str, identities: Sequence[str]) -> Replay:
    """Run the worker with the bundle ``folder/name`` over the whole input topic and read what it wrote.

    ``folder`` also holds ``event.schema.json``. The worker is drained before the reading, so that a late double
    is seen. Raises EvaluationError where the worker does not start or does not end in order.
    """
    output, dead_letters = f"scored-{name}", f"refused-{name}"
    broker.client.create_topic(output, partitions=PARTITIONS)
    broker.client.create_topic(dead_letters)
    worker = WorkerProcess(folder / f"{name}-worker", _config(broker, folder, name, output, dead_letters))
    try:
        seconds = _run(broker, worker, name)
    finally:
        worker.discard()
    refused = broker.client.read_all(dead_letters)
    score, counts = tally(identities, broker.client.read_all(output), refused)
    return Replay(score, counts, tuple(sorted({_refusal(record) for record in refused})), seconds)


def tally(
    identities: Sequence[str], scored: Sequence[Record], refused: Sequence[Record]
) -> tuple[NDArray[np.float64], Counts]:
    """The score of each event (NaN: none; the first one where there are several) and the counts.

    Raises EvaluationError for an output that belongs to no event.
    """
    row_of = {identity: row for row, identity in enumerate(identities)}
    score = np.full(len(identities), np.nan)
    seen: Counter[int] = Counter()
    for record in scored:
        output = orjson.loads(record.value or b"null")
        row = _row(row_of, output, record)
        if not seen[row]:
            score[row] = output["score"]
        seen[row] += 1
    for record in refused:
        seen[_row(row_of, orjson.loads(record.value or b"null"), record)] += 1
    return score, Counts(
        produced=len(identities),
        scored=len(scored),
        dead_lettered=len(refused),
        missing=len(identities) - len(seen),
        doubled=seen.total() - len(seen),
    )


def _run(broker: KafkaBroker, worker: WorkerProcess, group: str) -> float:
    """Let the worker score the whole topic and drain it; returns the seconds that the scoring took."""
    ends = broker.client.end_offsets(INPUT_TOPIC)

    def is_done() -> bool:
        if not worker.is_alive:
            raise RuntimeError(f"it ended by itself with exit code {worker.exit_code}:\n{tail(worker.log)}")
        committed = broker.client.committed(group, INPUT_TOPIC)
        return all(committed.get(partition, 0) >= end for partition, end in ends.items())

    started_at = time.monotonic()
    worker.start()
    try:
        worker.wait_ready()
        wait_until(
            is_done,
            timeout_s=SCORING_TIMEOUT_S,
            what=lambda: f"not every offset is committed:\n{tail(worker.log)}",
        )
        seconds = time.monotonic() - started_at
        exit_code = worker.stop()
    except (RuntimeError, TimeoutError) as error:
        raise EvaluationError(f"the worker with {group} failed: {error}") from error
    if exit_code != 0:
        raise EvaluationError(f"the worker with {group} ended with exit code {exit_code}:\n{tail(worker.log)}")
    return seconds


def _config(broker: KafkaBroker, folder: Path, name: str, output: str, dead_letters: str) -> dict[str, Any]:
    return {
        "kafka": {
            "bootstrap_servers": [broker.bootstrap],
            "group_id": name,
            "input_topics": [INPUT_TOPIC],
            "output_topic": output,
            "dead_letter_topic": dead_letters,
        },
        "event": {"schema": str(folder / "event.schema.json"), "id_field": ID_FIELD, "validate": "full"},
        "model": {"path": str(folder / name), "providers": ["cpu"], "intra_op_threads": 1},
        "output": {"include": []},
        "probes": {"host": LOOPBACK, "port": free_ports(1)[0]},
        "log": {"format": "json"},
    }


def _row(row_of: dict[str, int], value: Any, record: Record) -> int:
    identity = value.get(ID_FIELD) if isinstance(value, dict) else None
    row = row_of.get(identity) if isinstance(identity, str) else None
    if row is None:
        raise EvaluationError(f"{record.source} holds {record.value!r:.200}, which belongs to no event that was sent")
    return row


def _refusal(record: Record) -> str:
    return f"{record.header('headrace-dlq-reason')}: {record.header('headrace-dlq-error')}"
