"""``headrace model``: facts of any ONNX file, a starter bundle that loads, and every check with its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from typer.main import get_command

from tests.adapters.fake_cuda import Device, Node, install
from tests.adapters.onnx_builders import (
    identity,
    minus_batch_mean,
    model_bytes,
    row_sum,
    table_lookup,
    value,
    write_bundle,
    write_golden,
)
from tests.adapters.test_bundle import model_with_external_data
from worker.adapters.bundle import load_bundle
from worker.adapters.schema_file import load_schema
from worker.commands.model import app
from worker.core.features import TensorSpec
from worker.errors import BundleError, ConfigError, EnvironmentFault

SCHEMA = {
    "type": "object",
    "required": ["id", "a", "b", "c"],
    "properties": {"id": {"type": "string"}, **{name: {"type": "number"} for name in "abc"}},
}


def _run(*arguments: object) -> int:
    """The exit code that the command returns; failures are raised, as the command line's top expects them."""
    result = get_command(app).main([str(argument) for argument in arguments], standalone_mode=False)
    return result if isinstance(result, int) else 0


def _model(folder: Path, raw: bytes) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(raw)
    return path


def _schema(folder: Path, document: object = SCHEMA) -> Path:
    path = folder / "schema.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _statuses(text: str) -> dict[str, str]:
    checks: list[dict[str, Any]] = json.loads(text)["checks"]
    return {check["name"]: check["status"] for check in checks}


def test_inspect_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inputs, outputs, operator sets, size and operators stand in aligned lines."""
    raw = row_sum(batch="n")

    assert _run("inspect", _model(tmp_path, raw)) == 0

    lines = capsys.readouterr().out.splitlines()
    assert f"size      {len(raw)} bytes" in lines
    assert "producer  tests" in lines
    assert "opset     ai.onnx 17, ai.onnx.ml 3" in lines
    assert "nodes     1: ReduceSum 1" in lines
    assert lines[lines.index("inputs") + 1] == "  x  float32  [n, 3]"
    assert lines[lines.index("outputs") + 1] == "  y  float32  [?, 1]"


def test_inspect_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts as one JSON object, with the hash that a manifest needs."""
    folder = write_bundle(tmp_path, row_sum())

    _run("inspect", folder / "model.onnx", "--json")

    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256"] == load_bundle(folder).sha256
    assert facts["opsets"] == {"ai.onnx": 17, "ai.onnx.ml": 3}
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["?", 3]}]
    assert facts["operators"] == {"ReduceSum": 1}


def test_inspect_shows_what_no_bundle_could_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model with an unknown operator and a sequence output is shown all the same: nothing is run."""
    output = helper.make_tensor_sequence_value_info("y", 1, None)
    raw = model_bytes([helper.make_node("Odd", ["x"], ["y"], domain="own")], [value("x", "float32", None)], [output])

    assert _run("inspect", _model(tmp_path, raw)) == 0

    out = capsys.readouterr().out
    assert "own:Odd 1" in out
    assert "  y  sequence(float32)" in out


@pytest.mark.parametrize("name", ["none.onnx", "."])
def test_inspect_without_a_file(tmp_path: Path, name: str) -> None:
    """A missing file and a folder are the model's fault, exit 5."""
    with pytest.raises(BundleError, match="cannot be read"):
        _run("inspect", tmp_path / name)


def _image() -> bytes:
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    axes = {"axes": np.array([1, 2], np.int64)}
    return model_bytes(nodes, [value("x", "float32", ["n", 1, 784])], [value("y", "float32", ["n"])], axes)


def _mixed() -> bytes:
    nodes = [
        helper.make_node("LabelEncoder", ["kind"], ["k"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0]),
        helper.make_node("Cast", ["flags"], ["f"], to=1),
        helper.make_node("Concat", ["k", "f", "x"], ["y"], axis=1),
    ]
    inputs = [
        value("x", "float32", [None, 2]),
        value("kind", "string", [None, 1]),
        value("flags", "bool", [None, 1]),
    ]
    return model_bytes(nodes, inputs, [value("y", "float32", [None, 4])])


