"""From fields to tensors: every dtype, shape and encoding, absent values, and inputs that do not fit the schema."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.explain import Accepted
from worker.core.features import TensorSpec
from worker.core.records import Decoded
from worker.core.schema import SchemaError, compile_schema
from worker.core.texts import Unusable, bytes_from_base64, number_from, numbers_from_csv, seconds_from_time

NUMBER = {"type": "number"}
TEXT = {"type": "string"}
VECTOR = {"type": "array", "items": NUMBER}


def decode(properties: dict[str, Any], tensor: TensorSpec, *events: dict[str, Any], include: bool = False) -> Decoded:
    """The events (an id is added) decoded for one input; the field-by-field way must agree."""
    known = {"id": TEXT, **properties}
    schema = compile_schema({"type": "object", "properties": known, "required": ["id"]})
    decoder = Decoder(schema, (tensor,), "id", tuple(properties) if include else (), full=False)
    values = [json.dumps({"id": "a", **event}).encode() for event in events]
    result = decoder.decode(values)
    for index, value in enumerate(values):
        verdict = decoder.explain(value)
        if isinstance(verdict, Accepted):
            assert index not in result.refusals
            np.testing.assert_array_equal(verdict.vectors[0], result.tensors[0][index])
        else:
            assert result.refusals[index] == verdict
    return result


def reasons(result: Decoded) -> dict[int, str]:
    """Reason by position."""
    return {index: refusal.reason for index, refusal in result.refusals.items()}


def problem(properties: dict[str, Any], tensor: TensorSpec) -> tuple[str, str, str]:
    """Code, message and remedy of the only problem of an input."""
    with pytest.raises(SchemaError) as caught:
        decode(properties, tensor)
    (found,) = caught.value.problems
    assert found.key.startswith(f"inputs.{tensor.name}")
    return found.code, found.message, found.remedy


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int16", -(2**15), 2**15 - 1),
        ("uint32", 0, 2**32 - 1),
        ("int64", -(2**63), 2**63 - 1),
        ("uint64", 0, 2**64 - 1),
    ],
)
def test_integers_keep_to_their_dtype(dtype: str, low: int, high: int) -> None:
    """The limits pass exactly, one beyond is out of range."""
    tensor = TensorSpec("x", dtype, (), ("n",))
    result = decode({"n": {"type": "integer"}}, tensor, *({"n": n} for n in (low, high, low - 1, high + 1)))
    assert result.tensors[0].dtype == dtype
    assert result.tensors[0].tolist() == [low, high, 0, 0]
    assert reasons(result) == {2: "out_of_range", 3: "out_of_range"}


@pytest.mark.parametrize(
    ("dtype", "high", "over"), [("float16", 65504.0, 66000), ("float32", 3.4028234e38, 3.5e38), ("float64", 1.7e308, 0)]
)
def test_floats_that_overflow_the_dtype_are_out_of_range(dtype: str, high: float, over: float) -> None:
    """A value that rounds to a finite number of the dtype passes, one that becomes infinite does not."""
    result = decode({"n": NUMBER}, TensorSpec("x", dtype, (1,), ("n",)), {"n": high}, {"n": -high}, {"n": over})
    assert result.tensors[0].dtype == dtype
    assert np.isfinite(result.tensors[0]).all()
    assert list(result.refusals) == ([2] if over else [])


def test_values_just_above_the_limit_may_round_into_it() -> None:
    """Between the largest float16 and infinity lies a stretch that rounds down."""
    result = decode({"n": NUMBER}, TensorSpec("x", "float16", (), ("n",)), {"n": 65510})
    assert result.tensors[0].tolist() == [65504.0]


def test_integers_and_booleans_feed_floats() -> None:
    """They become numbers; true is 1."""
    fields = {"n": {"type": "integer"}, "b": {"type": "boolean"}}
    result = decode(fields, TensorSpec("x", "float32", (2,), ("n", "b")), {"n": 3, "b": True}, {"n": -1, "b": False})
    assert result.tensors[0].tolist() == [[3, 1], [-1, 0]]


def test_large_integers_round_alike_on_both_ways() -> None:
    """An integer beyond 2**53 becomes a float by way of a 64-bit float."""
    numbers = [2**53 + 1, 2**60 + 2**36 + 1, -(2**63)]
    decode({"n": {"type": "integer"}}, TensorSpec("x", "float32", (), ("n",)), *({"n": n} for n in numbers))
    result = decode({"n": {"type": "integer"}}, TensorSpec("x", "float32", (), ("n",)), {"n": 2**60})
    assert result.tensors[0].tolist() == [2.0**60]


def test_booleans_fill_bool_and_integer_tensors() -> None:
    """A boolean keeps its dtype, or becomes 0 or 1."""
    events = ({"b": True}, {"b": False})
    assert decode({"b": {"type": "boolean"}}, TensorSpec("x", "bool", (), ("b",)), *events).tensors[0].tolist() == [
        True,
        False,
    ]
    assert decode({"b": {"type": "boolean"}}, TensorSpec("x", "int32", (), ("b",)), *events).tensors[0].tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize("include", [False, True])
def test_absent_and_null_take_the_default_or_nan_in_float_tensors(include: bool) -> None:
    """The schema's default first, then NaN; whether the output repeats the field makes no difference."""
    fields = {
        "a": {"type": "number", "default": 7},
        "b": NUMBER,
        "c": {"type": ["number", "null"]},
        "d": {"type": ["number", "null"], "default": 2.5},
        "e": {"type": ["number", "null"], "default": None},
    }
    tensor = TensorSpec("x", "float32", (5,), tuple(fields))
    result = decode(fields, tensor, {}, {"c": None, "d": None, "e": None}, dict.fromkeys(fields, 1), include=include)
    nan = math.nan
    np.testing.assert_array_equal(result.tensors[0], [[7, nan, nan, 2.5, nan]] * 2 + [[1] * 5])


