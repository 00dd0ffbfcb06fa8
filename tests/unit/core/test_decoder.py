"""The decoder: each kind of bad record gets its reason, and good neighbours keep their tensors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.explain import MAX_DEPTH, Accepted, is_too_deep
from worker.core.features import TensorSpec
from worker.core.output import OutputEncoder
from worker.core.records import Decoded, Refusal
from worker.core.schema import SchemaError, compile_schema

PROPERTIES: dict[str, Any] = {
    "id": {"type": "string", "minLength": 1},
    "amount": {"type": "number", "minimum": 0, "maximum": 1000},
    "count": {"type": "integer"},
    "code": {"type": "string", "maxLength": 3, "pattern": "^[a-z]+$"},
    "vector": {"type": "array", "items": {"type": "number"}},
    "note": {"type": "string"},
}


def decoder(
    properties: dict[str, Any],
    *inputs: TensorSpec,
    required: tuple[str, ...] = ("id",),
    include: tuple[str, ...] = (),
    full: bool = False,
    **root: Any,
) -> Decoder:
    """A decoder over an object with these properties."""
    known = {"id": {"type": "string"}, **properties}
    schema = compile_schema({"type": "object", "properties": known, "required": list(required), **root})
    return Decoder(schema, inputs, "id", include, full=full)


def floats(*fields: str, dtype: str = "float32") -> TensorSpec:
    """An input with one column per field."""
    return TensorSpec("x", dtype, (len(fields),), fields)


def decoded(subject: Decoder, *events: Any) -> Decoded:
    """The result for these events as JSON."""
    return subject.decode([json.dumps(event).encode() for event in events])


@pytest.fixture
def standard() -> Decoder:
    """A decoder with two inputs and one included field."""
    return decoder(
        PROPERTIES,
        floats("amount", "count"),
        TensorSpec("v", "float32", (2,), ("vector",)),
        required=("id", "amount", "count", "code", "vector"),
        include=("code",),
    )


GOOD = b'{"id":"a","amount":2.5,"count":3,"code":"abc","vector":[1,2],"note":null}'


@pytest.mark.parametrize(
    ("value", "stage", "reason", "words"),
    [
        (None, "decode", "tombstone", "null"),
        (b"", "decode", "empty_value", "empty"),
        (b"\xff\xfe", "decode", "invalid_utf8", "at byte 0"),
        (GOOD.replace(b"null", b'"\xff"'), "decode", "invalid_utf8", "at byte 69"),
        (GOOD[:-1], "decode", "invalid_json", "truncated"),
        (GOOD + b"x", "decode", "invalid_json", "trailing"),
        (GOOD.replace(b"2.5", b"NaN"), "decode", "invalid_json", "not JSON"),
        (b" ", "decode", "invalid_json", "truncated"),
        (b"[1]", "decode", "not_an_object", "not an object"),
        (b"null", "decode", "not_an_object", "not an object"),
        (b"[" * 100_000, "decode", "too_deep", "500"),
        (GOOD.replace(b"null", b"[" * 600 + b"]" * 600), "decode", "too_deep", "500"),
        (GOOD.replace(b'"amount":2.5,', b""), "validate", "missing_field", "field amount is required and absent"),
        (GOOD.replace(b"2.5", b'"2.5"'), "validate", "wrong_type", "field amount must be a number, not a string"),
        (GOOD.replace(b"2.5", b'"NaN"'), "validate", "wrong_type", "field amount must be a number, not a string"),
        (GOOD.replace(b"2.5", b"null"), "validate", "wrong_type", "field amount must be a number, not null"),
        (GOOD.replace(b"2.5", b"true"), "validate", "wrong_type", "not a boolean"),
        (GOOD.replace(b"2.5", b"{}"), "validate", "wrong_type", "not an object"),
        (GOOD.replace(b":3", b":3.5"), "validate", "wrong_type", "field count must be an integer, not a number"),
        (GOOD.replace(b"2.5", b"-1"), "validate", "out_of_range", "field amount is below the minimum 0"),
        (GOOD.replace(b"2.5", b"1e400"), "validate", "out_of_range", "too large for a 64-bit float"),
        (GOOD.replace(b"2.5", b"1" * 400), "validate", "out_of_range", "too large for a 64-bit float"),
        (GOOD.replace(b":3", b":" + b"3" * 5000), "validate", "out_of_range", "more than 4300 digits"),
        (GOOD.replace(b":3", b":" + b"3" * 400), "validate", "out_of_range", "does not fit float32"),
        (GOOD.replace(b":3", b":" + b"3" * 40), "validate", "out_of_range", "does not fit float32"),
        (GOOD.replace(b"abc", b"abcd"), "validate", "wrong_length", "field code has 4 characters, at most 3"),
        (GOOD.replace(b"abc", b"ab1"), "validate", "out_of_range", "field code does not match the pattern"),
        (GOOD.replace(b"1,2", b"1"), "validate", "wrong_length", "field vector has 1 items, 2 are needed"),
        (GOOD.replace(b"1,2", b'1,"x"'), "validate", "wrong_type", "field vector[1] must be a number, not a string"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason(
    standard: Decoder, value: bytes | None, stage: str, reason: str, words: str
) -> None:
    """Stage, reason and message name the fault; the refused row is empty, its neighbours are whole."""
    result = standard.decode([GOOD, value, GOOD])
    (refusal,) = result.refusals.values()
    assert (refusal.stage, refusal.reason) == (stage, reason)
    assert words in refusal.error
    assert result.tensors[0].tolist() == [[2.5, 3], [0, 0], [2.5, 3]]
    assert result.tensors[1].tolist() == [[1, 2], [0, 0], [1, 2]]
    assert result.rows[1] is None
    assert result.rows[0] == result.rows[2]
    assert standard.explain(value) == refusal


@pytest.mark.parametrize(
    "value",
    [
        GOOD.replace(b":3", b":3.0"),
        GOOD.replace(b":3", b":30e-1"),
        GOOD.replace(b'"count":3', b'"count":"x","count":3'),
        GOOD.replace(b'"count"', b'"co\\u0075nt"'),
        b" \n" + GOOD + b" ",
        GOOD.replace(b"null", b"1e999"),
        GOOD.replace(b"null", b"7" * 5000),
        GOOD.replace(b"null", '"é"'.encode()),
        GOOD.replace(b"null", b"[" * 400 + b"]" * 400),
        GOOD.replace(b"null", b"[" + b"[1]," * 600 + b"2]"),
    ],
)
def test_unusual_but_valid_records_are_accepted(standard: Decoder, value: bytes) -> None:
    """A whole number may be written as 3.0, the last of equal keys wins, and unread fields are not judged."""
    result = standard.decode([value])
    assert result.refusals == {}
    assert result.tensors[0].tolist() == [[2.5, 3]]
    verdict = standard.explain(value)
    assert isinstance(verdict, Accepted)
    assert result.rows == [verdict.row]


def test_an_empty_span_gives_empty_tensors(standard: Decoder) -> None:
    """No records, no rows, and tensors of the right width."""
    result = standard.decode([])
    assert (result.rows, result.refusals) == ([], {})
    assert [tensor.shape for tensor in result.tensors] == [(0, 2), (0, 2)]


def test_the_interpreter_running_out_of_stack_counts_as_too_deep(
    standard: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the caller has already used up the stack, a nested value is refused instead of raising."""

    class Exhausted:
        @staticmethod
        def decode(value: bytes) -> object:
            raise RecursionError(value)

    monkeypatch.setattr("worker.core.explain._SYNTAX", Exhausted)
    verdict = standard.explain(b"[]")
    assert verdict == Refusal("decode", "too_deep", "the value nests deeper than the interpreter allows")


