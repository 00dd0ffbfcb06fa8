"""Dead-letter headers: any list reads as a letter of ours or as foreign, and what we wrote comes back byte for byte."""

from __future__ import annotations

import json
from typing import Final

import numpy as np

from tests.fuzz.target import Target
from worker.adapters.kafka_dead_letters import Guard, Redrive, Stored, _may_go, _Sender
from worker.commands import dlq
from worker.core.dead_letters import REDRIVEN_HEADER, DeadLetter, Selection, hindrance, read_letter
from worker.core.outgoing import Dispatcher, Routing
from worker.core.records import Block, Decoded, Header, Refusal, Slice, Span, TopicPartition
from worker.telemetry.catalogue import DEAD_LETTER_REASONS

_NULL: Final = 255
_MAX_REDRIVES: Final = 3
_PARTITIONS: Final = {"in": 3, "other": 1}
_ROUTING: Final = Routing("out", 1, 1 << 20, "dlq", 2, 1 << 20, "source", (), "group", "m@1", "0" * 12)
_DISPATCHER: Final = Dispatcher(_ROUTING, len)


def check(data: bytes) -> None:
    """Reading never fails, what is read can be shown and redriven, and a letter round trip loses nothing.

    The input is a list of headers: a length and a name, a length and a value; 255 as a length is a null value.
    """
    headers = decoded(data)
    letter = read_letter(headers)
    if letter is not None:
        _check_letter(letter, headers)
    _check_shown(Stored(0, 1, 2, b"k", data, headers, letter))
    _check_round_trip(headers, data)


def decoded(data: bytes) -> tuple[Header, ...]:
    """The headers that an input stands for."""
    headers: list[Header] = []
    at = 0
    while at < len(data):
        name, at = _piece(data, at)
        value, at = _piece(data, at)
        headers.append(((name or b"").decode("utf-8", "replace"), value))
    return tuple(headers)


def _piece(data: bytes, at: int) -> tuple[bytes | None, int]:
    size = data[at] if at < len(data) else 0
    if size == _NULL:
        return None, at + 1
    return data[at + 1 : at + 1 + size], at + 1 + size


def encoded(headers: list[Header]) -> bytes:
    """The input that stands for these headers."""
    return b"".join(_encoded_piece(part) for name, value in headers for part in (name.encode(), value))


def _encoded_piece(part: bytes | None) -> bytes:
    return bytes([_NULL]) if part is None else bytes([len(part)]) + part


def _check_letter(letter: DeadLetter, headers: tuple[Header, ...]) -> None:
    """A letter has a place in Kafka, keeps the record's own headers, and goes to a partition that exists."""
    assert 0 <= letter.partition < 1 << 31, "no partition of Kafka"
    assert 0 <= letter.offset < 1 << 63, "no offset of Kafka"
    assert -1 <= letter.timestamp_ms < 1 << 63, "no time of Kafka"
    assert letter.originals == headers[: len(letter.originals)]
    assert len(headers) - len(letter.originals) in {10, 12}
    again = letter.headers_to_redrive()
    assert [header for header in letter.originals if header[0] != REDRIVEN_HEADER] == again[:-1]
    assert again[-1] == (REDRIVEN_HEADER, str(letter.redriven + 1).encode())
    stored = Stored(0, 1, 2, b"k", b"v", headers, letter)
    result = Redrive({})
    goes = _may_go(stored, Selection(), Guard(list(_PARTITIONS), _MAX_REDRIVES), _PARTITIONS, result)
    assert goes == (hindrance(letter, _PARTITIONS, _MAX_REDRIVES) is None)
    assert result.wanted.total() + result.held_back.total() == 1
    if goes:
        assert letter.redriven < _MAX_REDRIVES
        tp = _Sender(None, _PARTITIONS, result)._target(stored)
        assert 0 <= tp.partition < _PARTITIONS[tp.topic]


def _check_shown(stored: Stored) -> None:
    """``headrace dlq`` prints it, without a control character that a terminal would obey, and as JSON."""
    lines = [*dlq._letter_lines("dlq", stored)]
    assert all(character.isprintable() for line in lines for character in line), lines
    json.loads(json.dumps(dlq._fields(stored)))
    for header, value in stored.headers:
        shown = dlq._bytes_fields("value", value)
        assert json.loads(json.dumps({header: shown})) == {header: shown}


def _check_round_trip(originals: tuple[Header, ...], value: bytes) -> None:
    """The worker's own dead letter of a record with these headers reads back as it was written."""
    reason = DEAD_LETTER_REASONS[len(value) % len(DEAD_LETTER_REASONS)]
    refusal = Refusal("validate", reason, value[:40].decode("utf-8", "surrogateescape"))
    span = Span(TopicPartition("in", 2), 1, [len(value)], [-1], [value[:3]], [value], [originals])
    parcel = _DISPATCHER.dead_letter(Slice(Block(span, Decoded((np.empty(1),), [None], {})), 0, 1), refusal)
    assert (parcel.keys, parcel.values) == ([value[:3]], [value])
    letter = read_letter(parcel.headers[0])
    assert letter is not None
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp_ms) == ("in", 2, len(value), -1)
    assert (letter.reason, letter.originals) == (reason, originals)
    _check_letter(letter, tuple(parcel.headers[0]))


def _letter_headers(originals: tuple[Header, ...], **changes: str | None) -> list[Header]:
    """Headers of a dead letter, some with other texts."""
    texts = {
        "topic": "in", "partition": "2", "offset": "17", "timestamp": "1700000000000", "stage": "validate",
        "reason": "out_of_range", "error": "field a is below 0", "attempts": "1", "group": "g", "model": "m@1 0",
    }  # fmt: skip
    written = {**texts, **changes}
    return [
        *originals,
        *((f"headrace-dlq-{name}", None if text is None else text.encode()) for name, text in written.items()),
    ]


_TRACE: Final = (("traceparent", b"00-1-2-03"), ("empty", None), (REDRIVEN_HEADER, b"2"))

TARGET: Final = Target(
    "headers",
    check,
    seeds=(
        encoded(_letter_headers(())),
        encoded(_letter_headers(_TRACE)),
        encoded(_letter_headers((), sha256="0" * 64, size="5000", reason="oversize")),
        encoded(_letter_headers((), topic="other", partition="5", timestamp="-1", error="\x1b[2J")),
        encoded(_letter_headers((), partition="-5")),
        encoded(_letter_headers((), partition="1_0", offset=None)),
        encoded([*_TRACE, ("k", b"\xff\xfe")]),
        encoded(_letter_headers(tuple(_letter_headers(_TRACE)))),
    ),
    tokens=(
        *(b"\x0e%s" % name for name in (b"headrace-dlq-x", b"headrace-dlq-y")),
        *(b"-1", b"99999999999", b"\xd9\xa3", b"\xff", b"\x00", b"\x11headrace-redriven\x012", b"in", b"other"),
        *(b"9223372036854775808", b"2147483648", b"oversize", b"\x1b[", b"\xc2\x9b"),
    ),
)
