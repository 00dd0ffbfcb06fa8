"""Event decoder: whatever the bytes, one row or one refusal, the same by both ways and among any neighbours."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import numpy as np

from tests.fuzz.target import Target
from worker.core.decoder import Decoder
from worker.core.explain import Accepted
from worker.core.features import DecisionSpec, OutputSpec, TensorSpec
from worker.core.output import OutputEncoder
from worker.core.records import Decoded, Refusal
from worker.core.schema import compile_schema

_SYNTAX: Final = frozenset({"empty_value", "invalid_utf8", "invalid_json", "not_an_object", "too_deep"})
_CONTENT: Final = frozenset({"missing_field", "wrong_type", "out_of_range", "wrong_length", "not_finite"})

_SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "required": ["id", "amount", "pair", "shop"],
    "additionalProperties": True,
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "amount": {"type": "number", "exclusiveMinimum": -1000, "maximum": 1e6},
        "ratio": {"type": ["number", "null"], "default": 0.5},
        "night": {"type": "boolean", "default": False},
        "level": {"enum": [1, 2, 3, None]},
        "pair": {"type": "array", "items": {"type": ["number", "null"], "minimum": -5}, "minItems": 2, "maxItems": 2},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
        "shop": {
            "type": "object",
            "required": ["code"],
            "properties": {
                "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
                "risk": {"type": ["number", "null"]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}},
            },
        },
        "csv": {"type": "string", "default": "1,2"},
        "raw": {"type": "string", "default": "AACAPwAAAEA="},
        "time": {"type": "string", "default": "2024-02-29T12:00:00Z"},
        "note": {},
        "unread": {"type": "string", "enum": ["a", "b"]},
    },
}
_SCALARS: Final = ("amount", "ratio", "night", "level", "shop.risk", "id")
_INPUTS: Final = (
    TensorSpec("scalars", "float32", (len(_SCALARS),), _SCALARS),
    TensorSpec("pair", "float16", (3,), ("pair", "amount")),
    TensorSpec("id", "int32", (), ("id",)),
    TensorSpec("csv", "int8", (2,), ("csv",), "csv"),
    TensorSpec("raw", "float32", (2,), ("raw",), "base64"),
    TensorSpec("time", "float64", (1,), ("time",), "epoch_s"),
    TensorSpec("code", "string", (1,), ("shop.code",)),
)
_INCLUDE: Final = ("id", "amount", "shop", "note", "grid")

_GOOD: Final = (
    b'{"id":7,"amount":12.5,"ratio":null,"night":true,"level":2,"pair":[1,null],"grid":[[1,2],[]],'
    b'"shop":{"code":"DE","risk":0.25,"tags":["x"]},"csv":" 1 , -2,","raw":"AACAPwAAAEA=",'
    b'"time":"2016-12-31T23:59:60.5+01:00","note":{"a":[1,2.0,"\\u00e9"]},"unread":"a"}'
)


@cache
def _decoder(*, full: bool) -> Decoder:
    return Decoder(compile_schema(_SCHEMA), _INPUTS, "id", _INCLUDE, full=full)


@cache
def _encoder(*, full: bool) -> OutputEncoder:
    return OutputEncoder(_decoder(full=full), (OutputSpec("score"),), DecisionSpec("score", 0.5, "hit"), "m@1")


@cache
def _good(*, full: bool) -> Accepted:
    verdict = _decoder(full=full).explain(_GOOD)
    assert isinstance(verdict, Accepted)
    return verdict


def check(data: bytes) -> None:
    """Both ways agree, neighbours change nothing, JSON is what Python calls JSON, and rows can be written."""
    event = _as_python_reads(data)
    verdicts = {full: _verdict(data, full=full) for full in (False, True)}
    for full, verdict in verdicts.items():
        _check_among_neighbours(data, verdict, full=full)
        if isinstance(verdict, Refusal):
            _check_refusal(data, verdict, event)
        else:
            assert isinstance(event, dict), "accepted what is no JSON object"
            _check_row(verdict, event, full=full)
    lazy, full_verdict = verdicts[False], verdicts[True]
    if isinstance(full_verdict, Accepted):
        assert isinstance(lazy, Accepted), f"only the full reading accepts: {lazy}"
        assert all(map(_same, lazy.vectors, full_verdict.vectors))
    elif full_verdict.stage == "decode":
        assert lazy == full_verdict, "syntax must not depend on what is read"


def _verdict(data: bytes, *, full: bool) -> Accepted | Refusal:
    """The verdict of the slow way, once the quick way has said the same."""
    decoder = _decoder(full=full)
    decoded, verdict = decoder.decode([data]), decoder.explain(data)
    if isinstance(verdict, Refusal):
        assert decoded.refusals == {0: verdict}
        assert decoded.rows == [None]
        return verdict
    assert decoded.refusals == {}
    assert decoded.rows == [verdict.row]
    for tensor, vector in zip(decoded.tensors, verdict.vectors, strict=True):
        assert tensor.dtype == vector.dtype
        assert _same(tensor[0], vector)
    return verdict


def _check_among_neighbours(data: bytes, verdict: Accepted | Refusal, *, full: bool) -> None:
    decoder = _decoder(full=full)
    together: Decoded = decoder.decode([data, None, _GOOD])
    assert together.refusals[1].reason == "tombstone"
    for position, expected in ((0, verdict), (2, _good(full=full))):
        if isinstance(expected, Refusal):
            assert together.refusals[position] == expected
            continue
        assert position not in together.refusals
        assert together.rows[position] == expected.row
        for tensor, vector in zip(together.tensors, expected.vectors, strict=True):
            assert _same(tensor[position], vector)


def _check_refusal(data: bytes, refusal: Refusal, event: object) -> None:
    assert refusal.error
    if refusal.stage == "decode":
        assert refusal.reason in _SYNTAX
    else:
        assert (refusal.stage, refusal.reason in _CONTENT) == ("validate", True), refusal
        assert isinstance(event, dict), "judged the fields of what is no JSON object"
    if refusal.reason == "invalid_json":
        # Half a surrogate pair is JSON to Python, and no Unicode text to msgspec.
        assert event is None or b"\\u" in data, f"refused JSON: {refusal.error}"
    if refusal.reason == "not_an_object":
        assert not isinstance(event, dict)


def _check_row(accepted: Accepted, event: dict[str, Any], *, full: bool) -> None:
    """The tensors hold what a plain reading of the event gives, and the output repeats its fields."""
    scalars = accepted.vectors[0]
    assert scalars[0] == np.float32(event["amount"])
    assert accepted.vectors[2] == event["id"]
    assert accepted.vectors[6] == event["shop"]["code"]
    assert np.isfinite(np.concatenate([accepted.vectors[index].ravel() for index in (3, 4, 5)])).all()
    (encoded,) = _encoder(full=full).encode([accepted.row], {"score": np.array([0.75], np.float32)})
    output = json.loads(encoded)
    assert (output["id"], output["score"], output["hit"], output["model"]) == (event["id"], 0.75, True, "m@1")
    assert output.get("grid") == event.get("grid")
    assert ("note" in output) == ("note" in event)


def _as_python_reads(data: bytes) -> object:
    """The JSON value by the standard library, None where it finds none."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse, parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(name)


