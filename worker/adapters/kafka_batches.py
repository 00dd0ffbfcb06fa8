"""Record batches as columns: what one fetch returned of one partition, parsed as it is taken.

The quick way is aiokafka's compiled parser, one call for a batch. A batch that it cannot parse is read here record by
record, so that a record nobody can read costs itself and not its neighbours.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
from aiokafka import codec
from aiokafka import errors as kafka
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

from worker.core.records import Header

_PREFIX = struct.Struct(">qi")
"""Offset and length, which begin a batch of any format."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""The header of a batch of format 2."""

_CHECKSUM = struct.Struct(">I")
"""Over all that comes behind it, in a batch of format 2."""

_CODECS = {1: codec.gzip_decode, 2: codec.snappy_decode, 3: codec.lz4_decode, 4: codec.zstd_decode}
_FORMAT = 2
_MAGIC_AT = 16
"""Where a batch of any format says which it has."""

_CODEC, _APPEND_TIME = 0x07, 0x08
_MORE_BYTES = 0x80


@dataclass(slots=True)
class Columns:
    """Records in offset order."""

    offsets: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Sequence[Header]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.offsets)

    def extend(self, other: Columns, start: int, stop: int) -> None:
        """Add rows ``[start, stop)`` of another."""
        self.offsets += other.offsets[start:stop]
        self.timestamps += other.timestamps[start:stop]
        self.keys += other.keys[start:stop]
        self.values += other.values[start:stop]
        self.headers += other.headers[start:stop]


@dataclass(frozen=True, slots=True)
class Unread:
    """A record that nobody can read, by its offset, and why."""

    offset: int
    error: str

    def __len__(self) -> int:
        return 1


class CorruptBatchError(Exception):
    """The batch that is next has a wrong checksum, or none can be made out."""


Piece = Columns | Unread


