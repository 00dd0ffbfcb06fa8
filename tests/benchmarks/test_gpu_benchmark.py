"""``python -m benchmarks.gpu``: on the processor, in small, and on a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import calls, models, report, stream
from tests.adapters.fake_cuda import Device, install
from worker.errors import EnvironmentFault


def _report(**changes: object) -> report.Report:
    facts: dict[str, object] = {
        "started": "2026-03-14T09:26:53+00:00",
        "command": "python -m benchmarks.gpu",
        "provider": "cuda",
        "device": "NVIDIA L4",
        "driver": "580.1",
        "machine": {"processor": "P", "cores": "8"},
        "versions": {"headrace": "0.1.0"},
    }
    return report.Report(**(facts | changes))  # type: ignore[arg-type]  # one struct, many kinds of value


def test_the_engine_stands_beside_onnx_runtime_alone(tmp_path: Path) -> None:
    """Every size by both callers; one way only, since the processor has no other."""
    folder = models.pool("small", tmp_path).folder
    found = calls.measure("small", folder, "cpu", (1, 2), 0.001)
    assert [(one.caller, one.rows) for one in found.timings] == [
        (caller, rows) for rows in (1, 2) for caller in (calls.PURE, "engine, host arrays")
    ]
    assert all(0 < one.median_us <= one.p90_us and one.calls >= 15 for one in found.timings)
    assert found.notes == []


def test_a_device_is_measured_with_and_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch, bound and replayed."""
    folder = models.pool("small", tmp_path).folder
    install(monkeypatch, Device())
    found = calls.measure("small", folder, "cuda", (1, 4), 0.001)
    assert {one.caller for one in found.timings} == {calls.PURE, "engine, bound buffers", "engine, graph replay"}


def test_the_page_puts_the_pure_call_first(tmp_path: Path) -> None:
    """Per batch and per row, with what could not be measured; both files carry the device's name."""
    timings = [
        calls.Call("small", caller, 8, 20, cost_us, cost_us)
        for caller, cost_us in (("engine, bound buffers", 50.0), (calls.PURE, 40.0))
    ]
    drained = stream.Stream(
        model="small", provider="cuda", calls="cuda_graphs", events=10, outputs=10, refused=0,
        seconds=2.0, per_second=5.0, mean_batch=4.0, model_share=0.25,
    )  # fmt: skip
    found = _report(calls={"small": calls.Calls(timings, ["3 of 9 nodes run on the cpu"])}, streams=[drained])
    data, page = report.save(found, tmp_path)
    assert data.name == "gpu-nvidia-l4-2026-03-14T092653.json"
    assert json.loads(data.read_bytes())["device"] == "NVIDIA L4"
    lines = page.read_text().splitlines()
    assert "| Rows | ONNX Runtime alone | engine, bound buffers |" in lines
    assert "| 8 | 40.0 (5.000) | 50.0 (6.250) |" in lines
    assert "3 of 9 nodes run on the cpu." in lines
    assert "| small | cuda | cuda_graphs | 10 | 10 | 5 | 4 | 25% |" in lines


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the way out, and without a file."""
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert command.main(["--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "benchmarks.gpu: no GPU found: there is no nvidia-smi on the path",
        "Nothing was measured; --provider cpu measures the processor instead.",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tool says is passed on."""
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/nvidia-smi")
    answer = SimpleNamespace(returncode=9, stdout="NVIDIA-SMI has failed", stderr="")
    monkeypatch.setattr("subprocess.run", lambda *_given, **_named: answer)
    with pytest.raises(EnvironmentFault, match="NVIDIA-SMI has failed"):
        command.device("cuda")


def test_the_name_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, which is the one that ONNX Runtime takes."""
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/nvidia-smi")
    answer = SimpleNamespace(returncode=0, stdout="NVIDIA L4, 580.65.06\nNVIDIA L4, 580.65.06\n", stderr="")
    monkeypatch.setattr("subprocess.run", lambda *_given, **_named: answer)
    assert command.device("cuda") == ("NVIDIA L4", "580.65.06")


def test_the_whole_command_on_the_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls and pipeline of one model: every event comes back."""
    arguments = ["--provider", "cpu", "--model", "small", "--size", "4", "--seconds", "0.001", "--events", "300"]
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert command.main([*arguments, *places]) == 0
    (data,) = (tmp_path / "out").glob("gpu-cpu-*.json")
    (drained,) = json.loads(data.read_bytes())["streams"]
    assert (drained["outputs"], drained["refused"], drained["calls"]) == (300, 0, "host arrays")
    assert drained["mean_batch"] >= 1
    assert "## Pipeline" in capsys.readouterr().out
