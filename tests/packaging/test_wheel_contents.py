"""What an installation of Headrace must hold, whichever way it was installed."""

from __future__ import annotations

import json
from importlib import metadata

import worker
from worker import resources


def test_the_event_contracts_come_with_the_installation() -> None:
    """Every contract is found and is a JSON Schema of the 2020-12 dialect."""
    for name in ("transaction", "scored", "dead-letter-headers"):
        document = json.loads(resources.path(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_demo_model_comes_with_the_installation() -> None:
    """The bundle of the demo is found with its manifest and its graph."""
    bundle = resources.path("models/fraud")
    assert {"model.yaml", "model.onnx"} <= {path.name for path in bundle.iterdir()}


def test_the_package_states_one_version() -> None:
    """The metadata repeats the version that the code states."""
    assert metadata.version("headrace") == worker.__version__


def test_the_two_builds_of_onnx_runtime_are_never_in_one_extra() -> None:
    """No extra asks for both: they install the same module."""
    requirements = metadata.requires("headrace") or []
    named = {
        extra: [line for line in requirements if f'extra == "{extra}"' in line.replace("'", '"')]
        for extra in ("cpu", "gpu")
    }
    assert [line.startswith("onnxruntime-gpu") for line in named["cpu"]] == [False]
    assert [line.startswith("onnxruntime-gpu") for line in named["gpu"]] == [True]
