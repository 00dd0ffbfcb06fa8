"""Facts are read off an ONNX file without ONNX Runtime; damaged bytes are refused, never crashed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.adapters.onnx_builders import identity, model_bytes, row_sum, value
from worker.adapters.onnx_file import GraphValue, OnnxFile, read_onnx_file
from worker.adapters.onnx_wire import Message, WireError
from worker.errors import BundleError


def _read(folder: Path, raw: bytes) -> OnnxFile:
    path = folder / "model.onnx"
    path.write_bytes(raw)
    return read_onnx_file(path)


def test_facts(tmp_path: Path) -> None:
    """Producer, operator sets, inputs, outputs and operators are those that were written."""
    facts = _read(tmp_path, row_sum(batch="n"))

    assert facts.ir_version == 8
    assert facts.producer == "tests"
    assert facts.opsets == {"ai.onnx": 17, "ai.onnx.ml": 3}
    assert facts.inputs == (GraphValue("x", "float32", ("n", 3)),)
    assert facts.outputs == (GraphValue("y", "float32", ("?", 1)),)
    assert facts.operators == {"ReduceSum": 1}
    assert facts.external_data == ()


def test_negative_and_missing_dimensions(tmp_path: Path) -> None:
    """A dimension of -1 and an absent shape both count as open."""
    facts = _read(tmp_path, identity((-1, 3), out_shape=None))

    assert facts.inputs[0].shape == ("?", 3)
    assert facts.outputs[0].shape is None


def test_weights_among_the_inputs(tmp_path: Path) -> None:
    """Old exporters list weights as inputs; those are not for events to feed."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    inputs = [value("x", "float32", [None, 1]), value("w", "float32", [1])]
    raw = model_bytes(nodes, inputs, [value("y", "float32", [None, 1])], {"w": np.ones(1, np.float32)})

    assert [found.name for found in _read(tmp_path, raw).inputs] == ["x"]


def test_types_that_are_no_tensors(tmp_path: Path) -> None:
    """Sequences, maps and optionals are named by what they hold."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    types = {
        "s": helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, tensor)),
        "o": helper.make_optional_type_proto(tensor),
        "p": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [1]),
    }
    outputs = [helper.make_value_info(name, proto) for name, proto in types.items()]
    raw = model_bytes([helper.make_node("Op", [], [name]) for name in types], [], outputs)

    found = [output.dtype for output in _read(tmp_path, raw).outputs]

    assert found == ["sequence(map(int64, float32))", "optional(float32)", "sparse tensor"]


def _external(name: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", f"{name}.bin"
    return tensor


def test_external_data_is_found_wherever_it_hides(tmp_path: Path) -> None:
    """Weights files are found in initialisers, attributes, branches, sparse tensors and functions."""
    branch = helper.make_graph([], "branch", [], [], [_external("branch")])
    sparse = helper.make_sparse_tensor(_external("values"), _external("indices"), [1])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=_external("attribute")),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
    ]
    model = onnx.load_from_string(model_bytes(nodes, [], [value("y", "float32", [1])]))
    model.graph.initializer.append(_external("weights"))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(_external("more"), _external("places"), [1]))
    inner = helper.make_node("Constant", [], ["z"], value=_external("function"))
    model.functions.append(helper.make_function("own", "F", [], ["z"], [inner], [helper.make_opsetid("", 17)]))

    facts = _read(tmp_path, model.SerializeToString())

    names = ("attribute", "branch", "values", "indices", "weights", "more", "places", "function")
    assert facts.external_data == tuple(sorted(f"{name}.bin" for name in names))
    assert facts.operators == {"Constant": 3, "If": 1}


def test_operators_of_other_domains(tmp_path: Path) -> None:
    """An operator outside the default domain carries its domain; the most frequent come first."""
    nodes = [helper.make_node("A", [], ["a"], domain="own"), helper.make_node("B", [], ["b"])]
    nodes.append(helper.make_node("B", [], ["y"]))

    facts = _read(tmp_path, model_bytes(nodes, [], [value("y", "float32", [1])]))

    assert list(facts.operators.items()) == [("B", 2), ("own:A", 1)]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello, this is no model",
        row_sum()[:-3],
        b"\x08\x08",
        b"\x0b\x00",
        b"\x80" * 11,
        b"\x00\x01",
        b"\x80\x80\x80\x80\x10\x01",
        b"\x38\x01",
        b"\x3a\x00",
        b"\x0a\x00\x3a\x00\x42\x00\x08\x80",
    ],
)
def test_damaged_files(tmp_path: Path, raw: bytes) -> None:
    """Bytes that are no ONNX model are refused with a reason and a remedy."""
    with pytest.raises(BundleError) as caught:
        _read(tmp_path, raw)

    assert caught.value.problems[0].code == "damaged_model"
    assert caught.value.problems[0].remedy


def test_endless_nesting(tmp_path: Path) -> None:
    """Graphs nested beyond all reason are refused, not followed until the stack ends."""
    raw = b""
    for _ in range(2000):
        graph = b"\x0a" + _varint(len(raw)) + raw
        attribute = b"\x32" + _varint(len(graph)) + graph
        node = b"\x2a" + _varint(len(attribute)) + attribute
        raw = node
    graph = b"\x0a" + _varint(len(raw)) + raw

    with pytest.raises(BundleError, match="nested too deeply"):
        _read(tmp_path, b"\x3a" + _varint(len(graph)) + graph + b"\x42\x00")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_facts_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    """A model with some bytes replaced reads as something, or is refused; nothing else happens."""
    raw = bytearray(row_sum())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=5)):
        raw[at] = byte

    try:
        verdict = "facts" if _read(tmp_path, bytes(raw)).opsets else "no operator sets"
    except BundleError as error:
        verdict = error.problems[0].code

    assert verdict in {"facts", "damaged_model"}


def test_signed_numbers() -> None:
    """Negative numbers travel as 64-bit complements."""
    assert Message(memoryview(b"\x08" + b"\xff" * 9 + b"\x01")).number(1) == -1


def test_text_where_a_number_belongs() -> None:
    """A field of another wire type is refused."""
    with pytest.raises(WireError):
        Message(memoryview(b"\x0a\x00")).number(1)
