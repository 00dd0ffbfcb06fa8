"""The two ends of the demo's stream, each on a thread: records go in at a steady rate, results are read back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from worker.demo import events
from worker.demo.faults import FAULT_HEADER

if TYPE_CHECKING:
    from worker.demo.cluster import MockCluster
    from worker.demo.ledger import Ledger
    from worker.demo.simulator import Transactions

_CHUNK = 256
_TICK_S = 0.001
_POLL_S = 0.05
_LAST_POLL_S = 0.3


class Feed(threading.Thread):
    """Sends the transactions, and the ledger's faults among them, at ``rate`` per second until ``stop`` or the end.

    The schedule does not wait for the worker. Where this machine cannot hold the rate, it stops after as much time
    as the rate would have needed.
    """

    def __init__(
        self,
        cluster: MockCluster,
        topic: str,
        transactions: Transactions,
        ledger: Ledger,
        rate: float,
    ) -> None:
        super().__init__(name="feed", daemon=True)
        self.started_at = 0.0
        self.failure: BaseException | None = None
        self._cluster = cluster
        self._topic = topic
        self._transactions = transactions
        self._ledger = ledger
        self._rate = rate
        self._stop_asked = threading.Event()
        self._chunk: list[tuple[bytes, bytes]] = []
        self._chunk_start = 0

    def stop(self) -> None:
        """Send nothing more; ``join`` afterwards."""
        self._stop_asked.set()

    def run(self) -> None:
        """The thread's work."""
        try:
            self._send_all()
        except BaseException as error:  # noqa: BLE001 - the main thread shows it
            self.failure = error

    def _send_all(self) -> None:
        total = len(self._transactions)
        self.started_at = time.perf_counter()
        ends_at = self.started_at + total / self._rate
        number = 0
        while number < total and not self._stop_asked.is_set():
            now = time.perf_counter()
            due = min(total, int((now - self.started_at) * self._rate) + 1)
            while number < due:
                self._send(number)
                number += 1
            self._cluster.serve()
            if now > ends_at:
                break
            time.sleep(_TICK_S)

    def _send(self, number: int) -> None:
        faults, sent = self._ledger.faults, self._ledger.faults_sent
        if sent < len(faults) and faults[sent].before <= number:
            self._ledger.sent_fault()
            self._cluster.send(
                self._topic,
                faults[sent].key,
                faults[sent].value,
                [(FAULT_HEADER, b"%d" % sent)],
            )
        if number >= self._chunk_start + len(self._chunk):
            part = self._transactions.part(slice(number, number + _CHUNK))
            self._chunk = list(zip(events.keys(part), events.encode(part, number), strict=True))
            self._chunk_start = number
        key, value = self._chunk[number - self._chunk_start]
        self._ledger.sent_event(number, time.perf_counter())
        self._cluster.send(self._topic, key, value, [])


class Readback(threading.Thread):
    """Reads the output and the dead-letter topic into the ledger until ``stop``."""

    def __init__(
        self,
        cluster: MockCluster,
        output: str,
        dead_letters: str,
        partitions: int,
        ledger: Ledger,
    ) -> None:
        super().__init__(name="readback", daemon=True)
        self.failure: BaseException | None = None
        self._consumer = cluster.reader({output: partitions, dead_letters: partitions})
        self._output = output
        self._ledger = ledger
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """Stop once nothing more arrives; ``join`` afterwards."""
        self._stop_asked.set()

    def run(self) -> None:
        """The thread's work."""
        try:
            while self._read() or not self._stop_asked.is_set():
                pass
        except BaseException as error:  # noqa: BLE001 - the main thread shows it
            self.failure = error
        finally:
            self._consumer.close()

    def _read(self) -> int:
        """Note everything that has arrived, waiting a little for the first record; returns how many."""
        first = self._consumer.poll(_LAST_POLL_S if self._stop_asked.is_set() else _POLL_S)
        messages = [] if first is None else [first, *self._consumer.consume(1_000, 0)]
        now = time.perf_counter()
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(f"reading back from the mock cluster failed: {message.error()}")
            if message.topic() == self._output:
                self._ledger.received_score(message.value(), now)
            else:
                headers = message.headers() or []
                pairs = list(headers.items()) if isinstance(headers, dict) else headers
                self._ledger.received_dead_letter(message.key(), message.value(), pairs)
        return len(messages)