def _whole(text: str) -> int:
    """Numbers that Python is too careful to convert stand for themselves as something large."""
    return int(text) if len(text) < 1000 else 10**1000


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


TARGET: Final = Target(
    "decoder",
    check,
    seeds=(
        _GOOD,
        b'{"id":0,"amount":-1e-3,"pair":[0,2.0],"shop":{"code":"AT"}}',
        b'{"shop":{"risk":null,"code":"CH"},"pair":[65504,1],"amount":999999.9,"id":2147483647,"id":1}',
        b'{"id":1.0,"amount":1,"pair":[-5,1e2],"shop":{"code":"XX"},"time":"2024-01-01 00:00:00z","level":null}',
        b'{"id":18446744073709551616,"amount":123456789012345678901,"pair":[],"shop":{"code":"x"},"level":4}',
        b'{"a":[[[[{"b":"\\ud83d\\ude00"}]]]]}',
        b"[1,2]",
    ),
    tokens=(
        *(b'"%s":' % name.encode() for name in ("id", "amount", "ratio", "night", "level", "pair", "grid", "shop")),
        *(b'"%s":' % name.encode() for name in ("code", "risk", "tags", "csv", "raw", "time", "note", "unread")),
        *(b"null", b"true", b"false", b"1e400", b"-0.0", b"1e-400", b"9007199254740993", b"18446744073709551616"),
        *(b"NaN", b"Infinity", b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b"[[", b"]]", b'"nan,1"', b'"1,,2"', b"="),
    ),
)
