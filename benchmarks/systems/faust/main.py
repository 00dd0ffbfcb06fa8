"""Faust in its maintained fork (faust-streaming, on aiokafka), with its Cython parts, on uvloop.

An agent takes up to 500 events at a time, or what 5 ms bring, by ``take_events``, which keeps the keys; one model call
for them; outputs are sent together and awaited before the next batch. Values stay bytes until the batch is decoded by
orjson, which costs less than Faust's codecs. No web server, no tables, no leader topic; linger of 5 ms, produce
batches of 1 MiB; every event is acknowledged one by one inside the library, which is where its time goes.

BENCH_DELIVERY is ``at_least_once``: an event is acknowledged after its output was, and offsets are committed every
second or 8,192 events (the defaults are 2.8 s and 10,000). A crash repeats what came after the last commit.
"""

from __future__ import annotations

import asyncio
import os
import sys
from operator import itemgetter
from typing import Any

import faust
import numpy as np
import onnxruntime as ort
import orjson

BATCH_SIZE = 500
BATCH_WAIT_S = 0.005
FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]


class Scorer:
    """Scores a batch of values with one model call."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self._pick = itemgetter(*FIELDS)

    def outputs(self, values: list[bytes]) -> list[bytes]:
        """One output per value, in their order."""
        events = [orjson.loads(value) for value in values]
        rows = [self._pick(event) for event in events]
        features = np.array(rows, np.float32).reshape(len(events), len(FIELDS))
        scores = self._session.run(["score"], {"features": features})[0].reshape(-1).tolist()
        return [orjson.dumps({ID: event[ID], "score": score}) for event, score in zip(events, scores, strict=True)]


def build() -> faust.App:
    """The application: one agent between two topics of bytes."""
    app = faust.App(
        os.environ["BENCH_GROUP"],
        broker=f"kafka://{os.environ['BENCH_BOOTSTRAP']}",
        datadir=os.environ["BENCH_STATE"],
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        broker_commit_every=8192,
        producer_linger=0.005,
        producer_max_batch_size=1 << 20,
    )
    raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(os.environ["BENCH_INPUT"], **raw)
    target = app.topic(os.environ["BENCH_OUTPUT"], **raw)
    scorer = Scorer()

    @app.agent(source)
    async def score(stream: Any) -> None:
        async for events in stream.take_events(BATCH_SIZE, within=BATCH_WAIT_S):
            outputs = scorer.outputs([event.value for event in events])
            sent = [await target.send(key=event.key, value=value) for event, value in zip(events, outputs, strict=True)]
            await asyncio.gather(*sent)

    return app


def main() -> None:
    """Run until SIGTERM or SIGINT, which the library handles."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant != "at_least_once":
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers at_least_once")
    faust.Worker(build(), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
