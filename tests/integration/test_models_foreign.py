"""Other people's models work by configuration alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import IR_VERSION, OPSET, image_bundle, mixed_bundle, write_bundle
from tests.integration.readings import configured, encoded, reference
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing
from tests.kafka.fixtures import StartWorker
from tests.kafka.worker_process import WorkerProcess

PIXELS = 784
ROWS = 60
PRICES = {"books": 2.5, "größe": -1.0, "": 7.0}


def events_of(properties: Mapping[str, Any], *, optional: Sequence[str] = ()) -> dict[str, Any]:
    """A schema of events with an ``id`` and these properties, all required but the ``optional`` ones."""
    required = ["id", *(name for name in properties if name not in optional)]
    return {"type": "object", "required": required, "properties": {"id": {"type": "string"}, **properties}}


def check_scores(
    worker: WorkerProcess,
    kafka: KafkaBroker,
    bundle: Path,
    events: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """Send the events; each must come out with the score that ONNX Runtime itself gives for its tensors."""
    names = worker.config["kafka"]
    kafka.client.produce(names["input_topics"][0], [Outgoing(encoded(event)) for event in events])
    values = [json.loads(one.value or b"") for one in kafka.client.read(names["output_topic"], count=len(events))]
    expected = reference(bundle, tensors).reshape(len(events))

    assert [value["id"] for value in values] == [event["id"] for event in events]
    assert [value["score"] for value in values] == pytest.approx(expected.tolist(), rel=1e-6)
    assert kafka.client.read_all(names["dead_letter_topic"]) == []


def test_an_image_model_reads_comma_separated_text(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A ``[batch, 1, 784]`` float tensor is fed from a comma-separated string in JSON."""
    bundle = image_bundle(tmp_path / "digits", "pixels", PIXELS)
    worker = worker_process(configured(tmp_path, bundle, events_of({"pixels": {"type": "string"}})))
    images = np.random.default_rng(7).integers(0, 256, (ROWS, PIXELS))
    # One separator at the end is allowed, and fractions are numbers too.
    texts = [",".join(map(str, row)) + "," * (at % 2) for at, row in enumerate(images.tolist())]
    events = [{"id": f"i{at}", "pixels": text} for at, text in enumerate(texts)]

    check_scores(worker, kafka, bundle, events, {"image": images.astype(np.float32).reshape(ROWS, 1, PIXELS)})


def test_a_model_reads_a_float_matrix_and_a_string_together(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A float matrix and a string tensor, from fields at the top and below, feed one model."""
    bundle = mixed_bundle(tmp_path / "prices", ["weight", "box.height"], "box.kind", PRICES)
    box = {
        "type": "object",
        "required": ["height", "kind"],
        "properties": {"height": {"type": "number"}, "kind": {"type": "string"}},
    }
    worker = worker_process(configured(tmp_path, bundle, events_of({"weight": {"type": "number"}, "box": box})))
    kinds = [(*PRICES, "unknown")[at % 4] for at in range(ROWS)]
    events = [{"id": f"m{at}", "weight": at / 4, "box": {"height": -at, "kind": kind}} for at, kind in enumerate(kinds)]
    matrix = np.array([[at / 4, -at] for at in range(ROWS)], np.float32)

    check_scores(worker, kafka, bundle, events, {"features": matrix, "text": np.array(kinds, object).reshape(ROWS, 1)})


def test_a_model_reads_integers_booleans_bytes_and_times(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Integers, booleans, base64 of raw floats, RFC 3339 times and an optional field with a default feed one model."""
    bundle = typed_bundle(tmp_path / "typed")
    properties = {
        "count": {"type": "integer"},
        "flag": {"type": "boolean"},
        "raw": {"type": "string"},
        "when": {"type": "string", "format": "date-time"},
        "extra": {"type": ["integer", "null"], "default": 40},
    }
    worker = worker_process(configured(tmp_path, bundle, events_of(properties, optional=["extra"])))
    raw = np.random.default_rng(8).normal(size=(ROWS, 3)).astype("<f4")
    times = [f"2026-03-{1 + at % 28:02}T12:00:{at:02}.5+0{at % 3}:30" for at in range(ROWS)]
    extras: list[dict[str, Any]] = [{}, {"extra": None}, {"extra": 2}]
    events = [
        {
            "id": f"t{at}",
            "count": 2**40 + at,
            "flag": at % 2 == 0,
            "raw": base64.b64encode(raw[at].tobytes()).decode(),
            "when": when,
            **extras[at % 3],
        }
        for at, when in enumerate(times)
    ]
    tensors = {
        "counts": np.array([[2**40 + at, (40, 40, 2)[at % 3]] for at in range(ROWS)], np.int64),
        "flag": np.array([[at % 2 == 0] for at in range(ROWS)], np.bool_),
        "raw": raw.astype(np.float32),
        "when": np.array([[datetime.fromisoformat(when).timestamp()] for when in times], np.float64),
    }

    check_scores(worker, kafka, bundle, events, tensors)


def typed_bundle(folder: Path) -> Path:
    """``score`` (float64): the sum of two integers, a boolean, three raw floats and a time."""
    shapes = {
        "counts": (TensorProto.INT64, 2),
        "flag": (TensorProto.BOOL, 1),
        "raw": (TensorProto.FLOAT, 3),
        "when": (TensorProto.DOUBLE, 1),
    }
    nodes = []
    for name in shapes:
        nodes.append(helper.make_node("Cast", [name], [f"{name}_double"], to=TensorProto.DOUBLE))
        nodes.append(helper.make_node("ReduceSum", [f"{name}_double", "axes"], [f"{name}_sum"], keepdims=0))
    # Two at a time: the runtime has no sum of more for this type.
    totals = ["counts_sum", "total_1", "total_2", "score"]
    for before, name, after in zip(totals, list(shapes)[1:], totals[1:], strict=False):
        nodes.append(helper.make_node("Add", [before, f"{name}_sum"], [after]))
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info(name, kind, ["batch", width]) for name, (kind, width) in shapes.items()],
        [helper.make_tensor_value_info("score", TensorProto.DOUBLE, ["batch"])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    inputs: list[dict[str, Any]] = [
        {"name": "counts", "dtype": "int64", "shape": ["batch", 2], "fields": ["count", "extra"]},
        {"name": "flag", "dtype": "bool", "shape": ["batch", 1], "fields": ["flag"]},
        {"name": "raw", "dtype": "float32", "shape": ["batch", 3], "fields": ["raw"], "encoding": "base64"},
        {"name": "when", "dtype": "float64", "shape": ["batch", 1], "fields": ["when"], "encoding": "epoch_s"},
    ]
    return write_bundle(folder, model, inputs=inputs, outputs={"score": {"output": "score"}})