def test_depth_counts_brackets_outside_strings_only() -> None:
    """Brackets in texts and side by side are no nesting."""
    assert not is_too_deep(b'{"a":"' + b"[" * 1000 + b'\\"["}')
    assert not is_too_deep(b"[" + b"[]," * 1000 + b"1]")
    assert is_too_deep(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert not is_too_deep(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_full_judges_fields_that_nobody_reads() -> None:
    """The same record passes in model mode and is refused in full mode."""
    fields = {"note": {"type": "string"}, "deep": {"type": "array", "items": {"properties": {}, "type": "object"}}}
    bad, worse = {"id": "a", "note": 5}, {"id": "a", "deep": [{}, 1.5]}
    assert decoded(decoder(fields), bad, worse).refusals == {}
    refusals = decoded(decoder(fields, full=True), bad, worse, {"id": "a", "deep": [{}]}).refusals
    assert [refusal.error for refusal in refusals.values()] == [
        "field note must be a string, not an integer",
        "field deep[1] must be an object, not a number",
    ]


@pytest.mark.parametrize("bad", [set(), {0}, {127, 128}, {255, 256, 299}, set(range(128)), set(range(300))])
def test_long_spans_are_decoded_in_pieces_that_do_not_show(standard: Decoder, bad: set[int]) -> None:
    """Each record keeps its place, wherever the pieces end and whichever of them holds what is refused."""
    values = [GOOD.replace(b'"a"', b'"%d"' % at).replace(b"2.5", b"%d.5" % at) for at in range(300)]
    values = [b"bad" if at in bad else value for at, value in enumerate(values)]
    result = standard.decode(values)
    assert result.refusals.keys() == bad
    assert result.rows == [None if at in bad else (str(at), "abc") for at in range(300)]
    assert result.tensors[0][:, 0].tolist() == [0.0 if at in bad else at + 0.5 for at in range(300)]


def test_full_enforces_closed_objects() -> None:
    """With every field read, additionalProperties: false can be kept; in model mode it is a problem."""
    inner = {"type": "object", "properties": {"b": {}}, "additionalProperties": False}
    closed = decoder({"a": inner}, full=True, additionalProperties=False)
    refusals = decoded(closed, {"id": "x", "a": {"b": 1}}, {"id": "x", "c": 1}, {"id": "x", "a": {"c": 1}}).refusals
    assert {index: (refusal.reason, refusal.error) for index, refusal in refusals.items()} == {
        1: ("wrong_type", "field (the event) has a property that the schema does not allow"),
        2: ("wrong_type", "field a has a property that the schema does not allow"),
    }
    with pytest.raises(SchemaError, match="only the fields in use") as caught:
        decoder({"a": inner}, include=("a",))
    assert [problem.key for problem in caught.value.problems] == ["/properties/a/additionalProperties"]


def test_unenforceable_keywords_matter_only_in_use() -> None:
    """A field that nobody reads may carry any keyword in model mode, but not in full mode, nor when it is used."""
    fields = {"odd": {"type": "number", "multipleOf": 2}, "list": {"type": "array", "items": {"not": {}}}}
    assert decoded(decoder(fields), {"id": "a", "odd": 3}).refusals == {}
    for options in ({"full": True}, {"include": ("odd", "list")}):
        with pytest.raises(SchemaError) as caught:
            decoder(fields, **options)
        keys = {problem.key for problem in caught.value.problems}
        assert keys == {"/properties/odd/multipleOf", "/properties/list/items/not"}


def test_constraints_that_msgspec_lacks_are_enforced_too() -> None:
    """Listed numbers, constant booleans and bounds of unpacked numbers hold, at any depth."""
    fields = {
        "step": {"enum": [0.5, 1]},
        "sure": {"const": True},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}},
        "gone": {"type": ["string", "null"], "enum": [None]},
        "huge": {"enum": [2**70]},
    }
    subject = decoder(fields, include=tuple(fields))
    good = {"id": "a", "step": 1.0, "sure": True, "rows": [{"n": 3}, {}], "gone": None, "huge": 2**70}
    bad = [{**good, "step": 2}, {**good, "sure": False}, {**good, "rows": [{"n": 2}]}, {**good, "gone": "x"}]
    refusals = decoded(subject, good, *bad, {**good, "huge": 1}).refusals
    assert [refusal.reason for refusal in refusals.values()] == ["out_of_range"] * 5
    assert refusals[3].error == "field rows[0].n is below the minimum 3"


