"""What the worker does to its own process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.adapters.fake_cuda import Device, Node, install
from tests.adapters.onnx_builders import row_sum, write_bundle
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_race import open_candidates
from worker.app import Scorer, Worker, on_daemon_thread
from worker.telemetry import M, Metrics


def test_a_stop_does_not_wait_for_what_a_daemon_thread_does() -> None:
    """The loop ends at once, and what comes of the work later is dropped."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go_on.wait(20)
        ended.set()
        return 1

    async def stopped() -> None:
        task = asyncio.create_task(on_daemon_thread(work, "work"))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stopped())
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(20)


async def test_a_daemon_thread_gives_its_result_or_its_error() -> None:
    """Both arrive where they are awaited."""
    assert await on_daemon_thread(lambda: 5, "work") == 5
    with pytest.raises(ZeroDivisionError):
        await on_daemon_thread(lambda: 1 // 0, "work")


def _scorer(folder: Path, providers: Any) -> Scorer:
    bundle = load_bundle(write_bundle(folder, row_sum()))
    nobody: Any = SimpleNamespace()
    ready = open_candidates(bundle, providers, None, 1, (1, 8, 32), cuda_graphs=True).ready(nobody)
    return Scorer(bundle, ready.model, nobody, nobody, ready.race)


def _worker(metrics: Metrics) -> Worker:
    nobody: Any = SimpleNamespace()
    return Worker(nobody, metrics, nobody, nobody)


async def test_the_start_says_where_the_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device leaves to the processor, and what cannot be recorded, are warnings."""
    install(monkeypatch, Device(on_cpu=[Node("TreeEnsembleRegressor", "trees", "ai.onnx.ml")]))
    scorer, worker = _scorer(tmp_path, ("cuda",)), _worker(Metrics())
    with capture_logs() as logs:
        worker._tell_provider(scorer)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("nodes_left_on_cpu", "warning"),
        ("cuda_graphs_not_used", "warning"),
        ("device_calls", "info"),
    ]
    assert "TreeEnsembleRegressor 'trees'" in logs[0]["detail"]
    facts = worker._model_facts(scorer)
    assert (facts["nodes"], facts["calls"], facts["race"]) == ({"cuda": 1, "cpu": 1}, "bound buffers", [])


async def test_the_race_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the log, in the status, and as a gauge for each bucket and provider."""
    install(monkeypatch, Device())
    scorer, metrics = _scorer(tmp_path, "auto"), Metrics()
    worker = _worker(metrics)
    with capture_logs() as logs:
        worker._tell_provider(scorer)
    race = worker._model_facts(scorer)["race"]
    assert logs[0] == {
        "event": "provider_race",
        "log_level": "info",
        "chosen": scorer.model.provider,
        "race": race,
    }
    samples = {
        tuple(sample.labels.values())
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == M.MODEL_RACE.name
    }
    assert samples == {(provider, bucket) for provider in ("cuda", "cpu") for bucket in ("1", "8", "32")}


async def test_a_fallen_ceiling_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's thread tells the loop, which sets the gauge."""
    device, metrics = Device(), Metrics()
    install(monkeypatch, device)
    scorer = _scorer(tmp_path, ("cuda",))
    _worker(metrics)._tell_provider(scorer)
    device.memory_rows = 20
    engine = threading.Thread(target=scorer.model.run, args=((np.ones((32, 3), np.float32),),))
    engine.start()
    await asyncio.to_thread(engine.join)
    assert metrics.registry.get_sample_value(M.MODEL_BATCH_CEILING.name) == 16
