"""Bundles and machines on which the worker must not start: it says why and leaves every record alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from onnx import TensorProto, helper

from tests.bundles import IR_VERSION, ML_OPSET, OPSET, linear_bundle, write_bundle
from tests.integration.readings import FIELDS, WEIGHTS, meter, readings
from tests.kafka.broker import KafkaBroker
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.worker_process import WorkerProcess


def corrupt_model(folder: Path) -> Path:
    """A file that is no ONNX model, with the right hash."""
    bundle = linear_bundle(folder / "meter", FIELDS, WEIGHTS)
    content = (bundle / "model.onnx").read_bytes()[:-20]
    (bundle / "model.onnx").write_bytes(content)
    return with_manifest(bundle, sha256=hashlib.sha256(content).hexdigest())


def wrong_hash(folder: Path) -> Path:
    """A model that is not the one the manifest names."""
    return with_manifest(linear_bundle(folder / "meter", FIELDS, WEIGHTS), sha256="0" * 64)


def wrong_input_name(folder: Path) -> Path:
    """A manifest that feeds an input the graph does not have."""
    bundle = linear_bundle(folder / "meter", FIELDS, WEIGHTS)
    shape = ["batch", len(FIELDS)]
    return with_manifest(bundle, inputs=[{"name": "fetures", "dtype": "float32", "shape": shape, "fields": [*FIELDS]}])


def missing_file(folder: Path) -> Path:
    """A manifest without its model."""
    bundle = linear_bundle(folder / "meter", FIELDS, WEIGHTS)
    (bundle / "model.onnx").unlink()
    return bundle


def failing_golden_row(folder: Path) -> Path:
    """A bundle whose golden row scores otherwise than it says."""
    bundle = linear_bundle(folder / "meter", FIELDS, WEIGHTS, golden="golden.json")
    golden = {"rows": [{"id": "g", "a": 1, "b": 1}], "expected": {"score": [17.0]}, "tolerance": 1e-5}
    (bundle / "golden.json").write_text(json.dumps(golden))
    return bundle


def zip_map(folder: Path) -> Path:
    """A classifier as converters write it by default: its probabilities are a sequence of maps."""
    shape: list[str | int | None] = ["batch", len(FIELDS)]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["features"],
            ["label", "probabilities"],
            domain="ai.onnx.ml",
            coefficients=[0.5, 0.5, -0.5, -0.5],
            intercepts=[0.0, 0.0],
            classlabels_ints=[0, 1],
        ),
        helper.make_node("ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    key_value = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [helper.make_value_info("maps", helper.make_sequence_type_proto(key_value))]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(
        helper.make_graph(nodes, "zipped", inputs, outputs), opset_imports=opsets, ir_version=IR_VERSION
    )
    entry = {"name": "features", "dtype": "float32", "shape": shape, "fields": [*FIELDS]}
    return write_bundle(folder / "zipped", model, inputs=[entry], outputs={"score": {"output": "maps", "column": 1}})


def with_manifest(bundle: Path, **changes: object) -> Path:
    """The bundle with other entries in its manifest."""
    path = bundle / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))
    return bundle


def refused(worker: WorkerProcess, kafka: KafkaBroker) -> str:
    """Check that the ended worker read and committed nothing; returns what it said."""
    names = worker.config["kafka"]
    assert kafka.client.committed(names["group_id"], names["input_topics"][0]) == {}
    assert kafka.client.read_all(names["output_topic"]) == []
    assert kafka.client.read_all(names["dead_letter_topic"]) == []
    said = worker.log.read_text()
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (corrupt_model, ("model.onnx",)),
        (wrong_hash, ("sha256", "model.yaml")),
        (wrong_input_name, ("fetures", "features", "model.yaml")),
        (missing_file, ("model.onnx", "model.yaml")),
        (failing_golden_row, ("golden", "17")),
        (zip_map, ("zipmap",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_unusable_bundle_ends_the_worker_before_it_reads(
    tmp_path: Path,
    topics: Topics,
    kafka: KafkaBroker,
    worker_process: StartWorker,
    build: Callable[[Path], Path],
    words: tuple[str, ...],
) -> None:
    """A bundle that cannot be trusted ends the worker with exit 5 and the reason; not one record is consumed."""
    source = topics.create("in")
    kafka.client.produce(source, readings(3))
    worker = worker_process(meter(tmp_path, {"kafka": {"input_topics": [source]}}, bundle=build(tmp_path)), ready=False)

    assert worker.wait_exit() == 5
    said = refused(worker, kafka)
    assert [word for word in words if word not in said] == []


def test_a_machine_without_onnx_runtime_says_what_to_install(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Without ONNX Runtime the worker ends with exit 3 and the command to type; not one record is consumed."""
    shadow = tmp_path / "shadow" / "onnxruntime"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"
    )
    source = topics.create("in")
    kafka.client.produce(source, readings(3))
    worker = worker_process(
        meter(tmp_path, {"kafka": {"input_topics": [source]}}),
        environ={"PYTHONPATH": str(shadow.parent)},
        ready=False,
    )

    assert worker.wait_exit() == 3
    said = refused(worker, kafka)
    assert "pip install" in said
    assert "[cpu]" in said
