"""The load of the crash kit: record number ``seq`` is always the same record with the same expected fate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.bundles import _column, _scalar_bundle

FIELDS = ("a", "b", "c")
WEIGHTS = (0.25, -1.5, 3.0)
RAISES_AT = -999.25
"""A value of ``c`` on which the model raises; the schema lets it pass."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", *FIELDS],
    "properties": {
        "id": {"type": "string"},
        "a": {"type": "number", "minimum": -1000, "maximum": 1000},
        "b": {"type": "number"},
        "c": {"type": "number"},
    },
}

POISON: tuple[tuple[bytes | None, str], ...] = (
    (None, "tombstone"),
    (b"", "empty_value"),
    (b'{"id": "\xff\xfe"}', "invalid_utf8"),
    (b'{"id": "cut', "invalid_json"),
    (b"[1, 2]", "not_an_object"),
    (b'{"id": "x", "a": "one", "b": 1, "c": 2}', "wrong_type"),
    (b'{"id": "x", "a": 1, "c": 2}', "missing_field"),
    (b'{"id": "x", "a": 1000.5, "b": 1, "c": 2}', "out_of_range"),
)
POISON_PER_MILLE = 10
RAISING_PER_MILLE = 3
SCORED = "scored"


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the load and the fate it must have: ``scored``, or the reason of its dead letter."""

    value: bytes | None
    fate: str


class Load:
    """A stream of records, fixed by its seed."""

    def __init__(self, seed: int) -> None:
        self._salt = seed * 40503

    def event(self, seq: int) -> Event:
        """Record number ``seq``."""
        mixed = (seq * 2654435761 + self._salt) & 0xFFFFFFFF
        share = (mixed >> 12) % 1000
        if share < POISON_PER_MILLE:
            return Event(*POISON[(mixed >> 4) % len(POISON)])
        raises = share < POISON_PER_MILLE + RAISING_PER_MILLE
        a, b, c = (float(column[0]) for column in _columns(np.array([seq])))
        fields = {"id": str(seq), "a": a, "b": b, "c": RAISES_AT if raises else c}
        return Event(json.dumps(fields).encode(), "model_error" if raises else SCORED)


def expected_scores(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the model makes of the good records with these numbers; every step is exact in float32."""
    features = np.stack(_columns(numbers), axis=1).astype(np.float32)
    return (features @ np.array(WEIGHTS, np.float32)).astype(np.float32)


def _columns(numbers: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    return [column.astype(np.float64) for column in (numbers % 997 / 8, 1 + numbers % 7, numbers % 4093 / 4)]


def write_model(folder: Path) -> Path:
    """The bundle: a linear model whose whole call raises when any row holds ``RAISES_AT``."""
    nodes = [
        helper.make_node("Equal", ["features", "magic"], ["equal"]),
        helper.make_node("Cast", ["equal"], ["marks"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["marks", "axes"], ["index"], keepdims=1),
        helper.make_node("Gather", ["table", "index"], ["nothing"], axis=0),
        helper.make_node("MatMul", ["features", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["score"]),
    ]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "magic": np.array([[RAISES_AT]], np.float32),
        "axes": np.array([1], np.int64),
        "table": np.zeros(1, np.float32),
        "weights": _column(WEIGHTS),
    }
    return _scalar_bundle(folder, FIELDS, nodes, constants, {})


def write_schema(folder: Path) -> Path:
    """The schema of the events as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "event.schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path
