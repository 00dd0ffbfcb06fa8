"""Fetch requests and answers on the wire, packed by structs.

aiokafka describes a message as a tree of field objects and walks it for each one, which costs two to five times as
much: a good part of what a small poll costs. Two versions of the request are spoken: 11, and 4 for brokers
before Kafka 2.3. Both are sessionless.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import ClassVar, NamedTuple

from aiokafka import errors as kafka

from worker.adapters.kafka_frames import INT16, INT32, Layout, newest, number, read_text, text
from worker.core.records import TopicPartition

_API_KEY = 1
_READ_COMMITTED = 1
_LEAST_BYTES = 1
_CONSUMER, _NO_EPOCH, _NO_SESSION = -1, -1, (0, -1)

_ABORTED = struct.Struct(">qq")


class Answer(NamedTuple):
    """What a broker says of one partition; ``aborted`` are pairs of producer id and first offset."""

    error: type[kafka.KafkaError]
    end: int
    aborted: Sequence[tuple[int, int]]
    raw: bytes


class Answers(NamedTuple):
    """What a broker says: an error code of the whole request, else what it says of each partition."""

    error_code: int
    partitions: dict[TopicPartition, Answer]


class Fetch:
    """Asks for records from ``positions`` on; ``AIOKafkaClient.send`` returns its ``Answers``.

    The broker answers as soon as it has a byte, or after ``max_wait_ms``; ``max_bytes`` bounds the answer and each
    partition's part of it.
    """

    API_KEY = _API_KEY

    def __init__(
        self, positions: Mapping[TopicPartition, int], max_wait_ms: int, max_bytes: int, *, committed_only: bool
    ) -> None:
        self.positions = positions
        self.max_wait_ms = max_wait_ms
        self.max_bytes = max_bytes
        self.isolation = _READ_COMMITTED if committed_only else 0

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> _FetchV4:
        """The request in the newest version that we and the broker speak; called by aiokafka's connection."""
        return newest((_FetchV11, _FetchV4), versions, "Fetch")(self)


class _FetchV4(Layout):
    """Version 4, as aiokafka's connection uses a request; also the parser of its answer."""

    API_KEY = _API_KEY
    API_VERSION = 4
    _REQUEST = struct.Struct(">iiiib")
    _PARTITION = struct.Struct(">iqi")
    _TAIL: ClassVar[bytes] = b""
    _ANSWER = struct.Struct(">i")
    _ANSWERED = struct.Struct(">ihqqi")
    _AFTER_ABORTED: ClassVar[int] = 0

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def encode(self) -> bytes:
        """The request."""
        fetch = self._fetch
        topics: dict[str, list[bytes]] = defaultdict(list)
        for tp, position in fetch.positions.items():
            topics[tp.topic].append(self._partition(tp.partition, position))
        parts = [self.header, self._head(), INT32.pack(len(topics))]
        for topic, partitions in topics.items():
            parts += [text(topic), INT32.pack(len(partitions)), *partitions]
        parts.append(self._TAIL)
        return b"".join(parts)

    def _head(self) -> bytes:
        fetch = self._fetch
        return self._REQUEST.pack(_CONSUMER, fetch.max_wait_ms, _LEAST_BYTES, fetch.max_bytes, fetch.isolation)

    def _partition(self, partition: int, position: int) -> bytes:
        return self._PARTITION.pack(partition, position, self._fetch.max_bytes)

    def decode(self, frame: BytesIO) -> Answers:
        """The answer; raises struct.error where it is cut short or leaves a partition out: this ends the connection."""
        raw, at = self.answered(frame)
        _, *code = self._ANSWER.unpack_from(raw, at)
        at += self._ANSWER.size
        partitions: dict[TopicPartition, Answer] = {}
        topics, at = number(raw, at)
        for _ in range(topics):
            topic, at = read_text(raw, at)
            count, at = number(raw, at)
            for _ in range(count):
                partition, answer, at = self._answered(raw, at)
                partitions[TopicPartition(topic, partition)] = answer
        found = Answers(code[0] if code else 0, partitions)
        if not found.error_code and partitions.keys() != self._fetch.positions.keys():
            raise struct.error("the answer tells of other partitions than were asked for")
        return found

    def _answered(self, raw: bytes | memoryview, at: int) -> tuple[int, Answer, int]:
        """One partition's number, its answer, and where the next one begins."""
        partition, code, end, *_, aborted = self._ANSWERED.unpack_from(raw, at)
        at += self._ANSWERED.size
        transactions: list[tuple[int, int]] = []
        if aborted > 0:
            stop = at + aborted * _ABORTED.size
            transactions = list(_ABORTED.iter_unpack(memoryview(raw)[at:stop]))
            at = stop
        length, at = number(raw, at + self._AFTER_ABORTED)
        stop = at + max(length, 0)
        if stop > len(raw):
            raise struct.error("the records are cut short")
        return partition, Answer(kafka.for_code(code), end, transactions, bytes(raw[at:stop])), stop


class _FetchV11(_FetchV4):
    """Version 11: log starts, leader epochs and sessions, none of which we use; an answer names a closer replica."""

    API_VERSION = 11
    _REQUEST = struct.Struct(">iiiibii")
    _PARTITION = struct.Struct(">iiqqi")
    _TAIL = INT32.pack(0) + INT16.pack(0)
    _ANSWER = struct.Struct(">ihi")
    _ANSWERED = struct.Struct(">ihqqqi")
    _AFTER_ABORTED = INT32.size

    def _head(self) -> bytes:
        fetch = self._fetch
        return self._REQUEST.pack(
            _CONSUMER, fetch.max_wait_ms, _LEAST_BYTES, fetch.max_bytes, fetch.isolation, *_NO_SESSION
        )

    def _partition(self, partition: int, position: int) -> bytes:
        return self._PARTITION.pack(partition, _NO_EPOCH, position, -1, self._fetch.max_bytes)