class FetchedRecords:
    """The records of one fetch from ``next_offset`` on.

    ``aborted`` are the transactions that a ``read_committed`` reader skips, as pairs of producer id and first offset;
    None for a reader of everything.
    """

    def __init__(self, raw: bytes, position: int, aborted: Sequence[tuple[int, int]] | None) -> None:
        self.next_offset = position
        self.raw = raw
        self._at = 0
        self._batches = deque(_batches(raw))
        self.end_offset = self._batches[-1].next_offset if self._batches else position
        """Where the next fetch goes on."""
        self._committed_only = aborted is not None
        self._to_abort = deque(sorted(aborted or (), key=lambda transaction: transaction[1]))
        self._aborting: set[int] = set()
        self._parsed: deque[Piece] = deque()
        self._cursor = 0
        self._illegible = bool(raw) and not self._batches

    @property
    def unread_bytes(self) -> int:
        """Bytes not parsed yet."""
        return len(self.raw) - self._at

    @property
    def done(self) -> bool:
        """Whether everything was taken."""
        return not (self._batches or self._parsed or self._illegible)

    def take(self, max_records: int) -> list[Piece]:
        """Records and unreadable ones in order, at most so many; empty only when everything was taken.

        Raises CorruptBatchError when a corrupt batch is next.
        """
        pieces: list[Piece] = []
        taken = Columns()
        room = max_records
        while room and self._more(wanted=room == max_records):
            head = self._parsed[0]
            if isinstance(head, Unread):
                self._parsed.popleft()
                self.next_offset = head.offset + 1
                pieces += [taken, head] if taken else [head]
                taken = Columns()
                room -= 1
                continue
            stop = min(len(head), self._cursor + room)
            taken.extend(head, self._cursor, stop)
            room -= stop - self._cursor
            self._cursor = stop
            self.next_offset = head.offsets[stop - 1] + 1
            if stop == len(head):
                self._parsed.popleft()
                self._cursor = 0
        if taken:
            pieces.append(taken)
        if self.done:
            self.next_offset = max(self.next_offset, self.end_offset)
        return pieces

    def give_up(self, end: int) -> list[Piece]:
        """Leave the corrupt batch that is next unread; it reaches no further than ``end``."""
        first = self.next_offset
        stop = first + 1
        if self._batches:
            batch = self._batches.popleft()
            self._at += _length(self.raw, self._at)
            # What the batch says of its reach may be what is corrupt.
            end = min(end, self._batches[0].base_offset) if self._batches else end
            stop = max(stop, min(batch.next_offset, end))
        self._illegible = False
        self.next_offset = stop
        self.end_offset = max(self.end_offset, stop)
        return [Unread(offset, "the checksum of its batch is wrong") for offset in range(first, stop)]

    def _more(self, *, wanted: bool) -> bool:
        """Parse batches until there is something to take; a corrupt one is left for a take that begins with it."""
        while not self._parsed and not self.done:
            if self._illegible or not self._is_intact(self._batches[0]):
                if wanted:
                    raise CorruptBatchError
                return False
            batch = self._batches.popleft()
            begin = self._at
            self._at += _length(self.raw, begin)
            raw = memoryview(self.raw)[begin : self._at]
            if not self._skipped(batch):
                self._parsed.extend(self._pieces(batch, raw))
        return bool(self._parsed)

    def _is_intact(self, batch: Any) -> bool:
        """Whether the next batch is what its checksum says, by the processor's instruction for it where that can be."""
        at = self._at
        if self.raw[at + _MAGIC_AT] != _FORMAT or google_crc32c.implementation != "c":
            return bool(batch.validate_crc())
        (checksum,) = _CHECKSUM.unpack_from(self.raw, at + _MAGIC_AT + 1)
        checked = self.raw[at + _MAGIC_AT + 1 + _CHECKSUM.size : at + _length(self.raw, at)]
        return bool(checksum == google_crc32c.value(checked))

    def _skipped(self, batch: Any) -> bool:
        """Whether the batch holds nothing for the reader: a marker, or records of an aborted transaction."""
        producer = batch.producer_id
        if not self._committed_only or producer is None:
            return bool(batch.is_control_batch)
        while self._to_abort and self._to_abort[0][1] <= batch.base_offset:
            self._aborting.add(self._to_abort.popleft()[0])
        if batch.is_control_batch:
            marker = next(batch, None)
            if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                self._aborting.discard(producer)
            return True
        return bool(batch.is_transactional and producer in self._aborting)

    def _pieces(self, batch: Any, raw: memoryview) -> list[Piece]:
        """The batch's records from ``next_offset`` on."""
        try:
            records = list(batch)
        except Exception as error:  # noqa: BLE001 # whatever the parser stumbles over is read again, with care
            pieces = _one_by_one(raw, batch.next_offset, error)
            return [piece for piece in pieces if _offset_of(piece) >= self.next_offset]
        columns = Columns(
            [record.offset for record in records],
            [record.timestamp for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [record.headers or () for record in records],
        )
        first = bisect_left(columns.offsets, self.next_offset)
        if first:
            later = Columns()
            later.extend(columns, first, len(records))
            columns = later
        return [columns] if columns else []


def _offset_of(piece: Piece) -> int:
    return piece.offset if isinstance(piece, Unread) else piece.offsets[0]


def _batches(raw: bytes) -> Iterator[Any]:
    """The batches that are complete; a fetch may end in the middle of one."""
    batches = MemoryRecords(raw)
    with contextlib.suppress(kafka.CorruptRecordException):
        while batches.has_next():
            yield batches.next_batch()


def _length(raw: bytes, at: int) -> int:
    """Bytes of the batch that begins at ``at``."""
    return _PREFIX.size + int(_PREFIX.unpack_from(raw, at)[1])


def _one_by_one(raw: memoryview, end: int, error: Exception) -> Iterator[Piece]:
    """Each record of a batch that the quick way cannot parse; where its structure is lost, all offsets up to ``end``.

    Only format 2 has what can fail in one record alone.
    """
    offset = int(_PREFIX.unpack_from(raw)[0])
    try:
        for piece in _parsed(raw):
            yield piece
            offset = _offset_of(piece) + 1
    except Exception as lost:  # noqa: BLE001 # it is the reason that the unread records carry
        error = lost
    for left in range(offset, end):
        yield Unread(left, f"its batch cannot be parsed: {error!r}")


def _parsed(raw: memoryview) -> Iterator[Piece]:
    """The records of a batch of format 2; raises whatever comes of broken bytes."""
    first_offset, _, _, magic, _, attributes, _, first_ms, last_ms, *_, count = _HEADER.unpack_from(raw)
    if magic != _FORMAT:
        raise ValueError(f"a batch of format {magic}")
    body = bytes(raw[_HEADER.size :])
    decompress = _CODECS.get(attributes & _CODEC)
    records = _Bytes(decompress(body) if decompress else body)
    for _ in range(count):
        piece = _record(_Bytes(records.text(records.number())), first_offset, first_ms)
        if isinstance(piece, Columns) and attributes & _APPEND_TIME:
            piece.timestamps[0] = last_ms
        yield piece


def _record(fields: _Bytes, first_offset: int, first_ms: int) -> Piece:
    """One record; its header names are the only texts in it."""
    fields.at = 1
    timestamp = first_ms + fields.number()
    offset = first_offset + fields.number()
    key, value = fields.optional(), fields.optional()
    headers: list[Header] = []
    try:
        for _ in range(fields.number()):
            name = fields.text(fields.number()).decode()
            headers.append((name, fields.optional()))
    except UnicodeDecodeError as error:
        return Unread(offset, f"a header's name is no UTF-8: {error}")
    return Columns([offset], [timestamp], [key], [value], [headers])


class _Bytes:
    """Reads numbers and texts from the front."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def number(self) -> int:
        """A zigzag number of variable length."""
        value = shift = 0
        while True:
            byte = self._raw[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < _MORE_BYTES:
                return (value >> 1) ^ -(value & 1)
            shift += 7

    def text(self, length: int) -> bytes:
        """So many bytes; IndexError when there are fewer."""
        if not 0 <= length <= len(self._raw) - self.at:
            raise IndexError(f"a record of {len(self._raw)} bytes names a part of {length}")
        self.at += length
        return self._raw[self.at - length : self.at]

    def optional(self) -> bytes | None:
        """A text with its length before it; None for length -1."""
        length = self.number()
        return None if length == -1 else self.text(length)