def test_included_open_values_must_be_representable() -> None:
    """An included field of any type is read, so a number beyond 64-bit floats in it is refused."""
    subject = decoder({"any": {}}, include=("any",))
    result = subject.decode([b'{"id":"a","any":[1e999]}', b'{"id":"a","any":[1, {"b": null}]}'])
    assert {index: refusal.reason for index, refusal in result.refusals.items()} == {0: "out_of_range"}
    assert OutputEncoder(subject, (), None, "m").encode(result.rows[1:], {}) == [
        b'{"id":"a","any":[1,{"b":null}],"model":"m"}'
    ]


def test_full_leaves_open_values_raw() -> None:
    """A field of any type that nobody reads is checked for syntax only."""
    subject = decoder({"any": {}, "n": {"type": "integer"}}, full=True)
    assert subject.decode([b'{"id":"a","any":[1e999],"n":1.0}']).refusals == {}


def test_equal_bounds_of_large_integers_are_exact() -> None:
    """Bounds beyond the exact range of floats are compared as integers."""
    subject = decoder({"n": {"type": "integer", "maximum": 2**53}}, floats("n", dtype="float64"))
    refusals = decoded(subject, {"id": "a", "n": 2**53}, {"id": "a", "n": 2**53 + 1}).refusals
    assert list(refusals) == [1]


