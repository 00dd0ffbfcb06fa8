"""Batches that are queued, and frames that are received, without the client's detours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason

from worker.adapters.kafka_fencing import pack_batches, queue_batch, receive_directly
from worker.adapters.kafka_frames import Layout
from worker.core.records import TopicPartition


def _accumulating(**changes: Any) -> Any:
    """A producer whose metadata has two partitions of one topic, and which takes batches."""
    taken: list[ClientPartition] = []

    def append(_builder: object, tp: ClientPartition) -> SimpleNamespace:
        taken.append(tp)
        return SimpleNamespace(future=asyncio.get_running_loop().create_future())

    parts: dict[str, Any] = {"closed": False, "exception": None, "transactional_id": None, "in_transaction": False}
    parts |= changes
    return SimpleNamespace(
        taken=taken,
        client=SimpleNamespace(
            cluster=SimpleNamespace(partitions_for_topic=lambda topic: {0, 1} if topic == "out" else None)
        ),
        _message_accumulator=SimpleNamespace(
            _closed=parts["closed"], _exception=parts["exception"], _append_batch=append
        ),
        _txn_manager=SimpleNamespace(
            transactional_id=parts["transactional_id"], is_in_transaction=lambda: parts["in_transaction"]
        ),
    )


async def test_every_answer_to_a_produce_request_is_heard() -> None:
    """Also one that tells of no batch: somebody is there. Silence is not."""
    answers = [SimpleNamespace(topics=[]), kafka.RequestTimedOutError()]
    client = SimpleNamespace(send=AsyncMock(side_effect=answers), _conns={})
    sender = SimpleNamespace(
        client=client,
        _in_flight={7},
        _muted_partitions=set(),
        _retry_backoff=0.0,
        _request_timeout_ms=1000,
        _txn_manager=SimpleNamespace(transactional_id=None),
    )
    producer: Any = SimpleNamespace(_sender=sender)
    heard: list[int] = []
    pack_batches(producer, lambda: heard.append(len(heard)))
    for _ in answers:
        sender._in_flight.add(7)
        await producer._sender._send_produce_req(7, {})
    assert heard == [0]
    assert sender._in_flight == set()


@pytest.mark.parametrize("changes", [{}, {"transactional_id": "t", "in_transaction": True}])
async def test_a_batch_that_need_not_wait_is_queued_at_once(changes: dict[str, Any]) -> None:
    """It ends with the brokers' answer."""
    producer = _accumulating(**changes)
    future = queue_batch(producer, Mock(), TopicPartition("out", 1))
    assert future is not None
    assert not future.done()
    assert producer.taken == [ClientPartition("out", 1)]


@pytest.mark.parametrize(
    ("tp", "changes"),
    [
        (TopicPartition("unknown", 0), {}),
        (TopicPartition("out", 2), {}),
        (TopicPartition("out", 0), {"closed": True}),
        (TopicPartition("out", 0), {"exception": kafka.ProducerFenced()}),
        (TopicPartition("out", 0), {"transactional_id": "t"}),
    ],
)
async def test_a_batch_that_would_wait_or_be_refused_is_left_to_the_client(
    tp: TopicPartition, changes: dict[str, Any]
) -> None:
    """Metadata that lacks, an end, a failure, no transaction: the client knows what to do about them."""
    producer = _accumulating(**changes)
    assert queue_batch(producer, Mock(), tp) is None
    assert producer.taken == []


class _Connection:
    """A connection to an echo of frames, as aiokafka's has one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader: asyncio.StreamReader | None = reader
        self._writer: asyncio.StreamWriter | None = writer
        self._requests: list[tuple[int, object]] = []
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed_with: BaseException | None = None
        self.answers: list[bytes] = []

    def _handle_frame(self, frame: bytes | memoryview) -> None:
        if bytes(frame) == b"bad":
            raise ValueError("unreadable")
        if self._requests and isinstance(layout := self._requests[0][1], Layout):
            self.answers.append(bytes(layout.answer or b""))
        self.frames.put_nowait(bytes(frame))

    def close(self, reason: object, exc: BaseException) -> None:
        assert reason is CloseReason.CONNECTION_BROKEN
        self.closed_with = exc
        self._writer = None
        self.frames.put_nowait(b"closed")

    def send(self, frame: bytes) -> None:
        assert self._writer is not None
        self._writer.write(len(frame).to_bytes(4, "big") + frame)


@pytest.fixture
async def connection() -> AsyncIterator[_Connection]:
    """Connected to a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(7):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield _Connection(reader, writer)
    writer.close()
    await writer.wait_closed()
    server.close()


def _client_with(connection: object) -> Any:
    return SimpleNamespace(_conns={(1, ConnectionGroup.DEFAULT): connection})


async def test_frames_are_received_without_the_stream(connection: _Connection) -> None:
    """From the first one after the change on, however it is cut; changing twice changes nothing."""
    receive_directly(_client_with(connection), 1)
    receive_directly(_client_with(connection), 1)
    for frame in (b"one", b"", b"x" * 100_000):
        connection.send(frame)
        assert await asyncio.wait_for(connection.frames.get(), 10) == frame


async def test_an_answer_to_what_we_packed_is_not_copied_for_the_client(connection: _Connection) -> None:
    """The client checks the header; the request has the whole, as long as it is decoded."""
    receive_directly(_client_with(connection), 1)
    layout = Layout()
    connection._requests = [(7, layout)]
    for frame in (b"head and body", b"head" + b"x" * 100_000):
        connection.send(frame)
        assert await asyncio.wait_for(connection.frames.get(), 10) == b"head"
        assert connection.answers.pop() == frame
        assert layout.answer is None


@pytest.mark.logs_errors
async def test_a_frame_that_nobody_can_read_ends_the_connection(connection: _Connection) -> None:
    """As it does with the client's own reader; what comes behind it is left alone."""
    receive_directly(_client_with(connection), 1)
    connection.send(b"bad")
    connection.send(b"more")
    assert await asyncio.wait_for(connection.frames.get(), 10) == b"closed"
    assert isinstance(connection.closed_with, ValueError)


async def test_a_stream_in_use_is_left_alone(connection: _Connection) -> None:
    """While an answer is awaited, part of it may be in the stream; without a connection there is nothing to change."""
    assert connection._writer is not None
    before = connection._writer.transport.get_protocol()
    connection._requests = [(7, object())]
    receive_directly(_client_with(connection), 1)
    receive_directly(_client_with(connection), 2)
    assert connection._writer.transport.get_protocol() is before
