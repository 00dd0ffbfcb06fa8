"""``headrace simulate``: what it reads, what it prints, and that a fit feeds a prediction."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from worker import resources
from worker.__main__ import main
from worker.commands.simulate_inputs import measured, read_measured, samples
from worker.core.simulation import Line
from worker.errors import ConfigError
from worker.telemetry import M, Metrics

CONFIG = """\
kafka:
  group_id: fraud-scoring
  input_topics: [transactions]
  output_topic: scored
event:
  schema: event.json
  id_field: transaction_id
model:
  path: bundle
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, which the command finds by itself."""
    for name in [name for name in os.environ if name.startswith("HEADRACE__")]:
        monkeypatch.delenv(name)
    shutil.copy(resources.path("schemas/transaction.schema.json"), tmp_path / "event.json")
    shutil.copytree(resources.path("models/fraud"), tmp_path / "bundle")
    (tmp_path / "worker.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["simulate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _metrics(scale: float = 1.0) -> str:
    """What a worker would show that scored ``scale`` thousands of batches of 20 records."""
    metrics = Metrics()
    batches = int(1000 * scale)
    metrics.observe(M.BATCH_SIZE, 20, n=batches, reason="idle")
    for stage, took_s in (("decode", 0.00006), ("assemble", 0.00001), ("infer", 0.00002), ("encode", 0.0001)):
        metrics.observe(M.STAGE_DURATION, took_s, n=batches, stage=stage)
    metrics.observe(M.STAGE_DURATION, 0.0015, n=batches, stage="produce")
    metrics.observe(M.STAGE_DURATION, 0.004, n=batches // 10, stage="produce")
    metrics.observe(M.END_TO_END_LATENCY, 0.006, n=20 * batches)
    for stage, fixed_s, per_row_s in (("call", 8e-6, 2e-7), ("handle", 6e-5, 2e-6), ("decode", 2e-5, 2e-6)):
        metrics.gauge(M.COST_FIXED, fixed_s, stage=stage)
        metrics.gauge(M.COST_RECORD, per_row_s, stage=stage)
    lines = [
        line for line in metrics.render().decode().splitlines() if not line.startswith("process_cpu_seconds_total")
    ]
    return "\n".join([*lines, f"process_cpu_seconds_total {0.7 * scale}", ""])


def test_a_rate_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same summary; percentiles rise, and every record is in a batch."""
    load = ("--rate", "5000", "--seconds", "0.5")
    summary = _summary(capsys, *load)
    assert summary == _summary(capsys, *load)
    assert summary != _summary(capsys, *load, "--seed", "2")
    assert summary["records"] == 2500
    assert sum(summary["reasons"].values()) == summary["batches"]
    for values in summary["latency"].values():
        assert list(values) == ["p50", "p95", "p99", "p99.9"]
        assert list(values.values()) == sorted(values.values())
    assert 0 < summary["engine_share"] < summary["loop_share"] < 1


def test_the_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """For people: rates, percentiles, sizes, reasons, utilisation."""
    load = ("--rate", "5000", "--seconds", "0.5")
    summary = _summary(capsys, *load)
    assert main(["simulate", *load]) == 0
    text = capsys.readouterr().out
    assert text.startswith("2500 records in ")
    assert f"{summary['latency']['acknowledged_ms']['p99']:.2f}" in text
    assert f"idle {summary['reasons']['idle']}" in text
    assert f"engine {summary['engine_share']:.0%}" in text


def test_another_setting_may_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    """By --set, checked like the file; the file is not touched."""
    load = ("--rate", "20000", "--seconds", "0.2", "--tick-ms", "5")
    changed = _summary(capsys, *load, "--set", "batching.max_batch_size=16", "--set", "batching.gather_s=0")
    assert changed["batch_size"]["p99.9"] == 16
    assert _summary(capsys, *load)["batch_size"]["p99.9"] > 16
    assert main(["simulate", *load, "--set", "batching.max_batch_size=none"]) == 2
    assert "batching.max_batch_size" in capsys.readouterr().err
    for change in ("max_batch_size=16", "batching.max_batch_size"):
        assert main(["simulate", *load, "--set", change]) == 2
        assert change.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("load", [(), ("--rate", "5", "--trace", "trace.txt")])
def test_a_load_is_a_rate_or_a_trace(capsys: pytest.CaptureFixture[str], load: tuple[str, ...]) -> None:
    """Not both, and not neither."""
    assert main(["simulate", *load]) == 2
    assert "either --rate or --trace" in capsys.readouterr().err


def test_a_trace_is_simulated(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """A line per record, in any order; the partition may be left out."""
    (folder / "trace.txt").write_text("12.5 1\n\n12.25\n12.75 0\n", encoding="utf-8")
    summary = _summary(capsys, "--trace", "trace.txt")
    assert (summary["records"], summary["batches"]) == (3, 3)
    assert summary["seconds"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("text", "said"), [("0.5 1\nsoon 1\n", "soon"), ("1 2 3\n", ""), ("", "finite"), ("nan\n", "finite")]
)
def test_a_trace_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str, said: str
) -> None:
    """With its place."""
    (folder / "trace.txt").write_text(text, encoding="utf-8")
    assert main(["simulate", "--trace", "trace.txt"]) == 2
    error = capsys.readouterr().err
    assert "trace.txt" in error
    assert said in error


