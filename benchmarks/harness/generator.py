"""The load generator of an open loop, a process of its own.

    python -m benchmarks.harness.generator BOOTSTRAP TOPIC WORKLOAD_FOLDER FILE.npz --first N --load RATE:SECONDS ...

Each event has a planned send time that no answer moves. Every millisecond the events that are due are handed to the
client in one batch per partition; the broker's answers name the append time of each batch. The file holds, by event,
the planned time and the append time, both in milliseconds since 1970; NaN where an append failed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from benchmarks.harness.cluster import PARTITIONS
from benchmarks.harness.figures import Times, planned_ms
from benchmarks.workloads import Pool, load

TICK_S = 0.001
HEAD_START_S = 0.5
BATCH_BYTES = 262_144


class Generator:
    """Sends events ``first, first + 1, ...`` at the planned times, in turns over the partitions."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, pool: Pool, first: int, planned: Times) -> None:
        self.appended = np.full(len(planned), np.nan)
        self._producer = producer
        self._topic = topic
        self._pool = pool
        self._first = first
        self._planned = planned
        self._pending: set[asyncio.Future[Any]] = set()

    async def run(self, start_s: float) -> None:
        """Send everything, counting from ``start_s`` on the wall clock, and wait for the last answer."""
        sent, total = 0, len(self._planned)
        while sent < total:
            now_s = time.time()
            due = int(np.searchsorted(self._planned, (now_s - start_s) * 1000, "right"))
            if due > sent:
                lanes = {(self._first + index) % PARTITIONS for index in range(sent, min(due, sent + PARTITIONS))}
                await asyncio.gather(*(self._send(lane, sent, due) for lane in lanes))
                sent = due
            if sent < total:
                wait_s = start_s + self._planned[sent] / 1000 - time.time()
                await asyncio.sleep(max(TICK_S, wait_s) if wait_s > 0 else 0)
        while self._pending:
            await asyncio.wait(self._pending)

    async def _send(self, lane: int, start: int, stop: int) -> None:
        """Send the events ``start`` to ``stop`` that belong to the partition."""
        batch, begun = self._producer.create_batch(), start
        for index in range(start + (lane - self._first - start) % PARTITIONS, stop, PARTITIONS):
            number = self._first + index
            key, value = self._pool.key(number), self._pool.value(number)
            if batch.append(key=key, value=value, timestamp=None) is None:
                await self._hand_over(batch, lane, begun, index)
                batch, begun = self._producer.create_batch(), index
                batch.append(key=key, value=value, timestamp=None)
        if batch.record_count():
            await self._hand_over(batch, lane, begun, stop)

    async def _hand_over(self, batch: BatchBuilder, lane: int, start: int, stop: int) -> None:
        future = await self._producer.send_batch(batch, self._topic, partition=lane)
        self._pending.add(future)
        future.add_done_callback(lambda done: self._note(done, lane, start, stop))

    def _note(self, done: asyncio.Future[Any], lane: int, start: int, stop: int) -> None:
        self._pending.discard(done)
        # A batch that the broker refused stays NaN, which the report counts; the run goes on.
        if done.exception() is None:
            first = start + (lane - self._first - start) % PARTITIONS
            self.appended[first:stop:PARTITIONS] = done.result().timestamp


async def generate(
    bootstrap: str, topic: str, pool: Pool, first: int, segments: Sequence[tuple[float, float]]
) -> tuple[Times, Times]:
    """Run the load; returns planned and append times."""
    planned = planned_ms(segments)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES
    )
    async with producer:
        await producer.partitions_for(topic)
        generator = Generator(producer, topic, pool, first, planned)
        gc.disable()
        start_s = time.time() + HEAD_START_S
        print(f"{start_s:.3f}", flush=True)
        await generator.run(start_s)
    return planned + start_s * 1000, generator.appended


def segment(text: str) -> tuple[float, float]:
    """``RATE:SECONDS``."""
    rate, _, seconds = text.partition(":")
    return float(rate), float(seconds)


def main() -> None:
    """The command; its first line of output is the time from which the plan counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness.generator", description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("folder", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--load", type=segment, nargs="+", required=True)
    options = parser.parse_args()
    pool = load(options.folder)
    planned, appended = asyncio.run(generate(options.bootstrap, options.topic, pool, options.first, options.load))
    np.savez(options.path, planned=planned, appended=appended)


if __name__ == "__main__":
    main()
