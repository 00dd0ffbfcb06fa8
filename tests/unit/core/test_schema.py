"""The schema compiler: what it understands, and that it refuses by name and place whatever it cannot enforce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import UNSET

from worker.core.decoder import Decoder
from worker.core.patterns import python_pattern
from worker.core.schema import ObjectSpec, SchemaError, compile_schema, deep_fault
from worker.core.specs import ArraySpec, BooleanSpec, Fault, NumberSpec, Spec, StringSpec, type_word
from worker.errors import Problem


def compiled(field: Any, **root: Any) -> Spec:
    """The spec of one property ``a``."""
    document = {"type": "object", "properties": {"a": field}, **root}
    return compile_schema(document).properties["a"]


def refusal(document: Any) -> list[Problem]:
    """Problems that the compiler raises."""
    with pytest.raises(SchemaError) as caught:
        compile_schema(document)
    return list(caught.value.problems)


def test_numbers_keep_their_bounds() -> None:
    """Inclusive and exclusive bounds come through for numbers and integers."""
    spec = compiled({"type": "number", "minimum": 0, "exclusiveMaximum": 9.5, "default": 1})
    assert spec == NumberSpec(pointer="/properties/a", nullable=False, default=1, minimum=0, exclusive_maximum=9.5)
    whole = compiled({"type": "integer", "maximum": 4, "exclusiveMinimum": -1, "default": 2.0})
    assert isinstance(whole, NumberSpec)
    assert (whole.integer, whole.maximum, whole.exclusive_minimum) == (True, 4, -1)
    assert isinstance(whole.default, int)


def test_integer_or_number_is_number() -> None:
    """A list of both numeric types is the wider one; null in the list makes it nullable."""
    spec = compiled({"type": ["integer", "number", "null"]})
    assert isinstance(spec, NumberSpec)
    assert (spec.integer, spec.nullable, spec.default) == (False, True, UNSET)


def test_strings_arrays_and_booleans() -> None:
    """Lengths, patterns, items and their bounds come through."""
    text = compiled({"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^a$", "format": "uuid"})
    assert isinstance(text, StringSpec)
    assert (text.min_length, text.max_length, text.pattern) == (1, 3, r"(?a)^a\Z")
    array = compiled({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2})
    assert isinstance(array, ArraySpec)
    assert isinstance(array.items, BooleanSpec)
    assert (array.min_items, array.max_items) == (2, 2)
    assert isinstance(compiled({"type": "array"}), ArraySpec)


def test_annotations_are_accepted_everywhere() -> None:
    """Titles, examples, formats, extensions and content annotations constrain nothing."""
    notes = {"title": "t", "examples": [1], "deprecated": True, "$comment": "c", "readOnly": False, "x-unit": "EUR"}
    assert compiled({"type": "string", "contentEncoding": "base64", "format": "date-time", **notes}).problems == ()


def test_an_open_schema_is_any_value() -> None:
    """True and {} describe any value, null included."""
    for schema in (True, {}, {"description": "free"}):
        spec = compiled(schema)
        assert type(spec) is Spec
        assert (spec.nullable, spec.kind, spec.problems) == (True, "value", ())


def test_enum_and_const_name_the_allowed_values() -> None:
    """Listed values infer the type, and those that other keywords exclude drop out."""
    assert compiled({"enum": ["a", "b"]}).allowed == ("a", "b")
    assert compiled({"const": True}).allowed == (True,)
    assert compiled({"type": "integer", "enum": [1, 2.0, "x", 9], "maximum": 5}).allowed == (1, 2)
    assert compiled({"enum": [0.5, 2, 2]}).kind == "number"
    assert compiled({"enum": ["a", "b"], "const": "b"}).allowed == ("b",)


def test_enum_decides_whether_null_is_allowed() -> None:
    """Null needs both the type and the list to allow it."""
    assert compiled({"type": ["string", "null"], "enum": ["a"]}).nullable is False
    assert compiled({"type": ["string", "null"], "enum": ["a", None]}).nullable is True
    assert compiled({"type": "string", "enum": ["a", None]}).nullable is False
    assert compiled({"enum": ["a", None]}).nullable is True
    assert compiled({"type": ["string", "null"], "const": None}).allowed == ()


def test_references_and_any_of_null() -> None:
    """Local references resolve, escapes included; a default beside them counts; anyOf with null is nullable."""
    defs = {"$defs": {"a/b~c": {"type": "number", "minimum": 1}}}
    spec = compiled({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a~1b~0c"}], "default": None}, **defs)
    assert isinstance(spec, NumberSpec)
    assert (spec.minimum, spec.nullable, spec.default, spec.pointer) == (1, True, None, "/$defs/a~1b~0c")
    beside = compiled({"$ref": "#/$defs/a~1b~0c", "default": 3, "title": "t"}, **defs)
    assert (beside.default, beside.problems) == (3, ())


def test_references_are_parts_of_an_address() -> None:
    """As such they may hold characters as percent signs and digits."""
    spec = compiled({"$ref": "#/$defs/a%20b"}, **{"$defs": {"a b": {"type": "boolean"}, "a%20b": {"type": "string"}}})
    assert isinstance(spec, BooleanSpec)


def test_required_names_need_no_property() -> None:
    """A required name without a schema is any value."""
    root = compile_schema({"type": "object", "required": ["b"], "additionalProperties": {}})
    assert type(root.properties["b"]) is Spec
    assert root.closed is False


@pytest.mark.parametrize(
    ("schema", "pointer", "words"),
    [
        ({"type": "number", "multipleOf": 2}, "multipleOf", "the keyword multipleOf"),
        ({"oneOf": [{"type": "null"}]}, "oneOf", "the keyword oneOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "the keyword uniqueItems"),
        ({"type": "string", "surprise": 1}, "surprise", "the keyword surprise"),
        ({"type": "string", "minimum": 1}, "minimum", "minimum on type string"),
        ({"minimum": 1}, "minimum", "minimum without type"),
        ({"type": ["string", "integer"]}, "type", "more or fewer than one type"),
        ({"type": "null"}, "type", "more or fewer than one type"),
        ({"enum": [1, "a"]}, "type", "more or fewer than one type"),
        ({"enum": [{}]}, "enum", "enum of objects"),
        ({"const": [1]}, "const", "const of arrays"),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, "anyOf", "anyOf other than"),
        ({"anyOf": [{"type": "string"}]}, "anyOf", "anyOf other than"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "minLength": 2}, "minLength", "minLength beside anyOf"),
        ({"$ref": "#/$defs/n", "minimum": 2}, "minimum", "minimum beside $ref"),
        ({"$ref": "other.json"}, "$ref", "$ref other.json"),
        ({"$ref": "#/$defs/loop"}, None, "the cycle through #/$defs/loop"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties", "with a schema"),
        (False, "", "a schema that is false"),
    ],
)
def test_a_keyword_that_cannot_be_enforced_is_noted_on_its_node(schema: Any, pointer: str | None, words: str) -> None:
    """The node carries a problem that names the keyword, its JSON pointer and a remedy."""
    defs = {"n": {"type": "number"}, "loop": {"$ref": "#/$defs/loop"}}
    (problem,) = compiled(schema, **{"$defs": defs}).problems
    assert words in problem.message
    assert problem.code == "unenforceable_keyword"
    assert problem.remedy
    expected = "/$defs/loop/$ref" if pointer is None else f"/properties/a/{pointer}".rstrip("/")
    assert problem.key == expected


def test_unenforceable_keywords_at_the_root_stop_the_compiler() -> None:
    """At the root, every keyword is in use; all problems come at once."""
    problems = refusal({"type": "object", "not": {}, "dependentRequired": {}, "patternProperties": {}})
    assert {problem.key for problem in problems} == {"/not", "/dependentRequired", "/patternProperties"}


@pytest.mark.parametrize(
    ("schema", "keyword", "words"),
    [
        ({"type": "text"}, "/type", "must be one of"),
        ({"type": []}, "/type", "must be one of"),
        ({"type": "number", "minimum": "1"}, "/minimum", "a finite number"),
        ({"type": "number", "maximum": True}, "/maximum", "a finite number"),
        ({"type": "number", "maximum": 10**400}, "/maximum", "a finite number"),
        ({"type": "string", "minLength": -1}, "/minLength", "a whole number"),
        ({"type": "object", "additionalProperties": 1}, "/additionalProperties", "true, false or a schema"),
        ({"type": "string", "pattern": "a{99999999999}"}, "/pattern", "no usable pattern"),
        ({"type": "string", "pattern": "(" * 2000}, "/pattern", "no usable pattern"),
        ({"type": "string", "pattern": "[a--b]"}, "/pattern", "no usable pattern"),
        ({"type": "boolean", "enum": [1], "const": True}, "/enum", "none of the listed values"),
        ({"enum": []}, "/enum", "at least one entry"),
        ({"type": "object", "properties": []}, "/properties", "an object"),
        ({"type": "object", "required": "a"}, "/required", "a list of property names"),
        ({"type": "string", "pattern": 1}, "/pattern", "a string"),
        ({"type": "string", "pattern": "("}, "/pattern", "no usable pattern"),
        ({"type": "string", "pattern": r"\p{L}"}, "/pattern", "no usable pattern"),
        ({"type": "number", "minimum": 2, "maximum": 1}, "/minimum", "leave no value"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "/exclusiveMinimum", "leave no value"),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "/minLength", "leave no value"),
        ({"type": "integer", "enum": [0.5]}, "/enum", "none of the listed values"),
        ({"type": "string", "enum": ["a"], "const": "b"}, "/enum", "none of the listed values"),
        ({"type": "number", "default": "1"}, "/default", "must be a number, not a string"),
        ({"type": "number", "minimum": 1, "default": 0}, "/default", "below the minimum"),
        ({"type": "array", "items": {"type": "number"}, "default": ["x"]}, "/default", "must be a number"),
        ({"$ref": "#/$defs/missing"}, "/$ref", "does not exist"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, "/$schema", "another dialect"),
        (7, "", "must be an object"),
    ],
)
def test_a_broken_schema_stops_the_compiler(schema: Any, keyword: str, words: str) -> None:
    """Wrong keyword types, impossible bounds and bad defaults are reported with their place, used or not."""
    (problem,) = refusal({"type": "object", "properties": {"a": schema}})
    assert problem.key == f"/properties/a{keyword}"
    assert words in problem.message
    assert problem.code == "invalid_schema"


@pytest.mark.parametrize("root", [{"type": "array"}, {}, True])
def test_the_root_must_be_an_object(root: Any) -> None:
    """Events are objects, and the schema must say so."""
    (problem,) = refusal(root)
    assert "must describe an object" in problem.message


def test_limits_of_numbers_and_counts() -> None:
    """The largest float is a bound like any other; sizes start at 0."""
    largest = 1.7976931348623157e308
    assert compiled({"type": "number", "maximum": largest}).problems == ()
    for keyword in ("minLength", "maxLength"):
        assert compiled({"type": "string", keyword: 0}).problems == ()
    text, array = compiled({"type": "string"}), compiled({"type": "array"})
    assert isinstance(text, StringSpec)
    assert isinstance(array, ArraySpec)
    assert (text.min_length, text.max_length, array.min_items, array.max_items) == (0, None, 0, None)


def test_listed_values_are_as_the_decoder_has_them() -> None:
    """1.0 in the list of an integer field is the integer 1; a number field keeps it; null needs no type."""
    whole = compiled({"type": "integer", "enum": [1.0, 2]}).allowed or ()
    assert [repr(value) for value in whole] == ["1", "2"]
    loose = compiled({"type": "number", "enum": [1.0, 2]}).allowed or ()
    assert [repr(value) for value in loose] == ["1.0", "2"]
    assert compiled({"enum": [None, 3]}).nullable is True


def test_the_root_may_be_a_reference() -> None:
    """Generators often put the whole schema into $defs."""
    document = {"$ref": "#/$defs/Event", "$defs": {"Event": {"type": "object", "properties": {"a": {}}}}}
    assert isinstance(compile_schema(document), ObjectSpec)


def test_several_problems_come_at_once() -> None:
    """The error carries every problem and reads as one text."""
    with pytest.raises(SchemaError, match=r"minimum.*; .*enum") as caught:
        compile_schema({"type": "object", "properties": {"a": {"minimum": "x"}, "b": {"enum": []}}})
    assert len(caught.value.problems) == 2


def test_defaults_are_judged_at_any_depth() -> None:
    """Objects in defaults must have their required members, each of them valid."""
    spec = compile_schema({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]})
    missing, wrong = deep_fault(spec, {}), deep_fault(spec, {"a": "x"})
    assert missing == Fault("missing_field", "lacks a")
    assert wrong == Fault("wrong_type", "must be a number, not a string")
    assert deep_fault(spec, {"a": 1, "b": None}) is None
    assert deep_fault(ArraySpec(items=spec, nullable=False), [{"a": 1}]) is None


@pytest.mark.parametrize(
    ("pattern", "translated"),
    [
        ("a$", r"(?a)a\Z"),
        (r"a\$[$]", r"(?a)a\$[$]"),
        ("(?<year>[0-9])", "(?a)(?P<year>[0-9])"),
        ("(?<=a)b", "(?a)(?<=a)b"),
        ("[[a]", r"(?a)[\[a]"),
        (r"[^\]a]", r"(?a)[^\]a]"),
    ],
)
def test_patterns_keep_their_meaning_in_python(pattern: str, translated: str) -> None:
    """Anchors, named groups and brackets in classes are rewritten; everything else stays."""
    assert python_pattern(pattern) == translated


@pytest.mark.parametrize("pattern", ["[]", "[^]", r"\P{L}"])
def test_patterns_without_a_python_counterpart_are_refused(pattern: str) -> None:
    """Empty classes and property escapes would silently mean something else."""
    with pytest.raises(ValueError, match="not supported"):
        python_pattern(pattern)


def test_types_are_named_in_json_words() -> None:
    """Messages use the words of JSON Schema."""
    examples: list[object] = [None, True, 1, 1.5, "", [], {}]
    assert [type_word(value) for value in examples] == [
        "null",
        "boolean",
        "integer",
        "number",
        "string",
        "array",
        "object",
    ]


def test_an_open_schema_takes_any_default() -> None:
    """Nothing constrains it."""
    assert compiled({"default": [1]}).default == [1]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "default": float("inf")}, "too large for a 64-bit float"),
        ({"type": "boolean", "default": 1}, "must be a boolean, not an integer"),
        ({"type": "array", "default": 1}, "must be an array, not an integer"),
        ({"type": "object", "default": []}, "must be an object, not an array"),
        ({"type": "string", "minLength": 2, "default": "a"}, "has 1 characters, at least 2 are needed"),
        ({"type": "array", "maxItems": 1, "default": [1, 2]}, "has 2 items, at most 1 are allowed"),
        ({"type": "integer", "default": None}, "must be an integer, not null"),
    ],
)
def test_faults_are_put_into_words(schema: dict[str, Any], words: str) -> None:
    """The phrase says what the schema wants and what stands there."""
    (problem,) = refusal({"type": "object", "properties": {"a": schema}})
    assert words in problem.message


def test_counts_beyond_all_memory_are_bounds_like_any_other() -> None:
    """A text may be as long as it likes below 2**70, and can never be longer than that."""
    document = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "maxLength": 2**70}}}
    assert Decoder(compile_schema(document), (), "a", (), full=True).decode([b'{"a":"x"}']).refusals == {}
    document["properties"] = {"a": {"type": "string", "minLength": 2**70}}
    assert Decoder(compile_schema(document), (), "a", (), full=True).decode([b'{"a":"x"}']).refusals.keys() == {0}


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels - 1):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """A small document that describes 2 to the power of ``levels`` fields."""
    pairs = {
        f"n{level}": {"type": "object", "properties": {key: {"$ref": f"#/$defs/n{level + 1}"} for key in "ab"}}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/n0", "$defs": {**pairs, f"n{levels}": {"type": "string"}}}


def test_levels_and_subschemas_have_limits() -> None:
    """What is within them compiles; one level more, or references that double and double, end at once."""
    assert isinstance(compile_schema(nested(64)), ObjectSpec)
    assert isinstance(compile_schema(doubling(8)), ObjectSpec)
    for document in (nested(65), nested(140), doubling(30)):
        (problem,) = refusal(document)
        assert (problem.code, "64 levels or 10000 subschemas" in problem.message) == ("too_large", True)
        assert problem.remedy


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_documents_have_a_limit_too(wrap: Callable[[Any], Any]) -> None:
    """Nesting anywhere in the document, also where nothing is compiled, ends at 300 levels."""
    inner: Any = True
    for _ in range(299):
        inner = wrap(inner)
    assert isinstance(compile_schema({"type": "object", "examples": inner}), ObjectSpec)
    (problem,) = refusal({"type": "object", "examples": wrap(inner)})
    assert (problem.code, "300 levels of JSON" in problem.message) == ("too_large", True)


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ({"enum": ["\ud800"]}, "/properties/a/enum/0"),
        ({"description": "x\udfff"}, "/properties/a/description"),
        ({"type": "object", "properties": {"\ud800": True}}, "/properties/a/properties"),
    ],
)
def test_texts_that_are_no_unicode_are_refused(field: Any, key: str) -> None:
    """Half a surrogate pair can be written in JSON, but stands for no character."""
    (problem,) = refusal({"type": "object", "properties": {"a": field}})
    assert (problem.key, problem.code) == (key, "invalid_schema")
    assert "surrogate" in problem.message
