"""Quix Streams, the dataframe-like Kafka library of Quix, on librdkafka and orjson.

BENCH_DELIVERY chooses between the two ways that the library offers to run a model:

- ``message``: a function in ``StreamingDataFrame.apply``, called for each record with a batch of one, then
  ``to_topic``. This is what its documentation shows for inference, and its way to low latency.
- ``batch``: a ``BatchingSink``, the library's only stateless batching. It hands over what arrived since the last
  checkpoint, partition by partition; each list is scored in chunks of up to 500 and written through a producer of
  the application. A checkpoint is due after 4,096 records, 512 for each of 8 partitions, or 0.1 s: that interval is
  the latency under light load, and a shorter one spends its time on commits.

Both are at least once: at a checkpoint everything written is flushed, then the offsets are committed. A crash repeats
what came after the last checkpoint; ``message`` makes one every second or 8,192 records, as Headrace does.
Delivery reports are asked for failures only, which saves a callback per record. Otherwise the library's defaults hold.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from confluent_kafka import KafkaError, KafkaException
from quixstreams import Application
from quixstreams.kafka import Producer
from quixstreams.sinks import BatchingSink, SinkBatch
from quixstreams.sinks.base.item import SinkItem

BATCH_SIZE = 500
FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "message": {"commit_interval": 1.0, "commit_every": 8192},
    "batch": {"commit_interval": 0.1, "commit_every": 4096, "consumer_poll_timeout": 0.005},
}


class Model:
    """The ONNX model, on one thread."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self._pick = itemgetter(*FIELDS)

    def scores(self, events: list[dict[str, Any]]) -> list[float]:
        """One score per event."""
        rows = [self._pick(event) for event in events]
        features = np.array(rows, np.float32).reshape(len(events), len(FIELDS))
        scores: list[float] = self._session.run(["score"], {"features": features})[0].reshape(-1).tolist()
        return scores

    def scored(self, event: dict[str, Any]) -> dict[str, Any]:
        """The output for one event."""
        return {ID: event[ID], "score": self.scores([event])[0]}


class ScoringSink(BatchingSink):
    """Scores what gathered between two checkpoints and writes the outputs to Kafka."""

    def __init__(self, model: Model, producer: Producer, topic: str) -> None:
        super().__init__()
        self._model = model
        self._producer = producer
        self._topic = topic

    def write(self, batch: SinkBatch) -> None:
        """Score the records of one partition and queue their outputs."""
        for chunk in batch.iter_chunks(BATCH_SIZE):
            self._write_chunk(chunk)

    def flush(self) -> None:
        """Write everything and wait until it is delivered; the offsets are committed after this."""
        super().flush()
        self._producer.flush()

    def _write_chunk(self, items: Iterable[SinkItem]) -> None:
        items = list(items)
        scores = self._model.scores([item.value for item in items])
        for item, score in zip(items, scores, strict=True):
            value = orjson.dumps({ID: item.value[ID], "score": score})
            self._producer.produce(self._topic, value, item.key, on_delivery=raise_undelivered)


def raise_undelivered(error: KafkaError | None, _message: Any) -> None:
    """Called for an output that could not be delivered; ends the process."""
    raise KafkaException(error)


def main() -> None:
    """Run until SIGTERM or SIGINT, which the library handles."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in CHECKPOINTS:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers {' and '.join(CHECKPOINTS)}")
    app = Application(
        os.environ["BENCH_BOOTSTRAP"],
        consumer_group=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=os.environ["BENCH_STATE"],
        producer_extra_config={"enable.idempotence": True, "delivery.report.only.error": True},
        loglevel="WARNING",
        **CHECKPOINTS[variant],
    )
    model = Model()
    events = app.dataframe(app.topic(os.environ["BENCH_INPUT"], value_deserializer="json"))
    if variant == "message":
        events.apply(model.scored).to_topic(app.topic(os.environ["BENCH_OUTPUT"], value_serializer="json"))
    else:
        events.sink(ScoringSink(model, app.get_producer(), os.environ["BENCH_OUTPUT"]))
    app.run()


if __name__ == "__main__":
    main()
