"""A bundle made to do harm: each attack is refused before the model runs, with the file and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from tests.adapters.onnx_builders import row_sum, write_bundle
from worker.adapters import bundle as bundle_module
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_file import MAX_MODEL_BYTES
from worker.errors import BundleError, Problem


def refusal(folder: Path) -> Problem:
    """The one problem of a bundle; it names a file of the bundle and a remedy."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    (problem,) = caught.value.problems
    assert Path(problem.file).is_relative_to(folder)
    assert problem.remedy
    return problem


def write_manifest(folder: Path, *, old: str = "", new: str) -> Path:
    """A sound bundle whose manifest has ``old`` replaced by ``new``, or ``new`` at its end."""
    write_bundle(folder, row_sum())
    path = folder / "model.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text + new, encoding="utf-8")
    return folder


def model_with_weights_in(location: bytes) -> bytes:
    """A model whose only tensor lies in the file of that name, which need not be UTF-8."""
    model = onnx.load_from_string(row_sum())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="x" * len(location))
    return bytes(model.SerializeToString()).replace(b"x" * len(location), location)


# ---- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sub/../../model.onnx", "/etc/passwd", "/dev/zero", "/proc/self/environ"])
def test_paths_that_lead_out_are_not_opened(tmp_path: Path, name: str) -> None:
    """A path out of the folder is refused, however it is written, and the file is not hashed."""
    (tmp_path / "model.onnx").write_bytes(row_sum())
    folder = write_manifest(tmp_path / "b", old="file: model.onnx", new=f"file: {name}")
    (folder / "sub").mkdir()

    problem = refusal(folder)

    assert (problem.code, problem.key) == ("outside_bundle", "file")


@pytest.mark.parametrize("name", ["loop", '"a\\0b"', "x" * 5000, '"\\n"'])
def test_paths_that_are_none(tmp_path: Path, name: str) -> None:
    """A link to itself, a NUL and a name beyond any file system are refused like a missing file."""
    folder = write_manifest(tmp_path, old="file: model.onnx", new=f"file: {name}")
    (folder / "loop").symlink_to("loop")

    assert refusal(folder).code == "missing_file"


@pytest.mark.parametrize("named", ["model.onnx", "golden.json"])
def test_a_pipe_is_no_file(tmp_path: Path, named: str) -> None:
    """A pipe in the place of a file is refused, not waited for."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    (folder / "golden.json").write_text('{"rows": [{"a": 1}], "expected": {"score": [1]}}', encoding="utf-8")
    (folder / named).unlink()
    os.mkfifo(folder / named)

    assert refusal(folder).code == "not_a_file"


def test_a_link_to_the_golden_rows_of_another(tmp_path: Path) -> None:
    """Golden rows are files of the bundle too."""
    (tmp_path / "golden.json").write_text("{}", encoding="utf-8")
    folder = write_bundle(tmp_path / "b", row_sum(), golden="golden.json")
    (folder / "golden.json").symlink_to("../golden.json")

    assert refusal(folder).code == "outside_bundle"


def test_a_manifest_elsewhere(tmp_path: Path) -> None:
    """The manifest itself must lie in the bundle, links resolved."""
    folder = write_bundle(tmp_path / "b", row_sum())
    (folder / "model.yaml").rename(tmp_path / "model.yaml")
    (folder / "model.yaml").symlink_to("../model.yaml")

    assert refusal(folder).code == "outside_bundle"


def test_a_manifest_that_is_a_pipe(tmp_path: Path) -> None:
    """A pipe as the manifest is refused, not waited for."""
    folder = write_bundle(tmp_path, row_sum())
    (folder / "model.yaml").unlink()
    os.mkfifo(folder / "model.yaml")

    assert refusal(folder).code == "not_a_file"


def test_a_manifest_that_links_to_itself(tmp_path: Path) -> None:
    """A manifest that leads nowhere is refused like a missing one."""
    folder = write_bundle(tmp_path, row_sum())
    (folder / "model.yaml").unlink()
    (folder / "model.yaml").symlink_to("model.yaml")

    assert refusal(folder).code == "missing_file"


# ---- external data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", [b"../secret.bin", b"/etc/passwd", b"link.bin", b"sub/../../secret.bin", b""])
def test_weights_elsewhere(tmp_path: Path, location: bytes) -> None:
    """Weights outside the folder are refused: relative, absolute, through a link, and the folder itself."""
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    folder = write_bundle(tmp_path / "b", model_with_weights_in(location))
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "sub").mkdir()

    assert refusal(folder).code == "external_data"


@pytest.mark.parametrize("location", [b"a\0b", b"loop", b"x" * 5000])
def test_weights_in_files_that_cannot_be(tmp_path: Path, location: bytes) -> None:
    """A location that no file system can look up is refused like any that the manifest does not name."""
    folder = write_bundle(tmp_path, model_with_weights_in(location))
    (folder / "loop").symlink_to("loop")

    assert refusal(folder).code == "external_data"


def test_weights_under_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 cannot be compared with the manifest, so that they are refused outright."""
    folder = write_bundle(tmp_path, model_with_weights_in(b"weights\xff"))

    assert refusal(folder).code == "damaged_model"


