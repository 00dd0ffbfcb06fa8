"""Measuring a model: every size on every way, and the sizes that follow from the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import helper
from typer.main import get_command

from tests.adapters.fake_cuda import Device, Node, install
from tests.adapters.onnx_builders import model_bytes, row_sum, table_lookup, value, write_bundle
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_bench import SIZES, Timing, bench_bundle, level_size, recommended_buckets
from worker.adapters.onnx_device import BOUND, GRAPH, HOST
from worker.commands.model import app
from worker.errors import EnvironmentFault

QUICK_S = 0.001
WAYS = (HOST, BOUND, GRAPH)
INDEX = {"name": "x", "dtype": "int64", "shape": ["batch"], "fields": ["a"]}


def text_code() -> bytes:
    """``y`` is 1 for the text "a", else 0."""
    code = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0])
    nodes = [code]
    return model_bytes(nodes, [value("x", "string", [None, 1])], [value("y", "float32", [None, 1])])


def _timings(costs_us: dict[int, float]) -> list[Timing]:
    return [Timing("cpu", HOST, rows, 10, cost_us, cost_us, cost_us) for rows, cost_us in costs_us.items()]


def test_every_size_is_measured_both_ways(tmp_path: Path) -> None:
    """Calls are repeated, and their percentiles are in order."""
    bundle = load_bundle(write_bundle(tmp_path, row_sum()))
    bench = bench_bundle(bundle, "cpu", sizes=(1, 8), seconds=QUICK_S)
    timings = bench.timings
    assert [(one.rows, one.way) for one in timings] == [(1, HOST), (1, BOUND), (8, HOST), (8, BOUND)]
    assert (bench.way, bench.notes) == (HOST, ())
    assert all(one.calls >= 15 and 0 < one.p10_us <= one.median_us <= one.p90_us for one in timings)
    assert timings[-1].row_us == timings[-1].median_us / 8


def test_a_model_of_texts_is_measured_on_host_arrays_alone(tmp_path: Path) -> None:
    """Text cannot be bound."""
    inputs = [{"name": "x", "dtype": "string", "shape": ["batch", 1], "fields": ["a"]}]
    bundle = load_bundle(write_bundle(tmp_path, text_code(), inputs=inputs))
    assert {one.way for one in bench_bundle(bundle, "cpu", sizes=(1,), seconds=QUICK_S).timings} == {HOST}


def test_rows_level_off_at_the_first_size_near_the_cheapest() -> None:
    """A tenth above the cheapest row is near enough."""
    assert level_size(_timings({1: 10.0, 8: 16.0, 32: 33.0, 128: 128.0, 512: 520.0})) == 32
    assert level_size(_timings({1: 10.0, 8: 79.0})) == 1


def test_a_bucket_saves_a_quarter_or_is_left_out() -> None:
    """The largest and the smallest stay; what costs about as much as the next larger one goes."""
    costs = {1: 10.0, 2: 10.5, 4: 11.0, 8: 12.0, 32: 20.0, 128: 60.0, 256: 70.0}
    assert recommended_buckets(_timings(costs)) == (1, 8, 32, 256)
    assert recommended_buckets(_timings({16: 5.0})) == (16,)


def test_the_command_prints_a_table_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per size, then what follows; a provider that is not here is named with the reason."""
    folder = write_bundle(tmp_path, row_sum())
    get_command(app).main(["bench", str(folder), "--seconds", "0.01"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fraud@1.0.0, intra-op threads 1, microseconds (medians)"
    assert [int(line.split()[1]) for line in lines[2 : 2 + len(SIZES)]] == list(SIZES)
    assert lines[2 + len(SIZES)].startswith("cpu: rows cost least from ")
    assert lines[-1].startswith("cuda: not measured: ")


def test_the_command_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same figures for machines."""
    folder = write_bundle(tmp_path, row_sum())
    arguments = ["bench", str(folder), "--provider", "cpu", "--seconds", "0.01", "--json"]
    get_command(app).main(arguments, standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["not_measured"]) == ("fraud@1.0.0", {})
    assert len(document["timings"]) == 2 * len(SIZES)
    assert document["recommended"]["cpu"]["buckets"][-1] == SIZES[-1]


def test_a_provider_that_is_asked_for_must_work(tmp_path: Path) -> None:
    """Nothing else is measured in its place."""
    folder = write_bundle(tmp_path, table_lookup(5), inputs=[INDEX])
    with pytest.raises(EnvironmentFault, match="cuda"):
        get_command(app).main(["bench", str(folder), "--provider", "cuda"], standalone_mode=False)


def test_a_device_is_measured_on_all_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, bound and replayed; the advice follows the way that the worker would go."""
    install(monkeypatch, Device())
    bundle = load_bundle(write_bundle(tmp_path, row_sum()))
    bench = bench_bundle(bundle, "cuda", sizes=(1, 8), seconds=QUICK_S)
    assert [(one.rows, one.way) for one in bench.timings] == [(rows, way) for rows in (1, 8) for way in WAYS]
    assert (bench.way, bench.notes) == (GRAPH, ())


def test_what_a_device_leaves_behind_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes on the processor, and why nothing was recorded."""
    install(monkeypatch, Device(on_cpu=[Node("TreeEnsembleRegressor", "trees", "ai.onnx.ml")]))
    folder = write_bundle(tmp_path, row_sum())
    get_command(app).main(["bench", str(folder), "--provider", "cuda", "--seconds", "0.01"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-2:] == ["-", "-"]
    assert lines[-2].startswith("cuda: 1 of 2 nodes run on the cpu")
    assert lines[-1].startswith("cuda: no CUDA graphs, bound buffers instead: ")
