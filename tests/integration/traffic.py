"""A steady stream of readings beside a test."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.integration.readings import readings
from tests.kafka.client import KafkaClient

CHUNK = 100


class Traffic:
    """Produces readings to every partition of ``topic``, in small portions, from entry until exit."""

    def __init__(self, client: KafkaClient, topic: str) -> None:
        self.topic = topic
        self._client = client
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._produce, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _produce(self) -> None:
        try:
            partitions = self._client.partition_count(self.topic)
            sent = 0
            while not self._stop.is_set():
                self._client.produce(self.topic, readings(CHUNK, partitions=partitions, first=sent))
                sent += CHUNK
        except Exception as failure:  # noqa: BLE001 - raised again in the test's thread
            self._failure = failure