def test_absent_values_of_other_tensors_need_a_default() -> None:
    """Integers, booleans and strings have no NaN: without a default the record is refused."""
    fields = {"n": {"type": ["integer", "null"]}, "m": {"type": "integer", "default": 4}}
    result = decode(fields, TensorSpec("x", "int64", (2,), ("n", "m")), {"n": 1}, {"n": None, "m": 1}, {"m": 1})
    assert result.tensors[0].tolist() == [[1, 4], [0, 0], [0, 0]]
    assert reasons(result) == {1: "missing_field", 2: "missing_field"}
    texts = {"s": {"type": ["string", "null"]}, "t": {"type": "string", "default": "d"}}
    result = decode(texts, TensorSpec("x", "string", (2,), ("s", "t")), {"s": "a"}, {"s": None})
    assert result.tensors[0].tolist() == [["a", "d"], ["", ""]]
    assert reasons(result) == {1: "missing_field"}


def test_a_field_may_feed_a_float_and_an_integer_tensor() -> None:
    """Absence is NaN for one and an error for the other, so the record is refused for the error."""
    schema = compile_schema(
        {"type": "object", "properties": {"id": TEXT, "n": {"type": "integer"}}, "required": ["id"]}
    )
    inputs = (TensorSpec("f", "float32", (), ("n",)), TensorSpec("i", "int32", (), ("n",)))
    result = Decoder(schema, inputs, "id", (), full=False).decode([b'{"id":"a"}', b'{"id":"a","n":5}'])
    assert reasons(result) == {0: "missing_field"}
    assert [tensor.tolist() for tensor in result.tensors] == [[0.0, 5.0], [0, 5]]


def test_required_strings_fill_a_string_tensor() -> None:
    """Texts come through as Python strings, in the input's shape; an empty span has the shape too."""
    schema = compile_schema(
        {"type": "object", "properties": {"id": TEXT, "s": {"enum": ["x", "y"]}}, "required": ["id", "s"]}
    )
    decoder = Decoder(schema, (TensorSpec("t", "string", (2,), ("s", "id")),), "id", (), full=False)
    result = decoder.decode([b'{"id":"a","s":"x"}', '{"id":"é","s":"y"}'.encode(), b'{"id":"a","s":"z"}'])
    assert result.tensors[0].dtype == object
    assert result.tensors[0].tolist() == [["x", "a"], ["y", "é"], ["", ""]]
    assert reasons(result) == {2: "out_of_range"}
    assert decoder.decode([]).tensors[0].shape == (0, 2)


def test_an_array_of_strings_fills_a_string_tensor() -> None:
    """The array's length must be the tensor's."""
    fields = {"words": {"type": "array", "items": TEXT}}
    result = decode(fields, TensorSpec("t", "string", (2,), ("words",)), {"words": ["a", "b"]}, {"words": ["a"]})
    assert result.tensors[0].tolist() == [["a", "b"], ["", ""]]
    assert reasons(result) == {1: "wrong_length"}


