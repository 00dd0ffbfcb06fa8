"""What the messages that we pack ourselves share: numbers, texts, and the headers of request and answer."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import NamedTuple

INT16, INT32 = struct.Struct(">h"), struct.Struct(">i")
_HEADER = struct.Struct(">hhi")


class Frame(NamedTuple):
    """Packed bytes, as what aiokafka's connection encodes."""

    raw: bytes

    def encode(self) -> bytes:
        """The bytes."""
        return self.raw


class Correlation(NamedTuple):
    """The header of an answer."""

    correlation_id: int

    @classmethod
    def read(cls, frame: BytesIO) -> Correlation:
        """From the front of the frame."""
        return cls(*INT32.unpack(frame.read(INT32.size)))


def header(key: int, version: int, correlation_id: int, client_id: str) -> Frame:
    """The header of a request, before flexible versions."""
    return Frame(_HEADER.pack(key, version, correlation_id) + text(client_id))


def text(value: str) -> bytes:
    """A text with its length before it."""
    raw = value.encode()
    return INT16.pack(len(raw)) + raw


def number(raw: bytes, at: int) -> tuple[int, int]:
    """The 32-bit number at ``at``, and where it ends; raises struct.error behind the end."""
    return INT32.unpack_from(raw, at)[0], at + INT32.size
