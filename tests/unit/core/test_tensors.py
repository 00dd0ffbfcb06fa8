"""The bulk way of packing tensors: it needs no help with sound rows, and balks at exactly the others."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.features import TensorSpec
from worker.core.plan import NAN
from worker.core.records import Refusal
from worker.core.schema import compile_schema
from worker.core.specs import NumberSpec
from worker.core.tensors import RowFault, TensorPacker, _dtype_range, _narrowed

NUMBER = {"type": "number"}
INTEGER = {"type": "integer"}
TEXT = {"type": "string"}
VECTOR = {"type": "array", "items": NUMBER}
FIRST = TensorSpec("first", "float32", (), ("before",))


def packed(
    properties: dict[str, Any],
    tensor: TensorSpec,
    *events: dict[str, Any],
    required: tuple[str, ...] = (),
    include: tuple[str, ...] = (),
    first: bool = True,
) -> tuple[TensorPacker, list[object]]:
    """The packer of ``tensor`` and the rows of the events; with ``first``, another input holds the first field."""
    known = {"id": TEXT, "before": NUMBER, **properties}
    schema = compile_schema({"type": "object", "properties": known, "required": ["id", *required]})
    decoder = Decoder(schema, (FIRST, tensor) if first else (tensor,), "id", include, full=False)
    values = [json.dumps({"id": "a", **event}).encode() for event in events]
    rows, positions, balked = decoder._decode_quickly(values)
    assert (list(positions), balked) == (list(range(len(events))), [])
    return decoder._packers[-1], rows


def raw(*numbers: float) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


PLACE = {"type": "object", "properties": {"far": NUMBER, "near": NUMBER}, "required": ["far"]}
SQUARE = {"type": "array", "items": {"type": "array", "items": INTEGER}}
WORDS = {"type": "array", "items": TEXT}
SOUND: list[tuple[dict[str, Any], TensorSpec, dict[str, Any], Any]] = [
    ({"n": NUMBER}, TensorSpec("x", "float32", (), ("n",)), {"n": 1.5}, 1.5),
    ({"n": NUMBER}, TensorSpec("x", "float64", (1,), ("n",)), {"n": 0.1}, [0.1]),
    ({"n": NUMBER, "m": NUMBER}, TensorSpec("x", "float16", (2,), ("m", "n")), {"n": 1, "m": 2}, [2, 1]),
    ({"n": INTEGER}, TensorSpec("x", "uint64", (1,), ("n",)), {"n": 2**64 - 1}, [2**64 - 1]),
    ({"n": INTEGER, "m": INTEGER}, TensorSpec("x", "int8", (2, 1), ("n", "m")), {"n": -128, "m": 127}, [[-128], [127]]),
    ({"b": {"type": "boolean"}}, TensorSpec("x", "bool", (), ("b",)), {"b": True}, True),
    ({"p": PLACE}, TensorSpec("x", "float32", (1,), ("p.far",)), {"p": {"far": 4}}, [4]),
    ({"p": PLACE}, TensorSpec("x", "float32", (2,), ("p.near", "p.far")), {"p": {"far": 4, "near": 5}}, [5, 4]),
    ({"v": VECTOR}, TensorSpec("x", "float32", (3,), ("v",)), {"v": [1, 2.5, 3]}, [1, 2.5, 3]),
    ({"v": VECTOR}, TensorSpec("x", "float32", (1, 3), ("v",)), {"v": [1, 2.5, 3]}, [[1, 2.5, 3]]),
    ({"v": SQUARE}, TensorSpec("x", "int32", (2, 2), ("v",)), {"v": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]]),
    ({"v": VECTOR, "n": NUMBER}, TensorSpec("x", "float64", (3,), ("n", "v")), {"v": [1, 2], "n": 9}, [9, 1, 2]),
    ({"v": VECTOR, "n": NUMBER}, TensorSpec("x", "float64", (3,), ("v", "n")), {"v": [1, 2], "n": 9}, [1, 2, 9]),
    ({"t": TEXT}, TensorSpec("x", "float32", (2,), ("t",), "csv"), {"t": "1.5,2"}, [1.5, 2]),
    ({"t": TEXT}, TensorSpec("x", "int64", (2,), ("t",), "csv"), {"t": f"{2**62 + 1},2"}, [2**62 + 1, 2]),
    ({"t": TEXT}, TensorSpec("x", "float32", (2, 1), ("t",), "base64"), {"t": raw(1, 0.1)}, [[1], [np.float32(0.1)]]),
    ({"t": TEXT}, TensorSpec("x", "float64", (), ("t",), "epoch_s"), {"t": "1970-01-01T00:00:01.5Z"}, 1.5),
    ({"t": TEXT}, TensorSpec("x", "int32", (1,), ("t",), "epoch_s"), {"t": "1970-01-01T00:00:01.5Z"}, [1]),
    ({"s": TEXT, "t": TEXT}, TensorSpec("x", "string", (2,), ("t", "s")), {"s": "a", "t": "b"}, ["b", "a"]),
    ({"w": WORDS}, TensorSpec("x", "string", (2,), ("w",)), {"w": ["a", "b"]}, ["a", "b"]),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("properties", "tensor", "event", "expected"), SOUND)
def test_sound_rows_are_packed_without_help(
    properties: dict[str, Any], tensor: TensorSpec, event: dict[str, Any], expected: Any, first: bool
) -> None:
    """Two sound rows give two tensor rows, of the right type and shape, and no doubt about either."""
    packer, rows = packed(properties, tensor, event, event, required=tuple(properties), first=first)
    result, balked = packer.bulk(rows)
    assert balked == []
    assert result.dtype == (object if tensor.dtype == "string" else tensor.dtype)
    assert result.shape == (2, *tensor.shape)
    assert result.tolist() == [np.array(expected, result.dtype).tolist()] * 2
    np.testing.assert_array_equal(packer.vector(rows[0]), result[0])


@pytest.mark.parametrize(("properties", "tensor", "expected"), [(case[0], case[1], case[3]) for case in SOUND])
def test_no_rows_give_a_tensor_of_no_rows(properties: dict[str, Any], tensor: TensorSpec, expected: Any) -> None:
    """Type and shape hold for an empty span too, and so they do for empty rows."""
    packer, _ = packed(properties, tensor)
    result, balked = packer.bulk([])
    assert (result.shape, result.dtype, balked) == ((0, *np.shape(expected)), packer.dtype, [])
    zeros = packer.zeros(2)
    assert (zeros.shape, zeros.dtype) == ((2, *np.shape(expected)), packer.dtype)
    assert not zeros.any()


def test_fixed_texts_are_copied_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are always there need no look at single rows; those that may be absent do."""
    tensor = TensorSpec("x", "string", (1,), ("s",))
    monkeypatch.setattr(TensorPacker, "vector", lambda *_: pytest.fail("read alone"))
    packer, rows = packed({"s": TEXT}, tensor, {"s": "a"}, {"s": "b"}, required=("s",))
    assert packer.bulk(rows)[0].tolist() == [["a"], ["b"]]
    monkeypatch.undo()
    packer, rows = packed({"s": TEXT}, tensor, {"s": "a"}, {}, {"s": "b"})
    result, balked = packer.bulk(rows)
    assert (result.tolist(), balked) == ([["a"], [""], ["b"]], [1])


