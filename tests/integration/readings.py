"""Meter readings: the events of these tests, their schema, and what ONNX Runtime itself makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.bundles import linear_bundle
from tests.kafka.client import Outgoing, Record
from tests.kafka.worker_process import merged

FIELDS = ("a", "b")
WEIGHTS = (0.25, -1.5)
LIMIT = 1000
"""Bound of the field ``a``, both ways."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "a", "b"],
    "properties": {
        "id": {"type": "string"},
        "a": {"type": "number", "minimum": -LIMIT, "maximum": LIMIT},
        "b": {"type": "number"},
    },
}


def reading(number: int, **fields: object) -> dict[str, Any]:
    """Event ``r<number>``; no two numbers below 1000 have the same ``a``, and ``fields`` replace or add."""
    return {"id": f"r{number}", "a": (number % LIMIT) / 8, "b": 1 + number % 7, **fields}


def encoded(event: Mapping[str, Any]) -> bytes:
    """The event as it travels."""
    return json.dumps(event).encode()


def readings(count: int, *, partitions: int = 1, first: int = 0) -> list[Outgoing]:
    """``count`` good records, dealt out to the partitions in turn."""
    return [
        Outgoing(encoded(reading(number)), key=f"k{number}".encode(), partition=number % partitions)
        for number in range(first, first + count)
    ]


def write_schema(folder: Path, schema: Mapping[str, Any]) -> Path:
    """``schema`` as a file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "event.schema.json"
    path.write_text(json.dumps(schema))
    return path


def meter(folder: Path, *overrides: Mapping[str, Any], bundle: Path | None = None) -> dict[str, Any]:
    """Settings for readings and ``bundle`` (none: a linear model of ``a`` and ``b``), ``overrides`` laid over them."""
    model = bundle if bundle is not None else linear_bundle(folder / "meter", FIELDS, WEIGHTS)
    return configured(folder, model, SCHEMA, *overrides)


def configured(folder: Path, bundle: Path, schema: Mapping[str, Any], *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a bundle and a schema whose events have an ``id``."""
    settings: dict[str, Any] = {
        "event": {"schema": str(write_schema(folder, schema)), "id_field": "id"},
        "model": {"path": str(bundle)},
        "output": {"include": []},
    }
    for more in overrides:
        settings = merged(settings, more)
    return settings


def reference(bundle: Path, tensors: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What the bundle's first output is for these inputs, asked of ONNX Runtime one row at a time."""
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    rows = len(next(iter(tensors.values())))
    parts = [session.run(None, {name: values[at : at + 1] for name, values in tensors.items()}) for at in range(rows)]
    return np.concatenate([part[0] for part in parts])


def features(events: Sequence[Mapping[str, Any]], fields: Sequence[str] = FIELDS) -> np.ndarray[Any, Any]:
    """The events' fields as a float32 matrix."""
    return np.array([[event[field] for field in fields] for event in events], np.float32)


def scores(records: Iterable[Record]) -> dict[str, Any]:
    """``score`` by event id; AssertionError where an id comes twice."""
    found: dict[str, Any] = {}
    for record in records:
        assert record.value is not None
        scored = json.loads(record.value)
        assert scored["id"] not in found, f"{scored['id']} was scored twice"
        found[scored["id"]] = scored["score"]
    return found


def source_of(record: Record) -> tuple[int, int]:
    """Partition and offset of the input record behind an output record."""
    _, partition, offset = str(record.header("headrace-source")).rsplit("/", 2)
    return int(partition), int(offset)


def letter_of(record: Record) -> tuple[int, int]:
    """Partition and offset of the input record behind a dead letter."""
    return int(str(record.header("headrace-dlq-partition"))), int(str(record.header("headrace-dlq-offset")))
