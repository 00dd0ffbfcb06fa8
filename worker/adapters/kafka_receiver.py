"""Receives what a broker sends where it is handed out from, instead of through asyncio's streams.

A stream takes each byte through three buffers and wakes a task twice a message. Here the socket writes into the
message itself, and whoever waits for it is told in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

_LENGTH = struct.Struct(">i")

SMALL_BYTES = 65_536
"""Room for messages that are received together; a larger one gets a buffer of its own."""


class Receiver(asyncio.BufferedProtocol):
    """Cuts what comes into messages and gives each to ``message``, which must not raise, nor keep what it is given.

    Everything else that happens to the connection is told to the protocol that had it ``before``.
    """

    def __init__(self, before: asyncio.Protocol, message: Callable[[bytes | memoryview], None]) -> None:
        self._before = before
        self._message = message
        self._small = bytearray(SMALL_BYTES)
        self._view = memoryview(self._small)
        self._received = 0
        self._large = memoryview(bytearray())
        self._missing = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        if self._missing:
            return self._large[-self._missing :]
        return self._view[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        if not self._missing:
            self._received += nbytes
            self._cut()
            return
        self._missing -= nbytes
        if not self._missing:
            self._message(self._large)

    def _cut(self) -> None:
        """Hand out the messages that are complete, and keep the beginning of the next one."""
        at, end = 0, self._received
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._small, at)
            if length < 0:
                raise ValueError(f"a message of {length} bytes")
            begin, stop = at + _LENGTH.size, at + _LENGTH.size + length
            if stop - at > SMALL_BYTES:
                self._begin_large(length, self._view[begin:end])
                self._received = 0
                return
            if stop > end:
                break
            self._message(bytes(self._view[begin:stop]))
            at = stop
        if at:
            self._small[: end - at] = self._small[at:end]
            self._received = end - at

    def _begin_large(self, length: int, begun: memoryview) -> None:
        """Receive the rest of a message into the buffer of the last large one, if it has the room."""
        whole = self._large.obj if isinstance(self._large.obj, bytearray) else bytearray()
        if len(whole) < length:
            whole = bytearray(length)
        self._large = memoryview(whole)[:length]
        self._large[: len(begun)] = begun
        self._missing = length - len(begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._before.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """The broker sends nothing more."""
        return self._before.eof_received()

    def pause_writing(self) -> None:
        """The socket takes nothing more for now."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._before.resume_writing()