def test_nested_fields_are_read_at_any_depth() -> None:
    """Dotted paths lead into objects; dots in names work too; absent and null parents count as absent fields."""
    leaf = {"type": "object", "required": ["c.d"], "properties": {"c.d": {"type": "number"}}}
    fields = {"a": {"type": ["object", "null"], "properties": {"b": leaf}}}
    subject = decoder(fields, floats("a.b.c.d"), include=("a.b.c.d",))
    result = decoded(
        subject, {"id": "x", "a": {"b": {"c.d": 4}}}, {"id": "x", "a": {}}, {"id": "x", "a": None}, {"id": "x"}
    )
    assert result.refusals == {}
    assert np.array_equal(result.tensors[0].ravel(), np.array([4, np.nan, np.nan, np.nan]), equal_nan=True)
    encoded = OutputEncoder(subject, (), None, "m").encode(result.rows, {})
    assert [json.loads(text) for text in encoded] == [
        {"id": "x", "a.b.c.d": 4, "model": "m"},
        *[{"id": "x", "model": "m"}] * 3,
    ]
    missing = decoded(subject, {"id": "x", "a": {"b": {}}}).refusals[0]
    assert missing == Refusal("validate", "missing_field", "field a.b.c.d is required and absent")


@pytest.mark.parametrize(
    ("call", "code", "words", "remedy"),
    [
        ({"include": ("amuont",)}, "unknown_field", "no field amuont", "did you mean amount?"),
        ({"include": ("risk",)}, "unknown_field", "no field risk", "did you mean merchant.risk?"),
        ({"include": ("merchant.zzz",)}, "unknown_field", "no field merchant.zzz", "merchant"),
        ({"include": ("amount.x",)}, "unknown_field", "no field amount.x", "amount"),
        ({"include": ("qqqq",)}, "unknown_field", "no field qqqq", "the schema has: amount, id"),
        ({"include": ('q"',)}, "unsupported_name", "a quote", "rename"),
        ({"id_field": "amount"}, "bad_id", "a string or an integer", "string or integer"),
        ({"id_field": "merchant.risk"}, "bad_id", "must be a string", "string or integer"),
        ({"id_field": "maybe"}, "optional_id", "may be absent or null", "required"),
        ({"id_field": "nix"}, "unknown_field", "event.id_field", "the schema has"),
    ],
)
def test_paths_that_do_not_fit_are_problems(call: dict[str, Any], code: str, words: str, remedy: str) -> None:
    """Each is named with its place and what to write instead."""
    properties = {
        "id": {"type": "string"},
        "amount": {"type": "number"},
        "maybe": {"type": "string"},
        "merchant": {"type": "object", "properties": {"risk": {"type": "number"}}},
        'q"': {"type": "string"},
    }
    schema = compile_schema({"type": "object", "properties": properties, "required": ["id", "amount"]})
    with pytest.raises(SchemaError) as caught:
        Decoder(schema, (), **{"id_field": "id", "include": (), "full": False, **call})
    (problem,) = caught.value.problems
    assert problem.code == code
    assert words in problem.message
    assert remedy in problem.remedy


def test_an_event_schema_without_fields_says_so() -> None:
    """The remedy of an unknown path lists what there is, even if that is nothing."""
    with pytest.raises(SchemaError) as caught:
        Decoder(compile_schema({"type": "object"}), (), "id", (), full=False)
    assert caught.value.problems[0].remedy == "the schema has: no fields"


def test_ids_may_be_integers() -> None:
    """An integer id is required and keeps all its digits."""
    schema = compile_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    subject = Decoder(schema, (), "n", ("n",), full=False)
    rows = decoded(subject, {"n": 2**80}).rows
    assert OutputEncoder(subject, (), None, "m").encode(rows, {}) == [b'{"n":%d,"model":"m"}' % 2**80]


def test_listed_integers_and_short_texts() -> None:
    """Values outside an integer enum and texts below minLength are refused, in features as in included fields."""
    fields = {"level": {"enum": [1, 2]}, "name": {"type": "string", "minLength": 2}}
    subject = decoder(fields, floats("level"), include=("name",))
    good = {"id": "a", "level": 1.0, "name": "ab"}
    result = decoded(subject, good, {**good, "level": 3}, {**good, "name": "a"})
    assert {index: refusal.reason for index, refusal in result.refusals.items()} == {
        1: "out_of_range",
        2: "wrong_length",
    }
    assert result.tensors[0].tolist() == [[1], [0], [0]]
