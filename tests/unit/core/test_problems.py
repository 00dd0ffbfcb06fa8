"""What a person reads when schema, inputs and outputs do not fit: place, message, remedy and code, word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.features import DecisionSpec, OutputSpec, TensorSpec
from worker.core.output import OutputEncoder
from worker.core.schema import SchemaError, compile_schema
from worker.core.specs import Spec
from worker.errors import Problem

NUMBER = {"type": "number"}
TEXT = {"type": "string"}
VECTOR = {"type": "array", "items": NUMBER}
DEFS = {"n": NUMBER, "loop": {"$ref": "#/$defs/loop"}}
ELSEWHERE = "remove it, or check it where the events are made"
NULLABLE = 'use anyOf with {"type": "null"}, or list the types: "type": ["number", "null"]'
TYPES = "one of array, boolean, integer, null, number, object, string, or a list of them"
FOR_TEXT = "name its encoding in the input (csv, base64 or epoch_s), or give the field a numeric type"
FOR_ENCODING = "use csv or epoch_s for numbers, base64 for float32"
FOR_WIDTH = "list as many scalars as the shape has slots, or one array of that length (minItems equal to maxItems)"
DTYPES = "bool, float16, float32, float64, int16, int32, int64, int8, string, uint16, uint32, uint64, uint8"


def compiled(field: Any) -> Spec:
    """The spec of one property ``a``."""
    return compile_schema({"type": "object", "properties": {"a": field}, "$defs": DEFS}).properties["a"]


def broken(document: Any) -> tuple[Problem, ...]:
    """Problems that the compiler raises."""
    with pytest.raises(SchemaError) as caught:
        compile_schema(document)
    return caught.value.problems


def misfits(properties: dict[str, Any], *inputs: TensorSpec, **call: Any) -> tuple[Problem, ...]:
    """Problems that the decoder raises."""
    schema = compile_schema({"type": "object", "properties": {"id": TEXT, **properties}, "required": ["id"]})
    with pytest.raises(SchemaError) as caught:
        Decoder(schema, inputs, **{"id_field": "id", "include": (), "full": False, **call})
    return caught.value.problems


@pytest.mark.parametrize(
    ("schema", "keyword", "what", "remedy"),
    [
        ({"type": "number", "multipleOf": 2}, "multipleOf", "the keyword multipleOf", "remove it, or use type integer"),
        ({"oneOf": [{"type": "null"}]}, "oneOf", "the keyword oneOf", NULLABLE),
        ({"allOf": [{}]}, "allOf", "the keyword allOf", "write the keywords of its parts into one schema"),
        (
            {"type": "array", "prefixItems": []},
            "prefixItems",
            "the keyword prefixItems",
            "use items, which holds for every item",
        ),
        (
            {"$vocabulary": {}},
            "$vocabulary",
            "the keyword $vocabulary",
            "remove it: format is an annotation here and is not asserted",
        ),
        (
            {"dependencies": {}},
            "dependencies",
            "the keyword dependencies",
            "remove it and check the rule where the events are made",
        ),
        ({"type": "string", "a~/b": 1}, "a~0~1b", "the keyword a~/b", ELSEWHERE),
        ({"type": "string", "minimum": 1}, "minimum", "minimum on type string", ELSEWHERE),
        ({"maxItems": 1, "items": {}}, "items", "items without type", 'add "type"'),
        ({"type": "null"}, "type", "more or fewer than one type beside null", "name one type"),
        ({"enum": [1, "a"]}, "type", "more or fewer than one type beside null", "name one type"),
        ({"enum": [{}]}, "enum", "enum of objects", "list scalar values"),
        ({"const": [1]}, "const", "const of arrays", "list scalar values"),
        ({"anyOf": [{"type": "null"}]}, "anyOf", "anyOf other than one schema and null", NULLABLE),
        ({"anyOf": [TEXT, NUMBER]}, "anyOf", "anyOf other than one schema and null", NULLABLE),
        ({"$ref": "other.json"}, "$ref", "$ref other.json", "copy the schema into $defs: #/$defs/NAME"),
        (
            {"type": "object", "additionalProperties": TEXT},
            "additionalProperties",
            "additionalProperties with a schema",
            ELSEWHERE,
        ),
    ],
)
def test_a_keyword_that_cannot_be_enforced(schema: Any, keyword: str, what: str, remedy: str) -> None:
    """The problem names the keyword's pointer, and the spec knows where it stands."""
    spec = compiled(schema)
    place = f"/properties/a/{keyword}"
    message = f"{what} cannot be enforced (at {place})"
    assert spec.problems == (Problem(message, remedy, key=place, code="unenforceable_keyword"),)
    assert spec.pointer == "/properties/a"


