"""Calls on a device: bound buffers, recorded graphs, and batches that memory does not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from structlog.testing import capture_logs

from tests.adapters.fake_cuda import BUCKETS, Device, load_model, made_rows, scores_of, sums_of
from tests.adapters.onnx_builders import identity, model_bytes, row_sum, table_lookup, value, write_bundle
from worker.adapters.bundle import load_bundle
from worker.adapters.engine import Engine
from worker.adapters.onnx_device import BOUND, HOST, DeviceRunner
from worker.adapters.onnx_memory import MemoryLadder
from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_rows import sample_rows
from worker.core.batching import Batch, FlushReason
from worker.core.records import Block, Slice
from worker.errors import EngineFault, ModelError
from worker.testing import FakeDecoder, ManualClock, make_span

NUMBERS = ["float16", "float32", "float64", "int64", "uint8", "bool"]
INDEX = [{"name": "x", "dtype": "int64", "shape": ["batch"], "fields": ["a"]}]


# The real ONNX Runtime on the CPU


def _cpu_runner(folder: Path, model: bytes, **changes: object) -> tuple[OnnxModel, DeviceRunner]:
    """A model on host arrays, and the runner of a device that is the CPU itself."""
    bundle = load_bundle(write_bundle(folder, model, **changes))
    plain = OnnxModel.load(bundle, ("cpu",), buckets=BUCKETS)
    return plain, DeviceRunner(onnxruntime, plain._session, "cpu", bundle.inputs, ["y"], MemoryLadder(BUCKETS))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_bound_buffers_give_the_very_same_bits(tmp_path: Path, dtype: str) -> None:
    """For every kind of number, on full and on padded batches, again and again."""
    inputs = [{"name": "x", "dtype": dtype, "shape": ["batch", 3], "fields": ["a", "b", "c"]}]
    plain, runner = _cpu_runner(tmp_path, identity(dtype=dtype), inputs=inputs)
    for rows in (32, 32, 9, 8, 5, 1, 1, 32):
        batch = tuple(tensor[:rows] for tensor in sample_rows(plain.inputs, 32))
        (found,) = runner.run(batch, rows)
        expected = plain.run(batch)["score"]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    assert runner.way == BOUND


def test_bound_buffers_of_a_network(tmp_path: Path) -> None:
    """A product of matrices too, of which a row must not feel how many rows stand around it."""
    random = np.random.default_rng(3)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    weights = {"w": random.standard_normal((3, 5)).astype(np.float32)}
    graph = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 5])], weights)
    plain, runner = _cpu_runner(tmp_path, graph)
    rows = random.standard_normal((32, 3)).astype(np.float32)
    for _ in range(2):
        (found,) = runner.run((rows,), 32)
        assert found.tobytes() == plain.run((rows,))["score"].tobytes()


def test_results_outlive_the_next_call(tmp_path: Path) -> None:
    """Scores of a batch are encoded while the next one runs, so they must not share the bound memory."""
    _, runner = _cpu_runner(tmp_path, row_sum())
    runner.run((made_rows(8),), 8)
    (first,) = runner.run((made_rows(8),), 8)
    kept = first.tolist()
    runner.run((made_rows(8, first=100),), 8)
    assert first.tolist() == kept


def test_strings_go_with_host_arrays(tmp_path: Path) -> None:
    """They have no memory of a fixed size, so nothing is bound for them."""
    nodes = [
        helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0])
    ]
    graph = model_bytes(nodes, [value("x", "string", [None, 1])], [value("y", "float32", [None, 1])])
    inputs = [{"name": "x", "dtype": "string", "shape": ["batch", 1], "fields": ["a"]}]
    plain, runner = _cpu_runner(tmp_path, graph, inputs=inputs)
    texts = (np.array([["a"], [""], ["a"]], dtype=object),)
    for _ in range(3):
        (found,) = runner.run(texts, 3)
        assert found[:, 0].tolist() == plain.run(texts)["score"].tolist() == [1.0, 0.0, 1.0]
    assert runner.way == HOST


# The make-believe device


@pytest.mark.parametrize(("rows", "computed"), [(1, [1]), (2, [8]), (8, [8]), (9, [32]), (32, [32]), (41, [32, 32])])
def test_batches_are_filled_up(tmp_path: Path, device: Device, rows: int, computed: list[int]) -> None:
    """To the next bucket, in parts where a batch is larger than all; only real rows come back."""
    model = load_model(tmp_path)
    assert scores_of(model, made_rows(rows)) == sums_of(made_rows(rows))
    assert [size for _, size in device.calls] == computed
    assert model.bucket(rows) == sum(computed)


def test_buffers_are_bound_at_the_second_call(tmp_path: Path, device: Device) -> None:
    """The first one shows the outputs' shapes; from the warm-up on nothing else is used."""
    model = load_model(tmp_path)
    assert model.way == HOST
    model.warm_up()
    assert device.calls == [("host", 32), ("bound", 32), ("host", 8), ("bound", 8), ("host", 1), ("bound", 1)]
    assert (model.way, model.no_graphs) == (BOUND, None)
    assert scores_of(model, made_rows(3, first=7)) == sums_of(made_rows(3, first=7))


