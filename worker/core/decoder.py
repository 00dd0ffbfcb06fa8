"""Decode spans of JSON events into input tensors and the fields that the output repeats.

Two ways lead to every verdict. The quick way decodes each value with one typed msgspec decoder that reads only the
fields in use, then packs and checks whole spans with numpy. It may balk at a record for any reason; such a record
goes to ``worker.core.explain``, which reads it alone and has the last word. Where a key is given twice, the last one
wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec
import numpy as np

from worker.core.binding import Binder
from worker.core.explain import MAX_DEPTH, Accepted, explain, is_too_deep
from worker.core.features import TensorSpec
from worker.core.plan import Path, build, expand, loose_fault, problems_in
from worker.core.records import Decoded, Refusal, joined
from worker.core.schema import ObjectSpec, SchemaError
from worker.core.specs import NumberSpec, StringSpec
from worker.core.tensors import TensorPacker
from worker.errors import Problem

# Shorter values cannot close more than MAX_DEPTH brackets, so that only longer ones need their depth checked.
_CLOSES_MAX_DEPTH = 2 * MAX_DEPTH

_TOGETHER = 128
"""So many rows are decoded and packed before the next ones: what that needs stays in the processor's cache."""


class Decoder:
    """Typed decoder for one schema and one set of inputs.

    ``id_field`` and ``include`` are dotted paths. ``full`` judges every field of the schema instead of those in use.
    Raises ``SchemaError`` with every way in which inputs, paths and schema do not fit.
    """

    def __init__(
        self, schema: ObjectSpec, inputs: tuple[TensorSpec, ...], id_field: str, include: tuple[str, ...], *, full: bool
    ) -> None:
        binder = Binder(schema)
        bound = tuple((tensor, binder.columns(tensor)) for tensor in inputs)
        id_path = binder.path(id_field, "event.id_field")
        included = [path for name in dict.fromkeys(include) if (path := binder.path(name, "output.include"))]
        if id_path is not None and (problem := _id_problem(id_path)):
            binder.problems.append(problem)
        for path in (id_path, *included):
            if path is not None:
                expand(path.node, whole=True)
        if full:
            expand(binder.root, whole=False)
        binder.problems += problems_in(binder.root, full=full)
        if binder.problems or id_path is None:
            raise SchemaError(tuple(dict.fromkeys(binder.problems)))
        binder.settle(bound)
        self._root = binder.root
        self._quick = msgspec.json.Decoder(build(binder.root, full=full))
        self._packers = tuple(TensorPacker(tensor, columns) for tensor, columns in bound)
        self.inputs = inputs
        self.output_paths: tuple[Path, ...] = tuple({path.text: path for path in (id_path, *included)}.values())
        self._repeated = attrgetter(*(".".join(path.attributes) for path in self.output_paths))

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Every value as a tensor row or a refusal, in the same order; never raises, whatever the bytes."""
        starts = range(0, max(1, len(values)), _TOGETHER)
        return joined([self._decode_some(values[start : start + _TOGETHER]) for start in starts])

    def _decode_some(self, values: Sequence[bytes | None]) -> Decoded:
        """The same for a few."""
        rows, positions, balked = self._decode_quickly(values)
        tensors: list[np.ndarray] = []
        for packer in self._packers:
            tensor, unsure = packer.bulk(rows)
            tensors.append(tensor)
            balked += [positions[index] for index in unsure]
        if self._root.loose:
            balked += [position for position, row in zip(positions, rows, strict=True) if loose_fault(self._root, row)]
        # What only the tensors needed is let go here, and its memory serves the next rows.
        repeated = self._repeated_of(rows)
        if not balked:
            return Decoded(tuple(tensors), repeated, {})
        return self._with_verdicts(values, repeated, positions, tensors, sorted(set(balked)))

    def explain(self, value: bytes | None) -> Accepted | Refusal:
        """The verdict on one record, read alone and field by field; ``decode`` always agrees with it."""
        verdict = explain(value, self._root, self._packers)
        if isinstance(verdict, Accepted):
            (row,) = self._repeated_of([verdict.row])
            return Accepted(row, verdict.vectors)
        return verdict

    def _repeated_of(self, rows: list[object]) -> list[object]:
        """The fields of each row that the output repeats: a value, or a tuple where there are several."""
        try:
            return list(map(self._repeated, rows))
        except AttributeError:
            # An optional parent is absent or null in some row: its fields are absent.
            found = (tuple(_present(path, row) for path in self.output_paths) for row in rows)
            return [values if len(values) > 1 else values[0] for values in found]

    def _decode_quickly(self, values: Sequence[bytes | None]) -> tuple[list[object], Sequence[int], list[int]]:
        """Decoded rows, the position of each, and the positions of values that need a closer look."""
        if not _are_plain(values):
            return self._decode_warily(values)
        rows: list[object] = []
        balked: list[int] = []
        decoded = map(self._quick.decode, values)  # type: ignore[arg-type] # none of them is null here
        while True:
            try:
                # What was decoded before an error stays in the list; the next round goes on behind it.
                rows.extend(decoded)
                break
            except (msgspec.DecodeError, RecursionError):
                balked.append(len(rows) + len(balked))
        positions: Sequence[int] = range(len(values))
        if balked:
            left_out = set(balked)
            positions = [position for position in positions if position not in left_out]
        return rows, positions, balked

    def _decode_warily(self, values: Sequence[bytes | None]) -> tuple[list[object], list[int], list[int]]:
        """The same for values among which some are null, not ASCII, or long."""
        decode = self._quick.decode
        rows: list[object] = []
        positions: list[int] = []
        balked: list[int] = []
        for position, value in enumerate(values):
            try:
                if not value.isascii():  # type: ignore[union-attr] # a null value raises below, as any unusable one
                    value.decode()  # type: ignore[union-attr]
                if len(value) > _CLOSES_MAX_DEPTH and is_too_deep(value):  # type: ignore[arg-type]
                    balked.append(position)
                    continue
                rows.append(decode(value))  # type: ignore[arg-type]
                positions.append(position)
            except (AttributeError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
                balked.append(position)
        return rows, positions, balked

    def _with_verdicts(
        self,
        values: Sequence[bytes | None],
        rows: list[object],
        positions: Sequence[int],
        quick: list[np.ndarray],
        balked: list[int],
    ) -> Decoded:
        """The span's result once every record the quick way balked at has been read alone."""
        tensors = tuple(packer.zeros(len(values)) for packer in self._packers)
        for tensor, part in zip(tensors, quick, strict=True):
            tensor[positions] = part
        every: list[object] = [None] * len(values)
        for position, row in zip(positions, rows, strict=True):
            every[position] = row
        refusals: dict[int, Refusal] = {}
        for position in balked:
            verdict = self.explain(values[position])
            if isinstance(verdict, Accepted):
                every[position] = verdict.row
                for tensor, vector in zip(tensors, verdict.vectors, strict=True):
                    tensor[position] = vector
            else:
                refusals[position] = verdict
                every[position] = None
                for tensor, packer in zip(tensors, self._packers, strict=True):
                    tensor[position] = packer.zeros(1)[0]
        return Decoded(tensors, every, refusals)


def _present(path: Path, row: object) -> object:
    """Value to repeat: a field below a null parent is absent, not null."""
    parent = row
    for attribute in path.attributes[:-1]:
        parent = getattr(parent, attribute, msgspec.UNSET)
    return getattr(parent, path.attributes[-1], msgspec.UNSET)


def _are_plain(values: Sequence[bytes | None]) -> bool:
    """Whether all are ASCII, which is UTF-8 as well, and too short to be too deep."""
    try:
        return all(map(bytes.isascii, values)) and max(map(len, values), default=0) <= _CLOSES_MAX_DEPTH  # type: ignore[arg-type]
    except TypeError:
        # One is null.
        return False


def _id_problem(path: Path) -> Problem | None:
    place = "event.id_field"
    spec = path.node.spec
    fits = isinstance(spec, StringSpec) or (isinstance(spec, NumberSpec) and spec.integer)
    if not fits:
        message = f"{place} {path.text} is of type {spec.kind}, an id must be a string or an integer"
        return Problem(message, "name a field of type string or integer", key=place, code="bad_id")
    if path.optional:
        message = f"{place} {path.text} may be absent or null"
        return Problem(message, 'add it and its parents to "required", without null', key=place, code="optional_id")
    return None
