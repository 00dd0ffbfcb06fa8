"""What a run writes to ``benchmarks/results``: every raw figure, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.places import RESULTS


class Tally(msgspec.Struct, frozen=True):
    """What became of the events.

    ``lost`` have no output; ``repeated`` are outputs too many; ``unknown`` outputs name no event; ``wrong`` ones
    have a score that is missing or further from ONNX Runtime's than the tolerance. ``largest_difference`` is that
    of the scores compared, None where there are none to compare.
    """

    events: int
    outputs: int
    lost: int
    repeated: int
    unknown: int
    wrong: int
    largest_difference: float | None

    @property
    def is_clean(self) -> bool:
        """True where each event has one right output."""
        return not (self.lost or self.repeated or self.unknown or self.wrong)


class Percentiles(msgspec.Struct, frozen=True):
    """Of a distribution, in milliseconds."""

    p50: float
    p95: float
    p99: float
    p999: float
    largest: float
    mean: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: a variant of a system on a workload."""

    system: str
    variant: str
    workload: str


class Drain(Measured, frozen=True, kw_only=True):
    """One drain of a backlog. ``late_events_per_s`` is the rate of its second half, when compilers have warmed up."""

    repetition: int
    events_per_s: float
    late_events_per_s: float
    cpu_us: float
    broker_cpu_us: float
    rss_mib: float
    first_output_s: float
    tally: Tally


class Batches(msgspec.Struct, frozen=True):
    """Headrace's batches in a window, by why they closed and by size (upper bound of the bucket, ``+Inf`` last)."""

    by_reason: dict[str, int]
    by_size: list[tuple[str, int]]
    records: float


class Latency(Measured, frozen=True, kw_only=True):
    """A window under constant load; ``load`` is its name, such as ``70 %`` or ``2000/s``.

    ``appended``: append of the input to append of the output; ``seen``: append of the input to the arrival at a
    reader; ``planned``: planned send time to that arrival; ``generator``: planned send time to append of the input.
    ``histogram`` counts ``appended`` (``seen`` where that is the reader's view) by whole milliseconds.
    """

    load: str
    rate: float
    seconds: float
    appended: Percentiles
    seen: Percentiles
    planned: Percentiles
    generator: Percentiles
    held: bool
    cpu_us: float
    broker_cpu_us: float
    rss_mib: float
    histogram: list[tuple[int, int]]
    tally: Tally
    batches: Batches | None = None


class Trial(msgspec.Struct, frozen=True):
    """One attempt to hold a rate."""

    rate: float
    held: bool
    why: str


class Capacity(Measured, frozen=True, kw_only=True):
    """The highest rate that was held; 0 where none was."""

    events_per_s: float
    trials: list[Trial]


class Burst(Measured, frozen=True, kw_only=True):
    """70 %, then 110 %, then 70 % of the capacity: how long after the burst the lag is back. None: it never was."""

    base_rate: float
    burst_rate: float
    burst_s: float
    recovery_s: float | None
    largest_lag_events: int
    lag: list[tuple[float, int]]
    tally: Tally


class Window(msgspec.Struct, frozen=True):
    """A stretch of a long run; ``at_s`` is its begin, ``rss_mib`` the memory at its end."""

    at_s: float
    latency: Percentiles
    rss_mib: float


class LongRun(Measured, frozen=True, kw_only=True):
    """Latency over time at a constant rate."""

    rate: float
    minutes: float
    windows: list[Window]
    held: bool
    tally: Tally


class Crash(Measured, frozen=True, kw_only=True):
    """One kill -9 in mid drain and a restart; ``silence_s`` is the time without an output."""

    killed_after_events: int
    silence_s: float
    tally: Tally


class Failure(Measured, frozen=True, kw_only=True):
    """A measurement that came to nothing, and why."""

    measurement: str
    reason: str


class Result(msgspec.Struct, kw_only=True):
    """Everything of one run of the command."""

    form: str
    started: str
    command: str
    minutes: float
    machine: dict[str, str]
    versions: dict[str, str]
    broker: dict[str, str]
    settings: dict[str, Any]
    workloads: dict[str, dict[str, str]]
    drains: list[Drain] = []
    capacities: list[Capacity] = []
    latencies: list[Latency] = []
    bursts: list[Burst] = []
    long_runs: list[LongRun] = []
    crashes: list[Crash] = []
    failures: list[Failure] = []


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write ``<form>-<date>.json``; a second run of a day gets its time as well. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    date, _, time = result.started.partition("T")
    path = folder / f"{result.form}-{date}.json"
    if path.exists() and load(path).started != result.started:
        path = folder / f"{result.form}-{date}-{time[:5].replace(':', '')}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(path: Path) -> Result:
    """Read a file that ``save`` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def newest(form: str, folder: Path = RESULTS) -> Path | None:
    """The newest result of a form, by the time in it; None where there is none."""
    found = {load(path).started: path for path in folder.glob(f"{form}-*.json")}
    return found[max(found)] if found else None