@pytest.mark.usefixtures("device")
def test_what_is_filled_up_is_filled_with_the_last_row(tmp_path: Path) -> None:
    """Zeros, or rows of an earlier batch, might be outside of what the model can take."""
    model = load_model(tmp_path)
    model.warm_up()
    rows = made_rows(3, first=7)
    model.run((rows,))
    assert model._device is not None
    (gathered,) = model._device._bound[8]._rows
    assert gathered.tolist() == [*rows.tolist(), *[rows[-1].tolist()] * 5]


@pytest.mark.parametrize("has_pinned", [True, False])
def test_rows_are_gathered_in_pinned_memory_where_there_is_some(
    tmp_path: Path, device: Device, has_pinned: bool
) -> None:
    """Else in ordinary memory, with the same scores."""
    device.has_pinned = has_pinned
    model = load_model(tmp_path)
    model.warm_up()
    assert model.is_pinned is has_pinned
    assert scores_of(model, made_rows(5)) == sums_of(made_rows(5))


def test_pinned_memory_that_is_refused_is_no_loss(tmp_path: Path, device: Device) -> None:
    """Rows are gathered in ordinary memory then, and the log says why."""
    device.has_pinned, device.pinning_fails = True, "no allocator for this memory"
    model = load_model(tmp_path)
    with capture_logs() as logs:
        model.warm_up()
    assert {(line["event"], line["error"]) for line in logs} == {("no_pinned_memory", "no allocator for this memory")}
    assert (model.way, model.is_pinned) == (BOUND, False)
    assert scores_of(model, made_rows(5)) == sums_of(made_rows(5))


def test_what_cannot_be_bound_runs_with_host_arrays(tmp_path: Path, device: Device) -> None:
    """And the log says why, once."""
    device.binding_fails = "no allocator for this device"
    model = load_model(tmp_path)
    with capture_logs() as logs:
        model.warm_up()
    assert [(line["event"], line["error"]) for line in logs] == [("buffers_not_bound", "no allocator for this device")]
    assert model.way == HOST
    assert scores_of(model, made_rows(5)) == sums_of(made_rows(5))


@pytest.mark.usefixtures("device")
def test_a_bad_row_is_the_models_error(tmp_path: Path) -> None:
    """What is no want of memory is left to isolation, before and after the buffers are bound."""
    model = load_model(tmp_path, table_lookup(5), inputs=INDEX)
    for _ in range(3):
        with pytest.raises(ModelError, match="out of data bounds"):
            model.run((np.array([1, 9]),))
        assert model.run((np.array([1, 2]),))["score"].tolist() == [10.0, 20.0]
    assert model.ladder is not None
    assert model.ladder.ceiling == 32


# Memory


def test_a_batch_without_memory_runs_in_halves(tmp_path: Path, device: Device) -> None:
    """Its scores come in order; the ceiling is remembered, so that the next batch is not tried whole."""
    device.memory_rows = 20
    model = load_model(tmp_path)
    assert scores_of(model, made_rows(32)) == sums_of(made_rows(32))
    assert [size for _, size in device.calls] == [32, 16, 16]
    assert model.bucket(32) == 32
    device.calls.clear()
    assert scores_of(model, made_rows(30)) == sums_of(made_rows(30))
    assert [size for _, size in device.calls] == [16, 16]


