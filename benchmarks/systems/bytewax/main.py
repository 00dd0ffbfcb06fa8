"""Bytewax, the Python dataflow library on Rust's Timely, with its own Kafka source and sink.

BENCH_DELIVERY chooses between its two ways to batch:

- ``batch``: ``flat_map_batch`` takes what the source read at once, up to 1,000 records of a partition (the source's
  default). Nothing waits, nothing is regrouped: the fastest form.
- ``collect``: ``collect`` gathers up to 500 records per key or 5 ms; the key is the partition. The form that the
  documentation shows; its stateful step costs time for every record.

The sink flushes after each batch it is given. Positions are not committed to the consumer group: Bytewax keeps them
in its recovery store, a SQLite file in BENCH_STATE, once per epoch of 1 s (its default is 10 s; Headrace commits every
second). At least once: a crash repeats the records since the last epoch that was stored, and so does SIGTERM, because
the library has no orderly stop. Its company closed in 2025; it installs on Python 3.11 and 3.12.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import onnxruntime as ort
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow, Stream
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

BATCH_SIZE = 500
BATCH_WAIT = timedelta(milliseconds=5)
EPOCH = timedelta(seconds=1)
FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]


class Scorer:
    """Turns messages into scored messages, one model call for all of them."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self._pick = itemgetter(*FIELDS)

    def __call__(self, messages: Sequence[Any]) -> list[KafkaSinkMessage[bytes, bytes]]:
        """One output per message, in their order."""
        events = [orjson.loads(message.value) for message in messages]
        rows = [self._pick(event) for event in events]
        features = np.array(rows, np.float32).reshape(len(events), len(FIELDS))
        scores = self._session.run(["score"], {"features": features})[0].reshape(-1).tolist()
        return [
            KafkaSinkMessage(message.key, orjson.dumps({ID: event[ID], "score": score}))
            for message, event, score in zip(messages, events, scores, strict=True)
        ]


def build(variant: str) -> Dataflow:
    """The dataflow of ``variant``."""
    brokers = [os.environ["BENCH_BOOTSTRAP"]]
    flow = Dataflow("scoring")
    score = Scorer()
    messages: Stream[Any] = op.input("in", flow, KafkaSource(brokers, [os.environ["BENCH_INPUT"]]))
    if variant == "batch":
        scored = op.flat_map_batch("score", messages, score)
    else:
        keyed = op.key_on("partition", messages, lambda message: str(message.partition))
        batches = op.collect("collect", keyed, BATCH_WAIT, BATCH_SIZE)
        scored = op.flat_map("score", batches, lambda batch: score(batch[1]))
    options = {"enable.idempotence": "true", "partitioner": "murmur2_random"}
    op.output("out", scored, KafkaSink(brokers, os.environ["BENCH_OUTPUT"], options))
    return flow


def is_interrupt(error: BaseException | None) -> bool:
    """True where a signal caused ``error``: Bytewax knows no orderly stop and wraps the interrupt in its own error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in {"batch", "collect"}:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers batch and collect")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    store = Path(os.environ["BENCH_STATE"])
    if not any(store.iterdir()):
        init_db_dir(store, 1)
    try:
        cli_main(build(variant), epoch_interval=EPOCH, recovery_config=RecoveryConfig(str(store)))
    except (KeyboardInterrupt, BytewaxRuntimeError) as error:
        if not is_interrupt(error):
            raise


if __name__ == "__main__":
    main()
