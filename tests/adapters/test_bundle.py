"""A bundle loads when manifest, paths and hashes hold; else every problem is named with file, line and key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.adapters.onnx_builders import identity, row_sum, write_bundle, write_golden
from worker.adapters.bundle import load_bundle
from worker.core.features import DecisionSpec, OutputSpec, TensorSpec
from worker.errors import BundleError, Problem


def _problems(folder: Path) -> tuple[Problem, ...]:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value.problems


def _problem(folder: Path) -> Problem:
    problems = _problems(folder)
    assert len(problems) == 1, problems
    return problems[0]


def test_bundle_loads(tmp_path: Path) -> None:
    """A sound bundle gives label, specs, decision, golden rows and the path of the verified model."""
    model = row_sum()
    decision = {"output": "score", "threshold": 1, "field": "flag"}
    folder = write_bundle(tmp_path, model, decision=decision, golden="golden.json")
    write_golden(folder, [{"a": 1}, {"a": 2}], {"score": [1, 2.5]}, tolerance=0.01)

    bundle = load_bundle(folder)

    assert bundle.label == "fraud@1.0.0"
    assert bundle.sha256 == hashlib.sha256(model).hexdigest()
    assert bundle.model_path == folder.resolve() / "model.onnx"
    assert bundle.inputs == (TensorSpec("x", "float32", (3,), ("a", "b", "c")),)
    assert bundle.outputs == (OutputSpec("score"),)
    assert bundle.decision == DecisionSpec("score", 1.0, "flag")
    assert bundle.golden is not None
    assert bundle.golden.rows == (b'{"a":1}', b'{"a":2}')
    assert bundle.golden.expected["score"].tolist() == [1.0, 2.5]
    assert bundle.golden.tolerance == 0.01


def test_links_inside_the_bundle_are_fine(tmp_path: Path) -> None:
    """A mounted ConfigMap links its files through a hidden folder; that stays inside and is accepted."""
    folder = write_bundle(tmp_path / "b", row_sum())
    (folder / "..data").mkdir()
    (folder / "model.onnx").rename(folder / "..data" / "model.onnx")
    (folder / "model.onnx").symlink_to("..data/model.onnx")

    assert load_bundle(folder).model_path == folder.resolve() / "..data" / "model.onnx"


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that does not exist is named, with the command that writes one."""
    problem = _problem(tmp_path / "none")

    assert problem.file == str(tmp_path / "none")
    assert "does not exist" in problem.message
    assert "model inspect" in problem.remedy


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    """Naming the model file itself is told apart from a missing folder."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")

    assert "is a file, not a folder" in _problem(path).message


def test_missing_manifest(tmp_path: Path) -> None:
    """A folder without model.yaml says so."""
    assert _problem(tmp_path).file == str(tmp_path / "model.yaml")


def test_broken_yaml(tmp_path: Path) -> None:
    """A syntax error carries its line."""
    folder = write_bundle(tmp_path, row_sum())
    (folder / "model.yaml").write_text("name: fraud\nversion: [1\n", encoding="utf-8")

    problem = _problem(folder)

    assert (problem.code, problem.line) == ("invalid_yaml", 3)


def test_wrong_hash(tmp_path: Path) -> None:
    """A model other than the one stated is refused, with both hashes and the manifest's line."""
    folder = write_bundle(tmp_path, row_sum(), sha256="0" * 64)

    problem = _problem(folder)

    assert (problem.code, problem.key, problem.line) == ("wrong_hash", "sha256", 4)
    assert hashlib.sha256(row_sum()).hexdigest() in problem.message


def test_hash_is_verified_before_parsing(tmp_path: Path) -> None:
    """A file that is no model at all is refused for its hash, before anything tries to read it."""
    folder = write_bundle(tmp_path, row_sum())
    (folder / "model.onnx").write_bytes(b"\x00" * 100)

    assert [problem.code for problem in _problems(folder)] == ["wrong_hash"]


