"""A record whose header name is no UTF-8, which no honest client writes: it stops nobody."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.integration.readings import encoded, letter_of, meter, reading, source_of
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.worker_process import merged

CHECKSUM_AT, CHECKED_FROM = 17, 21
"""Places in a record batch of format 2."""


def _spoil(batch: BatchBuilder) -> None:
    """Replace the header name ``zz`` by two bytes that are no UTF-8, and mend the checksum."""
    batch.close()
    raw = bytearray(batch._build())
    at = raw.index(b"\x04zz")
    raw[at + 1 : at + 3] = b"\xff\xfe"
    raw[CHECKSUM_AT:CHECKED_FROM] = calc_crc32c(bytes(raw[CHECKED_FROM:])).to_bytes(4, "big")
    batch._buffer = raw


async def _produce(bootstrap: str, topic: str) -> None:
    """Three batches of two: a good one, one whose first record is bad, a good one."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for number in (0, 2, 4):
            batch = producer.create_batch()
            name = "zz" if number == 2 else "ok"
            batch.append(key=b"k", value=encoded(reading(number)), timestamp=None, headers=[(name, b"v")])
            batch.append(key=b"k", value=encoded(reading(number + 1)), timestamp=None, headers=[])
            if number == 2:
                _spoil(batch)
            await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


async def test_a_header_that_cannot_be_read_costs_one_record(
    worker_process: StartWorker, tmp_path: Path, topics: Topics, kafka: KafkaBroker
) -> None:
    """It goes to the dead letters by its coordinates; those before and after it are scored."""
    source = topics.create("in")
    worker = worker_process(merged(meter(tmp_path), {"kafka": {"input_topics": [source]}}))
    await _produce(kafka.bootstrap, source)
    outputs = kafka.client.read(worker.config["kafka"]["output_topic"], count=5)
    (letter,) = kafka.client.read(worker.config["kafka"]["dead_letter_topic"], count=1)
    assert [source_of(record) for record in outputs] == [(0, at) for at in (0, 1, 3, 4, 5)]
    assert letter_of(letter) == (0, 2)
    assert letter.header("headrace-dlq-reason") == "corrupt_record"
    assert worker.stop() == 0
