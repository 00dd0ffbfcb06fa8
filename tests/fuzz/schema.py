"""Event schemas: any JSON document compiles or is refused with problems, and what compiles judges as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import jsonschema

from tests.fuzz.folder import folder
from tests.fuzz.target import Target, join, split
from worker.adapters.schema_file import load_schema
from worker.core.decoder import Decoder
from worker.core.features import TensorSpec
from worker.core.schema import SchemaError
from worker.core.specs import ArraySpec, BooleanSpec, NumberSpec, ObjectSpec, StringSpec
from worker.errors import ConfigError, Problem

_EVENTS: Final = (b"{}", b'{"id":"a","a":1,"b":[1,null],"c":{"d":true}}', b'{"id":1,"a":"x","b":null}', b"\xff", b"[]")
_EXACT: Final = 2**53


def check(data: bytes) -> None:
    """A schema compiles or says what is wrong; its decoders judge any event, and as the standard library's twin does.

    The input holds a schema and an event.
    """
    text, event = split(data, 2)
    path = folder("schema") / "event.schema.json"
    path.write_bytes(text)
    try:
        schema = load_schema(path)
    except ConfigError as error:
        _check_problems(error.problems, str(path))
        return
    events = (event, *_EVENTS)
    for inputs in ((), _inputs(schema)):
        for full in (False, True):
            decoder = _decoder(schema, inputs, full=full)
            if decoder is not None:
                _check_decoding(decoder, events)
                if full and not inputs:
                    _check_agreement(decoder, text, event)


def _check_problems(problems: tuple[Problem, ...], file: str = "") -> None:
    assert problems
    for problem in problems:
        assert problem.file == file, problem
        assert problem.message, problem
        assert problem.remedy, problem
        assert problem.code, problem


def _inputs(schema: ObjectSpec) -> tuple[TensorSpec, ...]:
    """Inputs that read whatever the schema offers: all scalars in one, texts and arrays each in their own."""
    scalars = tuple(name for name, spec in schema.properties.items() if isinstance(spec, NumberSpec | BooleanSpec))
    inputs = [TensorSpec("scalars", "float32", (len(scalars),), scalars)] if scalars else []
    for name, spec in schema.properties.items():
        if isinstance(spec, StringSpec):
            inputs.append(TensorSpec(f"text {name}", "string", (), (name,)))
        elif isinstance(spec, ArraySpec) and (size := spec.max_items or 2) < 100:
            inputs.append(TensorSpec(f"array {name}", "float64", (size,), (name,)))
    return tuple(inputs[:8])


def _decoder(schema: ObjectSpec, inputs: tuple[TensorSpec, ...], *, full: bool) -> Decoder | None:
    """A decoder for the first field that can be an id, or None with its refusal judged."""
    names = sorted(schema.properties)
    ids = [name for name in names if name in schema.required and _can_be_id(schema.properties[name])]
    try:
        return Decoder(schema, inputs, (ids or names or ["id"])[0], tuple(names) if inputs else (), full=full)
    except SchemaError as error:
        _check_problems(error.problems)
        return None


def _can_be_id(spec: object) -> bool:
    whole = isinstance(spec, StringSpec) or (isinstance(spec, NumberSpec) and spec.integer)
    return whole and not getattr(spec, "nullable", True)


def _check_decoding(decoder: Decoder, events: tuple[bytes, ...]) -> None:
    together = decoder.decode(events)
    assert {index for index, row in enumerate(together.rows) if row is None} == set(together.refusals)
    for index, event in enumerate(events):
        verdict = decoder.explain(event)
        assert together.refusals.get(index, together.rows[index]) == getattr(verdict, "row", verdict)


def _check_agreement(decoder: Decoder, schema_text: bytes, event_text: bytes) -> None:
    """The verdict is that of the jsonschema package, where both mean the same by what is written."""
    try:
        schema, event = json.loads(schema_text.decode("utf-8-sig")), json.loads(event_text.decode())
    except (ValueError, RecursionError):
        return
    # Python's own expressions, huge numbers, and half surrogate pairs mean something else to the other one.
    if b"pattern" in schema_text or b"\\u" in schema_text + event_text or not isinstance(event, dict):
        return
    if not all(abs(number) <= _EXACT for number in (*_numbers(schema), *_numbers(event))):
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=jsonschema.FormatChecker([]))
    except jsonschema.SchemaError:
        return
    refusals = decoder.decode([event_text]).refusals
    valid = jsonschema.Draft202012Validator(schema).is_valid(event)
    assert valid == (not refusals), f"jsonschema says {valid}, we say {refusals}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


_RICH: Final = """{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["id", "a"],
"properties": {"id": {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^[a-z$]+$"},
"a": {"type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 10, "default": 1.5},
"b": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 2, "maxItems": 2},
"c": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"d": {"type": "boolean"}}}]},
"e": {"enum": ["x", "y", null]}, "f": {"const": 3}, "g": true}, "$defs": {"n": {"type": "integer"}}}"""

TARGET: Final = Target(
    "schema",
    check,
    seeds=(
        join(_RICH, b'{"id":"a","a":9.5,"b":[1,2],"c":{"d":true},"e":"x","f":3,"g":[1]}'),
        join(_RICH.replace('"pattern": "^[a-z$]+$"', '"x-p": 1'), b'{"id":"a","a":null,"b":[1,2.0],"c":null,"e":null}'),
        join('{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}},"additionalProperties":false}',
             b'{"id":1.0,"b":1}'),
        join('{"type":"object","required":["id"],"properties":{"id":{"enum":[1,2.0]},"a":{"const":true}}}',
             b'{"id":2,"a":true}'),
        join('{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"a":{"$ref":"#/properties/id"}}}',
             b'{"id":"x","a":"y"}'),
        join('{"type":"object","properties":{"id":{"type":"string","minLength":3},"x":{"$ref":"#"}}}', b'{"id":""}'),
        join('{"oneOf":[{"type":"object"}],"allOf":[],"type":"object","properties":{"id":false}}', b"{}"),
    ),
    tokens=(
        *(b'"%s":' % word.encode() for word in ("type", "enum", "const", "anyOf", "$ref", "$defs", "required")),
        *(b'"%s":' % word.encode() for word in ("properties", "additionalProperties", "items", "default", "pattern")),
        *(b'"%s":' % word.encode() for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
        *(b'"%s":' % word.encode() for word in ("minLength", "maxLength", "minItems", "maxItems", "$id", "$anchor")),
        *(b'"%s"' % word.encode() for word in ("object", "array", "string", "number", "integer", "boolean", "null")),
        *(b'"#/$defs/n"', b'"#"', b"true", b"false", b"null", b"1e400", b"9223372036854775808", b'"\\ud800"'),
        *(b'"(a|b)*"', b'"a{99999999999}"', b'"[^]"', b'"(?i)x"', b'"\\\\p{L}"', b"[[[[", b"\n%%%%\n"),
    ),
)  # fmt: skip
