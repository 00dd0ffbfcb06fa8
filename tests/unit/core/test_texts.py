"""Numbers inside texts: exact values, and why a text holds none, word for word."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.texts import FloatPacker, Unusable, bytes_from_base64, number_from, numbers_from_csv, seconds_from_time

TOO_LARGE = "is too large for a 64-bit float"
NO_TIME = "is not an RFC 3339 time with offset"
NO_CALENDAR = "is a time that no calendar has"


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Reason and phrase of the refusal."""
    with pytest.raises(Unusable) as caught:
        call()
    assert str(caught.value) == caught.value.text
    return caught.value.reason, caught.value.text


@pytest.mark.parametrize(
    ("text", "integer", "value"),
    [
        ("1", True, 1),
        ("1", False, 1.0),
        ("-1", True, -1),
        ("1.0", True, 1),
        ("1.5", False, 1.5),
        ("25e-1", False, 2.5),
        ("1e3", True, 1000),
        ("9007199254740993", True, 2**53 + 1),
        ("9007199254740993", False, 2.0**53),
        ("9" * 4300, True, int("9" * 4300)),
    ],
)
def test_a_number_keeps_value_and_type(text: str, integer: bool, value: float) -> None:
    """Integers stay exact, everything else is a 64-bit float."""
    found = number_from(text, integer=integer)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "integer", "reason", "words"),
    [
        ("1e999", False, "out_of_range", TOO_LARGE),
        ("-1e999", True, "out_of_range", TOO_LARGE),
        ("1" * 400, False, "out_of_range", TOO_LARGE),
        ("1.5", True, "wrong_type", "must be an integer, not a number"),
        ("9" * 4301, True, "out_of_range", "is an integer of more than 4300 digits"),
        ("9" * 4301, False, "out_of_range", "is an integer of more than 4300 digits"),
    ],
)
def test_a_number_that_is_none(text: str, integer: bool, reason: str, words: str) -> None:
    """Overflow, fractions and endless digits are told apart."""
    assert refusal(lambda: number_from(text, integer=integer)) == (reason, words)


@pytest.mark.parametrize(
    ("text", "integer", "values"),
    [
        ("", False, []),
        (",", False, []),
        ("1", False, [1.0]),
        (" 1 ,\t2.5\r\n, -3e1 , ", False, [1.0, 2.5, -30.0]),
        ("1,2.0,3e1", True, [1, 2, 30]),
        (f"{2**53 + 1}", True, [2**53 + 1]),
        (f"1,{2**64}", False, [1.0, 2.0**64]),
        (f"1,{'1' * 300}", False, [1.0, float("1" * 300)]),
    ],
)
def test_csv_keeps_values_and_types(text: str, integer: bool, values: list[Any]) -> None:
    """Blanks as JSON has them and one comma at the end are fine."""
    found = numbers_from_csv(text, integer=integer)
    assert [(value, type(value)) for value in found] == [(value, type(value)) for value in values]


@pytest.mark.parametrize(
    ("text", "integer", "reason", "words"),
    [
        ("1,NaN", False, "not_finite", "holds NaN or infinity at position 1"),
        ("-inf", False, "not_finite", "holds NaN or infinity at position 0"),
        ("1,2, +Infinity", False, "not_finite", "holds NaN or infinity at position 2"),
        ("1,x", False, "wrong_type", "holds something other than a number at position 1"),
        ("1,,2", False, "wrong_type", "holds something other than a number at position 1"),
        (",,", False, "wrong_type", "holds something other than a number at position 0"),
        ("+1", False, "wrong_type", "holds something other than a number at position 0"),
        ("1\x0b,2", False, "wrong_type", "holds something other than a number at position 0"),
        ("1,\xa02", False, "wrong_type", "holds something other than a number at position 1"),
        (".5", False, "wrong_type", "holds something other than a number at position 0"),
        ("01", True, "wrong_type", "holds something other than a number at position 0"),
        ("true", False, "wrong_type", "holds something other than a number at position 0"),
        ("2,1e999", False, "out_of_range", f"at position 1 {TOO_LARGE}"),
        ("2,1.5", True, "wrong_type", "at position 1 must be an integer, not a number"),
    ],
)
def test_csv_that_is_none(text: str, integer: bool, reason: str, words: str) -> None:
    """The first entry at fault is named by its position."""
    assert refusal(lambda: numbers_from_csv(text, integer=integer)) == (reason, words)


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.text(alphabet='0123456789.eE+-[]{}" ,tnNI', max_size=6),
)


