"""What the messages that we pack ourselves share: numbers, texts, headers, and the choice of a version."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import ClassVar, NamedTuple, Self, TypeVar

from aiokafka import errors as kafka

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


class Layout:
    """One version of a request that we pack ourselves, as aiokafka's connection uses one; also its answer's parser."""

    API_KEY: ClassVar[int]
    API_VERSION: ClassVar[int]
    header = b""
    """What the message begins with. It is part of what ``encode`` returns: joined later, it would cost a copy."""
    answer: bytes | memoryview | None = None
    """The whole answer where it was received directly; the frame has its header alone then, to save a copy."""

    @property
    def RESPONSE_TYPE(self) -> Self:  # noqa: N802 # aiokafka's name
        """Who decodes the answer."""
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> Frame:
        """Key, version, correlation and client."""
        self.header = _HEADER.pack(self.API_KEY, self.API_VERSION, correlation_id) + text(client_id)
        return Frame(b"")

    def parse_response_header(self, frame: BytesIO) -> Correlation:
        """The answer's correlation id."""
        return Correlation(*INT32.unpack(frame.read(INT32.size)))

    def answered(self, frame: BytesIO) -> tuple[bytes | memoryview, int]:
        """The answer, and where it goes on behind its header."""
        return frame.getvalue() if self.answer is None else self.answer, frame.tell()


_L = TypeVar("_L", bound=Layout)


def newest(layouts: Sequence[type[_L]], versions: Mapping[int, tuple[int, int]], name: str) -> type[_L]:
    """The first of ``layouts`` that the broker speaks; raises IncompatibleBrokerVersion where it speaks none."""
    lowest, highest = versions[layouts[0].API_KEY]
    for layout in layouts:
        if lowest <= layout.API_VERSION <= highest:
            return layout
    ours = " or ".join(str(layout.API_VERSION) for layout in reversed(layouts))
    raise kafka.IncompatibleBrokerVersion(f"the broker offers {name} versions {lowest} to {highest}, not {ours}")


def text(value: str) -> bytes:
    """A text with its length before it."""
    raw = value.encode()
    return INT16.pack(len(raw)) + raw


def read_text(raw: bytes | memoryview, at: int) -> tuple[str, int]:
    """The text at ``at``, and where it ends; raises struct.error where it is cut short or has a negative length."""
    (length,) = INT16.unpack_from(raw, at)
    begin = at + INT16.size
    stop = begin + length
    if not begin <= stop <= len(raw):
        raise struct.error("a text is cut short")
    return str(raw[begin:stop], "utf-8"), stop


def number(raw: bytes | memoryview, at: int) -> tuple[int, int]:
    """The 32-bit number at ``at``, and where it ends; raises struct.error behind the end."""
    return INT32.unpack_from(raw, at)[0], at + INT32.size
