"""FastStream's Kafka broker (on aiokafka) with a batch subscriber, on uvloop.

The subscriber takes up to 4,096 records, or what 5 ms bring. Each batch waits for its acknowledgements and its commit,
so larger ones are faster: 500 reach two thirds of the throughput, no limit at all needs twice the memory. Settings
for throughput, all documented: ``apply_types`` off, because the values need no Pydantic models; an own decoder, because
the default one builds a message object per record; no access log; producer batches of 1 MiB, because ``publish_batch``
puts a whole batch into one and the default of 16 KiB is too small for that. ``publish_batch`` writes to one partition,
so one is published per input partition, all at once. uvloop is what its command line takes where it is installed.

BENCH_DELIVERY is ``at_least_once``: the policy ``NACK_ON_ERROR`` commits after the handler returned, which is after
the brokers acknowledged the outputs, and reads the batch again if it raised. FastStream's own default, ``ACK_FIRST``,
is at most once. A crash repeats at most one batch.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import uvloop
from aiokafka import ConsumerRecord
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaPublishMessage

BATCH_SIZE = 4096
BATCH_WAIT_MS = 5
MAX_PRODUCE_BATCH_BYTES = 1 << 20
OUTPUT = os.environ["BENCH_OUTPUT"]
FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]


class Scorer:
    """Scores a batch of records with one model call."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self._pick = itemgetter(*FIELDS)

    def outputs(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> list[tuple[int, KafkaPublishMessage]]:
        """One output per record, with the partition that the record came from."""
        events = [orjson.loads(record.value) for record in records]
        rows = [self._pick(event) for event in events]
        features = np.array(rows, np.float32).reshape(len(events), len(FIELDS))
        scores = self._session.run(["score"], {"features": features})[0].reshape(-1).tolist()
        return [
            (record.partition, KafkaPublishMessage(orjson.dumps({ID: event[ID], "score": score}), key=record.key))
            for record, event, score in zip(records, events, scores, strict=True)
        ]


async def whole_batch(message: KafkaMessage) -> Any:
    """The decoder: the handler gets the records as they are."""
    return message.raw_message


def build() -> FastStream:
    """The application: one subscriber that publishes what it scored."""
    broker = KafkaBroker(
        os.environ["BENCH_BOOTSTRAP"],
        max_batch_size=MAX_PRODUCE_BATCH_BYTES,
        enable_idempotence=True,
        apply_types=False,
        logger=None,
    )
    scorer = Scorer()

    @broker.subscriber(
        os.environ["BENCH_INPUT"],
        group_id=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        batch=True,
        max_records=BATCH_SIZE,
        batch_timeout_ms=BATCH_WAIT_MS,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=whole_batch,
    )
    async def score(records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        outputs = scorer.outputs(records)
        await asyncio.gather(
            *(
                broker.publish_batch(*(output for _, output in run), topic=OUTPUT, partition=partition)
                for partition, run in groupby(outputs, key=itemgetter(0))
            )
        )

    return FastStream(broker, logger=None)


def main() -> None:
    """Run until SIGTERM or SIGINT, which the library handles."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant != "at_least_once":
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers at_least_once")
    uvloop.run(build().run())


if __name__ == "__main__":
    main()
