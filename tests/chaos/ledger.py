"""The ledger: writes the load, reads every output and dead letter, and knows what became of each record.

It shares no code with the worker and speaks to Kafka through another library. A record is known by its place in
the input (topic, partition, offset), which outputs and dead letters name in their headers, and by its number.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.chaos.account import DEAD, NOTHING, Account, Counts, Lane, Watch, complete, grow, missing
from tests.chaos.events import SCORED, Load, expected_scores
from tests.kafka.processes import wait_until

KEYS_PER_LANE = 16
PACE_S = 0.02
READ_BATCH = 5000
OVERTAKEN_RECORDS = 200
"""Records that may be finished before one in front of them, such as a dead letter before a score; with room."""

ISOLATION = {True: "read_committed", False: "read_uncommitted"}


class Ledger:
    """Writes ``rate`` records per second, dealt out to the lanes, until told to stop."""

    def __init__(self, bootstrap: str, sinks: tuple[str, str], lanes: Sequence[Lane], *, load: Load, rate: int) -> None:
        self.rate = rate
        self._bootstrap = bootstrap
        self._output, self._dead_letters = sinks
        self._load = load
        self._lanes = list(lanes)
        self._accounts: dict[Lane, Account] = {lane: Account() for lane in lanes}
        self._counts = Counts()
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._writing, self._reading = threading.Event(), threading.Event()
        self._held = threading.Event()
        self._added: list[TopicPartition] = []
        self._removed: list[TopicPartition] = []
        self._positions: dict[tuple[str, int], int] = {}
        self._renewed = False
        self._unplaced: dict[Lane, list[int]] = {}
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._seq = 0
        self.last_read_at = 0.0

    # ---- for the campaign --------------------------------------------------------------------------------

    def start(self, sink_partitions: Mapping[str, int], *, committed_only: bool) -> None:
        """Begin to write and to read."""
        self._added = [TopicPartition(topic, at, 0) for topic, count in sink_partitions.items() for at in range(count)]
        self._writing.set()
        self._reading.set()
        for target, arguments in ((self._write, ()), (self._read, (committed_only,))):
            thread = threading.Thread(target=self._guarded, args=(target, *arguments), daemon=True)
            thread.start()
            self._threads.append(thread)

    def grow(self, lanes: Sequence[Lane], sinks: Sequence[Lane]) -> None:
        """Write to these lanes too, and read these partitions of the sinks."""
        with self._lock:
            for lane in lanes:
                self._accounts[lane] = Account()
            self._lanes = [*self._lanes, *lanes]
            self._added += [TopicPartition(topic, partition, 0) for topic, partition in sinks]

    def hold(self) -> None:
        """Write nothing until ``go_on``."""
        self._held.set()

    def go_on(self) -> None:
        """Write again."""
        self._held.clear()

    def close_topic(self, topic: str, partitions: int) -> None:
        """Read no more of a topic that is about to be deleted."""
        with self._lock:
            self._removed += [TopicPartition(topic, at) for at in range(partitions)]
        wait_until(lambda: not self._removed, timeout_s=20, what=lambda: f"the ledger keeps reading {topic}")

    def open_topic(self, topic: str, partitions: int) -> None:
        """Read a topic that was created anew from its beginning, with a client that never knew the old one."""
        with self._lock:
            self._renewed = True
            self._added += [TopicPartition(topic, at, 0) for at in range(partitions)]

    def stop_writing(self) -> None:
        """End the load and wait until the brokers have all of it."""
        self._writing.clear()
        self._threads[0].join(150)
        self.check()

    def close(self) -> None:
        """End both threads."""
        self._writing.clear()
        self._reading.clear()
        for thread in self._threads:
            thread.join(30)

    def check(self) -> None:
        """Raise what ended a thread of the ledger."""
        if self._failure is not None:
            raise RuntimeError("the ledger failed") from self._failure

    def snapshot(self) -> Counts:
        """The totals so far; ``lost`` and ``wrong_fates`` are known only to ``verdict``."""
        self.check()
        with self._lock:
            counts = self._counts
            return Counts(
                **{name: getattr(counts, name) for name in Counts.__dataclass_fields__ if name != "examples"},
                examples=list(counts.examples),
            )

    def open_records(self) -> int:
        """Records that the brokers have and that have no fate yet."""
        with self._lock:
            return self._counts.written - sum(account.fates for account in self._accounts.values())

    def marks(self) -> dict[Lane, int]:
        """The end of each lane as written so far."""
        with self._lock:
            return {lane: len(account.written) for lane, account in self._accounts.items()}

    def passed(self, marks: Mapping[Lane, int]) -> bool:
        """Whether every record before the marks has a fate."""
        self.check()
        with self._lock:
            return all(complete(self._accounts[lane], mark) for lane, mark in marks.items())

    def overtaken(self, lane: Lane, mark: int) -> bool:
        """Whether records of the lane well behind the mark have fates, so that any gap before it is a loss."""
        with self._lock:
            return len(self._accounts[lane].found) > mark + OVERTAKEN_RECORDS

    def missing(self, marks: Mapping[Lane, int]) -> dict[Lane, int]:
        """Records before the marks without a fate, for the lanes that have any."""
        with self._lock:
            counts = {lane: missing(self._accounts[lane], mark) for lane, mark in marks.items()}
        return {lane: count for lane, count in counts.items() if count}

    def watch(self) -> Watch:
        """Begin to measure outages."""
        watch = Watch(time.monotonic())
        with self._lock:
            self._watches.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> float:
        """End a measurement; returns the longest outage in seconds."""
        with self._lock:
            self._watches.discard(watch)
        return watch.longest_s

    def verdict(self) -> Counts:
        """The totals, with every input looked at: its fate, and that there is exactly one kind of it."""
        self._place_all()
        counts = self.snapshot()
        with self._lock:
            for lane, account in self._accounts.items():
                self._judge(lane, account, counts)
        return counts

    def _judge(self, lane: Lane, account: Account, counts: Counts) -> None:
        for offset, seq in enumerate(account.written):
            if seq == NOTHING:
                continue
            found = account.found[offset] if offset < len(account.found) else NOTHING
            if found == NOTHING:
                counts.lost += 1
                counts.note(f"lost: record {seq} of {lane[0]}/{lane[1]} at offset {offset}")
                continue
            expected = self._load.event(seq).fate
            actual = account.reasons[offset] if found == DEAD else SCORED
            if actual != expected or found not in (DEAD, seq):
                counts.wrong_fates += 1
                counts.note(
                    f"wrong: record {seq} of {lane[0]}/{lane[1]}@{offset} is {actual} ({found}), not {expected}"
                )

    # ---- writing -----------------------------------------------------------------------------------------

    def _guarded(self, target: Any, *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:  # noqa: BLE001 - kept for check(), which raises it on the main thread
            self._failure = error

    def _write(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 0,
                "delivery.timeout.ms": 120_000,
            }
        )
        begun, sent = time.monotonic(), 0
        while self._writing.is_set():
            due = int((time.monotonic() - begun) * self.rate) - sent
            # After a broker's absence no flood of everything that was missed: at most a tenth of a second's load.
            burst = 0 if self._held.is_set() else min(due, max(1, self.rate // 10))
            sent += due
            for _ in range(burst):
                self._write_one(producer)
            producer.poll(PACE_S)
        if producer.flush(120.0):
            raise TimeoutError("the brokers did not take all of the load")

    def _write_one(self, producer: Producer) -> None:
        seq = self._seq
        self._seq += 1
        lanes = self._lanes
        topic, partition = lane = lanes[seq % len(lanes)]
        key = f"{topic}/{partition}/{seq // len(lanes) % KEYS_PER_LANE}".encode()

        def settle(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                raise RuntimeError(f"the broker refused a record of the load: {error}")
            self.wrote(lane, seq, message.offset())

        while True:
            try:
                producer.produce(
                    topic, value=self._load.event(seq).value, key=key, partition=partition, on_delivery=settle
                )
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise
                # A partition that was just added: asking for the topic lets the producer know.
                producer.list_topics(topic, timeout=5)
            else:
                return

    def wrote(self, lane: Lane, seq: int, offset: int | None) -> None:
        """The broker has the record; where, it does not say of one that it was sent twice, for want of an answer."""
        with self._lock:
            self._counts.written += 1
            if offset is None or offset < 0:
                self._unplaced.setdefault(lane, []).append(seq)
            else:
                self._accounts[lane].wrote(offset, seq)

    def _place_all(self) -> None:
        """Find the records of which the broker did not say where they are."""
        unplaced, self._unplaced = self._unplaced, {}
        if not unplaced:
            return
        consumer = self._consumer(committed_only=False)
        try:
            for lane, seqs in unplaced.items():
                _, end = consumer.get_watermark_offsets(TopicPartition(*lane), timeout=20)
                account = self._accounts[lane]
                stored = {offset: self._stored(consumer, lane, offset) for offset in account.unknown(end)}
                account.place(stored, {seq: self._load.event(seq).value for seq in seqs})
        finally:
            consumer.close()

    @staticmethod
    def _stored(consumer: Consumer, lane: Lane, offset: int) -> bytes | None:
        """The value of the record at this offset."""
        consumer.assign([TopicPartition(*lane, offset)])
        while True:
            found = consumer.consume(1, timeout=20)
            if not found:
                raise TimeoutError(f"{lane[0]}/{lane[1]} has no record at offset {offset}")
            if _is_record(found[0]):
                return found[0].value()

    # ---- reading -----------------------------------------------------------------------------------------

    def _read(self, committed_only: bool) -> None:
        consumer = self._consumer(committed_only)
        try:
            while self._reading.is_set():
                with self._lock:
                    added, self._added = self._added, []
                    renewed, self._renewed = self._renewed, False
                    if self._removed:
                        consumer.incremental_unassign(self._removed)
                        for at in self._removed:
                            self._positions.pop((at.topic, at.partition))
                        self._removed = []
                if renewed:
                    consumer.close()
                    consumer = self._consumer(committed_only)
                    added += [TopicPartition(*place, offset) for place, offset in self._positions.items()]
                if added:
                    consumer.incremental_assign(added)
                    self._positions |= {(at.topic, at.partition): at.offset for at in added}
                self._take([one for one in consumer.consume(READ_BATCH, timeout=0.05) if _is_record(one)])
        finally:
            consumer.close()

    def _consumer(self, committed_only: bool) -> Consumer:
        """A client that reads what it is assigned."""
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"ledger-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": ISOLATION[committed_only],
                "fetch.wait.max.ms": 50,
                "topic.metadata.refresh.interval.ms": 5000,
                "log_level": 0,
            }
        )

    def _take(self, messages: list[Message]) -> None:
        """Enter what was read."""
        if not messages:
            return
        scores: list[tuple[int, float]] = []
        lanes: set[Lane] = set()
        with self._lock:
            for message in messages:
                self._positions[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
                lane = self._enter(message, scores)
                if lane is not None:
                    lanes.add(lane)
            self._check_scores(scores)
            now = self.last_read_at = time.monotonic()
            for watch in self._watches:
                watch.saw(lanes, now)

    def _enter(self, message: Message, scores: list[tuple[int, float]]) -> Lane | None:
        """Enter one fate; returns its lane if it is the record's first."""
        dead = message.topic() == self._dead_letters
        given = cast("list[tuple[str, bytes | None]]", message.headers() or [])
        headers = {name: value for name, value in given if value is not None}
        lane, offset = _place(headers, dead=dead)
        account = self._accounts.get(lane)
        if account is None:
            self._counts.unidentified += 1
            self._counts.note(f"unknown source {lane} in {message.topic()}")
            return None
        found, kind = DEAD, SCORED
        if dead:
            kind = headers["headrace-dlq-stage"].decode()
            account.reasons.setdefault(offset, headers["headrace-dlq-reason"].decode())
        else:
            document = json.loads(message.value() or b"")
            found = int(document["id"])
            scores.append((found, float(document["score"])))
        return self._count(account, lane, offset, found, kind)

    def _count(self, account: Account, lane: Lane, offset: int, found: int, kind: str) -> Lane | None:
        """Enter what was found; order is kept among scores, and among the dead letters of one stage."""
        grow(account.found, offset)
        before = account.found[offset]
        if before != NOTHING:
            self._counts.repeats += 1
            if before != found:
                self._counts.wrong_fates += 1
                self._counts.note(f"two fates: {lane[0]}/{lane[1]}@{offset}: {before} and {found}")
            return None
        account.found[offset] = found
        account.fates += 1
        if found == DEAD:
            self._counts.dead_lettered += 1
        else:
            self._counts.scored += 1
        if offset < account.highest.get(kind, NOTHING):
            self._counts.out_of_order += 1
            self._counts.note(f"order: {lane[0]}/{lane[1]}@{offset} {kind} after {account.highest[kind]}")
        account.highest[kind] = max(offset, account.highest.get(kind, NOTHING))
        return lane

    def _check_scores(self, scores: list[tuple[int, float]]) -> None:
        if not scores:
            return
        numbers = np.array([seq for seq, _ in scores], np.int64)
        actual = np.array([score for _, score in scores])
        wrong = ~np.isclose(actual, expected_scores(numbers), rtol=1e-6, atol=0.0)
        if wrong.any():
            self._counts.wrong_scores += int(wrong.sum())
            self._counts.note(f"wrong score of record {numbers[wrong][0]}: {actual[wrong][0]}")


def _place(headers: Mapping[str, bytes], *, dead: bool) -> tuple[Lane, int]:
    """The lane and offset that an output or a dead letter names."""
    if dead:
        names = ("headrace-dlq-topic", "headrace-dlq-partition", "headrace-dlq-offset")
        parts = [headers[name].decode() for name in names]
    else:
        parts = headers["headrace-source"].decode().split("/")
    topic, partition, offset = parts[0], parts[1], parts[2]
    return (topic, int(partition)), int(offset)


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.retriable() or error.code() in (KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN):
        return False
    raise RuntimeError(f"the broker answered a read with an error: {error}")