@pytest.mark.parametrize("include", [(), ("n", "m")])
def test_absent_and_null_numbers_are_filled_in_bulk(include: tuple[str, ...]) -> None:
    """Float tensors take the default or NaN, integer tensors the default; without one the row is in doubt."""
    nullable = {"n": {"type": ["number", "null"]}, "m": {"type": ["number", "null"], "default": 2.5}}
    tensor = TensorSpec("x", "float32", (2,), ("n", "m"))
    events: tuple[dict[str, Any], ...] = ({"n": 1, "m": 2}, {}, {"n": None, "m": None}, {"n": 3})
    packer, rows = packed(nullable, tensor, *events, include=include)
    result, balked = packer.bulk(rows)
    assert balked == []
    np.testing.assert_array_equal(result, [[1, 2], [math.nan, 2.5], [math.nan, 2.5], [3, 2.5]])
    whole = {"n": {"type": ["integer", "null"]}, "m": {"type": ["integer", "null"], "default": 4}}
    tensor = TensorSpec("x", "int16", (2,), ("n", "m"))
    packer, rows = packed(whole, tensor, *events[:1], {"n": 5}, {"m": 5}, {"n": 6, "m": None}, include=include)
    result, balked = packer.bulk(rows)
    assert balked == [2]
    assert result[[0, 1, 3]].tolist() == [[1, 2], [5, 4], [6, 4]]


