"""A TCP relay before the brokers that understands the heads of Kafka's requests.

It delays, cuts, swallows or garbles the traffic of one client, answers its produce requests with a storage error, and
springs traps: an action at a named point of the protocol, such as "offsets are in the transaction, its end is not asked
for yet". The client under test has no part in it.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

LOOPBACK = "127.0.0.1"
PRODUCE, FETCH, OFFSET_COMMIT, LEAVE_GROUP = 0, 1, 8, 13
END_TXN, TXN_OFFSET_COMMIT = 26, 28
KAFKA_STORAGE_ERROR = 56
LAST_PLAIN_PRODUCE = 8
"""The last version of the produce request without flexible fields."""

_Result = TypeVar("_Result")

Garble = Callable[[bytes], bytes]
"""Makes of an answer what goes over the wire instead, its length included."""


@dataclass(slots=True)
class Link:
    """What the relay does to the traffic of one client."""

    delay_s: float = 0.0
    cut: bool = False
    silent: bool = False
    held: frozenset[int] = frozenset()
    storage_errors: int = 0
    garbled: dict[int, list[Garble]] = field(default_factory=dict)
    """By request, what happens to the next answers."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Trap:
    """Run ``action`` when ``client`` sends request ``before``, once a response to ``after`` has gone to it.

    The request never arrives. With ``at_response`` it does, and its response is what never arrives. With ``hold`` the
    request arrives late: after ``release``.
    """

    client: str
    before: int
    action: Callable[[], None]
    after: int | None = None
    at_response: bool = False
    hold: bool = False
    primed: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)
    sprung: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.primed = self.after is None


