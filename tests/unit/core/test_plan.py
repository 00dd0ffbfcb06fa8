"""The types that read events: what the quick way refuses by itself, and what is left to a closer look."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from msgspec import UNSET, Raw

from worker.core.decoder import Decoder
from worker.core.features import TensorSpec
from worker.core.plan import Node, Path, build, expand, loose_fault, steps_to
from worker.core.schema import compile_schema
from worker.core.specs import ArraySpec, Fault, NumberSpec, ObjectSpec, Spec, StringSpec

NUMBER = {"type": "number"}
INTEGER = {"type": "integer"}
TEXT = {"type": "string"}


def decoder(field: dict[str, Any] | None, *inputs: TensorSpec, include: bool = False, full: bool = False) -> Decoder:
    """A decoder of an id and, perhaps, a field ``a``."""
    properties = {"id": TEXT} if field is None else {"id": TEXT, "a": field}
    schema = compile_schema({"type": "object", "properties": properties, "required": ["id"]})
    return Decoder(schema, inputs, "id", ("a",) if include else (), full=full)


def unsure(subject: Decoder, *values: Any) -> list[Any]:
    """Values of ``a`` that the types let through to no row."""
    encoded = [json.dumps({"id": "x", "a": value}).encode() for value in values]
    return [values[index] for index in subject._decode_quickly(encoded)[2]]


def row(subject: Decoder, event: dict[str, Any]) -> Any:
    """The row of a good event, decoded quickly."""
    ((found,), _, balked) = subject._decode_quickly([json.dumps(event).encode()])
    assert balked == []
    return found


VECTOR = TensorSpec("x", "float32", (2,), ("a",))


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ({**TEXT, "minLength": 2}, ["ab", "abc"], ["a", ""]),
        ({**TEXT, "maxLength": 2}, ["", "ab"], ["abc"]),
        ({**TEXT, "pattern": "^[a-z]+$"}, ["ab"], ["aB", "a\n"]),
        ({**TEXT, "enum": ["a", "b"]}, ["a", "b"], ["c", None]),
        ({"enum": ["a", None]}, ["a", None], ["b"]),
        ({"type": ["string", "null"], "const": None}, [None], ["a"]),
        ({"enum": [1, 2]}, [1, 2], [0, 3, "1"]),
        ({**INTEGER, "enum": [2**63 - 1]}, [2**63 - 1], [2**63 - 2]),
        ({**INTEGER, "minimum": 1, "maximum": 3}, [1, 3], [0, 4, -(2**70), 2**70]),
        ({**INTEGER, "minimum": 0.5, "maximum": 3.5}, [1, 3], [0, 4]),
        ({**INTEGER, "exclusiveMinimum": 0, "exclusiveMaximum": 4}, [1, 3], [0, 4]),
        ({**INTEGER, "exclusiveMinimum": 0.5, "exclusiveMaximum": 3.5}, [1, 3], [0, 4]),
        ({**NUMBER, "minimum": 0.5, "maximum": 2}, [0.5, 1, 2, 2.0], [0, 0.25, 3, 2.5, 2**70, -(2**70)]),
        ({**NUMBER, "exclusiveMinimum": 0, "exclusiveMaximum": 2}, [0.5, 1, 1.5], [0, 0.0, 2, 2.0]),
        ({**NUMBER, "minimum": 0, "exclusiveMinimum": 0, "maximum": 2, "exclusiveMaximum": 2}, [1, 0.5], [0, 2.0]),
        ({**NUMBER, "minimum": 1, "exclusiveMinimum": 0, "maximum": 2, "exclusiveMaximum": 3}, [1, 2.0], [0.5, 2.5]),
        (INTEGER, [1, -(2**70)], [1.5, "1", True, None]),
        (NUMBER, [1, 1.5], ["1", False, None]),
        ({"type": ["number", "null"]}, [1, None], ["1"]),
        ({"type": "boolean"}, [True, False], [1, None]),
        ({"type": "array", "minItems": 1, "maxItems": 2}, [[1], [1, "x"]], [[], [1, 2, 3], {}]),
        ({"type": "array", "items": {**TEXT, "maxLength": 1}}, [[], ["a"]], [["ab"], [1]]),
        ({"type": "array", "items": {"type": "array", "items": INTEGER}}, [[[1]], [[]]], [[1], [["x"]]]),
        ({"type": "object", "properties": {"b": INTEGER}, "required": ["b"]}, [{"b": 1}], [{}, {"b": "x"}, None]),
        ({"type": ["object", "null"], "properties": {"b": INTEGER}}, [{}, None, {"c": 1}], [{"b": 1.5}, []]),
    ],
)
def test_types_hold_what_the_schema_says(field: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    """Whether the output repeats the field or all fields are judged, the same values are turned away."""
    for subject in (decoder(field, include=True), decoder(field, full=True), decoder(field, include=True, full=True)):
        assert unsure(subject, *good, *bad) == bad
        assert not subject._root.loose


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        ({}, True),
        ({"minItems": 1, "maxItems": 3}, True),
        ({"minItems": 2}, True),
        ({"maxItems": 2}, True),
        ({"minItems": 3}, False),
        ({"maxItems": 1}, False),
    ],
)
def test_a_tensor_fixes_the_length_of_its_array(bounds: dict[str, int], fits: bool) -> None:
    """Schema and tensor both bound the length; where they contradict each other, no length is right."""
    subject = decoder({"type": "array", "items": NUMBER, **bounds}, VECTOR)
    arrays = [[1.0] * size for size in range(5)]
    assert [array for array in arrays if array not in unsure(subject, *arrays)] == ([[1.0, 1.0]] if fits else [])


def test_a_tensor_fixes_every_level_of_nested_arrays() -> None:
    """The outer length is the shape's first number, the inner length its second."""
    field = {"type": "array", "items": {"type": "array", "items": INTEGER}}
    subject = decoder(field, TensorSpec("x", "int8", (2, 3), ("a",)))
    good = [[1, 2, 3], [4, 5, 6]]
    bad = [
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2, 3]],
        [[1, 2, 3], [4, 5]],
        [[1, 2, 3], [4, 5, 6, 7]],
        [[1, 2, 3], [4, "x", 5]],
    ]
    assert unsure(subject, good, *bad) == bad