STARTERS = {
    "scalars": row_sum(),
    "wide": row_sum(width=100),
    "two classes": identity((None, 2), out_shape=(None, 2)),
    "image": _image(),
    "mixed": _mixed(),
    "indices": table_lookup(2),
    "no shape": identity(None, out_shape=None),
}


@pytest.mark.parametrize("name", list(STARTERS))
def test_starter_passes_every_check(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle and schema that --init writes load, fit each other, and pass verify as they stand."""
    folder = tmp_path / "new model"
    _run("inspect", _model(tmp_path, STARTERS[name]), "--init", folder)
    assert f"wrote {folder}" in capsys.readouterr().out

    code = _run("verify", folder, "--schema", folder / "event.schema.json", "--json")

    statuses = _statuses(capsys.readouterr().out)
    assert code == 0
    assert statuses == {
        "manifest and hashes": "ok",
        "graph": "ok",
        "event schema": "ok",
        "golden rows": "left out",
        "warm-up": "ok",
        "batch invariance": "ok",
    }


def test_starter_content(tmp_path: Path) -> None:
    """Fields are numbered across inputs, two columns give the second as score, and the name is the folder's."""
    folder = tmp_path / "fraud"
    _run("inspect", _model(tmp_path, _mixed()), "--init", folder)

    bundle, schema = load_bundle(folder), load_schema(folder / "event.schema.json")

    assert bundle.label == "fraud@1.0.0"
    assert bundle.inputs == (
        TensorSpec("x", "float32", (2,), ("f0", "f1")),
        TensorSpec("kind", "string", (1,), ("f2",)),
        TensorSpec("flags", "bool", (1,), ("f3",)),
    )
    assert set(schema.properties) == {"id", "f0", "f1", "f2", "f3"}
    assert (folder / "model.onnx").read_bytes() == _mixed()


def test_starter_for_two_columns(tmp_path: Path) -> None:
    """Of two columns the second is the score, as classifiers have it."""
    _run("inspect", _model(tmp_path, STARTERS["two classes"]), "--init", tmp_path / "b")

    source = load_bundle(tmp_path / "b").sources[0]

    assert (source.name, source.output, source.column) == ("score", "y", 1)


def test_starter_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guesses, a fixed batch and left out outputs are named, so that the owner looks at them."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["t"], ["z"])]
    raw = model_bytes(
        nodes,
        [value("x", "float32", [4, "width"]), value("t", "string", None)],
        [value("y", "float32", [4, "width"]), value("z", "string", None)],
    )

    _run("inspect", _model(tmp_path, raw), "--init", tmp_path / "b", "--json")

    notes = " | ".join(json.loads(capsys.readouterr().out)["notes"])
    assert "input 'x' has a fixed batch of 4" in notes
    assert "input 'x' leaves the size 'width' open: 1 is a guess" in notes
    assert "input 't' states no shape" in notes
    assert "output 'z' (string) is left out" in notes
    assert load_bundle(tmp_path / "b").inputs[0].shape == (1,)


def test_starter_overwrites_nothing(tmp_path: Path) -> None:
    """A folder in use is refused and stays as it is."""
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "model.yaml").write_text("mine", encoding="utf-8")

    with pytest.raises(BundleError, match="already in use"):
        _run("inspect", _model(tmp_path, row_sum()), "--init", folder)

    assert [path.name for path in folder.iterdir()] == ["model.yaml"]
    assert (folder / "model.yaml").read_text(encoding="utf-8") == "mine"


def test_starter_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is the environment's fault."""
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(EnvironmentFault, match="cannot be written"):
        _run("inspect", _model(tmp_path, row_sum()), "--init", tmp_path / "file" / "b")


