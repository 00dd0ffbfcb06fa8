"""Whatever the bytes: each record ends as one tensor row or one refusal, alone as among neighbours."""

from __future__ import annotations

import base64
import json
from datetime import UTC
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.core.decoder import Decoder
from worker.core.explain import Accepted
from worker.core.features import DecisionSpec, OutputSpec, TensorSpec
from worker.core.output import OutputEncoder
from worker.core.records import Decoded
from worker.core.schema import compile_schema

SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["id", "amount", "count", "vector", "merchant", "text", "raw", "when", "kind"],
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 8},
        "amount": {"type": "number", "minimum": 0, "exclusiveMaximum": 1000},
        "count": {"type": "integer", "minimum": -5, "maximum": 2**40},
        "ratio": {"type": ["number", "null"], "default": 0.25},
        "gap": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "flag": {"type": "boolean", "default": False},
        "level": {"enum": [1, 2, 3], "default": 2},
        "step": {"type": "number", "enum": [0.5, 1, 2.5], "default": 1},
        "vector": {"type": "array", "items": {"type": "number", "minimum": -1}, "minItems": 1},
        "matrix": {"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}, "default": None},
        "merchant": {
            "type": "object",
            "required": ["risk"],
            "properties": {
                "risk": {"type": "number"},
                "code": {"type": "string", "pattern": "^[a-z]+$"},
                "place": {"type": ["object", "null"], "properties": {"far": {"type": "number"}}},
            },
        },
        "text": {"type": "string"},
        "raw": {"type": "string"},
        "when": {"type": "string", "format": "date-time"},
        "kind": {"type": "string", "enum": ["chip", "swipe"]},
        "anything": {},
        "unread": {"type": "integer", "minimum": 3},
        "big": {"type": "integer"},
    },
}
del SCHEMA["properties"]["matrix"]["default"]  # type: ignore[index]

INPUTS = (
    TensorSpec(
        "floats",
        "float32",
        (9,),
        ("amount", "count", "ratio", "gap", "flag", "level", "step", "merchant.risk", "merchant.place.far"),
    ),
    TensorSpec("integers", "int8", (3,), ("count", "level", "flag")),
    TensorSpec("vector", "float16", (3,), ("vector",)),
    TensorSpec("mixed", "float64", (2, 2), ("vector", "amount")),
    TensorSpec("text", "float32", (2,), ("text",), "csv"),
    TensorSpec("raw", "float32", (2,), ("raw",), "base64"),
    TensorSpec("when", "int64", (), ("when",), "epoch_s"),
    TensorSpec("kind", "string", (1,), ("kind",)),
    TensorSpec("big", "uint64", (1,), ("big",)),
)
INCLUDE = ("id", "ratio", "merchant", "anything", "amount", "vector", "merchant.place.far", "big")

VALID: dict[str, Any] = {
    "id": "a-1",
    "amount": 12.5,
    "count": 7,
    "ratio": None,
    "flag": True,
    "step": 2.5,
    "vector": [1.5, 2, 3],
    "merchant": {"risk": 0.5, "code": "abc", "place": {"far": 3}, "unknown": [1]},
    "text": "1.5,2",
    "raw": base64.b64encode(np.array([1, 2], "<f4").tobytes()).decode(),
    "when": "2024-02-29T12:00:00.5+02:00",
    "kind": "chip",
    "anything": [1, {"a": None}],
    "unread": 5,
    "big": 2**63,
}


def _decoder(*, full: bool) -> Decoder:
    return Decoder(compile_schema(SCHEMA), INPUTS, "id", INCLUDE, full=full)


numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, -1, 1.0, 0.5, 1000, 999.9999, 1e39, 70000.0, 2**53 + 1, 2**63, 2**64, 10**400, -0.0]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(
    numbers,
    st.none(),
    st.booleans(),
    st.text(max_size=12),
    st.sampled_from(["chip", "abc", "abc\n", "1,2,", "1,nan", "1e999,1", " 1 , 2 ", "AAAAAAAAgD8=", "AADAfwAAgD8="]),
    st.sampled_from(["2024-02-30T12:00:00Z", "2016-12-31T23:59:60Z", "2024-02-29t12:00:00z", "2024-02-29"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
names = st.sampled_from([*VALID, "gap", "level", "matrix"])
plausible: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["amount", "count", "ratio", "gap", "level", "step", "unread", "big"], numbers | st.none()),
    "vector": st.lists(numbers, min_size=3, max_size=3),
    "matrix": st.lists(st.lists(numbers | st.none(), max_size=2), max_size=2),
    "text": st.lists(numbers, min_size=2, max_size=2).map(lambda pair: ", ".join(map(json.dumps, pair))),
    "raw": st.binary(min_size=8, max_size=8).map(lambda raw: base64.b64encode(raw).decode()),
    "when": st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat()),
    "merchant": st.fixed_dictionaries(
        {"risk": numbers}, optional={"place": st.none() | st.fixed_dictionaries({}, optional={"far": numbers})}
    ),
    "anything": values,
    "kind": st.sampled_from(["chip", "swipe", "other"]),
}
likely_events = st.fixed_dictionaries({}, optional=plausible).map(lambda changes: {**VALID, **changes})
events = st.builds(
    lambda changes, nested, dropped: {
        key: value
        for key, value in {**VALID, "merchant": {**VALID["merchant"], **nested}, **changes}.items()
        if key not in dropped
    },
    st.dictionaries(names, values, max_size=2),
    st.dictionaries(st.sampled_from(["risk", "code", "place"]), values, max_size=1),
    st.sets(names, max_size=1),
)
encoded_events = (events | likely_events).map(lambda event: json.dumps(event).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid event with a few bytes cut, replaced or repeated."""
    value = draw(encoded_events)
    start = draw(st.integers(0, len(value)))
    stop = draw(st.integers(start, min(len(value), start + 6)))
    return value[:start] + draw(st.binary(max_size=3)) + value[stop:]


@st.composite
def doubled(draw: st.DrawFn) -> bytes:
    """An event in which a key stands twice."""
    value = draw(encoded_events)
    pair = json.dumps({draw(names): draw(values)}).encode()
    return pair[:-1] + b", " + value[1:] if draw(st.booleans()) else value[:-1] + b", " + pair[1:]


records = st.one_of(
    encoded_events,
    likely_events.map(lambda event: json.dumps(event).encode()),
    damaged(),
    doubled(),
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    st.none(),
    st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 3000, b"NaN", b"\xff\xfe", b"{}", b" ", b"\xef\xbb\xbf{}"]),
)


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _check_whole(decoded: Decoded, count: int) -> None:
    assert len(decoded.rows) == count
    for tensor, spec in zip(decoded.tensors, INPUTS, strict=True):
        assert tensor.shape == (count, *spec.shape)
    assert {index for index, row in enumerate(decoded.rows) if row is None} == set(decoded.refusals)


@pytest.mark.parametrize("full", [False, True])
@given(span=st.lists(records, max_size=6))
@example(span=[])
@example(span=[json.dumps(VALID).encode(), None, json.dumps(VALID).encode()])
def test_a_record_fares_alike_alone_and_among_neighbours(full: bool, span: list[bytes | None]) -> None:
    """Verdict, row and tensors of a record depend on nothing but its bytes."""
    decoder = _decoder(full=full)
    together = decoder.decode(span)
    _check_whole(together, len(span))
    for index, value in enumerate(span):
        alone = decoder.decode([value])
        assert alone.refusals.get(0) == together.refusals.get(index)
        assert alone.rows[0] == together.rows[index]
        for left, right in zip(alone.tensors, together.tensors, strict=True):
            assert _same(left[0], right[index])


@pytest.mark.parametrize("full", [False, True])
@given(value=records)
def test_the_quick_way_and_the_slow_way_agree(full: bool, value: bytes | None) -> None:
    """What the bulk decoder accepts or refuses is what reading the record field by field says."""
    decoder = _decoder(full=full)
    decoded = decoder.decode([value])
    verdict = decoder.explain(value)
    if isinstance(verdict, Accepted):
        assert decoded.refusals == {}
        assert decoded.rows[0] == verdict.row
        for tensor, vector in zip(decoded.tensors, verdict.vectors, strict=True):
            assert tensor.dtype == vector.dtype
            assert _same(tensor[0], vector)
    else:
        assert decoded.refusals == {0: verdict}


@pytest.mark.parametrize("full", [False, True])
def test_every_truncation_of_a_valid_record_is_refused(full: bool) -> None:
    """No prefix of an event passes for an event, and none raises."""
    value = json.dumps(VALID).encode()
    decoded = _decoder(full=full).decode([value[:end] for end in range(len(value))])
    assert [decoded.refusals[index].stage for index in range(len(value))] == ["decode"] * len(value)
    assert not any(tensor.any() for tensor in decoded.tensors)


@pytest.mark.parametrize("full", [False, True])
@given(events=st.lists(likely_events, max_size=4))
def test_an_encoded_row_repeats_the_event(full: bool, events: list[dict[str, Any]]) -> None:
    """The output's JSON holds the included fields as the event has them, and the scores as the model gave them."""
    decoder = _decoder(full=full)
    decoded = decoder.decode([json.dumps(event).encode() for event in events])
    good = [index for index in range(len(events)) if index not in decoded.refusals]
    scores = np.linspace(0, 1, len(good), dtype=np.float32)
    vectors = np.stack([scores, -scores], axis=1).astype(np.float64)
    encoder = OutputEncoder(
        decoder, (OutputSpec("score"), OutputSpec("pair", 2)), DecisionSpec("score", 0.5, "hit"), "m@1"
    )
    encoded = encoder.encode([decoded.rows[index] for index in good], {"score": scores, "pair": vectors})
    assert len(encoded) == len(good)
    for text, index, score in zip(encoded, good, scores, strict=True):
        output = json.loads(text)
        assert np.float32(output.pop("score")) == score
        assert output.pop("hit") == bool(score >= 0.5)
        assert output.pop("model") == "m@1"
        assert output.pop("pair") == [float(score), -float(score)]
        assert output == _expected(events[index])


def _expected(event: dict[str, Any]) -> dict[str, Any]:
    """Included fields as a plain reading of the schema has them: known properties, absent ones left out."""
    wanted = {name: event[name] for name in INCLUDE if name in event}
    merchant = event["merchant"]
    wanted["merchant"] = {name: merchant[name] for name in ("risk", "code", "place") if name in merchant}
    place = merchant.get("place")
    if isinstance(place, dict) and "far" in place:
        wanted["merchant.place.far"] = place["far"]
    return wanted


def test_the_sample_event_is_good() -> None:
    """The event that the others are made from passes, so that the fuzzing reaches the accepting branches."""
    for full in (False, True):
        decoder = _decoder(full=full)
        assert decoder.decode([json.dumps(VALID).encode()]).refusals == {}