def test_texts_of_an_array_have_their_number_too() -> None:
    """An array of strings that fills a tensor has the tensor's length."""
    subject = decoder({"type": "array", "items": TEXT}, TensorSpec("x", "string", (2,), ("a",)))
    assert unsure(subject, ["a", "b"], ["a"], ["a", "b", "c"]) == [["a"], ["a", "b", "c"]]


FLOAT = TensorSpec("x", "float64", (), ("a",))
ITEMS = {"type": "array", "items": {**NUMBER, "minimum": -(2**53)}}


@pytest.mark.parametrize(
    ("field", "fed", "included"),
    [
        (NUMBER, False, False),
        ({**NUMBER, "minimum": 0}, False, False),
        ({**NUMBER, "exclusiveMaximum": 0}, False, False),
        ({**INTEGER, "maximum": 2**53 - 1}, False, False),
        ({**INTEGER, "maximum": 2**53}, True, True),
        ({**INTEGER, "exclusiveMinimum": -(2**53)}, True, True),
        ({"enum": [0.5, 1]}, True, True),
        ({"enum": [1, 2]}, False, False),
        ({"enum": [2**63 - 1]}, False, False),
        ({"enum": [-(2**63)]}, True, True),
        ({"const": True}, True, True),
        ({"type": "boolean"}, False, False),
    ],
)
def test_what_the_types_cannot_hold_gets_a_closer_look(field: dict[str, Any], fed: bool, included: bool) -> None:
    """Bounds are the tensor's or the type's to check, where floats are exact; beyond, each row is visited."""
    assert decoder(field, FLOAT)._root.loose is fed
    assert decoder(field, include=True)._root.loose is included


def test_bounds_of_items_are_checked_by_the_tensor_or_one_by_one() -> None:
    """An array that feeds a tensor needs no visit, one that the output repeats does where floats are not exact."""
    bounded = {"type": "array", "items": {**NUMBER, "minimum": 0}}
    assert decoder(bounded, VECTOR)._root.loose is False
    assert unsure(decoder(bounded, include=True), [1, 0], [1, -1], [-0.5]) == [[1, -1], [-0.5]]
    subject = decoder(ITEMS, include=True)
    assert subject._root.loose is True
    assert loose_fault(subject._root, row(subject, {"id": "x", "a": [1, -(2**53)]})) is None
    fault = loose_fault(subject._root, row(subject, {"id": "x", "a": [1, -(2**53) - 2]}))
    assert fault == Fault("out_of_range", "is below the minimum -9007199254740992")
    assert loose_fault(subject._root, row(subject, {"id": "x"})) is None


def test_only_loose_values_are_visited() -> None:
    """Where the types hold everything, a wrong value goes unseen; absence and null are no faults."""
    strict = Node(NumberSpec(nullable=False, minimum=0))
    assert loose_fault(strict, -1) is None
    strict.loose = True
    assert [loose_fault(strict, value) for value in (None, UNSET, 0)] == [None] * 3
    assert loose_fault(strict, -1) == Fault("out_of_range", "is below the minimum 0")