def test_no_starter_for_a_zipmap(tmp_path: Path) -> None:
    """Where no output can be used, nothing is written and the converter's option is named."""
    output = helper.make_tensor_sequence_value_info("y", 1, None)
    raw = model_bytes([helper.make_node("Odd", ["x"], ["y"])], [value("x", "float32", [None, 1])], [output])

    with pytest.raises(BundleError) as caught:
        _run("inspect", _model(tmp_path, raw), "--init", tmp_path / "b")

    assert "'zipmap': False" in caught.value.problems[0].remedy
    assert not (tmp_path / "b").exists()


def test_starter_takes_external_data_along(tmp_path: Path) -> None:
    """Weights beside the model are copied, named and hashed; weights elsewhere are refused."""
    path = _model(tmp_path, model_with_external_data(tmp_path, "weights.bin"))
    _run("inspect", path, "--init", tmp_path / "b")
    assert (tmp_path / "b" / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert load_bundle(tmp_path / "b").label == "b@1.0.0"

    inner = tmp_path / "inner"
    inner.mkdir()
    outside = _model(inner, model_with_external_data(tmp_path, "../weights.bin"))
    with pytest.raises(BundleError, match=r"weights\.bin"):
        _run("inspect", outside, "--init", tmp_path / "c")


def test_inspect_shows_where_nodes_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a provider that is named the file is opened too, and the nodes that it leaves to the processor are named."""
    path = _model(tmp_path, row_sum())
    assert _run("inspect", path, "--provider", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "placement 1 on cpu"
    install(monkeypatch, Device(on_cpu=[Node("TreeEnsembleRegressor", "trees", "ai.onnx.ml")]))
    assert _run("inspect", path, "--provider", "cuda", "--json") == 0
    placement = json.loads(capsys.readouterr().out)["placement"]
    assert placement == {"counts": {"cuda": 1, "cpu": 1}, "on_cpu": ["ai.onnx.ml:TreeEnsembleRegressor 'trees'"]}


def test_verify_names_nodes_left_on_the_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first few by name, the rest by their number."""
    install(monkeypatch, Device(on_cpu=[Node("Gather", f"g{number}") for number in range(12)]))
    assert _run("verify", write_bundle(tmp_path / "b", row_sum()), "--provider", "cuda") == 0
    graph = capsys.readouterr().out.splitlines()[1]
    assert "12 of 13 nodes run on the cpu, not on cuda: Gather 'g0', " in graph
    assert "Gather 'g9' and 2 more" in graph


def test_verify_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a check, golden rows and all, and exit 0."""
    folder = write_bundle(tmp_path / "b", row_sum(), golden="golden.json")
    rows = [{"id": "1", "a": 1, "b": 2, "c": 3}, {"id": "2", "a": 0.5, "b": 0, "c": 0}]
    write_golden(folder, rows, {"score": [6, 0.5]})

    assert _run("verify", folder, "--schema", _schema(tmp_path), "--provider", "cpu") == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["ok"] * 6
    assert "2 rows, largest difference 0, tolerance 1e-05" in lines[3]
    assert "16 golden and made-up rows" in lines[5]


def test_verify_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed check shows place, reason and remedy, what depends on it is left out, and the exit code is 5."""
    folder = write_bundle(tmp_path, row_sum(), outputs={"score": {"output": "z"}})

    assert _run("verify", folder, "--provider", "cpu") == 5

    out = capsys.readouterr().out
    assert "failed    graph" in out
    line = (folder / "model.yaml").read_text(encoding="utf-8").splitlines().index("    output: z") + 1
    assert f"model.yaml:{line} outputs.score.output: the graph has no output 'z'" in out
    assert "left out  warm-up" in out


def test_verify_of_a_damaged_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a bundle everything else is left out; programs get the problem with its code."""
    folder = write_bundle(tmp_path, row_sum(), sha256="0" * 64)

    assert _run("verify", folder, "--json") == 5

    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["checks"][0]["problems"][0]["code"] == "wrong_hash"
    assert [check["status"] for check in document["checks"]] == ["failed", *["left out"] * 5]


def test_verify_finds_a_model_that_mixes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose rows depend on their neighbours fails batch invariance, and only that."""
    folder = write_bundle(tmp_path, minus_batch_mean())

    assert _run("verify", folder, "--json", "--provider", "cpu") == 5

    failed = [name for name, status in _statuses(capsys.readouterr().out).items() if status == "failed"]
    assert failed == ["batch invariance"]


def test_one_golden_row_does_not_hide_mixing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal rows have themselves as their mean; made-up rows beside a lone golden one still tell."""
    folder = write_bundle(tmp_path / "b", minus_batch_mean(), golden="golden.json")
    write_golden(folder, [{"id": "1", "a": 1, "b": 2, "c": 3}], {"score": [[0, 0, 0]]})

    assert _run("verify", folder, "--json", "--provider", "cpu", "--schema", _schema(tmp_path)) == 5

    statuses = _statuses(capsys.readouterr().out)
    assert (statuses["golden rows"], statuses["batch invariance"]) == ("ok", "failed")


def test_verify_with_a_schema_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A field that the schema lacks fails that check; the model is checked all the same."""
    document = {**SCHEMA, "required": ["id"], "properties": {"id": {"type": "string"}, "a": {"type": "number"}}}
    folder = write_bundle(tmp_path / "b", row_sum(), golden="golden.json")
    write_golden(folder, [{}], {"score": [1]})

    assert _run("verify", folder, "--json", "--provider", "cpu", "--schema", _schema(tmp_path, document)) == 5

    statuses = _statuses(capsys.readouterr().out)
    assert statuses["event schema"] == "failed"
    assert statuses["golden rows"] == "left out"
    assert statuses["batch invariance"] == "ok"


def test_verify_with_golden_rows_that_are_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A golden row that the model scores otherwise fails its check."""
    folder = write_bundle(tmp_path / "b", row_sum(), golden="golden.json")
    write_golden(folder, [{"id": "1", "a": 1, "b": 2, "c": 3}], {"score": [7]})

    assert _run("verify", folder, "--json", "--provider", "cpu", "--schema", _schema(tmp_path)) == 5

    assert _statuses(capsys.readouterr().out)["golden rows"] == "failed"


def test_verify_where_the_model_takes_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that raises on every row cannot be verified, and that is a failure."""
    inputs = [{"name": "x", "dtype": "int64", "shape": ["batch"], "fields": ["a"]}]
    folder = write_bundle(tmp_path, table_lookup(0), inputs=inputs)

    assert _run("verify", folder, "--json", "--provider", "cpu") == 5

    statuses = _statuses(capsys.readouterr().out)
    assert (statuses["warm-up"], statuses["batch invariance"]) == ("failed", "failed")


def test_verify_with_a_broken_schema(tmp_path: Path) -> None:
    """A schema that is none is a configuration error, exit 2."""
    with pytest.raises(ConfigError):
        _run("verify", write_bundle(tmp_path / "b", row_sum()), "--schema", _schema(tmp_path, []))


def test_no_starter_for_inputs_that_events_cannot_feed(tmp_path: Path) -> None:
    """A model without inputs, or with one that is no tensor, gets no starter."""
    none = model_bytes([helper.make_node("Odd", [], ["y"])], [], [value("y", "float32", [None])])
    odd = helper.make_tensor_sequence_value_info("x", 1, None)
    sequence = model_bytes([helper.make_node("Odd", ["x"], ["y"])], [odd], [value("y", "float32", [None])])

    for raw, words in ((none, "no inputs"), (sequence, "no event field can feed")):
        with pytest.raises(BundleError, match=words):
            _run("inspect", _model(tmp_path, raw), "--init", tmp_path / "b")


def test_verify_where_rows_fail_only_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph that only takes small batches fails both checks that need large ones."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = {"shape": np.array([1, 3], np.int64)}
    raw = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 3])], shape)

    assert _run("verify", write_bundle(tmp_path, raw), "--json", "--provider", "cpu") == 5

    statuses = _statuses(capsys.readouterr().out)
    assert (statuses["graph"], statuses["warm-up"], statuses["batch invariance"]) == ("ok", "failed", "failed")
