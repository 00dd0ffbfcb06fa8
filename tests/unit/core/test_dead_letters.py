"""Dead letters read back: their origin, the record's own headers, and what may be redriven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.dead_letters import REDRIVEN_HEADER, DeadLetter, Selection, hindrance, read_letter
from worker.core.outgoing import Dispatcher, Routing
from worker.core.records import Block, Decoded, Header, Parcel, Refusal, Slice, Span, TopicPartition

ROUTING = Routing("out", 1, 1000, "dlq", 1, 4096, "source", (), "group", "fraud@1.0.0", "abc123")
REFUSAL = Refusal("validate", "out_of_range", "amount is -1 é too small")


def dead_letter(headers: tuple[Header, ...] = (), value: bytes = b"{}", refusal: Refusal = REFUSAL) -> Parcel:
    """The dead letter that the worker makes of a record."""
    span = Span(TopicPartition("in", 3), 1, [17], [1234], [b"k"], [value], [headers])
    row = Slice(Block(span, Decoded((np.empty(1),), [None], {})), 0, 1)
    return Dispatcher(ROUTING, len).dead_letter(row, refusal)


def letter_with(headers: tuple[Header, ...] = (), **changes: str) -> DeadLetter:
    """A dead letter as it is read back."""
    letter = read_letter(dead_letter(headers).headers[0])
    assert letter is not None
    return replace(letter, **changes)  # type: ignore[arg-type]  # the changes are texts


def test_all_that_the_worker_wrote_is_read() -> None:
    """Origin, verdict and the record's own headers come back as they were."""
    assert letter_with((("a", b"\x00\xff"), ("a", None))) == DeadLetter(
        topic="in",
        partition=3,
        offset=17,
        timestamp_ms=1234,
        stage="validate",
        reason="out_of_range",
        error="amount is -1 é too small",
        attempts="1",
        group="group",
        model="fraud@1.0.0 abc123",
        sha256="",
        size="",
        originals=(("a", b"\x00\xff"), ("a", None)),
    )


def test_a_letter_without_its_value_has_hash_and_size() -> None:
    """Where the value was too large, hash and size are read too."""
    letter = read_letter(dead_letter((("a", b"1"),), b"x" * 5000).headers[0])
    assert letter is not None
    assert (letter.reason, letter.size, len(letter.sha256)) == ("oversize", "5000", 64)
    assert letter.originals == (("a", b"1"),)


@given(st.lists(st.sampled_from([*(name for name, _ in dead_letter().headers[0]), "own"]), max_size=24))
def test_original_headers_of_the_same_names_are_the_records_own(names: list[str]) -> None:
    """A dead letter of a dead letter: only what was appended last is the verdict."""
    originals = tuple((name, b"7") for name in names)
    letter = letter_with(originals)
    assert (letter.originals, letter.offset) == (originals, 17)


@pytest.mark.parametrize("cut", ["nothing", "first", "last", "number"])
def test_what_is_no_dead_letter_of_ours_is_told_apart(cut: str) -> None:
    """No headers, missing ones, or a coordinate that is no number: none of ours."""
    headers = dead_letter().headers[0]
    damaged = {
        "nothing": [],
        "first": headers[1:],
        "last": headers[:-1],
        "number": [headers[0], (headers[1][0], b"x"), *headers[2:]],
    }
    assert read_letter(damaged[cut]) is None


@pytest.mark.parametrize(
    ("values", "count"),
    [((), 0), ((b"2",), 2), ((b"1", b"4"), 4), ((b"x",), 0), ((None,), 0), ((b"\xb2",), 0), ((b"9" * 10,), 0)],
)
def test_redrives_are_counted_in_a_header(values: tuple[bytes | None, ...], count: int) -> None:
    """The last header of the name counts; the record redriven carries one more, and all other headers as they were."""
    letter = letter_with((("a", b"1"), *((REDRIVEN_HEADER, value) for value in values), ("b", None)))
    assert letter.redriven == count
    assert letter.headers_to_redrive() == [("a", b"1"), ("b", None), (REDRIVEN_HEADER, str(count + 1).encode())]


def test_what_must_not_be_redriven() -> None:
    """A lost value, a topic that the worker does not read, a record that came back too often."""
    assert hindrance(letter_with(), ("in",), 3) is None
    assert hindrance(letter_with(reason="oversize"), ("in",), 3) == "value_not_kept"
    assert hindrance(letter_with(reason="corrupt_record"), ("in",), 3) == "value_not_kept"
    assert hindrance(letter_with(), ("other",), 3) == "other_topic"
    assert hindrance(letter_with(((REDRIVEN_HEADER, b"2"),)), ("in",), 3) is None
    assert hindrance(letter_with(((REDRIVEN_HEADER, b"3"),)), ("in",), 3) == "redriven_too_often"


def test_a_selection_narrows_by_all_that_it_names() -> None:
    """Reason, partition and time each narrow; what is not named does not."""
    letter = letter_with()
    assert Selection().admits(letter)
    assert Selection(frozenset({"out_of_range"}), frozenset({3})).admits(letter)
    assert not Selection(frozenset({"tombstone"})).admits(letter)
    assert not Selection(partitions=frozenset({2})).admits(letter)
    assert Selection().admits(None)
    assert not Selection(frozenset({"tombstone"})).admits(None)
    assert not Selection(partitions=frozenset({2})).admits(None)
    assert Selection().admits_time(-1)
    span = Selection(since_ms=10, until_ms=20)
    assert [span.admits_time(at) for at in (9, 10, 19, 20)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("partition", "-1"),
        ("partition", "2147483648"),
        ("partition", " 3"),
        ("partition", "1_0"),
        ("partition", "\u0663"),
        ("offset", "-1"),
        ("offset", "9223372036854775808"),
        ("offset", "9" * 5000),
        ("offset", "+1"),
        ("timestamp", "-2"),
        ("timestamp", "9223372036854775808"),
    ],
)
def test_numbers_that_no_worker_writes_make_no_dead_letter(name: str, text: str) -> None:
    """A place that Kafka does not have is not redriven to, whoever wrote the headers."""
    forged = [
        (header, text.encode() if header == f"headrace-dlq-{name}" else value)
        for header, value in dead_letter().headers[0]
    ]
    assert read_letter(forged) is None


@pytest.mark.parametrize(
    ("name", "text"), [("partition", "2147483647"), ("timestamp", "-1"), ("offset", str(2**63 - 1))]
)
def test_the_widest_numbers_of_kafka_are_read(name: str, text: str) -> None:
    """The largest partition and offset, and the time of a record that has none."""
    headers = [
        (header, text.encode() if header == f"headrace-dlq-{name}" else value)
        for header, value in dead_letter().headers[0]
    ]
    letter = read_letter(headers)
    assert letter is not None
    assert text in {str(letter.partition), str(letter.offset), str(letter.timestamp_ms)}
