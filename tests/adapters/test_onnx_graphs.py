"""Recorded graphs: which models are recorded, what a replay must hold, and what happens where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.adapters.fake_cuda import BUCKETS, Device, Node, load_model, made_rows, scores_of, sums_of
from tests.adapters.onnx_builders import identity, model_bytes, row_sum, value
from worker.adapters.onnx_bound import Replay
from worker.adapters.onnx_device import BOUND, GRAPH
from worker.adapters.onnx_memory import MemoryLadder
from worker.errors import EngineFault
from worker.testing import ManualClock

INDEX = [{"name": "x", "dtype": "int64", "shape": ["batch"], "fields": ["a"]}]


def test_graphs_are_recorded_once_and_replayed(tmp_path: Path, device: Device) -> None:
    """Each bucket has a graph of its own; scores are those of the rows at hand."""
    model = load_model(tmp_path, row_sum(out_shape=(None, 1)), graphs=True)
    model.warm_up()
    assert (model.way, model.no_graphs) == (GRAPH, None)
    assert device.sizes("record") == [32, 8, 1]
    device.calls.clear()
    for rows in (32, 5, 1, 9):
        assert scores_of(model, made_rows(rows, first=rows)) == sums_of(made_rows(rows, first=rows))
    assert device.calls == [("replay", 32), ("replay", 8), ("replay", 1), ("replay", 32)]


def test_graphs_are_not_used_unless_asked_for(tmp_path: Path, device: Device) -> None:
    """One session, nothing recorded."""
    model = load_model(tmp_path)
    model.warm_up()
    assert (device.sessions, device.sizes("record")) == (1, [])


@pytest.mark.usefixtures("device")
def test_an_open_shape_is_not_recorded(tmp_path: Path) -> None:
    """Only the batch may differ from call to call, and that has a bucket for each size."""
    model = load_model(tmp_path, identity((None, "m"), out_shape=(None, "m")), graphs=True)
    model.warm_up()
    assert (
        model.no_graphs == "no CUDA graphs, bound buffers instead: the shape of 'x' is open beyond the batch dimension"
    )
    assert model.way == BOUND


def test_nodes_on_the_processor_are_not_recorded(tmp_path: Path, device: Device) -> None:
    """They are named, in the reason and in the report of the placement."""
    device.on_cpu = [Node("TreeEnsembleRegressor", "trees", "ai.onnx.ml")]
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    named = "1 of 2 nodes run on the cpu, not on cuda: ai.onnx.ml:TreeEnsembleRegressor 'trees'"
    assert model.placement.left_behind("cuda") == named
    assert model.no_graphs == f"no CUDA graphs, bound buffers instead: {named}"


@pytest.mark.usefixtures("device")
def test_control_flow_is_not_recorded(tmp_path: Path) -> None:
    """A branch that was taken at the recording would be taken for ever."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [value("z", "float32", [None, 3])]
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=9),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 3])])
    model = load_model(tmp_path, graph, graphs=True)
    model.warm_up()
    assert model.no_graphs is not None
    assert "control flow (If)" in model.no_graphs


def test_a_runtime_that_refuses_graphs(tmp_path: Path, device: Device) -> None:
    """Its reason is kept; the session that was there goes on."""
    device.no_graphs = "This session cannot use the graph capture feature as requested by the user"
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model.no_graphs is not None
    assert model.no_graphs.endswith(device.no_graphs)
    assert model.way == BOUND


def test_a_recording_that_fails(tmp_path: Path, device: Device) -> None:
    """A new session takes over, without graphs."""
    device.recording_fails = "CUDA failure 900: operation not permitted when stream is capturing"
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model.no_graphs is not None
    assert "CUDA failure 900" in model.no_graphs
    assert (model.way, device.sessions) == (BOUND, 3)
    assert scores_of(model, made_rows(5)) == sums_of(made_rows(5))


def test_a_replay_that_gives_other_scores_is_found(tmp_path: Path, device: Device) -> None:
    """Made-up rows that differ from those of the recording show it, before any record is read."""
    device.stale = True
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model.no_graphs is not None
    assert "a replay is off by" in model.no_graphs
    assert scores_of(model, made_rows(5)) == sums_of(made_rows(5))


@pytest.mark.usefixtures("device")
def test_a_model_that_cannot_be_checked_is_not_replayed(tmp_path: Path) -> None:
    """Where all rows score the same, a replay that ignores its rows would look right."""
    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"])]
    zero = {"zero": np.zeros(1, np.int64)}
    graph = model_bytes(nodes, [value("x", "int64", [None])], [value("y", "int64", [None])], zero)
    model = load_model(tmp_path, graph, graphs=True, inputs=INDEX)
    model.warm_up()
    assert model.no_graphs is not None
    assert "cannot be checked" in model.no_graphs


@pytest.mark.parametrize("stale", [False, True])
def test_a_saturated_score_is_told_apart_by_nan(tmp_path: Path, device: Device, stale: bool) -> None:
    """Made-up rows are far from real events, so that a network may score them all 0; NaN still shows."""
    device.stale = stale
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Sub", ["sum", "far"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    constants: dict[str, np.ndarray] = {"axes": np.array([1], np.int64), "far": np.array([1e6], np.float32)}
    graph = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 1])], constants)
    model = load_model(tmp_path, graph, graphs=True)
    model.warm_up()
    assert model.way == (BOUND if stale else GRAPH)


@pytest.mark.usefixtures("device")
def test_a_graph_of_another_size_is_never_replayed(tmp_path: Path) -> None:
    """ONNX Runtime would not see it, and give wrong scores: the map and the bound shapes are looked at each time."""
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model._device is not None
    bound = model._device._bound[8]
    assert bound._replay is not None
    bound._replay = Replay(bound._replay.graph_id + 1, bound._replay.ids)
    with pytest.raises(EngineFault, match="scores would be wrong"):
        model.run((made_rows(8),))


@pytest.mark.usefixtures("device")
def test_buffers_of_another_shape_are_never_replayed_on(tmp_path: Path) -> None:
    """The same, where the memory that is bound has changed."""
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model._device is not None
    bound = model._device._bound[8]
    bound._outputs[0].array = np.zeros((4, 1), np.float32)
    with pytest.raises(EngineFault, match="scores would be wrong"):
        model.run((made_rows(8),))


def test_a_graph_without_its_buffers_is_never_used_again(tmp_path: Path, device: Device) -> None:
    """A size that comes back after a want of memory runs node by node: its graph points to memory that is gone."""
    clock = ManualClock()
    model = load_model(tmp_path, graphs=True)
    model.warm_up()
    assert model._device is not None
    model._device.ladder = MemoryLadder(BUCKETS, clock, 60.0)
    device.memory_rows = 20
    scores_of(model, made_rows(32))
    device.memory_rows = 100
    clock.advance(60.0)
    device.calls.clear()
    for _ in range(2):
        assert scores_of(model, made_rows(32)) == sums_of(made_rows(32))
    assert device.calls == [("host", 32), ("bound", 32)]