def test_an_array_fills_a_shaped_tensor_row_major() -> None:
    """A flat array takes any shape of its size; its items keep their bounds."""
    fields = {"v": {"type": "array", "items": {"type": "number", "minimum": 0, "exclusiveMaximum": 9}}}
    tensor = TensorSpec("x", "float32", (1, 2, 2), ("v",))
    result = decode(
        fields, tensor, {"v": [1, 2, 3, 4]}, {"v": [1, 2, 3]}, {"v": [1, 2, 3, 9]}, {"v": [1, -1, 3, 3]}, {}
    )
    assert result.tensors[0][0].tolist() == [[[1, 2], [3, 4]]]
    assert np.isnan(result.tensors[0][4]).all()
    assert reasons(result) == {1: "wrong_length", 2: "out_of_range", 3: "out_of_range"}


def test_nested_arrays_must_have_the_shape() -> None:
    """An array of arrays is checked level by level; null items take their default, or NaN."""
    items = {"type": "array", "items": {"type": ["number", "null"]}}
    fields = {"m": {"type": "array", "items": items}}
    tensor = TensorSpec("x", "float32", (2, 2), ("m",))
    result = decode(fields, tensor, {"m": [[1, 2], [3, None]]}, {"m": [[1, 2, 3], [4]]}, {"m": [[1, 2]]})
    np.testing.assert_array_equal(result.tensors[0][0], [[1, 2], [3, math.nan]])
    assert reasons(result) == {1: "wrong_length", 2: "wrong_length"}
    integers = {"v": {"type": "array", "items": {"type": ["integer", "null"]}}}
    result = decode(integers, TensorSpec("x", "int64", (2,), ("v",)), {"v": [1, None]}, {"v": [1, 2]})
    assert reasons(result) == {0: "missing_field"}
    filled = {"v": {"type": "array", "items": {"type": ["integer", "null"], "default": 9}}}
    result = decode(filled, TensorSpec("x", "int64", (2,), ("v",)), {"v": [1, None]})
    assert result.tensors[0].tolist() == [[1, 9]]


def test_scalars_and_arrays_mix() -> None:
    """Arrays of known length and one open array share an input with scalars."""
    fields = {"a": NUMBER, "two": {**VECTOR, "minItems": 2, "maxItems": 2}, "rest": VECTOR}
    tensor = TensorSpec("x", "float64", (5,), ("two", "a", "rest"))
    result = decode(
        fields,
        tensor,
        {"a": 3, "two": [1, 2], "rest": [4, 5]},
        {"a": 3, "two": [1, 2, 3], "rest": [4]},
        {"two": [1, 2], "rest": [4, 5]},
        {"a": 3, "rest": [4, 5]},
    )
    nan = math.nan
    np.testing.assert_array_equal(result.tensors[0], [[1, 2, 3, 4, 5], [0] * 5, [1, 2, nan, 4, 5], [nan, nan, 3, 4, 5]])
    assert reasons(result) == {1: "wrong_length"}


def test_bounds_of_the_schema_hold_in_integer_tensors() -> None:
    """Fractional and exclusive bounds come down to whole numbers; a range that the dtype lacks lets nothing pass."""
    fields = {"n": {"type": "integer", "exclusiveMinimum": 0.5, "maximum": 2.5}}
    result = decode(fields, TensorSpec("x", "int8", (), ("n",)), *({"n": n} for n in range(4)))
    assert reasons(result) == {0: "out_of_range", 3: "out_of_range"}
    fields = {"n": {"type": "integer", "minimum": 1, "exclusiveMaximum": 3}}
    result = decode(fields, TensorSpec("x", "int8", (), ("n",)), *({"n": n} for n in range(4)))
    assert reasons(result) == {0: "out_of_range", 3: "out_of_range"}
    result = decode(
        {"n": {"type": "integer", "minimum": 200}}, TensorSpec("x", "int8", (), ("n",)), {"n": 1}, {"n": 200}
    )
    assert reasons(result) == {0: "out_of_range", 1: "out_of_range"}


def test_exclusive_bounds_of_floats() -> None:
    """The bound itself is out, the next float is in."""
    fields = {"n": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}
    events: list[dict[str, Any]] = [{"n": n} for n in (0, math.nextafter(0, 1), math.nextafter(1, 0), 1)]
    assert reasons(decode(fields, TensorSpec("x", "float64", (), ("n",)), *events)) == {
        0: "out_of_range",
        3: "out_of_range",
    }


