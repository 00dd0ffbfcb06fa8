"""The limit of aiokafka, Headrace's client: copies keys and values, with no parsing and no model.

BENCH_DELIVERY chooses when the next poll comes:

- ``pipelined``: at once. Batches are handed to the producer while earlier ones are on their way, at most
  ``IN_FLIGHT`` polls of them, and offsets whose outputs are acknowledged are committed once a second.
- ``step``: after all outputs of the last poll are acknowledged and its offsets are committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

OUTPUT = os.environ["BENCH_OUTPUT"]
POLL_RECORDS = 4096
IN_FLIGHT = 32
COMMIT_INTERVAL_S = 1.0
Records = dict[TopicPartition, list[ConsumerRecord]]


class Echo:
    """Copies until ``stop`` is set."""

    def __init__(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, *, pipelined: bool) -> None:
        self.stop = asyncio.Event()
        self._consumer = consumer
        self._producer = producer
        self._pipelined = pipelined
        self._sent: deque[tuple[asyncio.Future[Any], dict[TopicPartition, int]]] = deque()
        self._offsets: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Poll and copy; returns after ``stop`` with everything delivered and committed."""
        committing = asyncio.create_task(self._commit_regularly())
        while not self.stop.is_set():
            polled: Records = await self._consumer.getmany(timeout_ms=100, max_records=POLL_RECORDS)
            if polled:
                await self._copy(polled)
            while self._sent and (self._sent[0][0].done() or not self._pipelined or len(self._sent) > IN_FLIGHT):
                await self._settle()
            if not self._pipelined:
                await self._commit()
            if committing.done():
                committing.result()
        while self._sent:
            await self._settle()
        committing.cancel()
        await self._commit()

    async def _copy(self, polled: Records) -> None:
        lanes = await asyncio.gather(*(self._send(at.partition, records) for at, records in polled.items()))
        acknowledged = asyncio.gather(*(future for lane in lanes for future in lane))
        self._sent.append((acknowledged, {at: records[-1].offset + 1 for at, records in polled.items()}))

    async def _send(self, partition: int, records: list[ConsumerRecord]) -> list[asyncio.Future[Any]]:
        """Hand the records to the producer in as few batches as fit; returns their acknowledgements."""
        futures, batch = [], self._producer.create_batch()
        for record in records:
            if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                futures.append(await self._producer.send_batch(batch, OUTPUT, partition=partition))
                batch = self._producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=None)
        futures.append(await self._producer.send_batch(batch, OUTPUT, partition=partition))
        return futures

    async def _settle(self) -> None:
        acknowledged, offsets = self._sent.popleft()
        await acknowledged
        self._offsets |= offsets

    async def _commit(self) -> None:
        offsets, self._offsets = self._offsets, {}
        if offsets:
            await self._consumer.commit(offsets)

    async def _commit_regularly(self) -> None:
        while self._pipelined:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit()


async def main() -> None:
    """Run until SIGTERM or SIGINT."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in {"pipelined", "step"}:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers pipelined and step")
    bootstrap = os.environ["BENCH_BOOTSTRAP"]
    consumer = AIOKafkaConsumer(
        os.environ["BENCH_INPUT"],
        bootstrap_servers=bootstrap,
        group_id=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=1_048_576,
        fetch_max_bytes=8_388_608,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=262_144
    )
    async with consumer, producer:
        echo = Echo(consumer, producer, pipelined=variant == "pipelined")
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, echo.stop.set)
        await echo.run()


if __name__ == "__main__":
    asyncio.run(main())
