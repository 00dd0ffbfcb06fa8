"""Compile a JSON Schema 2020-12 document into specs that the decoder enforces in full.

A keyword is enforced, or known to be an annotation, or refused: never ignored. Where the document itself is
broken (a wrong type, an empty enum, a default that breaks its own schema), ``compile_schema`` raises at once. A sound
keyword that we cannot enforce is noted on its node, and is a fault only where the node is in use.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, cast
from urllib.parse import unquote

from worker.core.documents import MAX_SCHEMA_LEVELS, MAX_SUBSCHEMAS, document_problems, join, limit_problem
from worker.core.patterns import python_pattern
from worker.core.specs import (
    ArraySpec,
    BooleanSpec,
    Fault,
    NumberSpec,
    ObjectSpec,
    SchemaError,
    Spec,
    StringSpec,
    node_fault,
)
from worker.errors import Problem

__all__ = ["ObjectSpec", "SchemaError", "compile_schema"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

# Read by people and tools, without a bearing on which values are valid. "format" is one of them in this dialect.
_ANNOTATIONS: Final = frozenset(
    {
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "examples"),
        *("format", "default", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)
_BY_KIND: Final[Mapping[str, frozenset[str]]] = {
    "null": frozenset(),
    "boolean": frozenset(),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "string": frozenset(["minLength", "maxLength", "pattern"]),
    "array": frozenset(["items", "minItems", "maxItems"]),
    "object": frozenset(["properties", "required", "additionalProperties"]),
}
_EVERYWHERE: Final = frozenset(["type", "enum", "const", "anyOf", "$ref"])
_CONSTRAINTS: Final = frozenset[str]().union(*_BY_KIND.values())
_REMEDIES: Final[Mapping[str, str]] = {
    "oneOf": 'use anyOf with {"type": "null"}, or list the types: "type": ["number", "null"]',
    "allOf": "write the keywords of its parts into one schema",
    "multipleOf": "remove it, or use type integer",
    "prefixItems": "use items, which holds for every item",
    "$vocabulary": "remove it: format is an annotation here and is not asserted",
    "dependencies": "remove it and check the rule where the events are made",
}


# No text and no array is longer, so that a larger bound means the same.
_MAX_COUNT: Final = (1 << 63) - 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _BY_KIND for name in names)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_map(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_filled_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


_SHAPES: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], (_is_number, "a finite number")),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems"], (_is_count, "a whole number, 0 or more")),
    **dict.fromkeys(["enum", "anyOf"], (_is_filled_list, "a list with at least one entry")),
    **dict.fromkeys(["properties", "$defs", "definitions"], (_is_map, "an object")),
    **dict.fromkeys(["pattern", "$ref"], (lambda value: isinstance(value, str), "a string")),
    "type": (_is_type, "one of " + ", ".join(sorted(_BY_KIND)) + ", or a list of them"),
    "required": (_is_names, "a list of property names"),
    "additionalProperties": (lambda value: isinstance(value, bool | Mapping), "true, false or a schema"),
}


def compile_schema(document: Mapping[str, object]) -> ObjectSpec:
    """Specs of an event, for ``Decoder``. Raises ``SchemaError`` with every problem found.

    ``x-`` keywords count as annotations, and so does ``format``. Supported constraints are listed in the table of
    kinds above; ``$ref`` must point into the document and must not lead back to itself.
    """
    if flaws := document_problems(document):
        raise SchemaError(tuple(flaws))
    compiler = _Compiler(document)
    root = compiler.node(document, "", ())
    if not isinstance(root, ObjectSpec) and not compiler.broken and not root.problems:
        compiler.report("", "type", "an event schema must describe an object", 'write "type": "object"')
    problems = [*compiler.broken, *root.problems]
    if problems or not isinstance(root, ObjectSpec):
        raise SchemaError(tuple(dict.fromkeys(problems)))
    return root


class _Compiler:
    """One pass over a document; ``broken`` collects what makes the document itself unusable."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = document
        self.broken: list[Problem] = []
        self._level = self._count = 0

    def report(self, pointer: str, keyword: str, message: str, remedy: str) -> None:
        """Note that the document is broken at ``pointer``/``keyword``."""
        self.broken.append(Problem(message, remedy, key=join(pointer, keyword), code="invalid_schema"))

    def node(self, schema: object, pointer: str, refs: tuple[str, ...]) -> Spec:
        """Spec of one subschema; ``refs`` are the references being followed, to find cycles."""
        self._count += 1
        self._level += 1
        if self._count > MAX_SUBSCHEMAS or self._level > MAX_SCHEMA_LEVELS:
            message = f"the schema has more than {MAX_SCHEMA_LEVELS} levels or {MAX_SUBSCHEMAS} subschemas"
            raise SchemaError((limit_problem(pointer, f"{message}, references followed"),))
        spec = self._node(schema, pointer, refs)
        self._level -= 1
        return spec

    def _node(self, schema: object, pointer: str, refs: tuple[str, ...]) -> Spec:
        if schema is True:
            return Spec(pointer=pointer)
        if schema is False:
            return Spec(pointer=pointer, problems=(_unenforceable(pointer, "", "a schema that is false"),))
        if not isinstance(schema, Mapping):
            self.report(pointer, "", f"{pointer or 'the schema'} must be an object", "write a JSON Schema")
            return Spec(pointer=pointer)
        if not self._well_formed(schema, pointer):
            return Spec(pointer=pointer)
        if "$ref" in schema:
            spec = self._reference(str(schema["$ref"]), pointer, refs)
            spec = self._beside(spec, schema, pointer, "$ref")
        elif "anyOf" in schema:
            spec = self._beside(self._any_of(schema, pointer, refs), schema, pointer, "anyOf")
        else:
            spec = self._plain(schema, pointer, refs)
        return self._with_default(spec, schema, pointer)

    def _well_formed(self, schema: Mapping[str, object], pointer: str) -> bool:
        before = len(self.broken)
        for keyword, (accepts, wanted) in _SHAPES.items():
            if keyword in schema and not accepts(schema[keyword]):
                self.report(pointer, keyword, f"{join(pointer, keyword)} must be {wanted}", f"write {wanted}")
        if schema.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):
            self.report(pointer, "$schema", "the schema names another dialect than 2020-12", f"write {DIALECT}")
        return len(self.broken) == before

    def _reference(self, target: str, pointer: str, refs: tuple[str, ...]) -> Spec:
        place = join(pointer, "$ref")
        if target in refs:
            return Spec(pointer=pointer, problems=(_unenforceable(pointer, "$ref", f"the cycle through {target}"),))
        if not target.startswith("#/") and target != "#":
            problem = _unenforceable(pointer, "$ref", f"$ref {target}", "copy the schema into $defs: #/$defs/NAME")
            return Spec(pointer=pointer, problems=(problem,))
        found: object = self._document
        for part in target.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                self.report(pointer, "$ref", f"{place} points to {target}, which does not exist", "correct the path")
                return Spec(pointer=pointer)
            found = found[name]
        return self.node(found, target[1:], (*refs, target))

    def _any_of(self, schema: Mapping[str, object], pointer: str, refs: tuple[str, ...]) -> Spec:
        branches = cast("list[object]", schema["anyOf"])
        others = [index for index, branch in enumerate(branches) if branch != {"type": "null"}]
        if len(others) != 1 or len(branches) == 1:
            problem = _unenforceable(pointer, "anyOf", "anyOf other than one schema and null", _REMEDIES["oneOf"])
            return Spec(pointer=pointer, problems=(problem,))
        spec = self.node(branches[others[0]], f"{join(pointer, 'anyOf')}/{others[0]}", refs)
        return replace(spec, nullable=True)

    def _beside(self, spec: Spec, schema: Mapping[str, object], pointer: str, keyword: str) -> Spec:
        """``spec`` with a problem for each constraint that stands beside ``$ref`` or ``anyOf``."""
        extra = [name for name in schema if name != keyword and not _is_annotation(name)]
        found = [
            _unenforceable(pointer, name, f"{name} beside {keyword}", "move it into that schema") for name in extra
        ]
        return replace(spec, problems=(*spec.problems, *found))

    def _plain(self, schema: Mapping[str, object], pointer: str, refs: tuple[str, ...]) -> Spec:
        kind, nullable, problem = _kind(schema, pointer)
        problems = [problem] if problem else []
        usable = _BY_KIND.get(kind, _CONSTRAINTS) | _EVERYWHERE
        for name in schema:
            if name not in usable and not _is_annotation(name):
                what = f"{name} on type {kind}" if name in _CONSTRAINTS else f"the keyword {name}"
                problems.append(_unenforceable(pointer, name, what))
        spec = self._typed(kind, schema, pointer, refs, problems)
        listed = _listed(schema)
        if listed is not None and isinstance(spec, BooleanSpec | NumberSpec | StringSpec):
            spec, nullable = self._limited(spec, listed, pointer, nullable)
        return replace(spec, pointer=pointer, nullable=nullable, problems=tuple(problems))

    def _typed(
        self, kind: str, schema: Mapping[str, object], pointer: str, refs: tuple[str, ...], problems: list[Problem]
    ) -> Spec:
        self._check_order(schema, pointer)
        if kind in ("integer", "number"):
            return NumberSpec(
                integer=kind == "integer",
                minimum=_number(schema, "minimum"),
                maximum=_number(schema, "maximum"),
                exclusive_minimum=_number(schema, "exclusiveMinimum"),
                exclusive_maximum=_number(schema, "exclusiveMaximum"),
            )
        if kind == "string":
            pattern = self._pattern(schema.get("pattern"), pointer)
            return StringSpec(
                min_length=_count(schema, "minLength") or 0, max_length=_count(schema, "maxLength"), pattern=pattern
            )
        if kind == "array":
            items = self.node(schema.get("items", True), join(pointer, "items"), refs)
            return ArraySpec(
                items=items, min_items=_count(schema, "minItems") or 0, max_items=_count(schema, "maxItems")
            )
        if kind == "object":
            return self._object(schema, pointer, refs, problems)
        return BooleanSpec() if kind == "boolean" else Spec()

    def _object(
        self, schema: Mapping[str, object], pointer: str, refs: tuple[str, ...], problems: list[Problem]
    ) -> ObjectSpec:
        declared = schema.get("properties", {})
        names: Mapping[str, object] = declared if isinstance(declared, Mapping) else {}
        place = join(pointer, "properties")
        properties = {name: self.node(child, join(place, name), refs) for name, child in names.items()}
        required = schema.get("required", [])
        wanted = frozenset(required if isinstance(required, list) else [])
        for name in sorted(wanted - properties.keys()):
            properties[name] = Spec(pointer=join(pointer, "required"))
        extra = schema.get("additionalProperties", True)
        if extra not in (True, False, {}):
            problems.append(_unenforceable(pointer, "additionalProperties", "additionalProperties with a schema"))
        return ObjectSpec(properties=properties, required=wanted, closed=extra is False)

    def _pattern(self, pattern: object, pointer: str) -> str | None:
        if not isinstance(pattern, str):
            return None
        try:
            translated = python_pattern(pattern)
            with warnings.catch_warnings():
                # Set operations, which Python may give a meaning one day and ECMA-262 does not.
                warnings.simplefilter("error", FutureWarning)
                re.compile(translated)
        except (re.error, ValueError, OverflowError, RecursionError, FutureWarning) as error:
            self.report(pointer, "pattern", f"{join(pointer, 'pattern')} is no usable pattern: {error}", "correct it")
            return None
        return translated

    def _check_order(self, schema: Mapping[str, object], pointer: str) -> None:
        pairs = [("minLength", "maxLength", False), ("minItems", "maxItems", False), ("minimum", "maximum", False)]
        pairs += [("exclusiveMinimum", "maximum", True), ("minimum", "exclusiveMaximum", True)]
        pairs += [("exclusiveMinimum", "exclusiveMaximum", True)]
        for low_name, high_name, strict in pairs:
            low, high = _number(schema, low_name), _number(schema, high_name)
            if low is not None and high is not None and (low > high or (strict and low == high)):
                message = f"{low_name} {low} and {high_name} {high} leave no value"
                self.report(pointer, low_name, message, f"make {low_name} the smaller one")

    def _limited(self, spec: Spec, listed: list[object], pointer: str, nullable: bool) -> tuple[Spec, bool]:
        """``spec`` narrowed to the listed values that satisfy its other keywords, and whether null is one."""
        values = [value for value in listed if value is not None and node_fault(spec, value) is None]
        nullable = nullable and None in listed
        if not values and not nullable:
            self.report(
                pointer, "enum", "none of the listed values satisfies the schema's other keywords", "correct it"
            )
        normal = [_normal(spec, value) for value in values]
        return replace(spec, allowed=tuple(dict.fromkeys(normal))), nullable

    def _with_default(self, spec: Spec, schema: Mapping[str, object], pointer: str) -> Spec:
        if "default" not in schema:
            return spec
        default = schema["default"]
        fault = deep_fault(spec, default)
        if fault is not None:
            where = join(pointer, "default")
            self.report(pointer, "default", f"{where} breaks its own schema: it {fault.text}", "correct the default")
        return replace(spec, default=_normal(spec, default))


