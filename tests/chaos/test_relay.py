"""The relay reads and writes Kafka's frames as a client library does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from io import BytesIO

import pytest
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceRequest_v8, ProduceResponse_v3, ProduceResponse_v8

from tests.chaos.relay import (
    GARBLES,
    KAFKA_STORAGE_ERROR,
    LOOPBACK,
    PRODUCE,
    Garble,
    Relay,
    offset_commit_errors,
    storage_error,
)

CORRELATION = 77
TOPICS = [("out", [(0, b"batch"), (3, b"")]), ("dead", [(1, b"other batch")])]


def framed(version: int, body: bytes) -> bytes:
    """A produce request with the header of a client named ``w``."""
    return struct.pack(">hhih", PRODUCE, version, CORRELATION, 1) + b"w" + body


def test_a_storage_error_names_every_partition_of_the_request() -> None:
    """The answer parses as a produce response that refuses each partition with KAFKA_STORAGE_ERROR."""
    for version, request, response in (
        (3, ProduceRequest_v3, ProduceResponse_v3),
        (8, ProduceRequest_v8, ProduceResponse_v8),
    ):
        answer = storage_error(framed(version, request(None, -1, 1000, TOPICS).encode()), version, CORRELATION)
        stream = BytesIO(answer)
        assert struct.unpack(">i", stream.read(4)) == (CORRELATION,)
        parsed = response.decode(stream)
        assert stream.read() == b""
        refused = [(topic, entry[0], entry[1]) for topic, entries in parsed.topics for entry in entries]
        assert refused == [(topic, index, KAFKA_STORAGE_ERROR) for topic, parts in TOPICS for index, _ in parts]


@pytest.mark.parametrize("garble", GARBLES)
def test_garbage_differs_from_the_answer(garble: Garble) -> None:
    """It is always the same of one answer, and none is the answer itself."""
    answer = struct.pack(">i", CORRELATION) + bytes(range(60))
    sent = garble(answer)
    assert sent == garble(answer)
    assert sent != struct.pack(">i", len(answer)) + answer
    assert answer[:4] in sent


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_comes_while_the_relay_stops_is_closed(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far it has got by then: the loop accepts it in one turn, hands it over in the next, and so on."""
    relay = Relay()
    close = relay._close
    with socket.create_server((LOOPBACK, 0)) as broker, socket.socket() as client:
        port = relay.add(broker.getsockname()[1])

        async def close_with_one_at_the_door() -> None:
            client.connect((LOOPBACK, port))
            for _ in range(turns):
                await asyncio.sleep(0)
            await close()

        monkeypatch.setattr(relay, "_close", close_with_one_at_the_door)
        relay.stop()
        gc.collect()
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_refused_offsets_are_found_in_an_answer_of_version_3() -> None:
    """Codes other than 0 are read out of a flexible response, through all topics and partitions."""
    partitions = [(0, 0), (1, 22), (2, 25)]
    encoded = b"".join(struct.pack(">ih", index, code) + b"\x00" for index, code in partitions)
    topic = bytes([3]) + b"in" + bytes([len(partitions) + 1]) + encoded + b"\x00"
    answer = struct.pack(">i", CORRELATION) + b"\x00" + struct.pack(">i", 0) + bytes([3]) + topic + topic + b"\x00"
    assert offset_commit_errors(answer) == [22, 25, 22, 25]


def test_an_answer_of_another_version_holds_no_codes() -> None:
    """A frame that is too short to be of version 3 is no error of the relay."""
    assert offset_commit_errors(struct.pack(">i", CORRELATION)) == []