@pytest.mark.parametrize(
    ("schema", "pointer", "place", "what", "remedy"),
    [
        (
            {"anyOf": [TEXT, {"type": "null"}], "minLength": 2},
            "/properties/a/anyOf/0",
            "/properties/a/minLength",
            "minLength beside anyOf",
            "move it into that schema",
        ),
        (
            {"$ref": "#/$defs/n", "minimum": 2},
            "/$defs/n",
            "/properties/a/minimum",
            "minimum beside $ref",
            "move it into that schema",
        ),
        ({"$ref": "#/$defs/loop"}, "/$defs/loop", "/$defs/loop/$ref", "the cycle through #/$defs/loop", ELSEWHERE),
        ({"$ref": "#"}, "", "/properties/a/$ref", "the cycle through #", ELSEWHERE),
        (False, "/properties/a", "/properties/a", "a schema that is false", ELSEWHERE),
    ],
)
def test_a_schema_reached_by_another_way(schema: Any, pointer: str, place: str, what: str, remedy: str) -> None:
    """The spec points to the schema that describes it, the problem to the keyword at fault."""
    spec = compiled(schema)
    assert spec.pointer == pointer
    found = [*spec.problems]
    if schema == {"$ref": "#"}:
        assert hasattr(spec, "properties")
        found = [*spec.properties["a"].problems]
    expected = Problem(f"{what} cannot be enforced (at {place})", remedy, key=place, code="unenforceable_keyword")
    assert found == [expected]


@pytest.mark.parametrize("value", [True, {}, {"minimum": 1}, {"type": ["string", "integer"]}, {"$ref": "x"}, False])
def test_a_schema_of_no_single_type_is_a_nullable_value(value: Any) -> None:
    """Whatever is wrong with it, nothing else is claimed of the field."""
    spec = compiled(value)
    assert (type(spec), spec.nullable, spec.kind, spec.pointer) == (Spec, True, "value", "/properties/a")


@pytest.mark.parametrize(
    ("schema", "keyword", "message", "remedy"),
    [
        ({"type": "text"}, "/type", f"/properties/a/type must be {TYPES}", f"write {TYPES}"),
        (
            {"type": "number", "minimum": "1"},
            "/minimum",
            "/properties/a/minimum must be a finite number",
            "write a finite number",
        ),
        (
            {"type": "array", "maxItems": -1},
            "/maxItems",
            "/properties/a/maxItems must be a whole number, 0 or more",
            "write a whole number, 0 or more",
        ),
        (
            {"enum": []},
            "/enum",
            "/properties/a/enum must be a list with at least one entry",
            "write a list with at least one entry",
        ),
        (
            {"type": "object", "required": ["a", 1]},
            "/required",
            "/properties/a/required must be a list of property names",
            "write a list of property names",
        ),
        ({"type": "object", "$defs": 1}, "/$defs", "/properties/a/$defs must be an object", "write an object"),
        ({"$ref": 1}, "/$ref", "/properties/a/$ref must be a string", "write a string"),
        (
            {"type": "string", "pattern": "("},
            "/pattern",
            "/properties/a/pattern is no usable pattern: missing ), unterminated subpattern at position 4",
            "correct it",
        ),
        (
            {"type": "integer", "enum": [0.5]},
            "/enum",
            "none of the listed values satisfies the schema's other keywords",
            "correct it",
        ),
        (
            {"type": "number", "default": "1"},
            "/default",
            "/properties/a/default breaks its own schema: it must be a number, not a string",
            "correct the default",
        ),
        (
            {"$ref": "#/$defs/missing"},
            "/$ref",
            "/properties/a/$ref points to #/$defs/missing, which does not exist",
            "correct the path",
        ),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            "/$schema",
            "the schema names another dialect than 2020-12",
            "write https://json-schema.org/draft/2020-12/schema",
        ),
        (7, "", "/properties/a must be an object", "write a JSON Schema"),
    ],
)
def test_a_broken_schema(schema: Any, keyword: str, message: str, remedy: str) -> None:
    """The only problem says what stands there and what to write."""
    expected = Problem(message, remedy, key=f"/properties/a{keyword}", code="invalid_schema")
    assert broken({"type": "object", "properties": {"a": schema}}) == (expected,)