@given(st.lists(NUMBERS, max_size=6).map(",".join))
def test_packed_numbers_are_those_read_one_by_one(text: str) -> None:
    """Packing may refuse a text, but never reads other numbers out of it, whatever it read before."""
    packer = FloatPacker()
    for known in ("1,x", "1,[2]", "1,2.5"):
        with contextlib.suppress(Unusable):
            packer.packed(known)
    try:
        packed = packer.packed(text)
    except Unusable:
        return
    assert list(struct.unpack(f"={len(packed) // 8}d", packed)) == numbers_from_csv(text, integer=False)


def test_plain_numbers_are_packed() -> None:
    """They do not take the long way, not even after a text that had to."""
    packer = FloatPacker()
    for text in ("1,[2]", "1,true", "1" * 30, "\ud800"):
        with pytest.raises(Unusable):
            packer.packed(text)
    assert packer.packed(" 1, -2.5e0 ,") == struct.pack("=2d", 1, -2.5)


@pytest.mark.parametrize(
    ("text", "raw"), [("", b""), ("AAAA", b"\0\0\0"), ("AA==", b"\0"), ("AAE=", b"\0\1"), ("+/+/", b"\xfb\xff\xbf")]
)
def test_base64_is_decoded(text: str, raw: bytes) -> None:
    """The standard alphabet, padded."""
    assert bytes_from_base64(text) == raw


@pytest.mark.parametrize(
    "text", ["A", "AAA", "AA=", "A===", "AA===", "AAAA====", "AA\nA", "AA A", "-_-_", "é" * 4, "====", "AAAAA==="]
)
def test_base64_that_is_none(text: str) -> None:
    """Padding, blanks and other alphabets are not guessed at."""
    assert refusal(lambda: bytes_from_base64(text)) == ("wrong_type", "is not base64")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t00:00:00z", 0.0),
        ("1970-01-01 00:00:01.25+00:00", 1.25),
        ("1970-01-01T01:30:00+01:30", 0.0),
        ("1969-12-31T22:00:00-02:00", 0.0),
        ("1972-06-30T23:59:60Z", 78796800.0),
        ("1972-06-30T23:59:59Z", 78796799.0),
        ("1972-06-30T23:59:60.5Z", 78796800.5),
        ("2024-02-29T12:34:56.123456Z", 1709210096.123456),
    ],
)
def test_a_time_is_counted_from_1970(text: str, seconds: float) -> None:
    """Offset, fraction and leap second count."""
    assert seconds_from_time(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("", "wrong_type", NO_TIME),
        ("2024-01-01T00:00:00", "wrong_type", NO_TIME),
        ("2024-01-01T00:00Z", "wrong_type", NO_TIME),
        ("2024-01-01T00:00:00.Z", "wrong_type", NO_TIME),
        ("2024-01-01T00:00:00+01", "wrong_type", NO_TIME),
        ("2024-01-01T00:00:00Z ", "wrong_type", NO_TIME),
        ("2024-01-01_00:00:00Z", "wrong_type", NO_TIME),
        ("24-01-01T00:00:00Z", "wrong_type", NO_TIME),
        ("2024-13-01T00:00:00Z", "out_of_range", NO_CALENDAR),
        ("2024-01-01T24:00:01Z", "out_of_range", NO_CALENDAR),
        ("2024-01-01T00:00:61Z", "out_of_range", NO_CALENDAR),
        ("2024-01-01T00:00:00+24:00", "out_of_range", NO_CALENDAR),
    ],
)
def test_a_time_that_is_none(text: str, reason: str, words: str) -> None:
    """What is not written as a time is told from a time that does not exist."""
    assert refusal(lambda: seconds_from_time(text)) == (reason, words)


@pytest.mark.parametrize("text", ["1,null", "1,true", '1,"2"', "1,{}"])
def test_a_text_that_is_refused_holds_up_none_behind_it(text: str) -> None:
    """Not even while somebody holds its error, and with that the frames it came through."""
    packer = FloatPacker()
    with pytest.raises(Unusable) as held:
        packer.packed(text)
    assert packer.packed("1,2") == struct.pack("=2d", 1, 2)
    assert held.value.__traceback__ is not None
