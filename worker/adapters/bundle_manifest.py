"""The text of ``model.yaml``: every key checked, every problem reported with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from worker.core.features import DecisionSpec, Encoding, TensorSpec
from worker.errors import Problem
from worker.yaml_source import KeyPath, did_you_mean, dotted

if TYPE_CHECKING:
    from pathlib import Path

DTYPES: Final = (
    *("float16", "float32", "float64", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_ENCODINGS: Final = ("csv", "base64", "epoch_s")
# An epoch second needs 31 bits today; float32 is allowed although it rounds to about two minutes.
_EPOCH_DTYPES: Final = ("float32", "float64", "int32", "int64", "uint32", "uint64")
# A record of Kafka holds fewer numbers by far; more would only take the memory of the machine.
MAX_ROW_VALUES: Final = 1 << 24
_Entry = TypeVar("_Entry")

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class OutputSource:
    """A named output: the graph's ``output`` and, where one of its columns is meant, which."""

    name: str
    output: str
    column: int | None = None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle as the manifest names it, with the hash it must have and where it is named."""

    file: str
    sha256: str
    at: KeyPath


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``model.yaml`` says; nothing here has touched the model file yet."""

    name: str
    version: str
    model: FileEntry
    external_data: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[OutputSource, ...]
    decision: DecisionSpec | None
    golden: str | None


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """Where the manifest's keys stand, so that any later check can name file, line and key."""

    path: Path
    lines: Mapping[KeyPath, int] = field(repr=False)

    def problem(self, at: KeyPath, message: str, remedy: str, code: str = "invalid") -> Problem:
        """A problem at ``at``; a key that is not in the file carries the line of its section."""
        known = at
        while known not in self.lines and known:
            known = known[:-1]
        return Problem(message, remedy, str(self.path), self.lines.get(known, 0), dotted(at), code)