@dataclass(slots=True, eq=False)
class _Connection:
    """One client connection and the one to the broker behind it."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    client: str = ""
    asked: dict[int, int] = field(default_factory=dict)
    dead: bool = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Relay:
    """Runs on a thread of its own; one listening port per broker."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._links: dict[str, Link] = {}
        self._traps: list[Trap] = []
        self._connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._closing = False
        self.answered_with_errors = 0
        self.refusals: Counter[int] = Counter()
        """Error codes of the brokers' answers to offsets in transactions, by partition."""
        self._thread.start()

    def add(self, upstream_port: int) -> int:
        """Relay to a port of this machine; returns the port to connect to."""
        return self._call(self._listen(upstream_port))

    def set_link(self, client: str, link: Link) -> None:
        """From now on treat the traffic of ``client`` so; a cut ends its connections."""
        self._call(self._set_link(client, link))

    def heal(self, client: str) -> None:
        """Treat the client as any other; connections that were silent are reset, as a peer that forgot them would."""
        self._call(self._heal(client))

    def arm(self, trap: Trap) -> Trap:
        """Set a trap; it springs once."""
        self._call(self._arm(trap))
        return trap

    def disarm(self, trap: Trap) -> None:
        """Take a trap away if it has not sprung."""
        self._call(self._disarm(trap))

    def release(self, trap: Trap) -> None:
        """Let the request that a trap holds go on."""
        self._call(self._release(trap))

    def stop(self) -> None:
        """Close everything."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    # ---- on the relay's thread ----------------------------------------------------------------------------

    async def _listen(self, upstream_port: int) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, upstream_port)

        server = await asyncio.start_server(accept, LOOPBACK, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _set_link(self, client: str, link: Link) -> None:
        self._links.pop(client, Link()).over.set()
        self._links[client] = link
        for connection in self._of(client):
            connection.dead |= link.silent or link.cut
            if link.cut:
                connection.abort()

    async def _heal(self, client: str) -> None:
        self._links.pop(client, Link()).over.set()
        for connection in self._of(client):
            if connection.dead:
                connection.abort()

    async def _arm(self, trap: Trap) -> None:
        self._traps.append(trap)

    async def _disarm(self, trap: Trap) -> None:
        if trap in self._traps:
            self._traps.remove(trap)

    async def _release(self, trap: Trap) -> None:
        trap.released.set()

    async def _close(self) -> None:
        self._closing = True
        for connection in list(self._connections):
            connection.abort()
        # That ends those who serve them; who comes now is turned away. A server that is closed while it accepts
        # somebody leaves that connection open.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        for server in self._servers:
            server.close()

    def _of(self, client: str) -> list[_Connection]:
        return [one for one in self._connections if one.client == client]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream_port: int) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, upstream_port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, up_writer))
        if self._closing:
            connection.abort()
            return
        self._connections.add(connection)
        ways = [
            asyncio.ensure_future(self._requests(connection, reader, up_writer)),
            asyncio.ensure_future(self._responses(connection, up_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            connection.abort()
            self._connections.discard(connection)

    async def _requests(
        self, connection: _Connection, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter
    ) -> None:
        while True:
            frame = await _frame(reader)
            api, version, correlation = struct.unpack_from(">hhi", frame)
            connection.client = _string(frame, 8)[0] or ""
            link = self._links.get(connection.client, Link())
            if link.cut:
                return
            connection.dead |= link.silent
            trap = self._sprung(connection.client, api, at_response=False)
            if trap is not None and not trap.hold:
                continue
            if trap is not None:
                await trap.released.wait()
            if api in link.held:
                await link.over.wait()
            if connection.dead:
                continue
            if link.delay_s:
                await asyncio.sleep(link.delay_s)
            if api == PRODUCE and link.storage_errors:
                link.storage_errors -= 1
                self.answered_with_errors += 1
                _send(connection.writers[0], storage_error(frame, version, correlation))
                continue
            connection.asked[correlation] = api
            _send(upstream, frame)
            await upstream.drain()

    async def _responses(
        self, connection: _Connection, reader: asyncio.StreamReader, downstream: asyncio.StreamWriter
    ) -> None:
        while True:
            frame = await _frame(reader)
            api = connection.asked.pop(int(struct.unpack_from(">i", frame)[0]), -1)
            if connection.dead or self._sprung(connection.client, api, at_response=True) is not None:
                continue
            garbled = self._links.get(connection.client, Link()).garbled.get(api)
            if garbled:
                downstream.write(garbled.pop(0)(frame))
                await downstream.drain()
                continue
            if api == TXN_OFFSET_COMMIT:
                self.refusals.update(offset_commit_errors(frame))
            _send(downstream, frame)
            await downstream.drain()
            for trap in self._traps:
                trap.primed |= trap.client == connection.client and trap.after == api

    def _sprung(self, client: str, api: int, *, at_response: bool) -> Trap | None:
        """The trap that waits for this frame; its action has run."""
        for trap in self._traps:
            if trap.primed and (trap.client, trap.before, trap.at_response) == (client, api, at_response):
                self._traps.remove(trap)
                trap.action()
                trap.sprung.set()
                return trap
        return None


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)


def noise(frame: bytes) -> bytes:
    """The answer to this request, by its correlation id, of random bytes."""
    (correlation,) = struct.unpack_from(">i", frame)
    return struct.pack(">i", len(frame)) + frame[:4] + random.Random(correlation).randbytes(len(frame) - 4)


def halved(frame: bytes) -> bytes:
    """An answer that ends in its middle, and says so in its length."""
    half = frame[: len(frame) // 2]
    return struct.pack(">i", len(half)) + half


def negative(frame: bytes) -> bytes:
    """An answer of negative length."""
    return struct.pack(">i", -len(frame)) + frame


def flipped(frame: bytes) -> bytes:
    """An answer with some bits inverted near its end: in a fetch, in the last record."""
    return struct.pack(">i", len(frame)) + frame[:-3] + bytes([frame[-3] ^ 0xFF]) + frame[-2:]


GARBLES: tuple[Garble, ...] = (noise, halved, negative, flipped)


def _string(frame: bytes, at: int) -> tuple[str | None, int]:
    """A nullable string and the position behind it."""
    (size,) = struct.unpack_from(">h", frame, at)
    if size < 0:
        return None, at + 2
    return frame[at + 2 : at + 2 + size].decode(), at + 2 + size


def storage_error(request: bytes, version: int, correlation: int) -> bytes:
    """The answer to a produce request (versions 3 to 8) that refuses every partition with KAFKA_STORAGE_ERROR."""
    if not 3 <= version <= LAST_PLAIN_PRODUCE:
        raise ValueError(f"no answer to a produce request of version {version}")
    _, at = _string(request, 8)
    _, at = _string(request, at)
    at += 6  # required acknowledgements and timeout
    (topics,) = struct.unpack_from(">i", request, at)
    at += 4
    answer = struct.pack(">ii", correlation, topics)
    for _ in range(topics):
        name, at = _string(request, at)
        (partitions,) = struct.unpack_from(">i", request, at)
        at += 4
        encoded = (name or "").encode()
        answer += struct.pack(">h", len(encoded)) + encoded + struct.pack(">i", partitions)
        for _ in range(partitions):
            index, size = struct.unpack_from(">ii", request, at)
            at += 8 + max(0, size)
            answer += struct.pack(">ihqq", index, KAFKA_STORAGE_ERROR, -1, -1)
            answer += struct.pack(">q", -1) if version >= 5 else b""
            answer += struct.pack(">ih", 0, -1) if version >= 8 else b""
    return answer + struct.pack(">i", 0)


def offset_commit_errors(response: bytes) -> list[int]:
    """The error codes other than 0 in an answer to TxnOffsetCommit, version 3; none are found in older versions."""
    try:
        return [code for code in _codes(response) if code]
    except (IndexError, struct.error):
        return []


def _codes(response: bytes) -> Iterator[int]:
    at = 4 + 1 + 4  # correlation id, no tags, throttle time
    topics, at = _varint(response, at)
    for _ in range(topics - 1):
        size, at = _varint(response, at)
        partitions, at = _varint(response, at + size - 1)
        for _ in range(partitions - 1):
            yield int(struct.unpack_from(">h", response, at + 4)[0])
            at += 4 + 2 + 1
        at += 1


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """An unsigned variable-length number and the position behind it."""
    value = shift = 0
    while True:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
