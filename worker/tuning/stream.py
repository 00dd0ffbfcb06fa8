"""The two ends of a trial's stream: events go in as planned, and each output's arrival is noted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.errors import HeadraceError, Problem
from worker.tuning.brokers import Stage

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer, TopicPartition

Times = NDArray[np.float64]

_TICK_S = 0.001
_POLL_S = 0.05
_FLUSH_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 10.0
_DEAD_LETTER_S = 2.0
_AT_ONCE = 1_000
_SOURCE, _REASON = "headrace-source", "headrace-dlq-reason"


class Sender:
    """Sends events 0, 1, 2, ... of the repeated sample, in turns over the partitions, so that offsets tell numbers."""

    def __init__(self, stage: Stage, sample: Sequence[bytes]) -> None:
        from confluent_kafka import Producer

        self.sent = 0
        self.refused = 0
        self._stage = stage
        self._sample = sample
        self._producer: Producer = Producer(
            {
                **stage.client,
                "linger.ms": stage.linger_ms,
                # A record sent twice, or out of turn, would move the offsets that tell numbers.
                "enable.idempotence": True,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._note_delivery,
            }
        )

    def backlog(self, count: int) -> None:
        """Send ``count`` events as fast as possible and wait until all are acknowledged; raises HeadraceError."""
        self._send_up_to(self.sent + count)
        self.flush()

    def steadily(self, planned_at: Times) -> Times:
        """Send one event at each planned time of ``time.monotonic``, whatever becomes of them; returns when it did."""
        first, total = self.sent, len(planned_at)
        sent_at = np.full(total, np.nan)
        done = 0
        while done < total:
            now = time.monotonic()
            due = int(np.searchsorted(planned_at, now, "right"))
            self._send_up_to(first + due)
            sent_at[done:due] = now
            done = due
            self._producer.poll(0)
            time.sleep(_TICK_S)
        return sent_at

    def flush(self) -> None:
        """Wait until all that was sent is acknowledged; raises HeadraceError where the brokers refuse some."""
        left = int(self._producer.flush(_FLUSH_TIMEOUT_S)) + self.refused
        if left:
            raise HeadraceError(Problem(f"the brokers did not take {left} events", code="not_sent"))

    def _note_delivery(self, error: object, _message: object) -> None:
        self.refused += error is not None

    def _send_up_to(self, stop: int) -> None:
        topic, partitions, sample = self._stage.topics.input, self._stage.partitions, self._sample
        while self.sent < stop:
            number = self.sent
            try:
                self._producer.produce(
                    topic, sample[number % len(sample)], b"%d" % number, partition=number % partitions
                )
            except BufferError:
                self._producer.poll(0.01)
            else:
                self.sent += 1


class Outputs:
    """Counts the records of the output topic without reading them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._consumer = _consumer(stage)

    def ends(self) -> list[int]:
        """The end offset of each partition."""
        from confluent_kafka import TopicPartition

        places = [TopicPartition(self._stage.topics.output, number) for number in range(self._stage.partitions)]
        return [self._consumer.get_watermark_offsets(place, timeout=_ASK_TIMEOUT_S)[1] for place in places]

    def raise_for_dead_letter(self) -> None:
        """Raise HeadraceError with the reason of a dead letter, if there is one."""
        self._consumer.assign(_dead_letters(self._stage))
        message = self._consumer.poll(_DEAD_LETTER_S)
        if message is not None and message.error() is None:
            raise _refused_event(message)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


class Arrivals(threading.Thread):
    """Notes when the output of each event from number ``first`` on arrives, until ``stop``.

    ``at[i]`` is the time of event ``first + i`` on ``time.monotonic``, NaN before. ``failure`` is what ended it early:
    an error, or a dead letter, which a sample must not cause.
    """

    def __init__(self, stage: Stage, ends: Sequence[int], first: int, count: int) -> None:
        from confluent_kafka import TopicPartition

        super().__init__(name="arrivals", daemon=True)
        self.at = np.full(count, np.nan)
        self.arrived = 0
        self.failure: BaseException | None = None
        self._stage = stage
        self._first = first
        self._stop_asked = threading.Event()
        self._consumer = _consumer(stage)
        self._consumer.assign(
            [TopicPartition(stage.topics.output, number, end) for number, end in enumerate(ends)] + _dead_letters(stage)
        )

    def stop(self) -> None:
        """Stop reading and wait for the end."""
        self._stop_asked.set()
        self.join()

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self._stop_asked.is_set():
                first = self._consumer.poll(_POLL_S)
                if first is not None:
                    self._note([first, *self._consumer.consume(_AT_ONCE, 0)], time.monotonic())
        except BaseException as error:  # noqa: BLE001 - the main thread shows it
            self.failure = error
        finally:
            self._consumer.close()

    def _note(self, messages: list[Message], now: float) -> None:
        for message in messages:
            if message.error() is not None:
                raise HeadraceError(Problem(f"reading the outputs failed: {message.error()}", code="not_read"))
            if message.topic() != self._stage.topics.output:
                raise _refused_event(message)
            _, partition, offset = _header(message, _SOURCE).rsplit("/", 2)
            at = int(offset) * self._stage.partitions + int(partition) - self._first
            if 0 <= at < len(self.at) and np.isnan(self.at[at]):
                self.at[at] = now
                self.arrived += 1


def _consumer(stage: Stage) -> Consumer:
    """A reader outside any group."""
    from confluent_kafka import Consumer

    return Consumer(
        {
            **stage.client,
            "group.id": f"{stage.topics.output}-reader",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": stage.fetch_wait_ms,
        }
    )


def _dead_letters(stage: Stage) -> list[TopicPartition]:
    """The dead-letter topic from its start."""
    from confluent_kafka import TopicPartition

    return [TopicPartition(stage.topics.dead_letters, number, 0) for number in range(stage.partitions)]


def _refused_event(message: Message) -> HeadraceError:
    problem = Problem(
        f"the worker refused an event of the sample: {_header(message, _REASON)}",
        "take such events out of the sample, or mend the schema; headrace check and dlq show tell more",
        key="--sample",
        code="sample",
    )
    return HeadraceError(problem)


def _header(message: Message, name: str) -> str:
    """The text of a header; empty without it."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    value = dict(pairs).get(name)
    return value.decode() if isinstance(value, bytes) else value or ""