@pytest.mark.parametrize(
    ("kind", "low", "high", "equal_is_fine"),
    [
        ("string", "minLength", "maxLength", True),
        ("array", "minItems", "maxItems", True),
        ("number", "minimum", "maximum", True),
        ("number", "exclusiveMinimum", "maximum", False),
        ("number", "minimum", "exclusiveMaximum", False),
        ("number", "exclusiveMinimum", "exclusiveMaximum", False),
    ],
)
def test_bounds_in_the_wrong_order(kind: str, low: str, high: str, equal_is_fine: bool) -> None:
    """Equal bounds leave one value, unless one of them is exclusive; crossed bounds leave none."""
    for least, most in ((3, 2), (2, 2)):
        document = {"type": "object", "properties": {"a": {"type": kind, low: least, high: most}}}
        if equal_is_fine and least == most:
            assert compile_schema(document).properties["a"].problems == ()
            continue
        message = f"{low} {least} and {high} {most} leave no value"
        expected = Problem(message, f"make {low} the smaller one", key=f"/properties/a/{low}", code="invalid_schema")
        assert broken(document) == (expected,)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (7, Problem("the schema must be an object", "write a JSON Schema", key="", code="invalid_schema")),
        (
            {"type": "array"},
            Problem(
                "an event schema must describe an object",
                'write "type": "object"',
                key="/type",
                code="invalid_schema",
            ),
        ),
        (
            False,
            Problem(
                "a schema that is false cannot be enforced (at /)", ELSEWHERE, key="", code="unenforceable_keyword"
            ),
        ),
        (
            {"type": "object", "not": {}},
            Problem(
                "the keyword not cannot be enforced (at /not)", ELSEWHERE, key="/not", code="unenforceable_keyword"
            ),
        ),
    ],
)
def test_a_root_that_describes_no_event(document: Any, expected: Problem) -> None:
    """At the root every fault counts, and exactly one is reported."""
    assert broken(document) == (expected,)


def test_several_problems_read_as_one_text() -> None:
    """The exception's text joins the messages."""
    problems = (Problem("one"), Problem("two"))
    assert str(SchemaError(problems)) == "one; two"