@pytest.mark.parametrize("kept", [0, 1, 40, 100])
def test_truncated_model(tmp_path: Path, kept: int) -> None:
    """A truncated model with a matching hash is refused as damaged."""
    folder = write_bundle(tmp_path, row_sum()[:kept])

    assert _problem(folder).code == "damaged_model"


def test_missing_model_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    problem = _problem(write_bundle(tmp_path, row_sum(), file="other.onnx"))

    assert (problem.code, problem.key, problem.line) == ("missing_file", "file", 3)


@pytest.mark.parametrize("absolute", [False, True])
def test_file_outside_the_bundle(tmp_path: Path, absolute: bool) -> None:
    """A path that leads out of the folder is refused although file and hash are right."""
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(row_sum())
    name = str(outside) if absolute else "../outside.onnx"

    assert _problem(write_bundle(tmp_path / "b", row_sum(), file=name)).code == "outside_bundle"


def test_link_out_of_the_bundle(tmp_path: Path) -> None:
    """A link is judged by where it leads."""
    folder = write_bundle(tmp_path / "b", row_sum())
    (folder / "model.onnx").rename(tmp_path / "outside.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "outside.onnx")

    assert _problem(folder).code == "outside_bundle"


def test_folder_as_model_file(tmp_path: Path) -> None:
    """Only a regular file can be the model."""
    (tmp_path / "sub").mkdir()

    assert _problem(write_bundle(tmp_path, row_sum(), file="sub")).code == "not_a_file"


def test_unknown_key_and_all_problems_at_once(tmp_path: Path) -> None:
    """A misspelt key gets a suggestion, and everything else that is wrong is reported with it, by line."""
    folder = write_bundle(tmp_path, row_sum())
    text = """\
nam: fraud
version: 1.0
file: model.onnx
sha256: abc
inputs:
  - name: x
    dtype: float23
    shape: [3, 3]
    feilds: [a, b, c]
outputs:
  score: {output: y, column: -1}
decision: {output: scoer, threshold: high, field: score}
"""
    (folder / "model.yaml").write_text(text, encoding="utf-8")

    found = {problem.key: problem for problem in _problems(folder)}

    assert {key: problem.line for key, problem in found.items()} == {
        "nam": 1,
        "name": 1,
        "version": 2,
        "sha256": 4,
        "inputs[0].dtype": 7,
        "inputs[0].shape": 8,
        "inputs[0].feilds": 9,
        "inputs[0].fields": 6,
        "outputs.score.column": 11,
        "decision.output": 12,
        "decision.threshold": 12,
        "decision.field": 12,
    }
    assert found["nam"].remedy == "Did you mean 'name'?"
    assert found["version"].remedy == 'Put it in quotes: version: "1.0".'
    assert found["inputs[0].dtype"].remedy == "Did you mean 'float32'?"
    assert found["decision.output"].remedy == "Did you mean 'score'?"
    assert {problem.file for problem in found.values()} == {str(folder / "model.yaml")}


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({"fields": ["a", "b", "c", "d"]}, "fields", "4 fields do not fit into a row of 3 (shape [batch, 3])"),
        ({"fields": []}, "fields", "at least one"),
        ({"fields": ["a", "b..c", "d"]}, "fields[1]", "not the name of a field"),
        ({"fields": ["a", 1, "d"]}, "fields[1]", "not the name of a field"),
        ({"encoding": "csv"}, "fields", "reads one field"),
        ({"encoding": "xml"}, "encoding", "not known"),
        ({"encoding": "csv", "fields": ["a"], "dtype": "string"}, "encoding", "holds numbers"),
        ({"encoding": "base64", "fields": ["a"], "dtype": "float64"}, "encoding", "raw float32"),
        ({"encoding": "epoch_s", "fields": ["a"]}, "encoding", "one number"),
        ({"encoding": "epoch_s", "fields": ["a"], "shape": ["batch"], "dtype": "bool"}, "encoding", "dtype bool"),
        ({"shape": ["batch", 0]}, "shape[1]", "at least 1"),
        ({"shape": ["batch", "n"]}, "shape[1]", "at least 1"),
        ({"shape": []}, "shape", "batch"),
        ({"dtype": "int4"}, "dtype", "not known"),
    ],
)
def test_inputs_that_cannot_be_fed(tmp_path: Path, entry: dict[str, object], key: str, words: str) -> None:
    """Rules between fields, shape, dtype and encoding are checked without an event schema."""
    sound: dict[str, object] = {"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}

    problem = _problem(write_bundle(tmp_path, row_sum(), inputs=[sound | entry]))

    assert problem.key == f"inputs[0].{key}"
    assert words in problem.message


@pytest.mark.parametrize(
    "entry",
    [
        {"fields": ["a"]},
        {"fields": ["a", "pair"]},
        {"fields": ["a"], "encoding": "csv"},
        {"fields": ["a"], "encoding": "base64"},
        {"fields": ["a"], "encoding": "epoch_s", "shape": ["batch", 1], "dtype": "float64"},
        {"fields": ["a", "b"], "shape": ["batch", 2], "dtype": "string"},
        {"fields": ["m.a"], "shape": ["batch"], "dtype": "int64"},
        {"fields": ["a"], "encoding": "csv", "shape": ["batch", 1, 784]},
    ],
)
def test_inputs_that_can_be_fed(tmp_path: Path, entry: dict[str, object]) -> None:
    """An encoded text, as many scalars as a row holds, or fewer fields of which the schema says how long they are."""
    sound: dict[str, object] = {"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}

    bundle = load_bundle(write_bundle(tmp_path, row_sum(), inputs=[sound | entry]))

    assert bundle.inputs[0].fields == tuple(entry["fields"])  # type: ignore[arg-type]  # a list of names


def test_same_input_twice(tmp_path: Path) -> None:
    """Two entries for one input of the graph are refused."""
    entry = {"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}

    problem = _problem(write_bundle(tmp_path, row_sum(), inputs=[entry, entry]))

    assert (problem.key, problem.message) == ("inputs[1].name", "input 'x' is given twice")


@pytest.mark.parametrize("outputs", [{}, [], "y", {"score": "y"}, {"score": {"output": "y", "column": True}}])
def test_outputs_of_a_wrong_form(tmp_path: Path, outputs: object) -> None:
    """Outputs are a mapping of names to graph outputs with an optional column."""
    assert _problem(write_bundle(tmp_path, row_sum(), outputs=outputs)).key.startswith("outputs")


@pytest.mark.parametrize(
    ("expected", "key"),
    [
        ({"score": [1]}, "/expected/score"),
        ({"scoer": [1, 2]}, "/expected/scoer"),
        ({"score": [1, "2"]}, "/expected/score"),
        ({"score": [1, [2]]}, "/expected/score"),
        ({}, "/expected"),
    ],
)
def test_golden_values_that_do_not_fit(tmp_path: Path, expected: object, key: str) -> None:
    """Expected values need an output of that name and one entry a row."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    write_golden(folder, [{"a": 1}, {"a": 2}], expected)

    problem = _problem(folder)

    assert (problem.key, problem.file) == (key, str(folder.resolve() / "golden.json"))


def test_golden_file_of_a_wrong_form(tmp_path: Path) -> None:
    """Unknown keys, no rows and a negative tolerance are all named."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    write_golden(folder, [], {"score": []}, tolerance=-1, toleranc=1)

    assert {problem.key for problem in _problems(folder)} == {"/toleranc", "/rows", "/tolerance"}


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_golden_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    """A golden file that is no JSON object is refused."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    (folder / "golden.json").write_text(text, encoding="utf-8")

    assert {problem.code for problem in _problems(folder)} == {"golden"}


def model_with_external_data(folder: Path, location: str) -> bytes:
    """A model whose weights lie in ``location`` beside it."""
    model = onnx.load_from_string(row_sum())
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(np.array([1], np.int64).tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return bytes(model.SerializeToString())


def test_external_data_must_be_named(tmp_path: Path) -> None:
    """Weights in a file that the manifest does not name are refused, wherever they lie."""
    folder = write_bundle(tmp_path, model_with_external_data(tmp_path, "weights.bin"))

    problem = _problem(folder)

    assert (problem.code, problem.key) == ("external_data", "external_data")


def test_external_data_named_and_hashed(tmp_path: Path) -> None:
    """External data loads when the manifest states its hash, and only that file will do."""
    named = {"file": "weights.bin", "sha256": hashlib.sha256(np.array([1], np.int64).tobytes()).hexdigest()}
    folder = write_bundle(tmp_path, model_with_external_data(tmp_path, "weights.bin"), external_data=[named])
    assert load_bundle(folder).label == "fraud@1.0.0"

    (folder / "weights.bin").write_bytes(b"changed!")
    problem = _problem(folder)
    assert (problem.code, problem.key) == ("wrong_hash", "external_data[0].sha256")


def test_external_data_outside(tmp_path: Path) -> None:
    """A model that reads weights from elsewhere is refused although a file of the bundle is named."""
    folder = tmp_path / "b"
    folder.mkdir()
    model = model_with_external_data(folder, "../secret.bin")
    named = {"file": "weights.bin", "sha256": hashlib.sha256(np.array([1], np.int64).tobytes()).hexdigest()}

    assert _problem(write_bundle(folder, model, external_data=[named])).code == "external_data"


def test_second_graph_is_refused(tmp_path: Path) -> None:
    """A file that holds two graphs could show us one and ONNX Runtime another."""
    folder = write_bundle(tmp_path, row_sum() + identity())

    assert _problem(folder).code == "damaged_model"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"inputs": {}}, "inputs"),
        ({"inputs": ["x"]}, "inputs[0]"),
        ({"name": "fraud model"}, "name"),
        ({"name": ""}, "name"),
        ({"external_data": ["weights.bin"]}, "external_data[0]"),
        ({"decision": "score"}, "decision"),
        ({"decision": {"output": "score", "threshold": True, "field": "flag"}}, "decision.threshold"),
        ({"outputs": {"": {"output": "y"}}}, "outputs."),
    ],
)
def test_keys_of_a_wrong_form(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    """What should be a list, mapping, label or number and is not is named by its key."""
    assert _problem(write_bundle(tmp_path, row_sum(), **changes)).key == key


@pytest.mark.parametrize("text", ["", "- name: fraud\n", "fraud\n"])
def test_manifest_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    """A manifest without keys is told which keys there are."""
    folder = write_bundle(tmp_path, row_sum())
    (folder / "model.yaml").write_text(text, encoding="utf-8")

    problem = _problem(folder)

    assert (problem.message, problem.line) == ("the file must be a mapping", 1)
    assert "sha256" in problem.remedy


def test_missing_sections(tmp_path: Path) -> None:
    """Sections that are not there are asked for, all at once."""
    folder = write_bundle(tmp_path, row_sum(), inputs=None, outputs=None)

    assert [problem.message for problem in _problems(folder)] == ["'inputs' is missing", "'outputs' is missing"]


def test_optional_keys_may_be_null(tmp_path: Path) -> None:
    """A key written out without a value counts as left out where it is optional."""
    folder = write_bundle(tmp_path, row_sum())
    with (folder / "model.yaml").open("a", encoding="utf-8") as stream:
        stream.write("decision:\ngolden:\n")

    bundle = load_bundle(folder)

    assert (bundle.decision, bundle.golden) == (None, None)


def test_golden_file_beyond_the_size_limit(tmp_path: Path) -> None:
    """A golden file of more than 16 MiB is refused before it is read."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    with (folder / "golden.json").open("wb") as stream:
        stream.truncate((16 << 20) + 1)

    assert "larger than 16 MiB" in _problem(folder).message
