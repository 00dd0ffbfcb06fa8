"""The receiver over bytes that come in pieces, and on a real connection of the client."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters.kafka_receiver import SMALL_BYTES, Receiver

LENGTHS = st.one_of(st.integers(0, 40), st.integers(SMALL_BYTES - 8, SMALL_BYTES + 8), st.integers(0, 3 * SMALL_BYTES))


class _Before(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)

    def eof_received(self) -> bool | None:
        self.told.append("eof")
        return None

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


def _messages(lengths: list[int]) -> list[bytes]:
    return [bytes([at % 251]) * length for at, length in enumerate(lengths, 1)]


@given(lengths=st.lists(LENGTHS, max_size=6), pieces=st.lists(st.integers(1, 2 * SMALL_BYTES), min_size=1, max_size=9))
def test_messages_come_whole_and_in_order(lengths: list[int], pieces: list[int]) -> None:
    """However they are cut on the way, and whatever their size."""
    got: list[bytes] = []
    receiver = Receiver(_Before(), lambda message: got.append(bytes(message)))
    wanted = _messages(lengths)
    sent = b"".join(struct.pack(">i", len(message)) + message for message in wanted)
    turn = 0
    while sent:
        room = receiver.get_buffer(-1)
        assert len(room) > 0
        piece = sent[: min(len(room), pieces[turn % len(pieces)])]
        room[: len(piece)] = piece
        receiver.buffer_updated(len(piece))
        sent = sent[len(piece) :]
        turn += 1
    assert got == wanted


def test_the_rest_of_a_connection_stays_with_the_protocol_before() -> None:
    """Its end, and when to write."""
    before = _Before()
    receiver = Receiver(before, lambda _message: None)
    receiver.pause_writing()
    receiver.resume_writing()
    receiver.eof_received()
    error = ConnectionResetError()
    receiver.connection_lost(error)
    assert before.told == ["pause", "resume", "eof", error]


def test_a_message_of_negative_length_is_an_error() -> None:
    """The stream is lost; asyncio ends the connection over the exception."""
    receiver = Receiver(_Before(), lambda _message: None)
    receiver.get_buffer(-1)[:4] = struct.pack(">i", -4)
    with pytest.raises(ValueError, match="-4 bytes"):
        receiver.buffer_updated(4)