def deep_fault(spec: Spec, value: object) -> Fault | None:
    """First fault in a plain JSON value, at any depth."""
    fault = node_fault(spec, value)
    if fault is None and isinstance(spec, ArraySpec) and isinstance(value, list):
        return next((found for item in value if (found := deep_fault(spec.items, item))), None)
    if fault is None and isinstance(spec, ObjectSpec) and isinstance(value, dict):
        absent = [name for name in sorted(spec.required) if name not in value]
        if absent:
            return Fault("missing_field", f"lacks {absent[0]}")
        inner = [(child, value[name]) for name, child in spec.properties.items() if name in value]
        return next((found for child, part in inner if (found := deep_fault(child, part))), None)
    return fault


def _kind(schema: Mapping[str, object], pointer: str) -> tuple[str, bool, Problem | None]:
    """JSON type (``any`` if the schema leaves it open), whether null is one of the types, and a problem."""
    declared = schema.get("type")
    listed = _listed(schema)
    if declared is None and listed is not None:
        names = {_json_type(value) for value in listed}
    elif declared is None:
        found = sorted(_CONSTRAINTS & schema.keys())
        if not found:
            return "any", True, None
        return ("any", True, _unenforceable(pointer, found[0], f"{found[0]} without type", 'add "type"'))
    else:
        names = set(declared if isinstance(declared, list) else [str(declared)])
    nullable = "null" in names
    names -= {"null"}
    if names == {"integer", "number"}:
        names = {"number"}
    if len(names) != 1 or not names <= _BY_KIND.keys():
        return (
            "any",
            True,
            _unenforceable(pointer, "type", "more or fewer than one type beside null", "name one type"),
        )
    kind = names.pop()
    if listed is not None and kind in ("array", "object"):
        keyword = "enum" if "enum" in schema else "const"
        return (kind, nullable, _unenforceable(pointer, keyword, f"{keyword} of {kind}s", "list scalar values"))
    return kind, nullable, None