def test_fields_below_an_absent_parent_are_filled_in_bulk() -> None:
    """A null or absent parent leaves each of its fields absent."""
    place = {"type": ["object", "null"], "properties": {"far": NUMBER, "near": {"type": "number", "default": 7}}}
    tensor = TensorSpec("x", "float32", (2,), ("p.far", "p.near"))
    packer, rows = packed({"p": place}, tensor, {"p": {"far": 1, "near": 2}}, {"p": None}, {}, {"p": {}})
    result, balked = packer.bulk(rows)
    assert balked == []
    np.testing.assert_array_equal(result, [[1, 2], [math.nan, 7], [math.nan, 7], [math.nan, 7]])


@pytest.mark.parametrize(
    ("field", "dtype", "numbers", "balked"),
    [
        ({**NUMBER, "minimum": 1, "maximum": 2}, "float64", [1, 2, 1.5, 0.99, 2.01], [3, 4]),
        ({**NUMBER, "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "float64", [1, 2, math.nextafter(1, 2)], [0, 1]),
        ({**INTEGER, "minimum": 1, "maximum": 3}, "int8", [0, 1, 3, 4], [0, 3]),
        ({**INTEGER, "exclusiveMinimum": 1, "exclusiveMaximum": 4}, "int8", [1, 2, 3, 4], [0, 3]),
        ({**INTEGER, "maximum": 2**64 - 2}, "uint64", [2**64 - 1, 2**64 - 2], [0]),
        ({**INTEGER, "minimum": 2**62 + 1}, "int64", [2**62, 2**62 + 1], [0]),
        (INTEGER, "int8", [-129, -128, 127, 128], [0, 3]),
        (INTEGER, "uint8", [-1, 0, 255, 256], [0, 3]),
        (INTEGER, "uint64", [-1, 0, 2**64 - 1, 2**64], [0, 3]),
        (INTEGER, "int64", [-(2**63) - 1, -(2**63), 2**63 - 1, 2**63], [0, 3]),
        (NUMBER, "float16", [65504, 65505, -65504, -65505], [1, 3]),
        ({**INTEGER, "minimum": 200}, "int8", [0, 1, 127], [0, 1, 2]),
    ],
)
def test_bounds_are_checked_in_bulk(field: dict[str, Any], dtype: str, numbers: list[Any], balked: list[int]) -> None:
    """Schema's and dtype's bounds to the last bit; the row alone, and the others not, is in doubt."""
    packer, rows = packed({"n": field}, TensorSpec("x", dtype, (1,), ("n",)), *({"n": n} for n in numbers))
    result, found = packer.bulk(rows)
    assert found == balked
    sound = [index for index in range(len(numbers)) if index not in balked]
    assert result[sound, 0].tolist() == [numbers[index] for index in sound]


def test_each_slot_has_its_own_bounds() -> None:
    """Fields, and the items of an array, keep their bounds wherever they stand in the tensor."""
    fields = {
        "n": {**NUMBER, "minimum": 0},
        "v": {"type": "array", "items": {**NUMBER, "maximum": 0}},
        "free": NUMBER,
    }
    tensor = TensorSpec("x", "float32", (2, 2), ("n", "v", "free"))
    events = [
        {"n": 1, "v": [-1, -2], "free": 5},
        {"n": -1, "v": [-1, -2], "free": 5},
        {"n": 1, "v": [-1, 2], "free": -5},
        {"n": 1, "v": [1, -2], "free": 5},
    ]
    packer, rows = packed(fields, tensor, *events)
    result, balked = packer.bulk(rows)
    assert balked == [1, 2, 3]
    assert result[0].tolist() == [[1, -1], [-2, 5]]


@pytest.mark.parametrize(
    ("properties", "tensor", "event", "reason", "error"),
    [
        (
            {"n": INTEGER},
            TensorSpec("x", "int8", (), ("n",)),
            {},
            "missing_field",
            "field n is absent or null and has no default",
        ),
        (
            {"s": TEXT},
            TensorSpec("x", "string", (), ("s",)),
            {},
            "missing_field",
            "field s is absent or null and has no default",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "int8", (1,), ("t",), "csv"),
            {},
            "missing_field",
            "field t is absent or null and has no default",
        ),
        (
            {"n": INTEGER},
            TensorSpec("x", "int8", (), ("n",)),
            {"n": 128},
            "out_of_range",
            "field n does not fit int8",
        ),
        (
            {"n": NUMBER},
            TensorSpec("x", "float16", (), ("n",)),
            {"n": -65520},
            "out_of_range",
            "field n does not fit float16",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float32", (2,), ("t",), "csv"),
            {"t": "1,2,3"},
            "wrong_length",
            "field t holds 3 numbers, 2 are needed",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float32", (2,), ("t",), "csv"),
            {"t": "1, x"},
            "wrong_type",
            "field t holds something other than a number at position 1",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "int8", (2,), ("t",), "csv"),
            {"t": "1,1.5"},
            "wrong_type",
            "field t at position 1 must be an integer, not a number",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float32", (2,), ("t",), "base64"),
            {"t": raw(1)},
            "wrong_length",
            "field t holds 4 bytes, 8 are needed",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float32", (2,), ("t",), "base64"),
            {"t": raw(1, math.inf)},
            "not_finite",
            "field t holds NaN or infinity",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float32", (2,), ("t",), "base64"),
            {"t": "AAA"},
            "wrong_type",
            "field t is not base64",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "float64", (), ("t",), "epoch_s"),
            {"t": "now"},
            "wrong_type",
            "field t is not an RFC 3339 time with offset",
        ),
        (
            {"t": TEXT},
            TensorSpec("x", "int8", (), ("t",), "epoch_s"),
            {"t": "1970-01-01T00:02:08Z"},
            "out_of_range",
            "field t does not fit int8",
        ),
        (
            {"v": {"type": "array", "items": {"type": ["integer", "null"]}}},
            TensorSpec("x", "int8", (2,), ("v",)),
            {"v": [1, None]},
            "missing_field",
            "field v holds a null item that has no default",
        ),
    ],
)
def test_a_row_that_cannot_be_packed(
    properties: dict[str, Any], tensor: TensorSpec, event: dict[str, Any], reason: str, error: str
) -> None:
    """The bulk way balks at it alone, and the row way says why."""
    packer, rows = packed(properties, tensor, event)
    assert packer.bulk(rows)[1] == [0]
    with pytest.raises(RowFault) as caught:
        packer.vector(rows[0])
    assert (caught.value.reason, caught.value.error, str(caught.value)) == (reason, error, error)