def test_bound_buffers_above_the_ceiling_are_given_back(tmp_path: Path, device: Device) -> None:
    """Memory is what lacks, so a size that is no more keeps none."""
    model = load_model(tmp_path)
    model.warm_up()
    device.memory_rows = 20
    assert model._device is not None
    assert sorted(model._device._bound) == [1, 8, 32]
    scores_of(model, made_rows(32))
    assert sorted(model._device._bound) == [1, 8, 16]


def test_the_higher_bucket_comes_back_after_the_cool_down(tmp_path: Path, device: Device) -> None:
    """One call tries it; memory that is free again is used again."""
    clock = ManualClock()
    model = load_model(tmp_path)
    assert model._device is not None
    model._device.ladder = MemoryLadder(BUCKETS, clock, 60.0)
    device.memory_rows = 20
    scores_of(model, made_rows(32))
    device.memory_rows = 100
    device.calls.clear()
    scores_of(model, made_rows(32))
    clock.advance(60.0)
    assert scores_of(model, made_rows(32)) == sums_of(made_rows(32))
    assert [size for _, size in device.calls] == [16, 16, 32]


def test_no_memory_at_all_ends_the_process(tmp_path: Path, device: Device) -> None:
    """Down the whole ladder, the last bucket twice: not one row is blamed for it."""
    model = load_model(tmp_path)
    device.memory_rows = 0
    with pytest.raises(EngineFault, match="no memory even for a batch of 1"):
        model.run((made_rows(32),))
    assert [size for _, size in device.calls] == [32, 16, 8, 4, 2, 1, 1]


def _batch(rows: int) -> Batch:
    """A batch whose input is one column, the numbers from 0 on."""
    span = make_span(("t", 0), range(rows))
    decoded = FakeDecoder().decode(span.values)
    return Batch([Slice(Block(span, decoded), 0, rows)], rows, rows, FlushReason.SIZE, 0.0)


def test_want_of_memory_is_no_hunt_for_a_bad_row(tmp_path: Path, device: Device) -> None:
    """The engine neither probes nor bisects: the batch is scored, and nothing is refused."""
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1], "fields": ["a"]}]
    model = load_model(tmp_path, row_sum(width=1), inputs=inputs)
    device.memory_rows = 20
    outcome = Engine(model, lambda _batch, _result: None).run(_batch(32))
    assert outcome.refusals == {}
    assert outcome.outputs["score"].tolist() == list(range(32))
    assert [size for _, size in device.calls] == [32, 16, 16]


def test_the_engine_hands_a_want_of_memory_on(tmp_path: Path, device: Device) -> None:
    """No row is refused for it: the fault ends the worker, and nothing of the batch is committed."""
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1], "fields": ["a"]}]
    model = load_model(tmp_path, row_sum(width=1), inputs=inputs)
    device.memory_rows = 0
    with pytest.raises(EngineFault, match="no memory even for a batch of 1"):
        Engine(model, lambda _batch, _result: None).run(_batch(32))


def test_a_bad_row_in_a_part_is_still_found(tmp_path: Path, device: Device) -> None:
    """Isolation goes on below the ceiling, and refuses the one row."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=7),
        helper.make_node("Gather", ["table", "i"], ["g"]),
        helper.make_node("Add", ["g", "x"], ["y"]),
    ]
    table = {"table": np.zeros(31, np.float32)}
    graph = model_bytes(nodes, [value("x", "float32", [None, 1])], [value("y", "float32", [None, 1])], table)
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1], "fields": ["a"]}]
    model = load_model(tmp_path, graph, inputs=inputs)
    device.memory_rows = 20
    outcome = Engine(model, lambda _batch, _result: None).run(_batch(32))
    assert {row: refusal.reason for row, refusal in outcome.refusals.items()} == {31: "model_error"}
    assert outcome.outputs["score"].tolist() == [*range(31), 0]
