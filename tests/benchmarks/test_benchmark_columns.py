"""What generator and reader note of each event."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.generator import Generator
from benchmarks.harness.loops import PRELUDE, _first_by_event
from benchmarks.harness.outputs import Columns, Outputs
from benchmarks.harness.usage import UsageSampler, tree
from benchmarks.workloads import Pool

POOL = Pool(Path(), [b"key"], [b'"x":1}'], np.zeros(1, np.float32), "score")


@dataclass
class Batch:
    """Takes three records, like a builder whose size is used up then."""

    values: list[bytes] = field(default_factory=list)

    def append(self, *, key: bytes, value: bytes, timestamp: int | None) -> object | None:
        """None once it is full."""
        assert (key, timestamp) == (b"key", None)
        if len(self.values) == 3:
            return None
        self.values.append(value)
        return self

    def record_count(self) -> int:
        """How many it holds."""
        return len(self.values)


@dataclass
class Answer:
    """What the broker says of a batch."""

    timestamp: int


class Producer:
    """Appends the n-th batch at time n; a batch in ``refused`` fails."""

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.sent: list[tuple[int, list[bytes]]] = []
        self._refused = refused

    def create_batch(self) -> Batch:
        """An empty one."""
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Answer]:
        """Answered at once."""
        assert topic == "topic"
        self.sent.append((partition, batch.values))
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if len(self.sent) - 1 in self._refused:
            answer.set_exception(RuntimeError("refused"))
        else:
            answer.set_result(Answer(len(self.sent) - 1))
        return answer


async def generated(producer: Any, first: int, count: int) -> Generator:
    """A generator that has sent ``count`` events, all due at once."""
    generator = Generator(producer, "topic", POOL, first, np.zeros(count))
    await generator.run(0.0)
    return generator


@pytest.mark.parametrize("first", [0, 80, 83])
async def test_generator_sends_each_event_once_to_its_partition(first: int) -> None:
    """Whatever the first number, event n goes to partition n modulo 8, in order, and full batches are continued."""
    producer = Producer()
    await generated(producer, first, 40)
    sent = [(partition, int(value[14:24])) for partition, values in producer.sent for value in values]
    assert sorted(number for _, number in sent) == list(range(first, first + 40))
    assert all(number % 8 == partition for partition, number in sent)


@pytest.mark.parametrize("first", [0, 83])
async def test_generator_notes_the_append_time_of_each_event(first: int) -> None:
    """Every event gets the time of the batch that it was in."""
    producer = Producer()
    generator = await generated(producer, first, 40)
    for time, (_, values) in enumerate(producer.sent):
        for value in values:
            assert generator.appended[int(value[14:24]) - first] == time


async def test_refused_batch_has_no_append_time() -> None:
    """Its events stay without one; the others have theirs."""
    producer = Producer(refused=(0,))
    generator = await generated(producer, 0, 8)
    assert np.isnan(generator.appended).sum() == 1


class Message:
    """An output as the reader gets it."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def error(self) -> None:
        """None: it is a record."""

    def value(self) -> bytes:
        """Its value."""
        return self._value

    def timestamp(self) -> tuple[int, int]:
        """Type and time of the append."""
        return 2, 1234


def read(field_name: str | None, width: int, *values: bytes) -> Outputs:
    """The columns of these values."""
    columns = Columns(field_name, width)
    messages: list[Any] = [Message(value) for value in values]
    columns.add(messages, 5678.0)
    return columns.outputs()


def test_reader_finds_number_and_score() -> None:
    """With and without spaces, in any order; what names no event, or has no score, is known as such."""
    found = read(
        "score",
        1,
        b'{"event_id":"e0000000007","score":0.5}',
        b'{"score": 1e-05, "event_id": "e0000000008"}',
        b'{"event_id":"e0000000009","score":"none"}',
        b'{"score":0.5}',
    )
    assert found.numbers.tolist() == [7, 8, 9, -1]
    assert found.scores.tolist() == pytest.approx([0.5, 1e-5, np.nan, 0.5], nan_ok=True)
    assert (found.appended[0], found.arrived[0]) == (1234, 5678)


def test_reader_finds_vectors() -> None:
    """A row of numbers; one of another length is none."""
    found = read("prediction", 2, b'{"prediction":[1.5, -2]}', b'{"prediction":[1,2,3]}')
    assert np.array_equal(found.scores, np.array([[1.5, -2.0], [np.nan, np.nan]], np.float32), equal_nan=True)


def test_first_output_of_an_event_counts() -> None:
    """Repeats come later and change nothing; events before the load are left out; a missing one is unknown."""
    numbers = np.array([0, PRELUDE + 2, PRELUDE, PRELUDE + 2], np.int32)
    times = np.array([1.0, 2.0, 3.0, 4.0])
    appended, arrived = _first_by_event(Outputs(numbers, times, times + 10, np.empty(0, np.float32)), 3)
    assert appended.tolist() == pytest.approx([3, np.nan, 2], nan_ok=True)
    assert arrived.tolist() == pytest.approx([13, np.nan, 12], nan_ok=True)


def test_tree_has_the_children() -> None:
    """A process that was started belongs to the tree while it lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(tree(os.getpid()))
        child.communicate(b"\n")
    assert child.pid not in tree(os.getpid())


def test_usage_counts_this_process() -> None:
    """A sampled process has memory, and processor time that never falls."""
    with UsageSampler({"self": os.getpid()}) as usage:
        pass
    assert usage.peak_rss_mib("self") > 1
    assert usage.cpu_us_per_event("self", 0, 2e12, 1) >= 0