def test_csv_fills_a_tensor() -> None:
    """Numbers as in JSON, separated by commas, blanks and one closing comma allowed; absence is NaN."""
    tensor = TensorSpec("x", "float32", (1, 3), ("t",), "csv")
    result = decode({"t": TEXT}, tensor, {"t": "1,2.5,-3e1"}, {"t": " 1 ,2 ,\n3 , "}, {}, {"t": "1,2"}, {"t": "1,,3"})
    np.testing.assert_array_equal(result.tensors[0][:3], [[[1, 2.5, -30]], [[1, 2, 3]], [[math.nan] * 3]])
    assert reasons(result) == {3: "wrong_length", 4: "wrong_type"}
    assert result.refusals[3].error == "field t holds 2 numbers, 3 are needed"


def test_csv_of_integers_and_a_default_text() -> None:
    """An integer tensor takes whole numbers, 2.0 included; the schema's default is a text like any other."""
    fields = {"t": {"type": ["string", "null"], "default": "7,8"}}
    tensor = TensorSpec("x", "int16", (2,), ("t",), "csv")
    result = decode(fields, tensor, {"t": "1,2.0"}, {"t": None}, {"t": "1,2.5"}, {"t": "1,70000"}, {"t": "1,2"})
    assert result.tensors[0].tolist() == [[1, 2], [7, 8], [0, 0], [0, 0], [1, 2]]
    assert reasons(result) == {2: "wrong_type", 3: "out_of_range"}


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("1,nan", "not_finite", "position 1"),
        ("-Infinity", "not_finite", "position 0"),
        ("1e999", "out_of_range", "position 0 is too large"),
        ("1,x", "wrong_type", "position 1"),
        ("1],[2", "wrong_type", "position 0"),
        ("01", "wrong_type", "position 0"),
        ("1,,", "wrong_type", "position 1"),
        ("\ud800", "wrong_type", "position 0"),
    ],
)
def test_unusable_csv_says_where(text: str, reason: str, words: str) -> None:
    """The position of the first bad entry is in the message, its text is not."""
    with pytest.raises(Unusable, match=words) as caught:
        numbers_from_csv(text, integer=False)
    assert caught.value.reason == reason


def test_empty_csv_holds_no_numbers() -> None:
    """A blank text is a list of length 0."""
    assert numbers_from_csv(" ", integer=True) == []


def test_base64_fills_a_tensor() -> None:
    """Little-endian float32, row-major; wrong sizes, other alphabets, NaN and infinity are refused."""

    def raw(*numbers: float) -> dict[str, str]:
        return {"t": base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()}

    tensor = TensorSpec("x", "float32", (2, 1), ("t",), "base64")
    events = [raw(1, 2), raw(1), {"t": "AAAAAAAA"}, raw(1, math.nan), raw(math.inf, 1), {"t": "!" * 12}, {"t": "é"}, {}]
    result = decode({"t": TEXT}, tensor, *events)
    assert result.tensors[0][0].tolist() == [[1], [2]]
    assert np.isnan(result.tensors[0][7]).all()
    assert reasons(result) == {
        1: "wrong_length",
        2: "wrong_length",
        3: "not_finite",
        4: "not_finite",
        5: "wrong_type",
        6: "wrong_type",
    }
    assert decode({"t": TEXT}, tensor, raw(3, 4)).refusals == {}


@pytest.mark.parametrize("text", ["AAA", "AA\nA", "A\nAAAA==", "AAAA====", "AAAA==", "=AAA", "AA=A"])
def test_base64_is_strict(text: str) -> None:
    """Padding and alphabet must be right."""
    with pytest.raises(Unusable, match="not base64"):
        bytes_from_base64(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t01:00:00.5+01:00", 0.5),
        ("1969-12-31 23:59:59.25z", -0.75),
        ("2016-12-31T23:59:60Z", 1483228800.0),
    ],
)
def test_times_become_seconds(text: str, seconds: float) -> None:
    """RFC 3339 with offset, fractions kept, a leap second counts as the next one."""
    assert seconds_from_time(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2024-01-01T00:00:00", "wrong_type"),
        ("2024-01-01", "wrong_type"),
        ("2024-01-01T00:00:00+0100", "wrong_type"),
        ("2024-02-30T00:00:00Z", "out_of_range"),
        ("0000-01-01T00:00:00Z", "out_of_range"),
    ],
)
def test_other_times_are_refused(text: str, reason: str) -> None:
    """Without an offset the point in time is unknown; days must exist."""
    with pytest.raises(Unusable) as caught:
        seconds_from_time(text)
    assert caught.value.reason == reason