def test_weights_of_the_training_part(tmp_path: Path) -> None:
    """Weights that only the training part of a model names are judged like all others."""
    model = onnx.load_from_string(row_sum())
    training = model.training_info.add()
    training.initialization.name = "init"
    training.algorithm.CopyFrom(onnx.load_from_string(model_with_weights_in(b"../secret.bin")).graph)

    assert refusal(write_bundle(tmp_path, model.SerializeToString())).code == "external_data"


def test_a_model_in_another_format(tmp_path: Path) -> None:
    """ONNX Runtime would read a file named .ort by other rules than those that were checked."""
    folder = write_manifest(tmp_path, old="file: model.onnx", new="file: model.ort")
    (folder / "model.onnx").rename(folder / "model.ort")

    problem = refusal(folder)

    assert (problem.code, problem.key) == ("other_format", "file")


# ---- size and nesting ----------------------------------------------------------------------------------------


def test_a_model_beyond_two_gibibytes_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ONNX file can be that large, so that none of it is read."""
    hashed: list[Path] = []

    def hash_of(path: Path) -> str:
        hashed.append(path)
        return ""

    monkeypatch.setattr(bundle_module, "file_sha256", hash_of)
    folder = write_bundle(tmp_path, row_sum())
    os.truncate(folder / "model.onnx", MAX_MODEL_BYTES + 1)

    problem = refusal(folder)

    assert "2 GiB" in problem.message
    assert hashed == []


def test_a_manifest_beyond_its_limit(tmp_path: Path) -> None:
    """A manifest of more than 1 MiB is refused before it is parsed."""
    folder = write_manifest(tmp_path, new="#" * (1 << 20))

    assert "larger than 1 MiB" in refusal(folder).message


@pytest.mark.parametrize("shape", ["[batch, 99999999999]", "[batch, 4096, 4096, 2]", "[batch, 0xffffffff]"])
def test_a_row_that_no_record_can_fill(tmp_path: Path, shape: str) -> None:
    """A tensor that would take the memory of the machine for one row is refused by its declaration."""
    folder = write_bundle(
        tmp_path, row_sum(), inputs=[{"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a"]}]
    )
    path = folder / "model.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("- batch\n  - 3", "- batch").replace("shape:\n  - batch", f"shape: {shape}"))

    problem = refusal(folder)

    assert (problem.code, problem.key) == ("oversize", "inputs[0].shape")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("golden: " + "[" * 2000, "nested too deeply"),
        ("golden: " + "{a: " * 2000, "nested too deeply"),
        ("golden: &a [*a]\n", "nested too deeply"),
        ("a: &a [x, x]\nb: &b [" + "*a, " * 999 + "]\nc: [" + "*b, " * 999 + "]\n", "too many values"),
        ("name: again\n", "'name' is given twice"),
        ("decision: {output: score, output: y}\n", "'decision.output' is given twice"),
        ("golden: !!python/object/apply:os.system [id]\n", "a tag (!)"),
        ("golden: !!binary aGk=\n", "a tag (!)"),
        ('golden: "\\UFFFFFFFF"\n', "no Unicode character"),
        ("decision: {output: score, field: f, threshold: " + "9" * 400 + "}\n", "64 bits"),
    ],
)
def test_yaml_that_would_hang_or_mislead(tmp_path: Path, text: str, words: str) -> None:
    """Nesting, bombs of anchors, repeated keys, tags and numbers beyond all reason are refused with their file."""
    problem = refusal(write_manifest(tmp_path, new=text))

    assert words in problem.message
    assert problem.file.endswith("model.yaml")


@pytest.mark.parametrize("text", ['{"rows": ' + "[" * 5000, '{"rows": [' + '{"a": ' * 5000])
def test_golden_rows_nested_beyond_reason(tmp_path: Path, text: str) -> None:
    """Endless nesting in the golden rows is refused, not followed."""
    folder = write_bundle(tmp_path, row_sum(), golden="golden.json")
    (folder / "golden.json").write_text(text, encoding="utf-8")

    assert refusal(folder).code == "golden"