@pytest.mark.parametrize(
    ("properties", "tensor", "message", "remedy", "code"),
    [
        (
            {"s": TEXT},
            TensorSpec("x", "float32", (), ("s",)),
            "inputs.x: field s (string) cannot feed dtype float32",
            FOR_TEXT,
            "type_mismatch",
        ),
        (
            {"s": NUMBER},
            TensorSpec("x", "string", (), ("s",)),
            "inputs.x: field s (number) cannot feed dtype string",
            "give the field type string",
            "type_mismatch",
        ),
        (
            {"s": NUMBER},
            TensorSpec("x", "int64", (), ("s",)),
            "inputs.x: field s (number) cannot feed dtype int64",
            "give the field type integer, or the model's input a float dtype",
            "type_mismatch",
        ),
        (
            {"s": {"type": "integer"}},
            TensorSpec("x", "bool", (), ("s",)),
            "inputs.x: field s (integer) cannot feed dtype bool",
            "give the field type boolean",
            "type_mismatch",
        ),
        (
            {"s": {"type": "object"}},
            TensorSpec("x", "float32", (), ("s",)),
            "inputs.x: field s (object) cannot feed dtype float32",
            "give the field type number, integer or boolean",
            "type_mismatch",
        ),
        (
            {"s": {"type": "array", "items": TEXT}},
            TensorSpec("x", "float32", (2,), ("s",)),
            "inputs.x: field s (strings in an array) cannot feed dtype float32",
            FOR_TEXT,
            "type_mismatch",
        ),
        (
            {"s": VECTOR},
            TensorSpec("x", "float32", (2,), ("s",), "csv"),
            "inputs.x: field s (array) cannot feed dtype float32 with encoding csv",
            "give the field type string, or drop the encoding",
            "type_mismatch",
        ),
        (
            {"s": NUMBER},
            TensorSpec("x", "float32", (), ()),
            "inputs.x names no fields",
            "list the event fields",
            "no_fields",
        ),
        (
            {"s": NUMBER},
            TensorSpec("x", "complex64", (), ("s",)),
            "inputs.x has the unknown dtype complex64",
            f"one of {DTYPES}",
            "bad_dtype",
        ),
        (
            {"s": TEXT, "t": TEXT},
            TensorSpec("x", "float32", (2,), ("s", "t"), "csv"),
            "inputs.x has encoding csv and 2 fields",
            "name the one field that holds the text",
            "too_many_fields",
        ),
    ],
)
def test_an_input_that_does_not_fit(
    properties: dict[str, Any], tensor: TensorSpec, message: str, remedy: str, code: str
) -> None:
    """Field, type and dtype are named, and what to write instead."""
    assert misfits(properties, tensor) == (Problem(message, remedy, key="inputs.x", code=code),)


@pytest.mark.parametrize(
    ("encoding", "dtype", "fits"),
    [
        ("csv", "float64", True),
        ("csv", "int8", True),
        ("csv", "bool", False),
        ("csv", "string", False),
        ("base64", "float32", True),
        ("base64", "float64", False),
        ("base64", "string", False),
        ("epoch_s", "float64", True),
        ("epoch_s", "int64", True),
        ("epoch_s", "uint64", True),
        ("epoch_s", "bool", False),
        ("epoch_s", "string", False),
    ],
)
def test_encodings_and_the_dtypes_that_they_fill(encoding: Any, dtype: str, fits: bool) -> None:
    """Text becomes numbers only where the dtype can hold what the encoding gives."""
    tensor = TensorSpec("x", dtype, (1,), ("s",), encoding)
    if fits:
        schema = compile_schema({"type": "object", "properties": {"id": TEXT, "s": TEXT}, "required": ["id"]})
        assert Decoder(schema, (tensor,), "id", (), full=False).inputs == (tensor,)
    else:
        message = f"inputs.x: encoding {encoding} cannot fill dtype {dtype}"
        expected = Problem(message, FOR_ENCODING, key="inputs.x", code="bad_encoding")
        assert misfits({"s": TEXT}, tensor) == (expected,)


@pytest.mark.parametrize(
    ("properties", "shape", "given", "needed"),
    [
        ({"s": NUMBER}, (2,), "1", "[batch, 2] needs 2"),
        ({"s": NUMBER, "t": NUMBER}, (1,), "1 + 1", "[batch, 1] needs 1"),
        ({"s": VECTOR, "t": VECTOR}, (4,), "an open array + an open array", "[batch, 4] needs 4"),
        ({"s": {"type": "array", "items": VECTOR}}, (2,), "an open array", "[batch, 2] needs 2"),
        ({"s": {**VECTOR, "minItems": 3, "maxItems": 3}, "t": VECTOR}, (2,), "3 + an open array", "[batch, 2] needs 2"),
        ({f"s{index}": NUMBER for index in range(22)}, (2, 3), " + ".join(["1"] * 20), "[batch, 2, 3] needs 6"),
    ],
)
def test_fields_that_do_not_fill_the_shape(
    properties: dict[str, Any], shape: tuple[int, ...], given: str, needed: str
) -> None:
    """What the fields give, up to twenty of them, stands against what the shape needs."""
    message = f"inputs.x: its fields give {given} values, the shape {needed} a row"
    expected = Problem(message, FOR_WIDTH, key="inputs.x", code="wrong_width")
    assert misfits(properties, TensorSpec("x", "float32", shape, tuple(properties))) == (expected,)