def test_epoch_seconds_fill_float_and_integer_tensors() -> None:
    """Floats keep the fraction, integers round down."""
    events = ({"t": "1970-01-01T00:00:01.5Z"}, {"t": "1969-12-31T23:59:59.5Z"}, {"t": "yesterday"})
    whole = decode({"t": TEXT}, TensorSpec("x", "int64", (), ("t",), "epoch_s"), *events)
    assert whole.tensors[0].tolist() == [1, -1, 0]
    assert reasons(whole) == {2: "wrong_type"}
    exact = decode({"t": TEXT}, TensorSpec("x", "float64", (1,), ("t",), "epoch_s"), *events[:2])
    assert exact.tensors[0].tolist() == [[1.5], [-0.5]]


def test_numbers_as_written() -> None:
    """Exponents and fractions go through a 64-bit float; digits alone stay exact for integers."""
    assert number_from("12e1", integer=True) == 120
    assert number_from("9007199254740993", integer=True) == 2**53 + 1
    assert number_from("-0", integer=False) == 0
    with pytest.raises(Unusable, match="must be an integer"):
        number_from("1.5", integer=True)


@pytest.mark.parametrize(
    ("properties", "tensor", "code", "words"),
    [
        ({"s": TEXT}, TensorSpec("x", "float32", (), ("s",)), "type_mismatch", "string"),
        ({"s": NUMBER}, TensorSpec("x", "string", (), ("s",)), "type_mismatch", "number"),
        ({"s": NUMBER}, TensorSpec("x", "int64", (), ("s",)), "type_mismatch", "number"),
        ({"s": {"type": "integer"}}, TensorSpec("x", "bool", (), ("s",)), "type_mismatch", "integer"),
        ({"s": {"type": "object"}}, TensorSpec("x", "float32", (), ("s",)), "type_mismatch", "object"),
        ({"s": {}}, TensorSpec("x", "float32", (), ("s",)), "type_mismatch", "value"),
        ({"s": {"type": "array", "items": TEXT}}, TensorSpec("x", "float32", (2,), ("s",)), "type_mismatch", "strings"),
        ({"s": NUMBER}, TensorSpec("x", "float32", (2,), ("s",), "csv"), "type_mismatch", "encoding csv"),
        ({"s": NUMBER}, TensorSpec("x", "float32", (), ("z",)), "unknown_field", "no field z"),
        ({"s": NUMBER}, TensorSpec("x", "float32", (), ()), "no_fields", "names no fields"),
        ({"s": NUMBER}, TensorSpec("x", "complex64", (), ("s",)), "bad_dtype", "complex64"),
        ({"s": TEXT}, TensorSpec("x", "string", (), ("s",), "csv"), "bad_encoding", "csv"),
        ({"s": TEXT}, TensorSpec("x", "float64", (2,), ("s",), "base64"), "bad_encoding", "base64"),
        ({"s": TEXT}, TensorSpec("x", "bool", (), ("s",), "epoch_s"), "bad_encoding", "epoch_s"),
        ({"s": TEXT, "t": TEXT}, TensorSpec("x", "float32", (2,), ("s", "t"), "csv"), "too_many_fields", "2 fields"),
        ({"s": TEXT}, TensorSpec("x", "float32", (2,), ("s",), "epoch_s"), "wrong_width", "needs 2"),
        ({"s": NUMBER}, TensorSpec("x", "float32", (2,), ("s",)), "wrong_width", "give 1 values"),
        ({"s": NUMBER, "t": NUMBER}, TensorSpec("x", "float32", (1,), ("s", "t")), "wrong_width", "give 1 + 1"),
        ({"s": VECTOR, "t": VECTOR}, TensorSpec("x", "float32", (4,), ("s", "t")), "wrong_width", "an open array"),
        (
            {"s": {"type": "array", "items": VECTOR}},
            TensorSpec("x", "float32", (2,), ("s",)),
            "wrong_width",
            "[batch, 2]",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_problems(
    properties: dict[str, Any], tensor: TensorSpec, code: str, words: str
) -> None:
    """Each says which input and field, why, and what to write instead."""
    found, message, remedy = problem(properties, tensor)
    assert found == code
    assert words in message
    assert remedy


def test_the_remedy_for_text_names_the_encodings() -> None:
    """A string field cannot feed numbers without an encoding."""
    assert "csv, base64 or epoch_s" in problem({"s": TEXT}, TensorSpec("x", "float32", (), ("s",)))[2]


def test_width_counts_the_slots_of_a_row() -> None:
    """The product of the shape, 1 for a scalar."""
    assert [TensorSpec("x", "float32", shape, ()).width for shape in ((), (3,), (2, 4))] == [1, 3, 8]
