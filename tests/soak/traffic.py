"""The load of the soak: card transactions at a steady rate, and a count of what comes out."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from confluent_kafka import Consumer, Producer, TopicPartition

from worker.demo import events
from worker.demo.simulator import after_warm_up

SAMPLE = 20_000
PACE_S = 0.02
READ_BATCH = 10_000


class Writer:
    """Writes events at ``rate`` per second, dealt out to the partitions, on a thread of its own."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        transactions = after_warm_up(1, SAMPLE)
        self._records = list(zip(events.keys(transactions), events.encode(transactions), strict=True))
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all", "log_level": 0})
        self._topic, self._partitions = topic, partitions
        self.written = 0

    def write(self, count: int) -> None:
        """So many events, as fast as the broker takes them."""
        for _ in range(count):
            key, value = self._records[self.written % SAMPLE]
            while True:
                try:
                    self._producer.produce(self._topic, value, key, partition=self.written % self._partitions)
                    break
                except BufferError:
                    self._producer.poll(0.05)
            self.written += 1
        self._producer.poll(0)

    def write_steadily(self, rate: float, going: Callable[[], bool]) -> None:
        """At this rate, until told to stop; the broker has everything when this returns."""
        begun, before = time.monotonic(), self.written
        while going():
            due = int((time.monotonic() - begun) * rate) - (self.written - before)
            self.write(due)
            time.sleep(PACE_S)
        self.flush()

    def flush(self) -> None:
        """Wait until the broker has everything."""
        if self._producer.flush(60.0):
            raise TimeoutError("the broker did not take all of the load")


class Reader:
    """Counts the committed records of a topic, on a thread of its own."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.count = 0
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"soak-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, at, 0) for at in range(partitions)])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            self.count += sum(one.error() is None for one in self._consumer.consume(READ_BATCH, timeout=0.1))
        self._consumer.close()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(30)
