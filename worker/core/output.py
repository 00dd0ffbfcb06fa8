"""Encode scored rows: one JSON object per row with the id, included fields, named outputs and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import orjson

from worker.core.decoder import Decoder
from worker.core.features import DecisionSpec, OutputSpec
from worker.core.plan import Path
from worker.core.schema import SchemaError
from worker.errors import Problem


class OutputEncoder:
    """Encodes batches for one decoder and one set of outputs.

    Keys, in order: the id field and the included fields under their dotted paths (absent ones left out, null kept),
    the outputs (a number, or an array for a vector), the decision's boolean, and ``model``. Floats are the shortest
    texts that give back the same value in the output's own type. Raises ``SchemaError`` where two of these share a
    name, or the decision's output is not a scalar.
    """

    def __init__(
        self, decoder: Decoder, outputs: tuple[OutputSpec, ...], decision: DecisionSpec | None, model: str
    ) -> None:
        self._outputs = tuple(output.name for output in outputs)
        self._decision = decision
        self._paths = decoder.output_paths
        names = [path.text for path in self._paths] + list(self._outputs)
        names += [decision.field] if decision is not None else []
        _check(decoder.output_paths, outputs, decision)
        attributes = [f"f{index}" for index in range(len(names))]
        self._scored = msgspec.defstruct(
            "Scored",
            [*((attribute, Any) for attribute in attributes), ("model", str, model)],
            rename=dict(zip(attributes, names, strict=True)),
            gc=False,
        )
        self._encode = msgspec.json.Encoder().encode

    def encode(self, rows: Sequence[object], outputs: Mapping[str, np.ndarray]) -> list[bytes]:
        """One JSON value per row, in order; ``outputs`` are ``[len(rows)]`` or ``[len(rows), width]``, finite."""
        columns: list[Sequence[object]] = [rows]
        if len(self._paths) > 1:
            columns = list(zip(*cast("Sequence[tuple[object, ...]]", rows), strict=True))
        columns += [_plain(outputs[name]) for name in self._outputs]
        if self._decision is not None:
            # The threshold takes the scores' type, so that the flag agrees with the score as it is written.
            columns.append((outputs[self._decision.output] >= self._decision.threshold).tolist())
        if any(len(column) != len(rows) for column in columns):
            raise ValueError(f"outputs of other than {len(rows)} rows")
        return list(map(self._encode, map(self._scored, *columns)))


def _plain(output: np.ndarray) -> list[Any]:
    """The array as Python values whose JSON text is the shortest that gives back the same float."""
    if output.dtype.kind == "f":
        text = orjson.dumps(np.ascontiguousarray(output), option=orjson.OPT_SERIALIZE_NUMPY)
        shortest: list[Any] = orjson.loads(text)
        return shortest
    values: list[Any] = output.tolist()
    return values


def _check(paths: tuple[Path, ...], outputs: tuple[OutputSpec, ...], decision: DecisionSpec | None) -> None:
    named = [(path.text, "output.include") for path in paths] + [(output.name, "outputs") for output in outputs]
    if decision is not None:
        named.append((decision.field, "decision.field"))
    named.append(("model", "the model label"))
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for name, owner in named:
        if name in owners:
            message = f"{name} would stand twice in the output: from {owners[name]} and from {owner}"
            remedy = "rename the output or decision field in the bundle, or leave the field out of output.include"
            problems.append(Problem(message, remedy, key=owner, code="name_collision"))
        owners.setdefault(name, owner)
        if any(character in '"\\' or character < " " for character in name):
            message = f"the output name {name!r} holds a quote, a backslash or a control character"
            problems.append(Problem(message, "rename it", key=owner, code="unsupported_name"))
    if decision is not None:
        widths = {output.name: output.width for output in outputs}
        if decision.output not in widths:
            known = ", ".join(sorted(widths)) or "none"
            message = f"decision.output names {decision.output}, which is no output"
            problems.append(Problem(message, f"one of: {known}", key="decision.output", code="unknown_output"))
        elif widths[decision.output] is not None:
            message = f"decision.output {decision.output} is a vector"
            problems.append(Problem(message, "choose one column of it", key="decision.output", code="not_a_scalar"))
    if problems:
        raise SchemaError(tuple(problems))
