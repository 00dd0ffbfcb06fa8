"""The workloads: small pools of events, prepared into a temporary folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import orjson
import pytest
from typer.testing import CliRunner

from benchmarks.harness.outputs import IDENTITY
from benchmarks.workloads import WORKLOADS, Pool, prepare
from benchmarks.workloads.recipes import CARD, ID_FIELD
from worker.commands.app import app

POOL = 60
SMALL = {name: replace(workload, pool=POOL) for name, workload in WORKLOADS.items()}


@pytest.fixture(params=list(SMALL))
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Pool:
    """A workload with few events."""
    return prepare(SMALL[request.param], tmp_path)


def test_headrace_accepts_events_and_model(pool: Pool) -> None:
    """Schema, manifest and golden rows pass every check of ``headrace model verify``."""
    schema = str(pool.folder / "event.schema.json")
    done = CliRunner().invoke(app, ["model", "verify", str(pool.folder), "--schema", schema])
    assert done.exit_code == 0, done.output
    assert "golden rows" in done.output


def test_events_have_ids_that_count_on(pool: Pool) -> None:
    """Events repeat after the pool, under new ids, which the reader of the outputs finds."""
    first, again = orjson.loads(pool.value(3)), orjson.loads(pool.value(3 + POOL))
    assert (first.pop(ID_FIELD), again.pop(ID_FIELD)) == ("e0000000003", "e0000000063")
    assert first == again
    assert pool.key(3) == pool.key(3 + POOL)
    assert [int(found.group(1)) for found in IDENTITY.finditer(pool.value(63))] == [63]


def test_scores_differ(pool: Pool) -> None:
    """A system that mixes rows up is noticed."""
    rows = pool.expected.reshape(POOL, -1)
    assert len(np.unique(rows.round(4), axis=0)) > POOL // 2


def test_numeric_fields_are_in_the_events(tmp_path: Path) -> None:
    """What BENCH_FIELDS names are numbers of the event."""
    for workload in SMALL.values():
        event = orjson.loads(prepare(workload, tmp_path).value(0))
        assert all(isinstance(event[name], int | float) for name in workload.fields)


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    """One seed decides: events, model and scores are the same in another folder."""
    first, second = (prepare(SMALL["fraud"], tmp_path / name) for name in ("a", "b"))
    assert (first.bodies, first.keys, first.model_sha256) == (second.bodies, second.keys, second.model_sha256)
    assert np.array_equal(first.expected, second.expected)


def test_a_prepared_folder_is_kept(tmp_path: Path) -> None:
    """Nothing is made again while the sources stay as they are."""
    prepare(SMALL["tiny"], tmp_path)
    before = (tmp_path / "tiny" / "model.onnx").stat().st_mtime_ns
    prepare(SMALL["tiny"], tmp_path)
    assert (tmp_path / "tiny" / "model.onnx").stat().st_mtime_ns == before


def test_fraud_event_has_the_promised_shape(tmp_path: Path) -> None:
    """23 fields and about 540 bytes; 20 of them feed the model."""
    pool = prepare(SMALL["fraud"], tmp_path)
    assert len(orjson.loads(pool.value(0))) == 23
    assert len(CARD) == 20
    assert 530 <= pool.event_bytes <= 550


def test_trees_are_as_many_as_promised(tmp_path: Path) -> None:
    """100 trees of 31 leaves, with enough events to grow them."""
    pool = prepare(replace(WORKLOADS["trees"], pool=400), tmp_path)
    (ensemble,) = onnx.load(pool.folder / "model.onnx").graph.node
    attributes = {one.name: one for one in ensemble.attribute}
    assert max(attributes["nodes_treeids"].ints) == 99
    assert list(attributes["nodes_modes"].strings).count(b"LEAF") == 3100
