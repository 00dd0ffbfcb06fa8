"""The workloads, and what is written of each: ``prepare(NAME)`` returns the folder's content.

The folder ``.cache/bench/workloads/NAME`` holds ``model.onnx``, ``model.yaml``, ``event.schema.json`` and
``headrace.yaml`` (the sections that tell Headrace of them), and the pool of events with the expected scores.
It is made again when the sources of this package change; one seed decides everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
import yaml
from numpy.typing import NDArray

from benchmarks.harness.places import CACHE
from benchmarks.workloads import recipes
from benchmarks.workloads.recipes import ID_EXAMPLE, ID_FIELD, ID_SCHEMA, Recipe

SEED = 20_240_501
GOLDEN_ROWS = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload by name. ``pool`` is the number of different events; they repeat under new ids."""

    name: str
    recipe: Callable[[np.random.Generator, int], Recipe]
    pool: int
    fields: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """True where numbers alone feed the model, so that ``BENCH_FIELDS`` can name them."""
        return bool(self.fields)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("fraud", recipes.fraud, 20_000, tuple(recipes.CARD)),
        Workload("trees", recipes.trees, 20_000, tuple(recipes.CARD)),
        Workload("crayfish", recipes.crayfish, 2_000),
        Workload("crayfish_whole", recipes.crayfish_whole, 2_000),
        Workload("strings", recipes.strings, 20_000),
        Workload("tiny", recipes.tiny, 20_000, ("x",)),
    )
}


@dataclass(frozen=True, slots=True)
class Pool:
    """The events of a prepared workload: event ``number`` is ``value(number)`` under ``key(number)``.

    ``expected`` holds the model's output per event of the pool, by ONNX Runtime run directly.
    """

    folder: Path
    keys: list[bytes]
    bodies: list[bytes]
    expected: NDArray[np.float32]
    output: str

    def value(self, number: int) -> bytes:
        """The JSON of the event; ids count on while the rest repeats."""
        return b'{"%s":"e%010d",%s' % (ID_FIELD.encode(), number, self.bodies[number % len(self.bodies)])

    def key(self, number: int) -> bytes:
        """The record's key."""
        return self.keys[number % len(self.keys)]

    @property
    def event_bytes(self) -> float:
        """Mean size of an event's value."""
        return float(np.mean([len(self.value(number)) for number in range(len(self.bodies))]))

    @property
    def model_sha256(self) -> str:
        """Hash of the model file."""
        return hashlib.sha256((self.folder / "model.onnx").read_bytes()).hexdigest()


def prepare(workload: Workload, root: Path = CACHE / "workloads") -> Pool:
    """Write the workload's folder unless it is up to date, and load its events."""
    folder = root / workload.name
    stamp, wanted = folder / "stamp", _digest(workload)
    if not stamp.is_file() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, workload)
        stamp.write_text(wanted)
    return load(folder)


def load(folder: Path) -> Pool:
    """The events of a folder that ``prepare`` wrote."""
    lines = (folder / "pool.jsonl").read_bytes().splitlines()
    parts = [line.split(b"\t", 1) for line in lines]
    with np.load(folder / "expected.npz") as stored:
        ((output, expected),) = stored.items()
    return Pool(folder, [key for key, _ in parts], [body for _, body in parts], expected, output)


def _write(folder: Path, workload: Workload) -> None:
    recipe = workload.recipe(np.random.default_rng(SEED), workload.pool)
    model = recipe.model.SerializeToString(deterministic=True)
    (folder / "model.onnx").write_bytes(model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (expected,) = session.run([recipe.output], dict(recipe.tensors))
    expected = expected[:, 0] if recipe.output == "score" else expected
    np.savez(folder / "expected.npz", allow_pickle=False, **{recipe.output: expected})
    keys = [str(row[recipe.key] if recipe.key else number) for number, row in enumerate(recipe.rows)]
    bodies = [orjson.dumps(row)[1:] for row in recipe.rows]
    pool = b"\n".join(b"%s\t%s" % (key.encode(), body) for key, body in zip(keys, bodies, strict=True))
    (folder / "pool.jsonl").write_bytes(pool)
    _write_contract(folder, workload.name, recipe, model)
    golden = {
        "rows": [{ID_FIELD: ID_EXAMPLE, **row} for row in recipe.rows[:GOLDEN_ROWS]],
        "expected": {recipe.output: expected[:GOLDEN_ROWS].tolist()},
        "tolerance": 1e-5,
    }
    (folder / "golden.json").write_bytes(orjson.dumps(golden))


def _write_contract(folder: Path, name: str, recipe: Recipe, model: bytes) -> None:
    """Schema and manifest, and Headrace's sections that name them."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": [ID_FIELD, *recipe.properties],
        "properties": {ID_FIELD: ID_SCHEMA} | dict(recipe.properties),
    }
    (folder / "event.schema.json").write_bytes(orjson.dumps(schema, option=orjson.OPT_INDENT_2))
    manifest = {
        "name": name.replace("_", "-"),
        "version": "1.0.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "inputs": [dict(entry) for entry in recipe.inputs],
        "outputs": {recipe.output: {"output": recipe.output}},
        "golden": "golden.json",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    sections: Mapping[str, Mapping[str, object]] = {
        "event": {"schema": str(folder / "event.schema.json"), "id_field": ID_FIELD},
        "model": {"path": str(folder)},
        "output": {"include": list(recipe.include)},
    }
    (folder / "headrace.yaml").write_text(yaml.safe_dump(dict(sections), sort_keys=False))


def _digest(workload: Workload) -> str:
    sources = sorted(Path(__file__).resolve().parent.glob("*.py"))
    content = b"".join(source.read_bytes() for source in sources) + workload.name.encode()
    return hashlib.sha256(content).hexdigest()
