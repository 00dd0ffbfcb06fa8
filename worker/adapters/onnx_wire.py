"""The protobuf wire format, as much of it as an ONNX file needs: no schema, no generated code, no copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Value = int | memoryview


class WireError(Exception):
    """The bytes are not a protobuf message."""


class Message:
    """The fields of one message by number, in file order; nested messages stay bytes until they are asked for."""

    __slots__ = ("_fields",)

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[Value]] = {}
        for number, value in _fields(data):
            self._fields.setdefault(number, []).append(value)

    def messages(self, number: int) -> Iterator[Message]:
        """Every nested message under ``number``; raises ``WireError`` where one of them is damaged."""
        for value in self._fields.get(number, ()):
            yield Message(_as_bytes(value))

    def texts(self, number: int) -> list[str]:
        """Every string under ``number``; bytes that are not UTF-8 are shown, not refused."""
        return [bytes(_as_bytes(value)).decode("utf-8", "backslashreplace") for value in self._fields.get(number, ())]

    def text(self, number: int) -> str:
        """The last string under ``number``, or the empty string."""
        return (self.texts(number) or [""])[-1]

    def exact_text(self, number: int) -> str:
        """Like ``text``, but raises ``WireError`` for bytes that are not UTF-8."""
        value = (self._fields.get(number) or [memoryview(b"")])[-1]
        try:
            return bytes(_as_bytes(value)).decode()
        except UnicodeDecodeError:
            raise WireError("a text is not UTF-8") from None

    def number(self, number: int) -> int:
        """The last integer under ``number``, signed, or 0."""
        value = (self._fields.get(number) or [0])[-1]
        if not isinstance(value, int):
            raise WireError("a number is not where one belongs")
        return value - (1 << 64) if value >> 63 else value

    def has(self, number: int) -> bool:
        """Whether the message holds anything under ``number``."""
        return number in self._fields


def _as_bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise WireError("bytes are not where they belong")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag >> 32:
            raise WireError("a field number is out of range")
        value: Value
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                size, at = _varint(data, at)
            elif kind in {1, 5}:
                size = 8 if kind == 1 else 4
            else:
                raise WireError(f"wire type {kind} does not occur in ONNX")
            if at + size > end:
                raise WireError("the file ends in the middle of a message")
            value, at = data[at : at + size], at + size
        yield number, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("the file ends in the middle of a number")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, at
    raise WireError("a number is too long")
