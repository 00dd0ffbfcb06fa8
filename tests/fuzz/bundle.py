"""Model bundles: any manifest, model and golden rows load or are refused, and nothing outside the folder is read."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto, helper

from tests.fuzz.folder import folder, opened_files
from tests.fuzz.target import Target, join, split
from worker.adapters.bundle import Bundle, load_bundle
from worker.adapters.onnx_file import read_onnx_file
from worker.errors import BundleError

# Protobuf's own error, whose module has no type information.
_UNREADABLE: Final[type[Exception]] = importlib.import_module("google.protobuf.message").DecodeError
# A manifest cannot state the hash of a model that is still being changed, so the check fills it in.
_HASH: Final = b"{sha256}"
_WEIGHTS: Final = b"\x00\x00\x80\x3f"
_WEIGHTS_HASH: Final = hashlib.sha256(_WEIGHTS).hexdigest()
_LIBRARIES: Final = tuple(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platlib"))
_PROJECT: Final = str(Path(__file__).resolve().parents[2])


def check(data: bytes) -> None:
    """A bundle loads or is refused with file and remedy; files outside its folder stay unread.

    The input holds the manifest, the model and the golden rows; ``{sha256}`` in the manifest is the model's hash.
    Beside the bundle lies another model, and a link in the bundle leads to it.
    """
    manifest, model, golden = split(data, 3)
    home = _home()
    (home / "model.yaml").write_bytes(manifest.replace(_HASH, hashlib.sha256(model).hexdigest().encode()))
    (home / "model.onnx").write_bytes(model)
    (home / "golden.json").write_bytes(golden)
    (home.parent / "outside.onnx").write_bytes(model)
    with opened_files() as opened:
        try:
            bundle = load_bundle(home)
        except BundleError as error:
            _check_refusal(error, home)
            bundle = None
    strangers = [path for path in map(os.path.realpath, opened) if not _is_expected(path, home)]
    assert not strangers, f"read outside the bundle: {strangers}"
    if bundle is not None:
        _check_bundle(bundle, home, model)


def _home() -> Path:
    home = folder("bundle")
    if not (home / "weights.bin").exists():
        (home / "weights.bin").write_bytes(_WEIGHTS)
        (home / "link.onnx").symlink_to("../outside.onnx")
        (home / "loop").symlink_to("loop")
    return home


def _is_expected(path: str, home: Path) -> bool:
    """Whether it is a file of the bundle, or code that Python loads."""
    roots = (str(home), *_LIBRARIES, _PROJECT, "/usr/lib/python", "/proc/self")
    return any(path.startswith(root) for root in roots)


def _check_refusal(error: BundleError, home: Path) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.message, problem
        assert problem.remedy, problem
        assert Path(problem.file).is_relative_to(home), problem


def _check_bundle(bundle: Bundle, home: Path, model: bytes) -> None:
    """What loads is what the manifest names, and the model reads no weights that were not hashed."""
    assert bundle.model_path.resolve().is_relative_to(home)
    assert hashlib.sha256(bundle.model_path.read_bytes()).hexdigest() == bundle.sha256
    assert bundle.inputs
    assert bundle.outputs
    for spec in bundle.inputs:
        assert 0 < spec.width <= 1 << 24, "a row that no record can fill"
        assert len(spec.fields) <= spec.width
    if bundle.decision is not None:
        assert math.isfinite(bundle.decision.threshold)
        assert bundle.decision.output in [output.name for output in bundle.outputs]
    if bundle.golden is not None:
        assert all(len(column) == len(bundle.golden.rows) for column in bundle.golden.expected.values())
    if bundle.model_path.name != "model.onnx":
        return
    known = set(read_onnx_file(bundle.model_path).external_data)
    assert all((home / location).resolve().is_relative_to(home) for location in known)
    assert _locations(model) <= known, "protobuf finds weights in files that we do not see"


def _locations(model: bytes) -> set[str]:
    """External data of a model as the onnx package reads it, wherever it hides; empty where it reads no model."""
    try:
        found = onnx.load_model_from_string(model)
    except _UNREADABLE:
        return set()
    return {
        entry.value
        for tensor in _tensors(found)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(message: Any) -> Iterator[Any]:
    for descriptor, value in message.ListFields():
        parts = value if descriptor.is_repeated else [value]
        for part in parts:
            if isinstance(part, TensorProto):
                yield part
            elif descriptor.message_type is not None:
                yield from _tensors(part)


def _model(location: str = "", *, nested: bool = False) -> bytes:
    """``y = x * w``; with a location, ``w`` lies in that file; nested, it hides in a branch."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    if location:
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
    else:
        weights.raw_data = _WEIGHTS
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    initializers = [weights]
    if nested:
        nodes = [helper.make_node("Constant", [], ["w"], value=weights), *nodes]
        branch = helper.make_graph(nodes, "b", [], [y])
        nodes, initializers = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], []
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


_MANIFEST: Final = """name: fraud
version: 1.0.0
file: model.onnx
sha256: {sha256}
inputs:
- {name: x, dtype: float32, shape: [batch, 1], fields: [a]}
outputs:
  score: {output: y, column: 0}
"""
_MORE: Final = "decision: {output: score, threshold: 0.5, field: flag}\ngolden: golden.json\n"
_EXTERNAL: Final = f"external_data:\n- file: weights.bin\n  sha256: {_WEIGHTS_HASH}\n"
_GOLDEN: Final = '{"rows": [{"a": 1}, {"a": 2.5}], "expected": {"score": [1, 2.5]}, "tolerance": 0.001}'

TARGET: Final = Target(
    "bundle",
    check,
    seeds=(
        join(_MANIFEST, _model()),
        join(_MANIFEST + _MORE, _model(), _GOLDEN),
        join(_MANIFEST + _EXTERNAL, _model("weights.bin")),
        join(_MANIFEST + _EXTERNAL, _model("weights.bin", nested=True)),
        join(_MANIFEST + _EXTERNAL, _model("../outside.onnx")),
        join(_MANIFEST.replace("file: model.onnx", "file: ../outside.onnx"), _model()),
        join(_MANIFEST.replace("file: model.onnx", "file: link.onnx"), _model()),
        join(_MANIFEST.replace("shape: [batch, 1], fields: [a]", "shape: [batch], fields: [a], encoding: epoch_s")),
        join("a: &a [x, x]\nb: &b [*a, *a]\ninputs: [*b, *b]\nname: {? [x] : y}\n"),
    ),
    tokens=(
        *(word.encode() for word in ("name:", "version:", "file:", "sha256:", "inputs:", "outputs:", "decision:")),
        *(word.encode() for word in ("golden:", "external_data:", "dtype:", "shape:", "fields:", "encoding:")),
        *(word.encode() for word in ("output:", "column:", "threshold:", "field:", "csv", "base64", "epoch_s")),
        *(word.encode() for word in ("../outside.onnx", "link.onnx", "loop", "weights.bin", "golden.json", "batch")),
        *(word.encode() for word in ("&a ", "*a", "!!bool ", "!!float ", "!!timestamp ", "!x ", "<<:", ".inf", "~")),
        b"/etc/passwd",
        *(b"0x" + b"f" * 300, b"9" * 400, b"- ", b"\n---\n", b"{sha256}", b"\n%%%%\n", b"\x00", b"location"),
        *(b"\x6a\x10\x0a\x08location\x12\x04", b"\x70\x01", b"\x32", b"\x2a", b"\x0a\xff\xff\xff\xff\x0f", b"1e999"),
    ),
)  # fmt: skip