@pytest.mark.parametrize(
    ("field", "tensor", "value", "error"),
    [
        (WORDS, TensorSpec("x", "string", (2,), ("w",)), ["a"], "field w has 1 items, 2 are needed"),
        (VECTOR, TensorSpec("x", "float32", (2,), ("w",)), [1, 2, 3], "field w has 3 items, 2 are needed"),
        (SQUARE, TensorSpec("x", "int8", (2, 2), ("w",)), [[1, 2], [3]], "field w has 1 items, 2 are needed"),
        (SQUARE, TensorSpec("x", "int8", (2, 2), ("w",)), [[1, 2]], "field w has 1 items, 2 are needed"),
    ],
)
def test_an_array_of_another_length(field: dict[str, Any], tensor: TensorSpec, value: Any, error: str) -> None:
    """The reason says what it has and what the tensor needs, at the level that is wrong."""
    schema = compile_schema({"type": "object", "properties": {"id": TEXT, "w": field}, "required": ["id"]})
    subject = Decoder(schema, (tensor,), "id", (), full=False)
    encoded = json.dumps({"id": "a", "w": value}).encode()
    assert subject.decode([encoded]).refusals == {0: Refusal("validate", "wrong_length", error)}


def test_a_row_in_doubt_leaves_its_neighbours_alone() -> None:
    """Rows before and behind it are packed as if it were not there, whichever step balks."""
    tensor = TensorSpec("x", "int16", (2,), ("t",), "csv")
    events = [{"t": text} for text in ("1,2", "x", "3,4", "5", "70000,1", "6,7")]
    packer, rows = packed({"t": TEXT}, tensor, *events)
    result, balked = packer.bulk(rows)
    assert balked == [1, 3, 4]
    assert result[[0, 2, 5]].tolist() == [[1, 2], [3, 4], [6, 7]]
    tensor = TensorSpec("x", "float32", (1,), ("t",), "base64")
    events = [{"t": text} for text in (raw(1), "?", raw(math.nan), raw(2), raw(1, 2))]
    packer, rows = packed({"t": TEXT}, tensor, *events)
    result, balked = packer.bulk(rows)
    assert balked == [1, 2, 4]
    assert result[[0, 3]].tolist() == [[1], [2]]


