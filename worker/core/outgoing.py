"""What leaves the worker: scored records and dead letters, as parcels for one output partition each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from worker.core.records import Header, Parcel, Refusal, Slice, TopicPartition

RECORD_OVERHEAD_BYTES = 96
"""Room for what a record costs beside key, value and headers: batch header, lengths, offset and time deltas."""

SOURCE_HEADER_BYTES = 320
"""The ``headrace-source`` header at its longest: a topic name of 249 letters, two numbers, the header's own name."""

TRACE_HEADERS = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class Routing:
    """Where records go and what they may weigh.

    ``partitions`` and ``max_record_bytes`` are facts of the topics, read from the broker.
    """

    output_topic: str
    output_partitions: int
    output_max_bytes: int
    dead_letter_topic: str
    dead_letter_partitions: int
    dead_letter_max_bytes: int
    partitioning: Literal["source", "key"]
    passed_headers: tuple[str, ...]
    group_id: str
    model_label: str
    model_digest: str


class SourceHeaders(Sequence[list[Header]]):
    """Identity of the source record, the model's digest, and what is passed on, for each row of a slice.

    They are made when they are read, which is as the row is sent: what lives so short costs half.
    """

    def __init__(self, rows: Slice, model: Header, passed: frozenset[str]) -> None:
        self._rows = rows
        self._model = model
        self._passed = passed

    def __len__(self) -> int:
        return self._rows.stop - self._rows.start

    @overload
    def __getitem__(self, at: int) -> list[Header]: ...

    @overload
    def __getitem__(self, at: slice) -> list[list[Header]]: ...

    def __getitem__(self, at: int | slice) -> list[Header] | list[list[Header]]:
        if isinstance(at, slice):
            first, stop, _ = at.indices(len(self))
            return self._made(self._rows.start + first, self._rows.start + stop)
        first = self._rows.start + range(len(self))[at]
        return self._made(first, first + 1)[0]

    def _made(self, start: int, stop: int) -> list[list[Header]]:
        span, model, passed = self._rows.span, self._model, self._passed
        prefix = f"{span.tp.topic}/{span.tp.partition}/".encode()
        offsets = span.offsets[start:stop]
        made: list[list[Header]] = [[("headrace-source", b"%b%d" % (prefix, offset)), model] for offset in offsets]
        originals = span.headers[start:stop]
        if any(originals):
            for headers, given in zip(made, originals, strict=True):
                headers += [header for header in given if header[0] in passed]
        return made


