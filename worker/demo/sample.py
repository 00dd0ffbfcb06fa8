"""Sample transactions sent to a topic of the user's own cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from worker.adapters.kafka_admin import admin_session
from worker.adapters.kafka_options import broker_error, connection_options
from worker.demo import events, simulator
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

_ASK_TIMEOUT_S = 15.0
_LINGER_MS = 5
_CHUNK = 500
_BATCH_BYTES = 262_144
_PAUSE_S = 0.002


@dataclass(slots=True)
class Progress:
    """How far the sending is: ``acknowledged`` of the ``sent`` records, in ``seconds``."""

    sent: int = 0
    acknowledged: int = 0
    seconds: float = 0.0


async def send_sample(
    section: KafkaSection, topic: str, count: int, rate: float | None, seed: int, progress: Progress
) -> None:
    """Send ``count`` transactions of the world that ``seed`` makes, at most ``rate`` a second; None: no limit.

    ``progress`` is kept up to date, so that it also holds after a cancellation. Raises BrokerError where no broker
    answers, the topic does not exist, or a record is refused.
    """
    await _require_topic(section, topic)
    transactions = simulator.after_warm_up(seed, count)
    producer = AIOKafkaProducer(
        **connection_options(section), acks="all", linger_ms=_LINGER_MS, max_batch_size=_BATCH_BYTES
    )
    started_at = time.monotonic()
    try:
        await producer.start()
        for part in _chunks(transactions, rate):
            await _send(producer, topic, part, progress)
            progress.seconds = time.monotonic() - started_at
            if rate is not None:
                await asyncio.sleep(max(_PAUSE_S, started_at + progress.sent / rate - time.monotonic()))
    except kafka.KafkaError as error:
        raise broker_error(error, f"sending to {topic}") from error
    finally:
        await producer.stop()


async def _require_topic(section: KafkaSection, topic: str) -> None:
    async with admin_session(section, _ASK_TIMEOUT_S) as admin:
        exists = (await admin.topics([topic]))[topic].exists
    if not exists:
        problem = Problem(
            f"topic {topic} does not exist",
            remedy="create it with: headrace topics ensure --config FILE",
            key="kafka.input_topics",
            code="missing_topic",
        )
        raise BrokerError(problem)


def _chunks(transactions: simulator.Transactions, rate: float | None) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and values in pieces: short enough at a low rate to look like a steady stream."""
    size = _CHUNK if rate is None else min(_CHUNK, max(1, int(rate / 50)))
    for start in range(0, len(transactions), size):
        part = transactions.part(slice(start, start + size))
        yield events.keys(part), events.encode(part, start)


async def _send(
    producer: AIOKafkaProducer, topic: str, part: tuple[list[bytes], list[bytes]], progress: Progress
) -> None:
    """Send one chunk and wait until the brokers have it."""
    pending = [await producer.send(topic, value, key=key) for key, value in zip(*part, strict=True)]
    progress.sent += len(pending)
    await asyncio.gather(*pending)
    progress.acknowledged += len(pending)