class _KeyReader:
    """Takes values out of parsed YAML; whatever does not hold is added to ``problems``."""

    def __init__(self, source: ManifestSource) -> None:
        self.problems: list[Problem] = []
        self._source = source

    def _entries(
        self, top: Mapping[str, object], key: str, read: Callable[[object, KeyPath], _Entry | None]
    ) -> tuple[_Entry, ...]:
        value = top.get(key)
        if key not in top:
            return ()
        if not isinstance(value, list) or not value:
            self._add((key,), f"`{key}` must be a list with at least one entry", "Start each entry with `- `.")
            return ()
        entries = (read(item, (key, index)) for index, item in enumerate(value))
        return tuple(entry for entry in entries if entry is not None)

    def _mapping(
        self, value: object, at: KeyPath, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> Mapping[str, object] | None:
        """``value`` if it is a mapping, with unknown and missing keys reported."""
        known = required + optional
        if not isinstance(value, dict):
            where = f"`{dotted(at)}`" if at else "the file"
            self._add(at, f"{where} must be a mapping", f"Write keys and values; known here: {', '.join(known)}.")
            return None
        for key in value:
            if key not in known:
                message = f"unknown key '{dotted((*at, key))}'"
                self._add((*at, key), message, did_you_mean(key, known), "unknown_key")
        for key in required:
            if key not in value:
                message = f"'{dotted((*at, key))}' is missing"
                self._add((*at, key), message, f"Add `{key}:`.", "missing_key")
        return value

    def _text(self, entry: Mapping[str, object], at: KeyPath, key: str) -> str:
        value = entry.get(key)
        if key not in entry:
            return ""
        if not isinstance(value, str) or not value:
            remedy = f'Put it in quotes: {key}: "{value}".' if _is_finite(value) else f"Write `{key}: <text>`."
            self._add((*at, key), f"'{dotted((*at, key))}' must be text, not {value!r}", remedy)
            return ""
        return value

    def _label(self, top: Mapping[str, object], key: str) -> str:
        text = self._text(top, (), key)
        if text and not _LABEL.fullmatch(text):
            remedy = "Use letters, digits, dot, underscore, plus and hyphen, at most 128 of them."
            self._add((key,), f"{key} {text!r} cannot stand in the label of a model", remedy)
        return text

    def _sha256(self, entry: Mapping[str, object], at: KeyPath) -> str:
        text = self._text(entry, at, "sha256")
        if text and not _SHA256.fullmatch(text):
            self._add((*at, "sha256"), "sha256 must be 64 hexadecimal digits", "Type `sha256sum FILE` and copy it.")
        return text.lower()

    def _choice(self, entry: Mapping[str, object], at: KeyPath, key: str, known: tuple[str, ...]) -> str:
        value = entry.get(key)
        if key in entry and value not in known:
            message = f"{key} {value!r} is not known"
            self._add((*at, key), message, did_you_mean(str(value), known))
        return str(value)

    def _add(self, at: KeyPath, message: str, remedy: str, code: str = "invalid") -> None:
        self.problems.append(self._source.problem(at, message, remedy, code))


class ManifestReader(_KeyReader):
    """Reads the parsed YAML into a ``Manifest``; ``problems`` holds all that is wrong with it."""

    def __init__(self, data: object, source: ManifestSource) -> None:
        super().__init__(source)
        self._data = data

    def read(self) -> Manifest | None:
        """The manifest, or None where ``problems`` says why not."""
        keys = ("name", "version", "file", "sha256", "inputs", "outputs")
        top = self._mapping(self._data, (), keys, ("decision", "golden", "external_data"))
        if top is None:
            return None
        inputs = self._entries(top, "inputs", self._input)
        self._refuse_twice([spec.name for spec in inputs])
        outputs = self._outputs(top)
        manifest = Manifest(
            name=self._label(top, "name"),
            version=self._label(top, "version"),
            model=FileEntry(self._text(top, (), "file"), self._sha256(top, ()), ("file",)),
            external_data=self._entries(top, "external_data", self._external) if "external_data" in top else (),
            inputs=inputs,
            outputs=outputs,
            decision=self._decision(top["decision"], outputs) if top.get("decision") is not None else None,
            golden=self._text(top, (), "golden") if top.get("golden") is not None else None,
        )
        return None if self.problems else manifest

    def _input(self, value: object, at: KeyPath) -> TensorSpec | None:
        entry = self._mapping(value, at, ("name", "dtype", "shape", "fields"), ("encoding",))
        if entry is None:
            return None
        encoding = None
        if entry.get("encoding") is not None:
            encoding = cast("Encoding", self._choice(entry, at, "encoding", _ENCODINGS))
        spec = TensorSpec(
            name=self._text(entry, at, "name"),
            dtype=self._choice(entry, at, "dtype", DTYPES),
            shape=self._shape(entry, at),
            fields=self._fields(entry, at),
            encoding=encoding,
        )
        if all(problem.key != dotted(at) and not problem.key.startswith(f"{dotted(at)}.") for problem in self.problems):
            self._check_fit(spec, at)
        return spec

    def _check_fit(self, spec: TensorSpec, at: KeyPath) -> None:
        """Rules between fields, shape, dtype and encoding that need no event schema."""
        count, sizes = len(spec.fields), ("batch", *map(str, spec.shape))
        if spec.encoding is not None:
            if count != 1:
                message = f"encoding {spec.encoding} reads one field, but {count} are named"
                self._add((*at, "fields"), message, "Name the one field that holds the text.")
            self._check_encoding(spec, at)
        elif count > spec.width:
            # Fewer may do: whether a field holds an array is for the event schema to say.
            message = f"{count} fields do not fit into a row of {spec.width} (shape [{', '.join(sizes)}])"
            remedy = f"Name {spec.width} scalar fields, or fields with arrays that together hold {spec.width}."
            self._add((*at, "fields"), message, remedy)

    def _check_encoding(self, spec: TensorSpec, at: KeyPath) -> None:
        key = (*at, "encoding")
        if spec.encoding == "epoch_s":
            if spec.width != 1:
                message = f"encoding epoch_s gives one number, but a row holds {spec.width}"
                self._add(key, message, "Use shape [batch] or [batch, 1].")
            if spec.dtype not in _EPOCH_DTYPES:
                message = f"encoding epoch_s cannot fill dtype {spec.dtype}"
                self._add(key, message, f"Use one of: {', '.join(_EPOCH_DTYPES)}.")
        elif spec.encoding == "base64" and spec.dtype != "float32":
            message = f"encoding base64 holds raw float32, but dtype is {spec.dtype}"
            self._add(key, message, "Use dtype float32, or encoding csv.")
        elif spec.dtype == "string":
            message = "encoding csv holds numbers, but dtype is string"
            self._add(key, message, "Leave `encoding` out, or use a number dtype.")

    def _shape(self, entry: Mapping[str, object], at: KeyPath) -> tuple[int, ...]:
        key: KeyPath = (*at, "shape")
        shape = entry.get("shape")
        if "shape" not in entry:
            return ()
        if not isinstance(shape, list) or not shape or shape[0] != "batch":
            self._add(key, "the first dimension of a shape must be the word `batch`", "Write e.g. [batch, 15].")
            return ()
        for index, size in enumerate(shape[1:], start=1):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                message = f"dimension {index} is {size!r}, not a whole number of at least 1"
                self._add((*key, index), message, "Only the batch dimension may vary; write the size of the others.")
                return ()
        if math.prod(shape[1:]) > MAX_ROW_VALUES:
            message = f"a row of this shape holds more than {MAX_ROW_VALUES:,} values"
            self._add(key, message, "Check the sizes: no record can fill such a row.", "oversize")
            return ()
        return tuple(shape[1:])

    def _fields(self, entry: Mapping[str, object], at: KeyPath) -> tuple[str, ...]:
        key: KeyPath = (*at, "fields")
        fields = entry.get("fields")
        if "fields" not in entry:
            return ()
        if not isinstance(fields, list) or not fields:
            self._add(key, "`fields` must list at least one event field", "Write e.g. [amount, merchant.risk].")
            return ()
        for index, name in enumerate(fields):
            if not isinstance(name, str) or not all(name.split(".")):
                remedy = "Write a field's name, with dots into nested objects; put numbers in quotes."
                self._add((*key, index), f"{name!r} is not the name of a field", remedy)
                return ()
        return tuple(fields)

    def _outputs(self, top: Mapping[str, object]) -> tuple[OutputSource, ...]:
        outputs = top.get("outputs")
        if "outputs" not in top:
            return ()
        if not isinstance(outputs, dict) or not outputs:
            remedy = "Write e.g. `score: {output: probabilities, column: 1}` below it."
            self._add(("outputs",), "`outputs` must name at least one output", remedy)
            return ()
        return tuple(source for name, value in outputs.items() if (source := self._output(name, value)) is not None)

    def _output(self, name: str, value: object) -> OutputSource | None:
        at: KeyPath = ("outputs", name)
        entry = self._mapping(value, at, ("output",), ("column",))
        if not name:
            self._add(at, "an output needs a name", "Write e.g. `score:`.")
        if entry is None:
            return None
        column = entry.get("column")
        if column is not None and (isinstance(column, bool) or not isinstance(column, int) or column < 0):
            remedy = "Count columns from 0, or leave `column` out to take all of them."
            self._add((*at, "column"), f"column {column!r} is not a whole number from 0", remedy)
            column = None
        return OutputSource(name, self._text(entry, at, "output"), column)

    def _decision(self, value: object, outputs: tuple[OutputSource, ...]) -> DecisionSpec | None:
        at: KeyPath = ("decision",)
        entry = self._mapping(value, at, ("output", "threshold", "field"), ())
        if entry is None:
            return None
        threshold = entry.get("threshold")
        if "threshold" in entry and not _is_finite(threshold):
            self._add((*at, "threshold"), f"threshold {threshold!r} is not a finite number", "Write e.g. 0.5.")
            threshold = 0.0
        output, field_name = (self._text(entry, at, "output"), self._text(entry, at, "field"))
        names = [source.name for source in outputs]
        if output and names and output not in names:
            message = f"decision reads '{output}', which is not among the outputs"
            self._add((*at, "output"), message, did_you_mean(output, names), "unknown_output")
        if field_name and field_name in names:
            message = f"decision writes '{field_name}', which is already the name of an output"
            self._add((*at, "field"), message, "Choose another name for the field.", "name_collision")
        return DecisionSpec(output, float(cast("float", threshold or 0.0)), field_name)

    def _external(self, value: object, at: KeyPath) -> FileEntry | None:
        entry = self._mapping(value, at, ("file", "sha256"), ())
        if entry is None:
            return None
        return FileEntry(self._text(entry, at, "file"), self._sha256(entry, at), (*at, "file"))

    def _refuse_twice(self, names: list[str]) -> None:
        for index, name in enumerate(names):
            if name and name in names[:index]:
                self._add(("inputs", index, "name"), f"input '{name}' is given twice", "Give each input once.")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