class Dispatcher:
    """Builds parcels; ``key_partition`` is Kafka's default hash of a key onto the output topic."""

    def __init__(self, routing: Routing, key_partition: Callable[[bytes], int]) -> None:
        self._routing = routing
        self._key_partition = key_partition
        self._passed = frozenset((*routing.passed_headers, *TRACE_HEADERS))
        self._model: Header = ("headrace-model", routing.model_digest.encode())
        self._fixed_bytes = RECORD_OVERHEAD_BYTES + _weight(self._model) + SOURCE_HEADER_BYTES

    def oversize(self, rows: Slice, values: Sequence[bytes]) -> dict[int, Refusal]:
        """Refusals of the scored values that exceed what the output topic takes, by row of the slice."""
        limit, span = self._routing.output_max_bytes, rows.span
        keys, headers = span.keys[rows.start : rows.stop], span.headers[rows.start : rows.stop]
        longest = max(map(len, values)) + max(map(len, filter(None, keys)), default=0)
        if not any(headers) and longest + self._fixed_bytes <= limit:
            return {}
        refusals: dict[int, Refusal] = {}
        for index, value in enumerate(values):
            passed = sum(_weight(header) for header in headers[index] if header[0] in self._passed)
            size = len(value) + len(keys[index] or b"") + passed + self._fixed_bytes
            if size > limit:
                error = f"the output record of {size} bytes exceeds the topic's limit of {limit} bytes"
                refusals[index] = Refusal("produce", "output_oversize", error)
        return refusals

    def scored(self, rows: Slice, values: Sequence[bytes]) -> Iterable[Parcel]:
        """Parcels for the scored values of consecutive rows, each in its output partition, in order."""
        span, start, stop = rows.span, rows.start, rows.stop
        headers = SourceHeaders(rows, self._model, self._passed)
        if self._routing.partitioning == "source":
            tp = TopicPartition(self._routing.output_topic, span.tp.partition)
            return [Parcel(tp, span.keys[start:stop], list(values), headers, span.timestamps[start:stop], [rows])]
        parcels: dict[int, Parcel] = {}
        timestamps: dict[int, list[int]] = {}
        identities: dict[int, list[list[Header]]] = {}
        for at, (value, identity) in enumerate(zip(values, headers[:], strict=True), start):
            partition = self._partition_of(span.keys[at], span.tp.partition)
            parcel = parcels.get(partition)
            if parcel is None:
                tp = TopicPartition(self._routing.output_topic, partition)
                timestamps[partition], identities[partition] = [], []
                parcel = Parcel(tp, [], [], identities[partition], timestamps[partition], [])
                parcels[partition] = parcel
            parcel.keys.append(span.keys[at])
            parcel.values.append(value)
            identities[partition].append(identity)
            timestamps[partition].append(span.timestamps[at])
            parcel.origin.append(Slice(rows.block, at, at + 1))
        return parcels.values()

    def _partition_of(self, key: bytes | None, source: int) -> int:
        """The output partition under ``key`` partitioning."""
        if key is None:
            return source % self._routing.output_partitions
        return self._key_partition(key)

    def dead_letter(self, rows: Slice, refusal: Refusal, attempts: int = 1) -> Parcel:
        """The refused record for the dead-letter topic: byte-exact, or its coordinates and hash if too large."""
        span, at, routing = rows.span, rows.start, self._routing
        key, value, originals = span.keys[at], span.values[at], list(span.headers[at])
        added = self._dead_letter_headers(rows, refusal, attempts)
        size = len(value or b"") + len(key or b"") + sum(map(_weight, (*originals, *added))) + RECORD_OVERHEAD_BYTES
        if size > routing.dead_letter_max_bytes:
            error = f"{refusal.reason}: {refusal.error}; too large for the dead-letter topic"
            refusal = Refusal(refusal.stage, "oversize", error)
            added = self._dead_letter_headers(rows, refusal, attempts)
            added += [
                ("headrace-dlq-sha256", hashlib.sha256(value or b"").hexdigest().encode()),
                ("headrace-dlq-size", str(len(value or b"")).encode()),
            ]
            value = None
            if sum(map(_weight, originals)) + len(key or b"") > routing.dead_letter_max_bytes // 2:
                key, originals = None, []
        tp = TopicPartition(routing.dead_letter_topic, span.tp.partition % routing.dead_letter_partitions)
        timestamp = span.timestamps[at]
        when = timestamp if timestamp >= 0 else None
        return Parcel(tp, [key], [value], [originals + added], [when], [rows], refusal)

    def _dead_letter_headers(self, rows: Slice, refusal: Refusal, attempts: int) -> list[Header]:
        """The ``headrace-dlq-*`` headers, UTF-8 text all."""
        span, at, routing = rows.span, rows.start, self._routing
        texts = {
            "topic": span.tp.topic,
            "partition": str(span.tp.partition),
            "offset": str(span.offsets[at]),
            "timestamp": str(span.timestamps[at]),
            "stage": refusal.stage,
            "reason": refusal.reason,
            "error": refusal.error[:1024],
            "attempts": str(attempts),
            "group": routing.group_id,
            "model": f"{routing.model_label} {routing.model_digest}",
        }
        return [(f"headrace-dlq-{name}", text.encode("utf-8", "replace")) for name, text in texts.items()]


def _weight(header: Header) -> int:
    """Bytes of a header on the wire, about."""
    return len(header[0]) + len(header[1] or b"") + 4