def _listed(schema: Mapping[str, object]) -> list[object] | None:
    """Values that ``enum`` and ``const`` leave, None where neither stands."""
    values = schema.get("enum")
    listed = list(values) if isinstance(values, list) else None
    if "const" in schema:
        constant = schema["const"]
        listed = [constant] if listed is None or any(_is_same(constant, value) for value in listed) else []
    return listed


def _is_same(left: object, right: object) -> bool:
    """Equality of JSON scalars, where true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _json_type(value: object) -> str:
    words = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", type(None): "null"}
    return words.get(type(value), "object")


def _normal(spec: Spec, value: object) -> object:
    """A literal of the schema as the decoder yields it: 1.0 for an integer field is 1."""
    if isinstance(spec, NumberSpec) and spec.integer and isinstance(value, float):
        return int(value)
    return value


def _number(schema: Mapping[str, object], keyword: str) -> float | None:
    value = schema.get(keyword)
    return value if isinstance(value, int | float) else None


def _count(schema: Mapping[str, object], keyword: str) -> int | None:
    value = schema.get(keyword)
    return min(value, _MAX_COUNT) if isinstance(value, int) else None


def _is_annotation(keyword: str) -> bool:
    return keyword in _ANNOTATIONS or keyword.startswith("x-")


def _unenforceable(pointer: str, keyword: str, what: str, remedy: str = "") -> Problem:
    place = join(pointer, keyword) if keyword else pointer
    advice = remedy or _REMEDIES.get(keyword, "remove it, or check it where the events are made")
    return Problem(f"{what} cannot be enforced (at {place or '/'})", advice, key=place, code="unenforceable_keyword")
