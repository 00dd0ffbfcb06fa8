"""Record batches as a broker would send them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from worker.core.records import Header

Record = tuple[int, int, bytes | None, bytes | None, Sequence[Header]]
"""Offset, timestamp, key, value, headers."""

CHECKSUM_AT, ATTRIBUTES_AT, LAST_DELTA_AT, PRODUCER_AT = 17, 21, 23, 43
CONTROL = 0x20
ABORT, COMMIT = 0, 1


def batch(
    records: Iterable[Record], *, codec: int = 0, producer: int = -1, transactional: bool = False, attributes: int = 0
) -> bytes:
    """One batch of format 2; ``attributes`` are added to those that the rest asks for."""
    records = list(records)
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 1 << 24)
    first = records[0][0]
    for offset, timestamp, key, value, headers in records:
        builder.append(offset - first, timestamp, key, value, list(headers))
    raw = bytearray(builder.build())
    raw[:8] = first.to_bytes(8, "big")
    raw[LAST_DELTA_AT : LAST_DELTA_AT + 4] = (records[-1][0] - first).to_bytes(4, "big")
    (given,) = struct.unpack_from(">h", raw, ATTRIBUTES_AT)
    struct.pack_into(">h", raw, ATTRIBUTES_AT, given | attributes)
    return sealed(raw)


def marker(offset: int, producer: int, kind: int) -> bytes:
    """The control batch that ends a transaction."""
    record = (offset, 0, struct.pack(">hh", 0, kind), b"", ())
    return batch([record], producer=producer, transactional=True, attributes=CONTROL)


def plain(first: int, count: int) -> list[Record]:
    """Records without anything special, with offsets from ``first``."""
    return [(at, 1000 + at, b"k%d" % at, b"v%d" % at, []) for at in range(first, first + count)]


def sealed(raw: bytearray) -> bytes:
    """With the checksum that belongs to it."""
    raw[CHECKSUM_AT:ATTRIBUTES_AT] = calc_crc32c(bytes(raw[ATTRIBUTES_AT:])).to_bytes(4, "big")
    return bytes(raw)


def broken(raw: bytes) -> bytes:
    """With a checksum that does not fit."""
    return raw[:-1] + bytes([raw[-1] ^ 0xFF])
