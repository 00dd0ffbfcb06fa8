"""The loop of the tutorials: aiokafka, one record at a time, nothing batched.

``async for`` over the consumer, ``json``, one model call per record, ``send_and_wait``: what a first version looks
like, and what many services still run. Client settings are aiokafka's defaults, as in its documentation.

BENCH_DELIVERY chooses how offsets are committed:

- ``auto_commit``: aiokafka's default, in the background every 5 s. What is committed is what the loop was given, so
  a crash can lose the one record in hand, and repeats up to 5 s of outputs.
- ``commit_each``: ``commit`` after each record. At least once; a crash repeats at most one record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys

import numpy as np
import onnxruntime as ort
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

FIELDS = os.environ["BENCH_FIELDS"].split(",")
ID = os.environ["BENCH_ID"]


def open_model(path: str) -> ort.InferenceSession:
    """The model at ``path``, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


async def run(*, commit_each: bool) -> None:
    """Score record after record until cancelled."""
    model = open_model(os.environ["BENCH_MODEL"])
    consumer = AIOKafkaConsumer(
        os.environ["BENCH_INPUT"],
        bootstrap_servers=os.environ["BENCH_BOOTSTRAP"],
        group_id=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        enable_auto_commit=not commit_each,
    )
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["BENCH_BOOTSTRAP"])
    await producer.start()
    await consumer.start()
    try:
        async for record in consumer:
            event = json.loads(record.value)
            features = np.array([[event[field] for field in FIELDS]], dtype=np.float32)
            score = float(model.run(["score"], {"features": features})[0].reshape(-1)[0])
            value = json.dumps({ID: event[ID], "score": score}).encode()
            await producer.send_and_wait(os.environ["BENCH_OUTPUT"], value, key=record.key)
            if commit_each:
                await consumer.commit()
    finally:
        await consumer.stop()
        await producer.stop()


async def main() -> None:
    """Run until SIGTERM or SIGINT."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in {"auto_commit", "commit_each"}:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers auto_commit and commit_each")
    task = asyncio.create_task(run(commit_each=variant == "commit_each"))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    asyncio.run(main())