def test_absence_in_a_row() -> None:
    """A float tensor's number stands for it, unless the output or another tensor must know."""
    whole = TensorSpec("y", "int32", (), ("a",))
    field = {**INTEGER, "default": 4}
    assert row(decoder(field, FLOAT), {"id": "x"}).f0 == 4
    assert row(decoder({"type": "boolean", "default": True}, FLOAT), {"id": "x"}).f0 is True
    assert row(decoder(field, FLOAT, whole), {"id": "x"}).f0 is UNSET
    assert row(decoder(field, whole, FLOAT), {"id": "x"}).f0 is UNSET
    assert row(decoder(field, FLOAT, include=True), {"id": "x"}).f0 is UNSET
    nullable = {"type": ["number", "null"], "default": None}
    assert str(row(decoder(nullable, FLOAT), {"id": "x"}).f0) == "nan"


def test_numbers_in_a_row() -> None:
    """A number that only feeds tensors is a float; one that the output repeats stays as it was written."""
    assert repr(row(decoder(NUMBER, FLOAT), {"id": "x", "a": 1}).f0) == "1.0"
    assert repr(row(decoder(NUMBER, FLOAT, include=True), {"id": "x", "a": 1}).f0) == "1"
    nested = {"type": "object", "properties": {"b": {"type": "array", "items": NUMBER}}}
    assert repr(row(decoder(nested, include=True), {"id": "x", "a": {"b": [1, 1.5]}}).f1.f0) == "[1, 1.5]"
    assert repr(row(decoder(nested, full=True), {"id": "x", "a": {"b": [1, 1.5]}}).f1.f0) == "[1.0, 1.5]"


def test_open_values_in_a_row() -> None:
    """A value of any type stays raw, unless the output repeats it."""
    found = row(decoder({}, full=True), {"id": "x", "a": [1]}).f1
    assert isinstance(found, Raw)
    assert bytes(found) == b"[1]"
    assert row(decoder({}, include=True), {"id": "x", "a": [1]}).f1 == [1]


def test_open_objects_take_any_property() -> None:
    """Also where every field is judged, only a closed object refuses what it does not know."""
    for full in (False, True):
        assert unsure(decoder({"type": "object"}, full=full, include=True), {"b": 1}) == []
    closed = {"type": "object", "additionalProperties": False}
    assert unsure(decoder(closed, full=True), {}, {"b": 1}) == [{"b": 1}]


def test_rows_cost_the_garbage_collector_nothing() -> None:
    """They hold no cycles, so that it need not follow them; their type has a name for error texts."""
    found = row(decoder(NUMBER, include=True), {"id": "x", "a": 1})
    assert not gc.is_tracked(found)
    assert type(found).__name__ == "Event"


def test_paths_lead_to_values() -> None:
    """A path knows its attributes, and whether any step of it may be missing."""
    inner = ObjectSpec(nullable=False, properties={"c.d": NumberSpec(nullable=False)}, required=frozenset(["c.d"]))
    root = ObjectSpec(nullable=False, properties={"a": inner, "b": StringSpec(nullable=True)}, required=frozenset("ab"))
    node = Node(root)
    steps = steps_to("a.c.d", root)
    assert steps is not None
    assert [name for name, _ in steps] == ["a", "c.d"]
    path = Path("a.c.d", node, steps)
    assert (path.text, path.attributes, path.optional, path.node.spec) == (
        "a.c.d",
        ("f0", "f0"),
        False,
        inner.properties["c.d"],
    )
    other = Path("b", node, steps_to("b", root) or [])
    assert (other.attributes, other.optional) == (("f1",), True)
    assert [steps_to(text, root) for text in ("a.c", "b.x", "", "a.c.d.e")] == [None] * 4
    make = build(node, full=False)
    assert path.value(make(f0=node.children["a"].make(f0=5), f1="x")) == 5
    assert path.value(make(f0=None, f1="x")) is None


def test_an_array_has_one_node_for_its_items() -> None:
    """It is there from the start, and is in use as the array is."""
    node = Node(ArraySpec(items=ArraySpec(items=Spec())))
    assert node.item is not None
    assert node.item.item is not None
    expand(node, whole=False)
    assert [node.whole, node.item.whole, node.item.item.whole] == [False] * 3
    expand(node, whole=True)
    expand(node, whole=False)
    assert [node.whole, node.item.whole, node.item.item.whole] == [True] * 3
