"""What ``headrace simulate`` reads: a dump of the metrics, timings of a model, an arrival trace, a machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from worker.core.simulation import Line, Load, Machine
from worker.core.simulation_fit import Measured
from worker.errors import ConfigError, Problem
from worker.telemetry.metrics import Snapshot

QUANTILES = tuple(share / 200 for share in range(201))
Samples = Mapping[str, float]

TYPICAL = Machine(
    calls=((1, 0.000012), (1024, 0.000215)),
    decode=Line(0.00002, 0.000002),
    handle=Line(0.00006, 0.0000015),
    cycle_s=0.00015,
    row_s=0.000002,
    fetch_s=0.001,
    round_trips_s=(0.001, 0.0012, 0.0015, 0.002, 0.004),
)
"""A small network on a processor of 2020, and a broker nearby: a start, where nothing was measured."""


def read_machine(path: Path) -> Machine:
    """What ``headrace simulate fit`` wrote; raises ConfigError for anything else."""
    remedy = "take what `headrace simulate fit` prints"
    try:
        machine = msgspec.json.decode(_text(path), type=Machine)
    except msgspec.MsgspecError as error:
        raise ConfigError(Problem(f"this is no simulated machine: {error}", remedy, file=str(path))) from error
    if not machine.calls or len(machine.round_trips_s) < 2:
        message = "a machine needs at least one of calls and two of round_trips_s"
        raise ConfigError(Problem(message, remedy, file=str(path)))
    return machine


def read_calls(path: Path, provider: str | None) -> tuple[tuple[int, float], ...]:
    """Rows and seconds of plain calls in what ``headrace model bench --json`` wrote; raises ConfigError."""
    try:
        timings = json.loads(_text(path))["timings"]
        plain = [one for one in timings if one["way"] == "host arrays"]
        chosen = provider or plain[0]["provider"]
        calls = sorted((int(one["rows"]), one["median_us"] * 1e-6) for one in plain if one["provider"] == chosen)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        remedy = "take what `headrace model bench --json` prints"
        raise ConfigError(Problem(f"these are no timings of a model: {error!r}", remedy, file=str(path))) from error
    if not calls:
        raise ConfigError(Problem(f"there are no timings on {chosen}", "choose another --provider", file=str(path)))
    return tuple(calls)


def read_trace(path: Path, value_bytes: int) -> Load:
    """A line per record: seconds, and its partition after a blank (0 without one); raises ConfigError."""
    times_s: list[float] = []
    partitions: list[int] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        words = line.split()
        if not words:
            continue
        try:
            seconds, partition = words if len(words) == 2 else (*words, "0")
            times_s.append(float(seconds))
            partitions.append(int(partition))
        except ValueError as error:
            remedy = "write seconds, and a partition after a blank: 0.125 3"
            raise ConfigError(Problem(f"this is no arrival: {error}", remedy, file=str(path), line=number)) from error
    if not times_s or not np.isfinite(times_s).all():
        raise ConfigError(Problem("a trace needs arrivals at finite times", "one per line", file=str(path)))
    order = np.argsort(times_s, kind="stable")
    arrived_s = np.array(times_s)[order]
    return Load(arrived_s - arrived_s[0], np.array(partitions)[order], value_bytes)


def read_measured(after: Path, before: Path | None, seconds: float) -> Measured:
    """From dumps of ``/metrics`` at the end and (None: since the worker's start) at the begin of ``seconds``.

    Raises ConfigError where the worker had not scored anything, or has not learned its costs.
    """
    end = samples(_text(after))
    return measured(end, samples(_text(before)) if before else {}, seconds, str(after))


def measured(end: Samples, begin: Samples, seconds: float, name: str = "") -> Measured:
    """As ``read_measured``, from samples; ``name`` is where a problem is said to be."""

    def grown(metric: str, label: str = "") -> float:
        name = f"{metric}|{label}" if label else metric
        return end.get(name, 0.0) - begin.get(name, 0.0)

    def learned(stage: str) -> Line:
        fixed_s = end.get(f"headrace_cost_fixed_seconds|{stage}", 0.0)
        return Line(fixed_s, end.get(f"headrace_cost_record_seconds|{stage}", 0.0))

    stage = "headrace_stage_duration_seconds"
    produce = _snapshot(end, "produce").since(_snapshot(begin, "produce"))
    batches, delivered = grown(f"{stage}_count", "infer"), grown("headrace_end_to_end_latency_seconds_count")
    if min(batches, delivered, produce.count) <= 0 or not learned("call").fixed_s:
        remedy = "measure some minutes of a constant load, with metrics of this version"
        raise ConfigError(Problem("the worker has not scored enough to learn its costs", remedy, file=name))
    return Measured(
        seconds=seconds,
        records=grown("headrace_batch_size_records_sum"),
        batches=batches,
        polls=grown(f"{stage}_count", "decode"),
        cpu_s=grown("process_cpu_seconds_total"),
        assemble_s=grown(f"{stage}_sum", "assemble"),
        call=learned("call"),
        decode=learned("decode"),
        handle=learned("handle"),
        produce_s=tuple(produce.quantile(share) for share in QUANTILES),
        produce_mean_s=produce.mean,
        latency_mean_s=grown("headrace_end_to_end_latency_seconds_sum") / delivered,
    )


def samples(text: str) -> dict[str, float]:
    """A page of metrics as ``name``, ``name|stage`` or ``name|stage|le``, summed over all other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = "|".join((sample.name, *(sample.labels[name] for name in ("stage", "le") if name in sample.labels)))
            found[key] = found.get(key, 0.0) + sample.value
    return found


def machine_fields(machine: Machine) -> Any:
    """The machine in types of JSON, as ``read_machine`` takes it."""
    return msgspec.to_builtins(machine)


def _snapshot(found: Samples, stage: str) -> Snapshot:
    from worker.telemetry import M

    bounds = M.STAGE_DURATION.buckets
    sums = [found.get(f"{M.STAGE_DURATION.name}_bucket|{stage}|{bound}", 0.0) for bound in (*bounds, "+Inf")]
    counts = tuple(int(upto - below) for below, upto in zip([0.0, *sums], sums, strict=False))
    return Snapshot(bounds, counts, found.get(f"{M.STAGE_DURATION.name}_sum|{stage}", 0.0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(f"cannot read: {error}", "check the path", file=str(path))) from error
