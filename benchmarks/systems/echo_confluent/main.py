"""The limit of confluent-kafka (librdkafka): copies keys and values, with no parsing and no model.

Offsets are stored as records are handed over and committed by the client in the background: the cheapest way, which
loses what is in the producer's queue when the process is killed. BENCH_DELIVERY is ``background_commit``.
"""

from __future__ import annotations

import os
import signal
import sys

from confluent_kafka import Consumer, KafkaException, Producer

OUTPUT = os.environ["BENCH_OUTPUT"]
POLL_RECORDS = 1000
POLL_WAIT_S = 0.005


class Echo:
    """Copies until ``stop`` is called."""

    def __init__(self) -> None:
        bootstrap = os.environ["BENCH_BOOTSTRAP"]
        self._running = True
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": os.environ["BENCH_GROUP"], "auto.offset.reset": "earliest"}
        )
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "delivery.report.only.error": True}
        )

    def stop(self, *_: object) -> None:
        """Finish what is in hand, then leave."""
        self._running = False

    def run(self) -> None:
        """Copy; returns after ``stop`` with everything delivered and committed."""
        self._consumer.subscribe([os.environ["BENCH_INPUT"]])
        while self._running:
            for message in self._consumer.consume(POLL_RECORDS, POLL_WAIT_S):
                if error := message.error():
                    # What is reported here the client cures by itself, unless it says that it cannot.
                    if error.fatal():
                        raise KafkaException(error)
                    sys.stderr.write(f"{error}\n")
                    continue
                self._produce(message.partition(), message.key(), message.value())
            self._producer.poll(0)
        self._producer.flush()
        self._consumer.close()

    def _produce(self, partition: int | None, key: bytes | None, value: bytes | None) -> None:
        while True:
            try:
                return self._producer.produce(OUTPUT, value, key, partition if partition is not None else -1)
            except BufferError:  # the local queue is full: let deliveries make room
                self._producer.poll(0.1)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant != "background_commit":
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers background_commit")
    echo = Echo()
    signal.signal(signal.SIGTERM, echo.stop)
    signal.signal(signal.SIGINT, echo.stop)
    echo.run()


if __name__ == "__main__":
    main()
