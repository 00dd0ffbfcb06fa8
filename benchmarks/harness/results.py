"""What a run writes to ``benchmarks/results``: every raw figure, as JSON."""

from __future__ import annotations

from itertools import chain
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
        return not (self.harmed or self.repeated)

    @property
    def harmed(self) -> int:
        """Events without an output, and outputs that are not right."""
        return self.lost + self.unknown + self.wrong


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

    @property
    def entry(self) -> str:
        """``system:variant``."""
        return f"{self.system}:{self.variant}"


class Drain(Measured, frozen=True, kw_only=True):
    """One drain of a backlog. The late figures are those of its second half, when compilers have warmed up."""

    repetition: int
    events_per_s: float
    late_events_per_s: float
    cpu_us: float
    late_cpu_us: float
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
    """A window under constant load; ``load`` is its name, such as ``70 %``, ``2,000/s`` or ``idle``.

    ``appended``: append of the input to append of the output; ``seen``: append of the input to the arrival at a
    reader; ``planned``: planned send time to that arrival; ``generator``: planned send time to append of the input.
    ``histogram`` counts ``appended`` (``seen`` where that is the reader's view) by whole milliseconds.
    ``why_not_held`` is empty where the rate was offered and held. Windows of one repetition are neighbours.
    """

    load: str
    repetition: int
    rate: float
    seconds: float
    appended: Percentiles
    seen: Percentiles
    planned: Percentiles
    generator: Percentiles
    why_not_held: str
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
    """A stretch of a long run; ``at_s`` is its begin, ``rss_mib`` the memory at its end.

    ``loop_pause_ms`` bounds the longest delay of the worker's heartbeat from above (None: it does not tell),
    ``broker_pause_ms`` is the longest pause of the broker for its garbage, ``stolen_ms`` the processor time that the
    machine's host gave to others.
    """

    at_s: float
    latency: Percentiles
    rss_mib: float
    loop_pause_ms: float | None
    broker_pause_ms: float
    stolen_ms: float


class LongRun(Measured, frozen=True, kw_only=True):
    """Latency over time at a constant rate."""

    rate: float
    minutes: float
    windows: list[Window]
    why_not_held: str
    tally: Tally


class Crash(Measured, frozen=True, kw_only=True):
    """One kill -9 in mid drain and a restart; ``silence_s`` is the time without an output."""

    killed_after_events: int
    silence_s: float
    tally: Tally


class Standby(Measured, frozen=True, kw_only=True):
    """A start, and a while without events.

    ``imports_s`` is what the imports take in a process of their own; ``started_s`` and ``ready_s`` are the times from
    the start to the first 200 of ``/startupz`` and ``/readyz``; ``cores`` is processor time per second while nothing
    comes.
    """

    repetition: int
    imports_s: float
    started_s: float
    ready_s: float
    cores: float
    rss_mib: float


class Failure(Measured, frozen=True, kw_only=True):
    """A measurement that came to nothing, and why."""

    measurement: str
    reason: str


class Part(msgspec.Struct, kw_only=True):
    """Figures that one run of the command measured together: only these may be compared with each other.

    ``echo`` holds drains of the fraud events by the echo, before and after: how fast the machine was. Meanwhile
    other processes took ``others_cores`` seconds of processor time per second, and the machine's host ``stolen_cores``.
    """

    name: str
    started: str
    minutes: float = 0.0
    is_complete: bool = False
    others_cores: float = 0.0
    stolen_cores: float = 0.0
    echo: list[Drain] = []
    drains: list[Drain] = []
    capacities: list[Capacity] = []
    latencies: list[Latency] = []
    bursts: list[Burst] = []
    long_runs: list[LongRun] = []
    crashes: list[Crash] = []
    standbys: list[Standby] = []
    failures: list[Failure] = []


class Result(msgspec.Struct, kw_only=True):
    """Everything of a form: the parts that it asks for (``wanted``), measured by one run of the command or by several.

    A part that was cut short keeps its figures until the same part is complete. The lists of figures are those of
    the parts in use: of each name the complete one, else the newest.
    """

    form: str
    started: str
    commands: list[str]
    machine: dict[str, str]
    versions: dict[str, str]
    broker: dict[str, str]
    settings: dict[str, Any]
    wanted: list[str]
    workloads: dict[str, dict[str, str]] = {}
    parts: list[Part] = []

    def complete(self, part: Part) -> None:
        """The part is whole: it takes the place of all others of its name."""
        part.is_complete = True
        self.parts = [one for one in self.parts if one is part or one.name != part.name]

    @property
    def used(self) -> list[Part]:
        """One part per name, in the order of ``wanted``."""
        best: dict[str, Part] = {}
        for part in self.parts:
            if part.is_complete or part.name not in best or not best[part.name].is_complete:
                best[part.name] = part
        return [best[name] for name in self.wanted if name in best]

    @property
    def missing(self) -> list[str]:
        """Names of the parts that are not complete."""
        return [name for name in self.wanted if not any(one.is_complete for one in self.parts if one.name == name)]

    @property
    def minutes(self) -> float:
        """How long the parts in use took."""
        return sum(part.minutes for part in self.used)

    @property
    def drains(self) -> list[Drain]:
        """All drains, without those of the echo around the parts."""
        return list(chain.from_iterable(part.drains for part in self.used))

    @property
    def capacities(self) -> list[Capacity]:
        """All capacities."""
        return list(chain.from_iterable(part.capacities for part in self.used))

    @property
    def latencies(self) -> list[Latency]:
        """All windows under constant load."""
        return list(chain.from_iterable(part.latencies for part in self.used))

    @property
    def bursts(self) -> list[Burst]:
        """All bursts."""
        return list(chain.from_iterable(part.bursts for part in self.used))

    @property
    def long_runs(self) -> list[LongRun]:
        """All long runs."""
        return list(chain.from_iterable(part.long_runs for part in self.used))

    @property
    def crashes(self) -> list[Crash]:
        """All kills."""
        return list(chain.from_iterable(part.crashes for part in self.used))

    @property
    def standbys(self) -> list[Standby]:
        """All starts."""
        return list(chain.from_iterable(part.standbys for part in self.used))

    @property
    def failures(self) -> list[Failure]:
        """All measurements that came to nothing, each once."""
        return list(dict.fromkeys(chain.from_iterable(part.failures for part in self.used)))


def differences(one: Result, other: Result) -> list[str]:
    """What keeps the parts of two results from belonging together: form, machine, versions, broker or settings."""
    found = []
    for name in ("form", "wanted", "machine", "versions", "broker", "settings"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if isinstance(ours, dict):
            keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
            found += [f"{name}, {key}: {ours.get(key)} and {theirs.get(key)}" for key in keys]
        elif ours != theirs:
            found.append(f"{name}: {ours} and {theirs}")
    return found


def new_path(result: Result, folder: Path = RESULTS) -> Path:
    """Where a result belongs that has no file yet: ``<form>-<date>.json``, with the time as well if that is taken."""
    date, _, time = result.started.partition("T")
    path = folder / f"{result.form}-{date}.json"
    return folder / f"{result.form}-{date}-{time[:8].replace(':', '')}.json" if path.exists() else path


def save(result: Result, path: Path) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    written.replace(path)


def load(path: Path) -> Result:
    """Read a file that ``save`` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def newest(form: str, folder: Path = RESULTS) -> Path | None:
    """The newest result of a form, by the time in it, before which any complete one goes; None where there is none."""
    found = {(not one.missing, one.started): path for path in folder.glob(f"{form}-*.json") for one in [load(path)]}
    return found[max(found)] if found else None
