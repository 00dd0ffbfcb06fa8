"""A hand-written micro-batch loop with confluent-kafka (librdkafka), orjson and ONNX Runtime.

What an engineer who knows Kafka writes without a framework: up to 500 records per ``consume``, one model call for
them, one ``produce`` each, one commit per batch. The wait of 5 ms for a fuller batch is Headrace's own
``batching.max_batch_delay_s``. The producer keeps librdkafka's defaults (5 ms of linger, no compression, acks=all)
and is idempotent, so that retries neither repeat nor reorder. Keys are hashed as Java clients hash them.

BENCH_DELIVERY chooses how offsets are committed:

- ``unsafe``: asynchronously, right after ``produce``, as most such loops do. The outputs are then still in the
  producer's queue: a crash loses up to what is queued. It looks like at least once and is not.
- ``safe``: after ``flush`` has delivered the batch's outputs, and synchronously. At least once; a crash repeats at
  most one batch. The loop stands still while it flushes and commits.
"""

from __future__ import annotations

import os
import signal
import sys
from operator import itemgetter
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

BATCH_SIZE = 500
BATCH_WAIT_S = 0.005
INPUT, OUTPUT = os.environ["BENCH_INPUT"], os.environ["BENCH_OUTPUT"]
FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]


class Loop:
    """Reads, scores and writes until ``stop`` is called."""

    def __init__(self, *, safe: bool) -> None:
        self._safe = safe
        self._running = True
        self._model = open_model(os.environ["BENCH_MODEL"])
        self._consumer = Consumer(
            {
                "bootstrap.servers": os.environ["BENCH_BOOTSTRAP"],
                "group.id": os.environ["BENCH_GROUP"],
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self._producer = Producer(
            {
                "bootstrap.servers": os.environ["BENCH_BOOTSTRAP"],
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "delivery.report.only.error": True,
                "on_delivery": raise_undelivered,
            }
        )

    def stop(self, *_: object) -> None:
        """Finish the batch in hand, then leave."""
        self._running = False

    def run(self) -> None:
        """Run the loop; returns after ``stop``, with everything delivered and committed."""
        self._consumer.subscribe([INPUT])
        try:
            while self._running:
                messages = self._consumer.consume(BATCH_SIZE, BATCH_WAIT_S)
                if messages:
                    self._score(messages)
                    self._commit()
            self._producer.flush()
        finally:
            self._consumer.close()

    def _score(self, messages: list[Message]) -> None:
        keys, events = [], []
        for message in messages:
            if error := message.error():
                tolerate(error)
                continue
            keys.append(message.key())
            events.append(orjson.loads(message.value() or b""))
        if not events:
            return
        pick = itemgetter(*FIELDS)
        features = np.array([pick(event) for event in events], np.float32).reshape(len(events), len(FIELDS))
        scores = self._model.run(["score"], {"features": features})[0].reshape(-1).tolist()
        for key, event, score in zip(keys, events, scores, strict=True):
            self._produce(key, orjson.dumps({ID: event[ID], "score": score}))

    def _produce(self, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                return self._producer.produce(OUTPUT, value, key)
            except BufferError:  # the local queue is full: let deliveries make room
                self._producer.poll(0.1)

    def _commit(self) -> None:
        if self._safe:
            self._producer.flush()
            self._consumer.commit(asynchronous=False)
        else:
            self._producer.poll(0)
            self._consumer.commit(asynchronous=True)


def open_model(path: str) -> ort.InferenceSession:
    """The model at ``path``, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def tolerate(error: KafkaError) -> None:
    """What ``consume`` reports the client cures by itself, unless it says that it cannot; ends the process then."""
    if error.fatal():
        raise KafkaException(error)
    sys.stderr.write(f"{error}\n")


def raise_undelivered(error: KafkaError | None, _message: Any) -> None:
    """Called by ``poll`` and ``flush`` for an output that could not be delivered; ends the process."""
    raise KafkaException(error)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in {"unsafe", "safe"}:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers unsafe and safe")
    loop = Loop(safe=variant == "safe")
    signal.signal(signal.SIGTERM, loop.stop)
    signal.signal(signal.SIGINT, loop.stop)
    loop.run()


if __name__ == "__main__":
    main()
