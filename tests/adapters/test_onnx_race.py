"""``model.providers: auto``: who runs, what is measured, who wins, and who is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.adapters.fake_cuda import BUCKETS, Device, Session
from tests.adapters.onnx_builders import row_sum, write_bundle, write_golden
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_race import Candidates, Lap, expected_us, open_candidates, run_lap, winner
from worker.core.records import Decoded
from worker.errors import BundleError, EngineFault, EnvironmentFault
from worker.testing import ManualClock

US = 1e-6


class _Decoder:
    """Gives rows of ones for the golden rows."""

    def decode(self, values: list[bytes]) -> Decoded:
        return Decoded((np.ones((len(values), 3), np.float32),), [None] * len(values), {})


DECODER: Any = _Decoder()


def _open(folder: Path, providers: Any = "auto", required: str | None = None, **changes: object) -> Candidates:
    bundle = load_bundle(write_bundle(folder, row_sum(), **changes))
    return open_candidates(bundle, providers, required, 1, BUCKETS, cuda_graphs=False)


def _costs(monkeypatch: pytest.MonkeyPatch, clock: ManualClock, cost_s: Callable[[int], float]) -> None:
    """Let a bound call on the device take its time on ``clock``; the CPU takes none."""
    run = Session.run_with_iobinding

    def slow(self: Session, binding: Any, options: Any = None) -> None:
        run(self, binding, options)
        clock.advance(cost_s(len(next(iter(binding.inputs.values())).array)))

    monkeypatch.setattr(Session, "run_with_iobinding", slow)


def test_expected_is_weighted_towards_small_batches() -> None:
    """Each bucket counts half as much as the next smaller one; what is averaged is time."""
    assert expected_us({1: 10.0}) == 10.0
    assert expected_us({1: 10.0, 8: 40.0}) == pytest.approx((2 * 10 + 40) / 3)
    small_net, gpu = {1: 7.0, 8: 8.0, 32: 10.0, 128: 16.0, 512: 41.0}, dict.fromkeys((1, 8, 32, 128, 512), 60.0)
    assert expected_us(small_net) < expected_us(gpu)
    wide_net = {1: 20.0, 8: 40.0, 32: 110.0, 128: 400.0, 512: 1600.0}
    assert expected_us(gpu) < expected_us(wide_net)


def test_the_shortest_expected_call_wins_and_the_first_of_equals() -> None:
    """Who was left out cannot win."""
    assert winner([Lap("cuda", {1: 5.0}, 5.0), Lap("cpu", {1: 4.0}, 4.0)]) == "cpu"
    assert winner([Lap("cuda", {1: 5.0}, 5.0), Lap("cpu", {1: 5.0}, 5.0)]) == "cuda"
    assert winner([Lap("cuda", left_out="no device"), Lap("cpu", {1: 9.0}, 9.0)]) == "cpu"


def test_every_bucket_is_timed_on_warm_models(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are medians of several calls, by the clock that is given."""
    clock = ManualClock()
    (cuda, _) = _open(tmp_path).models
    cuda.warm_up()
    device.calls.clear()
    _costs(monkeypatch, clock, lambda rows: (50 + rows) * US)
    lap = run_lap(cuda, clock)
    assert lap.call_us == pytest.approx({1: 51.0, 8: 58.0, 32: 82.0}, rel=1e-3)
    assert lap.facts()["call_us"] == {"1": 51.0, "8": 58.0, "32": 82.0}
    assert min(device.sizes("bound").count(bucket) for bucket in BUCKETS) >= 3


@pytest.mark.usefixtures("device")
def test_the_slower_provider_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the processor takes no time at all."""
    clock = ManualClock()

    def tick() -> float:
        return clock.advance(1e-4)

    _costs(monkeypatch, clock, lambda _rows: 1e-3)
    ready = _open(tmp_path).ready(DECODER, tick)
    assert ready.model.provider == "cpu"
    assert [lap.provider for lap in ready.race] == ["cuda", "cpu"]
    assert all(lap.expected_us is not None for lap in ready.race)


@pytest.mark.usefixtures("device")
def test_the_faster_provider_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls on the processor are made to last."""
    clock = ManualClock()
    candidates = _open(tmp_path)
    slow = candidates.models[1]
    run = slow.run

    def waiting(tensors: Any) -> Any:
        clock.advance(1.0)
        return run(tensors)

    monkeypatch.setattr(slow, "run", waiting)
    ready = candidates.ready(DECODER, lambda: clock.advance(1e-4))
    assert (ready.model.provider, candidates.models) == ("cuda", [])


def test_without_a_device_the_processor_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says why the other one did not run."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    ready = _open(tmp_path).ready(DECODER)
    assert ready.model.provider == "cpu"
    assert ready.race[0].facts() == {
        "provider": "cuda",
        "left_out": "the installed onnxruntime was built without cuda",
    }


def test_a_provider_that_gives_other_scores_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    """Golden rows are checked on each; speed does not make up for a wrong score."""
    write_golden(tmp_path, [{}], {"score": [3.0]})
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given: [array + 1 for array in run(*given)])
    ready = _open(tmp_path, golden="golden.json").ready(DECODER)
    assert ready.model.provider == "cpu"
    assert ready.race[0].left_out is not None
    assert "golden row 0" in ready.race[0].left_out
    assert device.sessions == 1


def test_a_device_without_memory_is_left_out(tmp_path: Path, device: Device) -> None:
    """The same where it fails in the warm-up."""
    device.memory_rows = 0
    ready = _open(tmp_path).ready(DECODER)
    assert ready.model.provider == "cpu"
    assert "no memory" in str(ready.race[0].left_out)


@pytest.mark.usefixtures("device")
def test_a_bundle_that_is_wrong_everywhere_is_refused(tmp_path: Path) -> None:
    """The last provider's failure is the race's."""
    write_golden(tmp_path, [{}], {"score": [4.0]})
    with pytest.raises(BundleError, match="golden row 0"):
        _open(tmp_path, golden="golden.json").ready(DECODER)


def test_no_provider_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without ``auto``: one message that names all."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", list)
    with pytest.raises(EnvironmentFault, match="asked for cuda, cpu"):
        _open(tmp_path)


def test_a_list_is_no_race(tmp_path: Path, device: Device) -> None:
    """The first provider that works serves; a failure there ends the start."""
    ready = _open(tmp_path, ("cuda", "cpu")).ready(DECODER)
    assert (ready.model.provider, ready.race) == ("cuda", ())
    device.memory_rows = 0
    with pytest.raises(EngineFault):
        _open(tmp_path, ("cuda", "cpu"), "cuda").ready(DECODER)
