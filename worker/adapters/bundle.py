"""A model bundle on disk: manifest, hashes and paths are checked here, before anything parses the model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from worker.adapters.bundle_manifest import FileEntry, Manifest, ManifestReader, ManifestSource, OutputSource
from worker.adapters.onnx_file import MAX_MODEL_BYTES, read_onnx_file
from worker.core.features import OutputSpec
from worker.errors import BundleError, Problem
from worker.yaml_source import YamlSourceError, did_you_mean, read

if TYPE_CHECKING:
    from worker.core.features import DecisionSpec, TensorSpec
    from worker.yaml_source import KeyPath

MANIFEST_NAME: Final = "model.yaml"
DEFAULT_TOLERANCE: Final = 1e-5
_MAX_GOLDEN_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Golden:
    """Events with the outputs that the model must give for them; ``rows`` are JSON texts.

    A difference counts relative to the expected value where that is above one, else absolutely.
    """

    path: Path
    rows: tuple[bytes, ...]
    expected: Mapping[str, np.ndarray]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest is well formed and whose files are those the manifest names.

    ``outputs`` follow the manifest's order; their widths are not known before the graph is read, see
    ``OnnxModel.outputs``. ``sources`` say which output of the graph each of them comes from.
    """

    name: str
    version: str
    sha256: str
    model_path: Path
    inputs: tuple[TensorSpec, ...]
    sources: tuple[OutputSource, ...]
    decision: DecisionSpec | None
    golden: Golden | None
    manifest: ManifestSource

    @property
    def label(self) -> str:
        """Name and version as the output shows them: ``fraud@1.0.0``."""
        return f"{self.name}@{self.version}"

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The named outputs, widths unknown."""
        return tuple(OutputSpec(source.name) for source in self.sources)


def load_bundle(path: Path) -> Bundle:
    """Read the bundle folder ``path``.

    Raises ``BundleError`` with every problem found: in the manifest first, then in the files it names. The model's
    bytes are hashed before they are parsed.
    """
    source, manifest = _read_manifest(path)
    files = _Files(path.resolve(), source)
    model_path = files.verified(manifest.model, is_model=True)
    external = [files.verified(entry) for entry in manifest.external_data]
    golden_path = files.inside(manifest.golden, ("golden",)) if manifest.golden is not None else None
    golden = _read_golden(golden_path, manifest, files.problems) if golden_path is not None else None
    if model_path is not None and not files.problems:
        _check_external_data(model_path, [found for found in external if found is not None], files)
    if files.problems or model_path is None:
        raise BundleError(*files.problems)
    return Bundle(
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.model.sha256,
        model_path=model_path,
        inputs=manifest.inputs,
        sources=manifest.outputs,
        decision=manifest.decision,
        golden=golden,
        manifest=source,
    )


def _read_manifest(folder: Path) -> tuple[ManifestSource, Manifest]:
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        remedy = "Name the bundle's folder; `headrace model inspect MODEL.onnx --init DIR` writes a new one."
        reason = "is a file, not a folder" if folder.exists() else "does not exist"
        raise BundleError(Problem(f"the model bundle {folder} {reason}", remedy, str(folder), code="missing_file"))
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            message, remedy = f"the bundle's {MANIFEST_NAME} lies outside it, at {real}", "Copy it into the bundle."
            raise BundleError(Problem(message, remedy, str(path), code="outside_bundle"))
        if not real.is_file():
            message, remedy = f"the bundle's {MANIFEST_NAME} is not a regular file", "Put the manifest in its place."
            raise BundleError(Problem(message, remedy, str(path), code="not_a_file"))
        data, lines = read(real)
    except (OSError, RuntimeError) as error:
        remedy = "Write it, or start from `headrace model inspect MODEL.onnx --init DIR`."
        reason = getattr(error, "strerror", None) or "it is a link to itself"
        message = f"the bundle's {MANIFEST_NAME} cannot be read: {reason}"
        raise BundleError(Problem(message, remedy, str(path), code="missing_file")) from error
    except YamlSourceError as error:
        raise BundleError(*error.problems) from error
    source = ManifestSource(path, lines)
    reader = ManifestReader(data, source)
    manifest = reader.read()
    if manifest is None:
        raise BundleError(*reader.problems)
    return source, manifest


class _Files:
    """The files of one bundle: each must be a regular file inside the folder, links resolved."""

    def __init__(self, root: Path, source: ManifestSource) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._source = source

    def inside(self, name: str, at: KeyPath) -> Path | None:
        """The real path of ``name``, or None with a problem noted."""
        try:
            path = (self._root / name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a usable path"
            remedy = f"Put the file into {self._root}, or correct the name."
            self.add(at, f"'{name}' cannot be found: {reason}", remedy, "missing_file")
            return None
        if not path.is_relative_to(self._root):
            message = f"'{name}' lies outside the bundle, at {path}"
            self.add(at, message, f"Copy the file into {self._root}.", "outside_bundle")
        elif not path.is_file():
            self.add(at, f"'{name}' is not a regular file", "Name a file of the bundle.", "not_a_file")
        else:
            return path
        return None

    def verified(self, entry: FileEntry, *, is_model: bool = False) -> Path | None:
        """The real path of a file whose hash is the one stated, or None with a problem noted."""
        path = self.inside(entry.file, entry.at)
        if path is None:
            return None
        try:
            if is_model and not self._may_be_a_model(path, entry):
                return None
            actual = file_sha256(path)
        except OSError as error:
            self.add(entry.at, f"'{entry.file}' cannot be read: {error.strerror}", "Correct its permissions.")
            return None
        if actual == entry.sha256:
            return path
        message = f"'{entry.file}' has sha256 {actual}, but the manifest states {entry.sha256}"
        remedy = "Restore the file that was meant; if this one is meant, state its hash."
        self.add((*entry.at[:-1], "sha256"), message, remedy, "wrong_hash")
        return None

    def _may_be_a_model(self, path: Path, entry: FileEntry) -> bool:
        """Whether name and size are those of an ONNX file; a problem is noted where they are not."""
        if path.suffix == ".ort":
            # ONNX Runtime goes by this ending, and would not read what is checked here.
            message = f"'{entry.file}' has the ending of ONNX Runtime's own format, which is not checked"
            self.add(entry.at, message, "Name a model in ONNX format, with the ending .onnx.", "other_format")
            return False
        if path.stat().st_size > MAX_MODEL_BYTES:
            message = f"'{entry.file}' is larger than 2 GiB, which no ONNX file can be"
            self.add(entry.at, message, "Move the weights to external data.", "oversize")
            return False
        return True

    def add(self, at: KeyPath, message: str, remedy: str, code: str = "invalid") -> None:
        self.problems.append(self._source.problem(at, message, remedy, code))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; raises ``OSError``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_external_data(model_path: Path, named: list[Path], files: _Files) -> None:
    """Weights that the model reads from other files must be files that the manifest names and hashes."""
    try:
        locations = read_onnx_file(model_path).external_data
    except BundleError as error:
        files.problems.extend(error.problems)
        return
    for location in locations:
        # ONNX Runtime takes the location relative to the model's own folder.
        try:
            target = (model_path.parent / location).resolve()
        except (OSError, RuntimeError, ValueError):
            # A link to itself, or a name with NUL: certainly none of the files that were found.
            target = None
        if target not in named:
            message = f"the model reads weights from {location!r}, which the manifest does not name"
            remedy = "Add it below `external_data:` with file and sha256, as a file of the bundle."
            files.add(("external_data",), message, remedy, "external_data")


def _read_golden(path: Path, manifest: Manifest, problems: list[Problem]) -> Golden | None:
    try:
        if path.stat().st_size > _MAX_GOLDEN_BYTES:
            problems.append(_golden_problem(path, "", "the file is larger than 16 MiB", "Keep a few hundred rows."))
            return None
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        problems.append(_golden_problem(path, "", f"golden rows cannot be read: {error}", "Write valid JSON."))
        return None
    before = len(problems)
    golden = _golden(document, path, [source.name for source in manifest.outputs], problems)
    return golden if len(problems) == before else None


def _golden(document: object, path: Path, outputs: list[str], problems: list[Problem]) -> Golden:
    def add(key: str, message: str, remedy: str) -> None:
        problems.append(_golden_problem(path, key, message, remedy))

    content: Mapping[str, object] = document if isinstance(document, dict) else {}
    if content is not document:
        add("", "golden rows must be an object", "Write {rows: [event, ...], expected: {output: [...]}}.")
    for key in content:
        if key not in {"rows", "expected", "tolerance"}:
            add(f"/{key}", f"unknown key '{key}'", did_you_mean(key, ("rows", "expected", "tolerance")))
    rows, expected = content.get("rows"), content.get("expected")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        add("/rows", "`rows` must list at least one event, each an object", "Copy a few real events into it.")
        rows = []
    if not isinstance(expected, dict) or not expected:
        add("/expected", "`expected` must hold the values of at least one output", "Write {score: [0.1, ...]}.")
        expected = {}
    values = {}
    for name, column in expected.items():
        key = f"/expected/{name}"
        if name not in outputs:
            add(key, f"'{name}' is not an output of this bundle", did_you_mean(name, outputs))
        elif (array := _expected_values(column)) is None or len(array) != len(rows):
            add(key, f"'{name}' must hold one number, or list of numbers, for each of {len(rows)} rows", "Correct it.")
        else:
            values[name] = array
    tolerance = content.get("tolerance", DEFAULT_TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        add("/tolerance", f"tolerance {tolerance!r} is not a number from 0", "Write e.g. 1e-5.")
        tolerance = DEFAULT_TOLERANCE
    return Golden(path, tuple(orjson.dumps(row) for row in rows), values, float(tolerance))


def _expected_values(column: object) -> np.ndarray | None:
    """``float64[n]`` or ``float64[n, width]``, or None where the JSON value is neither."""
    try:
        array = np.asarray(column, dtype=object)
        if array.ndim not in {1, 2} or not all(isinstance(value, int | float) for value in array.flat):
            return None
        return array.astype(np.float64)
    except (ValueError, OverflowError):
        return None


def _golden_problem(path: Path, key: str, message: str, remedy: str) -> Problem:
    return Problem(message, remedy, str(path), 0, key, "golden")