def test_absent_values_of_one_row() -> None:
    """Alone, a row takes defaults and NaN as it does among others; an absent array or text is NaN all over."""
    fields = {"n": {"type": ["number", "null"], "default": None}, "m": {"type": "number", "default": 3}}
    packer, rows = packed(fields, TensorSpec("x", "float32", (2,), ("n", "m")), {})
    np.testing.assert_array_equal(packer.vector(rows[0]), [math.nan, 3])
    packer, rows = packed({"v": VECTOR}, TensorSpec("x", "float64", (2, 2), ("v",)), {})
    np.testing.assert_array_equal(packer.vector(rows[0]), [[math.nan] * 2] * 2)
    items = {"type": ["number", "null"], "default": 6}
    packer, rows = packed(
        {"v": {"type": "array", "items": items}}, TensorSpec("x", "float64", (2,), ("v",)), {"v": [None, 1]}
    )
    np.testing.assert_array_equal(packer.vector(rows[0]), [6, 1])
    for encoding in ("csv", "base64"):
        tensor = TensorSpec("x", "float32", (2,), ("t",), encoding)
        packer, rows = packed({"t": TEXT}, tensor, {})
        np.testing.assert_array_equal(packer.vector(rows[0]), [math.nan] * 2)


@pytest.mark.parametrize(
    ("bounds", "whole", "floating"),
    [
        ({}, (-9, 9), (-9, 9)),
        ({"minimum": 1.5, "maximum": 3.5}, (2, 3), (1.5, 3.5)),
        ({"minimum": 2, "maximum": 2}, (2, 2), (2, 2)),
        (
            {"exclusive_minimum": 1.5, "exclusive_maximum": 3.5},
            (2, 3),
            (math.nextafter(1.5, 2), math.nextafter(3.5, 3)),
        ),
        ({"exclusive_minimum": 1, "exclusive_maximum": 4}, (2, 3), (math.nextafter(1, 2), math.nextafter(4, 3))),
        ({"minimum": 1, "exclusive_minimum": 3}, (4, 9), (math.nextafter(3, 4), 9)),
        ({"maximum": 1, "exclusive_maximum": 3}, (-9, 1), (-9, 1)),
        ({"minimum": -20, "maximum": 20}, (-9, 9), (-9, 9)),
        ({"minimum": 10}, (1, 0), (1, 0)),
        ({"maximum": -10}, (1, 0), (1, 0)),
    ],
)
def test_bounds_come_down_to_the_next_value_inside(
    bounds: dict[str, float], whole: tuple[float, float], floating: tuple[float, float]
) -> None:
    """Whole numbers for integer tensors, the next float for others; the dtype's own range narrows both."""
    spec = NumberSpec(**bounds)  # type: ignore[arg-type]
    assert _narrowed(spec, -9, 9, is_float=False) == whole
    assert _narrowed(spec, -9, 9, is_float=True) == floating
    assert all(isinstance(bound, int) for bound in _narrowed(spec, -9, 9, is_float=False))


def test_whole_bounds_keep_all_digits() -> None:
    """A large bound of an integer tensor does not pass through a float; one of a float tensor does."""
    spec = NumberSpec(minimum=2**60 + 1, maximum=2**61 + 1)
    assert _narrowed(spec, 0, 2**63, is_float=False) == (2**60 + 1, 2**61 + 1)
    assert [type(bound) for bound in _narrowed(spec, 0, 2.0**63, is_float=True)] == [float, float]


def test_ranges_of_dtypes() -> None:
    """Floats are symmetric, integers as numpy has them, a boolean is 0 or 1."""
    names = ("float16", "int8", "uint16", "bool")
    assert [_dtype_range(np.dtype(name)) for name in names] == [(-65504, 65504), (-128, 127), (0, 65535), (0, 1)]


def test_absence_is_recognised_by_identity() -> None:
    """What stands for absence in a float tensor passes the range check, as no other NaN could."""
    packer, rows = packed({"n": NUMBER}, TensorSpec("x", "float32", (), ("n",)), {})
    assert rows[0].f1 is NAN  # type: ignore[attr-defined]
    assert math.isnan(packer.vector(rows[0]))
