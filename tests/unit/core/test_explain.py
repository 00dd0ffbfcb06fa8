"""The last word on one record: every refusal word for word, and rows as the quick way would have made them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.explain import MAX_DEPTH, Accepted, explain, is_too_deep
from worker.core.features import TensorSpec
from worker.core.records import Refusal
from worker.core.schema import compile_schema

PROPERTIES: dict[str, Any] = {
    "id": {"type": "string"},
    "n": {"type": "number", "minimum": 0},
    "i": {"type": ["integer", "null"]},
    "b": {"type": "boolean"},
    "o": {
        "type": "object",
        "properties": {"p": {"type": "number"}, "q": {"type": "array", "items": {"type": "string"}}},
        "required": ["p"],
        "additionalProperties": False,
    },
    "any": {},
}


def decoder(*include: str, full: bool = True) -> Decoder:
    """A decoder of all fields."""
    schema = compile_schema(
        {"type": "object", "properties": PROPERTIES, "required": ["id", "n"], "additionalProperties": False}
    )
    return Decoder(schema, (TensorSpec("x", "float32", (1,), ("n",)),), "id", include, full=full)


def verdict(event: bytes | dict[str, Any] | None, *include: str) -> Accepted | Refusal:
    """What the field-by-field way says."""
    return decoder(*include).explain(json.dumps(event).encode() if isinstance(event, dict) else event)


GOOD: dict[str, Any] = {"id": "a", "n": 1}


@pytest.mark.parametrize(
    ("value", "reason", "error"),
    [
        (None, "tombstone", "the value is null"),
        (b"", "empty_value", "the value is empty"),
        (b'{"\xff"', "invalid_utf8", "the value is not UTF-8 at byte 2"),
        (b'"\xed\xa0\x80"', "invalid_utf8", "the value is not UTF-8 at byte 1"),
        (b"[" * 501, "too_deep", "the value nests deeper than 500 levels"),
        (b'{"a":' * 501, "too_deep", "the value nests deeper than 500 levels"),
        (b"[" * 500, "invalid_json", "the value is not JSON: Input data was truncated"),
        (b'{"id":"a"', "invalid_json", "the value is not JSON: Input data was truncated"),
        (b"[]", "not_an_object", "the value is JSON, but not an object"),
        (b' \t\r\n"{"', "not_an_object", "the value is JSON, but not an object"),
        (b"1", "not_an_object", "the value is JSON, but not an object"),
    ],
)
def test_a_value_that_is_no_event(value: bytes | None, reason: str, error: str) -> None:
    """Before any field is read: bytes, depth, syntax, and that it is an object."""
    assert verdict(value) == Refusal("decode", reason, error)
    assert decoder().decode([value]).refusals == {0: Refusal("decode", reason, error)}


@pytest.mark.parametrize(
    ("change", "reason", "error"),
    [
        ({"n": "1"}, "wrong_type", "field n must be a number, not a string"),
        ({"n": True}, "wrong_type", "field n must be a number, not a boolean"),
        ({"n": None}, "wrong_type", "field n must be a number, not null"),
        ({"n": [1]}, "wrong_type", "field n must be a number, not an array"),
        ({"n": {}}, "wrong_type", "field n must be a number, not an object"),
        ({"n": -1}, "out_of_range", "field n is below the minimum 0"),
        ({"n": 1e39}, "out_of_range", "field n does not fit float32"),
        ({"i": 1.5}, "wrong_type", "field i must be an integer, not a number"),
        ({"b": 0}, "wrong_type", "field b must be a boolean, not an integer"),
        ({"b": -12}, "wrong_type", "field b must be a boolean, not an integer"),
        ({"b": 0.0}, "wrong_type", "field b must be a boolean, not a number"),
        ({"b": 10**400}, "wrong_type", "field b must be a boolean, not an integer"),
        ({"id": False}, "wrong_type", "field id must be a string, not a boolean"),
        ({"o": {}}, "missing_field", "field o.p is required and absent"),
        ({"o": {"p": "x"}}, "wrong_type", "field o.p must be a number, not a string"),
        ({"o": {"p": 1, "q": ["a", 2]}}, "wrong_type", "field o.q[1] must be a string, not an integer"),
        ({"o": {"p": 1, "r": 2}}, "wrong_type", "field o has a property that the schema does not allow"),
        ({"z": 2}, "wrong_type", "field (the event) has a property that the schema does not allow"),
    ],
)
def test_a_field_that_breaks_the_schema(change: dict[str, Any], reason: str, error: str) -> None:
    """The path leads to the value at fault."""
    event = {**GOOD, **change}
    assert verdict(event) == Refusal("validate", reason, error)
    assert decoder().decode([json.dumps(event).encode()]).refusals == {0: Refusal("validate", reason, error)}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b'{"id":"a"}', "field n is required and absent"),
        (b'{"n":1}', "field id is required and absent"),
    ],
)
def test_a_field_that_is_missing(event: bytes, error: str) -> None:
    """At the top there is no path before the name."""
    assert verdict(event) == Refusal("validate", "missing_field", error)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (b"1e999", "is too large for a 64-bit float"),
        (b"-" + b"1" * 400, "is too large for a 64-bit float"),
        (b"1" * 4301, "is an integer of more than 4300 digits"),
    ],
)
def test_a_number_that_no_float_holds(number: bytes, error: str) -> None:
    """The number is named by its field, wherever it stands."""
    assert verdict(b'{"id":"a","n":%s}' % number) == Refusal("validate", "out_of_range", f"field n {error}")
    found = verdict(b'{"id":"a","n":1,"o":{"p":%s}}' % number)
    assert found == Refusal("validate", "out_of_range", f"field o.p {error}")


def test_a_large_number_in_an_open_field() -> None:
    """It matters only where the output repeats the field."""
    event = b'{"id":"a","n":1,"any":[1e999]}'
    assert isinstance(verdict(event), Accepted)
    expected = Refusal("validate", "out_of_range", "field any holds a number too large for a 64-bit float")
    assert verdict(event, "any") == expected


@pytest.mark.parametrize("include", [(), ("n", "i", "o", "any", "b")])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n": 1.0},
        {"n": 0.1, "i": None, "b": True},
        {"i": -(2**70), "b": False},
        {"i": 3},
        {"o": {"p": 1, "q": []}},
        {"o": {"p": 2.5, "q": ["a", "é"]}},
        {"any": None},
        {"any": {"x": [1, 2.5, "y"]}},
    ],
)
def test_rows_are_those_of_the_quick_way(change: dict[str, Any], include: tuple[str, ...]) -> None:
    """Values, their types, and what stands for absence agree."""
    subject = decoder(*include)
    encoded = json.dumps({**GOOD, **change}).encode()
    found = explain(encoded, subject._root, subject._packers)
    assert isinstance(found, Accepted)
    (quick,), _, _ = subject._decode_quickly([encoded])
    assert found.row == quick
    assert msgspec.json.encode(found.row) == msgspec.json.encode(quick)
    np.testing.assert_array_equal(found.vectors[0], subject.decode([encoded]).tensors[0][0])


def test_integers_may_be_written_with_a_fraction() -> None:
    """1.0 is the integer 1, to the type; in a repeated number field it stays a float."""
    found = decoder("i", "n").explain(b'{"id":"a","n":1e0,"i":2.0}')
    assert isinstance(found, Accepted)
    assert repr(found.row) == "('a', 2, 1.0)"


@pytest.mark.parametrize(
    ("value", "deep"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, False),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), True),
        (b"{" * (MAX_DEPTH + 1), True),
        (b"[{" * (MAX_DEPTH // 2) + b"}]" * (MAX_DEPTH // 2), False),
        (b"[{" * (MAX_DEPTH // 2) + b"[", True),
        (b"[]" * (MAX_DEPTH + 1), False),
        (b"{}" * (MAX_DEPTH + 1), False),
        (b'["' + b"[" * (MAX_DEPTH + 1) + b'"]', False),
        (b'["\\"' + b"[" * (MAX_DEPTH + 1) + b'"]', False),
        (b'["\n"' + b"[" * MAX_DEPTH, True),
        (b"", False),
    ],
)
def test_depth_is_counted_exactly(value: bytes, deep: bool) -> None:
    """The last level allowed passes, one more does not; brackets in strings do not count."""
    assert is_too_deep(value) is deep
