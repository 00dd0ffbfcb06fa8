"""Writes a first bundle and event schema for a model: complete enough to load, made to be edited."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from worker.adapters.bundle import MANIFEST_NAME, file_sha256
from worker.adapters.bundle_manifest import DTYPES
from worker.errors import BundleError, EnvironmentFault, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from worker.adapters.onnx_file import GraphValue, OnnxFile

SCHEMA_NAME: Final = "event.schema.json"
ID_FIELD: Final = "id"
# Above this many, one array reads better than single fields.
_MAX_SCALAR_FIELDS: Final = 64
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_YAML_WORDS: Final = {"null", "true", "false"}


@dataclass(slots=True)
class _Draft:
    """The manifest's lines and the schema's properties as they grow; ``notes`` are what the owner must look at."""

    lines: list[str] = field(default_factory=list)
    properties: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_starter(model: Path, facts: OnnxFile, folder: Path) -> list[str]:
    """Write model, ``model.yaml`` and ``event.schema.json`` into the new or empty ``folder``.

    Returns notes on what the owner should look at. Raises ``BundleError`` where the folder is in use or the model
    cannot be fed or read by a bundle, ``EnvironmentFault`` where the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = "Name a new folder; nothing is ever overwritten."
        raise BundleError(Problem(f"{folder} is already in use", remedy, str(folder), code="exists"))
    problems = _unusable(model, facts)
    if problems:
        raise BundleError(*problems)
    draft = _draft(model, facts, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for location in ("model.onnx", *facts.external_data):
            target = folder / location
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model if location == "model.onnx" else model.parent / location, target)
        (folder / MANIFEST_NAME).write_text("\n".join(draft.lines) + "\n", encoding="utf-8")
        schema = json.dumps(_schema(draft.properties), indent=2) + "\n"
        (folder / SCHEMA_NAME).write_text(schema, encoding="utf-8")
    except OSError as error:
        message = f"the bundle cannot be written: {error}"
        raise EnvironmentFault(Problem(message, "Name a folder that you may write.", str(folder))) from error
    return draft.notes


def _unusable(model: Path, facts: OnnxFile) -> list[Problem]:
    problems = []
    for value in facts.inputs:
        if value.dtype not in DTYPES:
            message = f"input '{value.name}' is {value.dtype}, which no event field can feed"
            problems.append(Problem(message, "Export the model with tensor inputs.", str(model), key=value.name))
    if not facts.inputs:
        problems.append(Problem("the model has no inputs", "Export it with an input for the features.", str(model)))
    if not any(_is_usable(value) for value in facts.outputs):
        names = ", ".join(f"'{value.name}' ({value.dtype})" for value in facts.outputs)
        remedy = (
            "Outputs must be tensors of numbers, [batch] or [batch, n]. For scikit-learn convert with "
            "`options={id(model): {'zipmap': False}}`."
        )
        problems.append(Problem(f"none of the outputs can be used: {names}", remedy, str(model), code="zipmap"))
    root = model.parent.resolve()
    for location in facts.external_data:
        target = (root / location).resolve()
        if not target.is_relative_to(root) or not target.is_file() or location in {"model.onnx", MANIFEST_NAME}:
            message = f"the model's weights in '{location}' are no file below {root}"
            remedy = "Put the external data beside the model, or export with the weights inside."
            problems.append(Problem(message, remedy, str(model), code="external_data"))
    return problems


def _draft(model: Path, facts: OnnxFile, folder: Path) -> _Draft:
    draft = _Draft()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "model"
    draft.lines += [f"name: {_text(name)}", 'version: "1.0.0"', "file: model.onnx", f'sha256: "{file_sha256(model)}"']
    if facts.external_data:
        draft.lines.append("external_data:")
        for location in facts.external_data:
            sha256 = file_sha256(model.parent / location)
            draft.lines += [f"  - file: {_text(location)}", f'    sha256: "{sha256}"']
    draft.lines.append("inputs:")
    for value in facts.inputs:
        _add_input(draft, value)
    draft.lines.append("outputs:")
    _add_outputs(draft, facts.outputs)
    return draft


def _add_input(draft: _Draft, value: GraphValue) -> None:
    shape = value.shape or ("batch",)
    if value.shape is None:
        draft.notes.append(f"input '{value.name}' states no shape: [batch, 1] is a guess")
        shape = ("batch", 1)
    elif isinstance(shape[0], int):
        draft.notes.append(f"input '{value.name}' has a fixed batch of {shape[0]}: export it with a dynamic one")
    sizes, comment = [], ""
    for size in shape[1:]:
        sizes.append(size if isinstance(size, int) and size > 0 else 1)
        if sizes[-1] != size:
            comment = f"  # the graph has {list(shape)}: write the sizes that you feed"
            draft.notes.append(f"input '{value.name}' leaves the size '{size}' open: 1 is a guess")
    fields = _add_fields(draft, value.dtype, sizes)
    draft.lines += [
        f"  - name: {_text(value.name)}",
        f"    dtype: {value.dtype}",
        f"    shape: [{', '.join(['batch', *map(str, sizes)])}]{comment}",
        f"    fields: [{', '.join(fields)}]",
    ]


def _add_fields(draft: _Draft, dtype: str, sizes: list[int]) -> list[str]:
    """Names of the fields that feed one input, added to the schema on the way."""
    width = 1
    for size in sizes:
        width *= size
    item = {"type": {"f": "number", "s": "string", "b": "boolean"}.get(dtype[0], "integer")}
    first = len(draft.properties)
    if dtype not in {"string", "bool"} and (len(sizes) > 1 or width > _MAX_SCALAR_FIELDS):
        draft.properties[f"f{first}"] = {"type": "array", "items": item, "minItems": width, "maxItems": width}
        return [f"f{first}"]
    names = [f"f{first + index}" for index in range(width)]
    draft.properties.update((name, dict(item)) for name in names)
    return names


def _add_outputs(draft: _Draft, outputs: tuple[GraphValue, ...]) -> None:
    used: set[str] = set()
    for value in outputs:
        if not _is_usable(value):
            draft.notes.append(f"output '{value.name}' ({value.dtype}) is left out: no tensor of numbers per row")
            continue
        columns = None if value.shape is None else 1 if len(value.shape) == 1 else value.shape[1]
        name = re.sub(r"[^A-Za-z0-9_]+", "_", value.name).strip("_") or "output"
        if value.dtype.startswith("float") and columns in {1, 2} and "score" not in used:
            name = "score"
        while name in used or name in {ID_FIELD, "model"}:
            name += "_"
        used.add(name)
        column = ", column: 1" if name == "score" and columns == 2 else ""
        draft.lines.append(f"  {_text(name)}: {{output: {_text(value.name)}{column}}}")
    if "score" in used:
        draft.lines.append("# decision: {output: score, threshold: 0.5, field: flag}")


def _is_usable(value: GraphValue) -> bool:
    return value.dtype in DTYPES and value.dtype != "string" and (value.shape is None or 1 <= len(value.shape) <= 2)


def _schema(properties: dict[str, object]) -> dict[str, object]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "type": "object",
        "required": [ID_FIELD, *properties],
        "properties": {ID_FIELD: {"type": "string"}, **properties},
    }


def _text(text: str) -> str:
    """``text`` as YAML, quoted where it could be read as something else."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS else json.dumps(text)