def test_timings_of_a_model_are_taken(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Plain calls of the provider, the first one's unless another is named; flags overrule them."""
    timings = [
        {"provider": provider, "way": way, "rows": rows, "median_us": us * rows}
        for provider, us in (("cuda", 10.0), ("cpu", 200.0))
        for way in ("host arrays", "bound buffers")
        for rows in (64, 1)
    ]
    (folder / "bench.json").write_text(json.dumps({"timings": timings}), encoding="utf-8")
    load = ("--rate", "2000", "--seconds", "0.2", "--bench", "bench.json")
    quick, slow = _summary(capsys, *load), _summary(capsys, *load, "--provider", "cpu")
    assert quick["engine_share"] == pytest.approx(0.02, rel=0.2)
    assert slow["engine_share"] == pytest.approx(0.4, rel=0.2)
    flags = _summary(capsys, *load, "--call-us", "10", "--row-us", "100")
    assert flags["engine_share"] == pytest.approx(0.2, rel=0.2)
    assert _summary(capsys, *load, "--row-us", "100", "--padded")["engine_share"] > flags["engine_share"]
    assert main(["simulate", *load, "--provider", "tpu"]) == 2
    assert "tpu" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"timings": []}', '{"timings": [{"way": "host arrays"}]}'])
def test_what_is_no_bench_is_refused(capsys: pytest.CaptureFixture[str], folder: Path, text: str) -> None:
    """It says where the right thing comes from."""
    (folder / "bench.json").write_text(text, encoding="utf-8")
    assert main(["simulate", "--rate", "5", "--bench", "bench.json"]) == 2
    assert "headrace model bench --json" in capsys.readouterr().err


def test_a_fit_feeds_a_prediction(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """At the load that was measured the prediction is what was measured."""
    (folder / "before.txt").write_text(_metrics(1.0), encoding="utf-8")
    (folder / "after.txt").write_text(_metrics(3.0), encoding="utf-8")
    assert (
        main(["simulate", "fit", "after.txt", "--before", "before.txt", "--seconds", "4", "--capacity", "90000"]) == 0
    )
    (folder / "machine.json").write_text(capsys.readouterr().out, encoding="utf-8")
    summary = _summary(capsys, "--rate", "10000", "--seconds", "2", "--machine", "machine.json")
    assert summary["latency"]["acknowledged_ms"]["p50"] == pytest.approx(5.5, rel=0.1)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"calls": []}'])
def test_what_is_no_machine_is_refused(capsys: pytest.CaptureFixture[str], folder: Path, text: str) -> None:
    """So is a machine without calls, or with a single round trip."""
    (folder / "machine.json").write_text(text, encoding="utf-8")
    assert main(["simulate", "--rate", "5", "--machine", "machine.json"]) == 2
    assert "headrace simulate fit" in capsys.readouterr().err
    assert main(["simulate", "--rate", "5", "--machine", "nowhere.json"]) == 2


def test_a_machine_must_be_complete(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """No calls, and too few round trips, cannot be simulated."""
    (folder / "after.txt").write_text(_metrics(), encoding="utf-8")
    assert main(["simulate", "fit", "after.txt", "--seconds", "2"]) == 0
    machine = json.loads(capsys.readouterr().out)
    for key, value in (("calls", []), ("round_trips_s", [0.1])):
        (folder / "machine.json").write_text(json.dumps(machine | {key: value}), encoding="utf-8")
        assert main(["simulate", "--rate", "5", "--machine", "machine.json"]) == 2
        assert key in capsys.readouterr().err


def test_metrics_are_read_as_sums_between_two_dumps(folder: Path) -> None:
    """Counters by their growth, what was learned as it is at the end."""
    (folder / "before.txt").write_text(_metrics(1.0), encoding="utf-8")
    (folder / "after.txt").write_text(_metrics(3.0), encoding="utf-8")
    found = read_measured(folder / "after.txt", folder / "before.txt", 4.0)
    assert (found.seconds, found.records, found.batches) == (4.0, 40_000.0, 2000.0)
    assert found.cpu_s == pytest.approx(1.4)
    assert found.polls == 2000.0
    assert found.assemble_s == pytest.approx(0.02)
    assert found.call == Line(8e-6, 2e-7)
    assert found.produce_mean_s == pytest.approx((0.0015 + 0.0004) / 1.1)
    assert found.latency_mean_s == pytest.approx(0.006)
    assert list(found.produce_s) == sorted(found.produce_s)
    assert measured(samples(_metrics(2.0)), {}, 4.0).records == 40_000


@pytest.mark.parametrize("text", ["", "# TYPE a gauge\na 1\n"])
def test_metrics_without_a_load_are_refused(folder: Path, text: str) -> None:
    """There is nothing to fit."""
    (folder / "after.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="has not scored enough"):
        read_measured(folder / "after.txt", None, 4.0)


def test_a_setting_that_does_not_exist_is_named_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """With what it may have been meant for."""
    assert main(["simulate", "--rate", "100", "--set", "batching.max_batch=16"]) == 2
    said = capsys.readouterr().err
    assert "batching.max_batch is no setting" in said
    assert "did you mean batching.max_batch_" in said
    assert "HEADRACE__" not in said