def test_every_field_that_does_not_fit_is_named() -> None:
    """Several faults of one input, and of several inputs, come at once."""
    inputs = (TensorSpec("x", "float32", (3,), ("s", "t", "nix")), TensorSpec("y", "bool", (), ("n",)))
    problems = misfits({"s": TEXT, "t": TEXT, "n": NUMBER}, *inputs)
    assert [(problem.key, problem.message) for problem in problems] == [
        ("inputs.x.fields", "inputs.x.fields: the event schema has no field nix"),
        ("inputs.x", "inputs.x: field s (string) cannot feed dtype float32"),
        ("inputs.x", "inputs.x: field t (string) cannot feed dtype float32"),
        ("inputs.y", "inputs.y: field n (number) cannot feed dtype bool"),
    ]


FIELDS: dict[str, Any] = {
    "amount": NUMBER,
    "maybe": TEXT,
    "merchant": {"type": "object", "properties": {"risk": NUMBER}},
    'q"': TEXT,
    "b\\": TEXT,
    "c\x1f": TEXT,
}


@pytest.mark.parametrize(
    ("call", "place", "name", "remedy"),
    [
        ({"include": ("amuont",)}, "output.include", "amuont", "did you mean amount?"),
        ({"include": ("x.risk",)}, "output.include", "x.risk", "did you mean merchant.risk?"),
        ({"id_field": "risk"}, "event.id_field", "risk", "did you mean merchant.risk?"),
        (
            {"id_field": "zzzz"},
            "event.id_field",
            "zzzz",
            'the schema has: amount, b\\, c\x1f, id, maybe, merchant, merchant.risk, q"',
        ),
    ],
)
def test_a_path_that_the_schema_does_not_know(call: dict[str, Any], place: str, name: str, remedy: str) -> None:
    """The nearest names, or a few of those that there are."""
    message = f"{place}: the event schema has no field {name}"
    assert misfits(FIELDS, **call) == (Problem(message, remedy, key=place, code="unknown_field"),)


def test_suggestions_are_few() -> None:
    """At most three near names, the nearest first, or the first ten of all names."""
    near = {f"amount{index}": NUMBER for index in range(4)}
    (problem,) = misfits(near, include=("amount",))
    assert problem.remedy == "did you mean amount3 or amount2 or amount1?"
    levels = {name: {"type": "object", "properties": {"risk.level": NUMBER}} for name in ("a1", "b2", "c3", "d4")}
    (problem,) = misfits(levels, include=("level",))
    assert problem.remedy == "did you mean a1.risk.level or b2.risk.level or c3.risk.level?"
    (problem,) = misfits({f"f{index}": NUMBER for index in range(12)}, include=("zzzz",))
    assert problem.remedy == "the schema has: f0, f1, f10, f11, f2, f3, f4, f5, f6, f7"


@pytest.mark.parametrize("name", ['q"', "b\\", "c\x1f"])
def test_a_field_name_that_the_decoder_cannot_carry(name: str) -> None:
    """Quotes, backslashes and control characters are refused, where the field is in use."""
    message = f"the field name {name!r} holds a quote, a backslash or a control character"
    expected = Problem(message, "rename the field", key=f"/properties/{name}", code="unsupported_name")
    assert misfits(FIELDS, include=(name,)) == (expected,)


def test_a_field_name_may_hold_blanks() -> None:
    """A blank is no control character."""
    schema = compile_schema({"type": "object", "properties": {"id": TEXT, "d X": TEXT}, "required": ["id"]})
    decoder = Decoder(schema, (), "id", ("d X",), full=False)
    rows = decoder.decode([b'{"id":"a","d X":"b"}']).rows
    encoder = OutputEncoder(decoder, (OutputSpec("my X"),), None, "m")
    assert encoder.encode(rows[:0], {"my X": np.array([], np.int64)}) == []
    assert encoder.encode(rows, {"my X": np.array([1])}) == [b'{"id":"a","d X":"b","my X":1,"model":"m"}']


