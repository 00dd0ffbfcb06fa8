"""Produce requests and answers on the wire, packed by structs, for the reason that fetches are.

Two versions are spoken: 7, and 3 for brokers before Kafka 2.1, whose requests are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

from worker.adapters.kafka_frames import INT16, INT32, Layout, newest, number, read_text, text

_API_KEY = 0
_ACKS_TIMEOUT = struct.Struct(">hi")
_PARTITION = struct.Struct(">ii")
_NULL = INT16.pack(-1)


class Produced(NamedTuple):
    """An answer as aiokafka's sender reads it: by topic, for each partition its number, error code, first offset,
    append time in milliseconds (-1: the record's own) and, in version 7, the log's start.
    """

    API_VERSION: int
    topics: list[tuple[str, list[tuple[int, ...]]]]


class Produce:
    """Writes these batches, by topic and partition; the broker answers when every in-sync replica has them."""

    API_KEY = _API_KEY
    required_acks = -1

    def __init__(
        self, transactional_id: str | None, timeout_ms: int, topics: Mapping[str, Sequence[tuple[int, bytes]]]
    ) -> None:
        self.transactional_id = transactional_id
        self.timeout_ms = timeout_ms
        self.topics = topics

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> _ProduceV3:
        """The request in the newest version that we and the broker speak; called by aiokafka's connection."""
        return newest((_ProduceV7, _ProduceV3), versions, "Produce")(self)


class _ProduceV3(Layout):
    """Version 3, as aiokafka's connection uses a request; also the parser of its answer."""

    API_KEY = _API_KEY
    API_VERSION = 3
    _PRODUCED = struct.Struct(">ihqq")

    def __init__(self, produce: Produce) -> None:
        self._produce = produce

    def encode(self) -> bytes:
        """The request."""
        produce = self._produce
        identity = _NULL if produce.transactional_id is None else text(produce.transactional_id)
        acks = _ACKS_TIMEOUT.pack(produce.required_acks, produce.timeout_ms)
        parts = [self.header, identity, acks, INT32.pack(len(produce.topics))]
        for topic, batches in produce.topics.items():
            parts += [text(topic), INT32.pack(len(batches))]
            for partition, batch in batches:
                parts += [_PARTITION.pack(partition, len(batch)), batch]
        return b"".join(parts)

    def decode(self, frame: BytesIO) -> Produced:
        """The answer; raises struct.error where it is cut short or leaves a batch out, which ends the connection."""
        raw, at = self.answered(frame)
        produced = self._PRODUCED
        topics: list[tuple[str, list[tuple[int, ...]]]] = []
        count, at = number(raw, at)
        for _ in range(count):
            topic, at = read_text(raw, at)
            partitions, at = number(raw, at)
            stop = at + max(partitions, 0) * produced.size
            topics.append((topic, list(produced.iter_unpack(memoryview(raw)[at:stop]))))
            at = stop
        number(raw, at)
        asked = {(topic, partition) for topic, batches in self._produce.topics.items() for partition, _ in batches}
        if asked != {(topic, partition) for topic, rows in topics for partition, *_ in rows}:
            # Whoever waits for the batches that are left out would wait for ever.
            raise struct.error("the answer tells of other partitions than were written to")
        return Produced(self.API_VERSION, topics)


class _ProduceV7(_ProduceV3):
    """Version 7, whose answer tells where the log starts."""

    API_VERSION = 7
    _PRODUCED = struct.Struct(">ihqqq")
