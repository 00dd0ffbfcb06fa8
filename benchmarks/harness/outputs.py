"""Reads what a system wrote into columns: event numbers, append times, arrival times, scores.

    python -m benchmarks.harness.outputs BOOTSTRAP TOPIC FILE.npz [--committed]

As a command it is the reader of an open loop: it notes when each output arrived, until SIGTERM and then until nothing
more comes, and writes the columns to the file.
"""

from __future__ import annotations

import argparse
import gc
import re
import signal
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from numpy.typing import NDArray

from benchmarks.harness.cluster import PARTITIONS

IDENTITY = re.compile(rb'"event_id":\s*"e(\d{10})"')
NUMBERS = re.compile(rb"[-+0-9.eE]+")
READ_RECORDS = 5000
QUIET_S = 1.0
READ_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """Columns of all outputs: number of the event (-1: none found), append and arrival in ms, and the scores.

    ``scores`` has a row of ``width`` numbers per output, NaN where the output says nothing of them.
    """

    numbers: NDArray[np.int32]
    appended: NDArray[np.float64]
    arrived: NDArray[np.float64]
    scores: NDArray[np.float32]


class Columns:
    """Gathers outputs; ``field`` is the one with the scores, None: they are not looked at."""

    def __init__(self, field: str | None = None, width: int = 1) -> None:
        self._field = re.compile(rb'"%s":\s*(\[[^\]]*\]|[-+0-9.eE]+)' % field.encode()) if field else None
        self._width = width
        self._numbers, self._appended, self._arrived = array("i"), array("q"), array("d")
        self._scores = array("f")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, messages: list[Message], arrived_ms: float) -> None:
        """Take the messages of one poll; an error among them is raised unless it is the end of a partition."""
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF or error.retriable():  # noqa: SLF001 - its public name
                    continue
                raise RuntimeError(f"the broker answered a read with an error: {error}")
            value = message.value() or b""
            found = IDENTITY.search(value)
            self._numbers.append(int(found.group(1)) if found else -1)
            self._appended.append(message.timestamp()[1])
            self._arrived.append(arrived_ms)
            if self._field is not None:
                self._scores.extend(self._read_scores(value, self._field))

    def outputs(self) -> Outputs:
        """The columns so far."""
        scores = np.array(self._scores, np.float32).reshape(-1, self._width)
        return Outputs(
            np.array(self._numbers, np.int32),
            np.array(self._appended, np.float64),
            np.array(self._arrived, np.float64),
            scores[:, 0] if self._width == 1 else scores,
        )

    def _read_scores(self, value: bytes, field: re.Pattern[bytes]) -> list[float]:
        found = field.search(value)
        texts = NUMBERS.findall(found.group(1)) if found else []
        return [float(text) for text in texts] if len(texts) == self._width else [float("nan")] * self._width


def read(bootstrap: str, topic: str, *, committed: bool, field: str | None, width: int = 1) -> Outputs:
    """Every output of a topic to which nobody writes any more, up to the end of each partition."""
    columns, open_partitions = Columns(field, width), set(range(PARTITIONS))
    deadline = time.monotonic() + READ_TIMEOUT_S
    consumer = _consumer(bootstrap, topic, committed=committed, tell_end=True)
    try:
        while open_partitions:
            messages = consumer.consume(READ_RECORDS, 0.5)
            columns.add(messages, 0.0)
            open_partitions -= {at.partition() for at in messages if _is_end(at)}
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} was not read to its end within {READ_TIMEOUT_S:g} s")
            if any(not _is_end(at) for at in messages):
                deadline = time.monotonic() + READ_TIMEOUT_S
    finally:
        consumer.close()
    return columns.outputs()


def load(path: Path) -> Outputs:
    """The columns that the command wrote; without scores."""
    with np.load(path) as stored:
        return Outputs(stored["numbers"], stored["appended"], stored["arrived"], np.empty(0, np.float32))


def follow(bootstrap: str, topic: str, path: Path, *, committed: bool) -> None:
    """Note arrivals until SIGTERM, and then until a second passes without one; write the columns to ``path``."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    columns = Columns()
    consumer = _consumer(bootstrap, topic, committed=committed, tell_end=False)
    gc.disable()
    print("reading", flush=True)
    quiet_since = time.monotonic()
    while not (stopped and time.monotonic() - quiet_since > QUIET_S):
        # One message wakes the call, and what else has come is taken with it.
        first = consumer.consume(1, 0.2)
        rest = consumer.consume(READ_RECORDS, 0) if first else []
        arrived_ms, before = time.time() * 1000, len(columns)
        columns.add(first + rest, arrived_ms)
        if len(columns) > before:
            quiet_since = time.monotonic()
    consumer.close()
    found = columns.outputs()
    np.savez(path, numbers=found.numbers, appended=found.appended, arrived=found.arrived)


def _consumer(bootstrap: str, topic: str, *, committed: bool, tell_end: bool) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": tell_end,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "fetch.wait.max.ms": 20,
            "fetch.queue.backoff.ms": 5,
            "log_level": 3,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    return consumer


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its public name


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness.outputs", description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("path", type=Path)
    parser.add_argument("--committed", action="store_true", help="read_committed")
    options = parser.parse_args()
    follow(options.bootstrap, options.topic, options.path, committed=options.committed)


if __name__ == "__main__":
    main()