def test_closed_objects_need_every_field_read() -> None:
    """Where only some fields are read, additionalProperties: false is refused, in items of arrays too."""
    closed = {"type": "object", "properties": {"b": NUMBER}, "additionalProperties": False}
    place = "/properties/a/items/additionalProperties"
    expected = Problem(
        f"additionalProperties: false cannot be enforced where only the fields in use are read (at {place})",
        "remove it, or set event.validate to full",
        key=place,
        code="unenforceable_keyword",
    )
    fields = {"a": {"type": "array", "items": closed}}
    assert misfits(fields, include=("a",)) == (expected,)
    schema = compile_schema({"type": "object", "properties": {"id": TEXT, **fields}, "required": ["id"]})
    decoder = Decoder(schema, (), "id", ("a",), full=True)
    refusal = decoder.decode([b'{"id":"x","a":[{"b":1},{"c":1}]}']).refusals[0]
    assert refusal.error == "field a[1] has a property that the schema does not allow"


@pytest.mark.parametrize(
    ("call", "message", "remedy", "code"),
    [
        (
            {"id_field": "amount"},
            "event.id_field amount is of type number, an id must be a string or an integer",
            "name a field of type string or integer",
            "bad_id",
        ),
        (
            {"id_field": "maybe"},
            "event.id_field maybe may be absent or null",
            'add it and its parents to "required", without null',
            "optional_id",
        ),
    ],
)
def test_an_id_that_cannot_be_one(call: dict[str, Any], message: str, remedy: str, code: str) -> None:
    """Its type must keep all digits, and it must be there."""
    assert misfits(FIELDS, **call) == (Problem(message, remedy, key="event.id_field", code=code),)


OWNERS = "rename the output or decision field in the bundle, or leave the field out of output.include"


@pytest.mark.parametrize(
    ("include", "outputs", "decision", "expected"),
    [
        (
            ("amount",),
            (OutputSpec("amount"),),
            None,
            Problem(
                "amount would stand twice in the output: from output.include and from outputs",
                OWNERS,
                key="outputs",
                code="name_collision",
            ),
        ),
        (
            (),
            (OutputSpec("s"),),
            DecisionSpec("s", 0.5, "s"),
            Problem(
                "s would stand twice in the output: from outputs and from decision.field",
                OWNERS,
                key="decision.field",
                code="name_collision",
            ),
        ),
        (
            (),
            (OutputSpec("model"),),
            None,
            Problem(
                "model would stand twice in the output: from outputs and from the model label",
                OWNERS,
                key="the model label",
                code="name_collision",
            ),
        ),
        *[
            (
                (),
                (OutputSpec(name),),
                None,
                Problem(
                    f"the output name {name!r} holds a quote, a backslash or a control character",
                    "rename it",
                    key="outputs",
                    code="unsupported_name",
                ),
            )
            for name in ('s"', "s\\", "s\x1f")
        ],
        (
            (),
            (OutputSpec("s"), OutputSpec("r")),
            DecisionSpec("t", 0.5, "f"),
            Problem(
                "decision.output names t, which is no output",
                "one of: r, s",
                key="decision.output",
                code="unknown_output",
            ),
        ),
        (
            (),
            (),
            DecisionSpec("t", 0.5, "f"),
            Problem(
                "decision.output names t, which is no output",
                "one of: none",
                key="decision.output",
                code="unknown_output",
            ),
        ),
        (
            (),
            (OutputSpec("s", 2),),
            DecisionSpec("s", 0.5, "f"),
            Problem(
                "decision.output s is a vector", "choose one column of it", key="decision.output", code="not_a_scalar"
            ),
        ),
    ],
)
def test_an_output_that_cannot_be_written(
    include: tuple[str, ...], outputs: tuple[OutputSpec, ...], decision: DecisionSpec | None, expected: Problem
) -> None:
    """Names must differ and be plain, and the decision needs one number."""
    schema = compile_schema({"type": "object", "properties": {"id": TEXT, "amount": NUMBER}, "required": ["id"]})
    decoder = Decoder(schema, (), "id", include, full=False)
    with pytest.raises(SchemaError) as caught:
        OutputEncoder(decoder, outputs, decision, "m")
    assert caught.value.problems == (expected,)
