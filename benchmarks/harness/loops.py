"""Open loops: a system under a planned load, watched by a generator and a reader that are processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import outputs
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.cluster import PARTITIONS
from benchmarks.harness.figures import Times, Trace, tally
from benchmarks.harness.outputs import Outputs
from benchmarks.harness.places import PROJECT
from benchmarks.harness.programs import Program
from benchmarks.harness.results import Tally
from benchmarks.harness.scrape import samples
from benchmarks.harness.usage import UsageSampler
from tests.kafka.processes import spawn, tail, wait_until

PRELUDE = 10 * PARTITIONS
READY_TIMEOUT_S = 30.0
GENERATOR_SPARE_S = 60.0
# What a partition of a long run keeps, so that hours of events need not fit on the disk.
RETENTION = {"retention.bytes": str(512 * 2**20), "segment.bytes": str(64 * 2**20)}
CHECK_S = 0.5
Segments = Sequence[tuple[float, float]]
Look = dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What an open loop showed: the events' times, the usage meanwhile, and what became of the events.

    ``start_ms`` is when the plan began; ``looks`` are Headrace's metrics at the times asked for (None: no answer),
    empty for other systems.
    """

    trace: Trace
    usage: UsageSampler
    tally: Tally
    start_ms: float
    looks: list[Look]


def _samples(program: Program) -> Look:
    return samples(program.metrics_port)


def observe(
    bench: Bench,
    case: Case,
    segments: Segments,
    looks_s: Sequence[float] = (),
    *,
    keep_all: bool = True,
    look: Callable[[Program], Look] = _samples,
) -> Observation:
    """Run the system under the load; ``looks_s``, ascending, are seconds of the plan at which to read its metrics.

    ``look`` reads them from the system.
    ``keep_all`` false lets the broker delete what is old, for long runs.
    A few events before the load show that the system is at work; they are not part of the trace.
    """
    config = {} if keep_all else RETENTION
    source, target = bench.cluster.create_input("load", config), bench.cluster.create_topic("out", config)
    with bench.program(case, source, target) as program:
        program.start()
        bench.cluster.produce(source, case.pool, range(PRELUDE))
        bench.await_outputs(program, target, PRELUDE)
        folder = program.folder
        with _reader(bench, case, target, folder / "seen.npz"):
            roots = {"system": program.pid, "broker": bench.cluster.broker_pid}
            with UsageSampler(roots) as usage:
                moments = [(at_s, look) for at_s in looks_s]
                looks = _generate(bench, case, source, folder / "sent.npz", program, segments, moments)
            events = PRELUDE + round(sum(rate * seconds for rate, seconds in segments))
            bench.await_outputs(program, target, events)
        program.stop()
    bench.cluster.delete_topic(source, target)
    return _joined(folder, usage, looks)


@contextmanager
def _reader(bench: Bench, case: Case, topic: str, path: Path) -> Iterator[None]:
    """Reads the topic while the block runs; at its end the file of arrivals is written."""
    options = ["--committed"] if case.entry.is_transactional else []
    log = path.with_suffix(".log")
    process = _spawn("outputs", [bench.cluster.bootstrap, topic, str(path), *options], log)
    try:
        wait_until(lambda: "reading" in tail(log), timeout_s=READY_TIMEOUT_S, what=lambda: f"no reader:\n{tail(log)}")
        yield
        process.send_signal(signal.SIGTERM)
        if process.wait(GENERATOR_SPARE_S) != 0:
            raise RuntimeError(f"the reader failed:\n{tail(log)}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _generate(
    bench: Bench,
    case: Case,
    topic: str,
    path: Path,
    program: Program,
    segments: Segments,
    moments: Sequence[tuple[float, Callable[[Program], Look]]],
) -> list[Look]:
    """Run the generator to its end; returns what a system that tells of itself said at the times asked for."""
    command = [bench.cluster.bootstrap, topic, str(case.pool.folder), str(path)]
    load = [f"{rate!r}:{seconds!r}" for rate, seconds in segments]
    log = path.with_suffix(".log")
    process = _spawn("generator", [*command, "--first", str(PRELUDE), "--load", *load], log)
    looks: list[Look] = []
    try:
        wait_until(lambda: "\n" in tail(log), timeout_s=READY_TIMEOUT_S, what=lambda: f"no load:\n{tail(log)}")
        start_s = float(tail(log).splitlines()[0])
        for at_s, look in moments if case.entry.system.name == "headrace" else ():
            _await(program, start_s + at_s)
            looks.append(look(program))
        code = process.wait(sum(seconds for _, seconds in segments) + GENERATOR_SPARE_S)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the generator does not end; its log ends:\n{tail(log)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        raise RuntimeError(f"the generator failed:\n{tail(log)}")
    return looks


def _spawn(module: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    return spawn([sys.executable, "-m", f"benchmarks.harness.{module}", *arguments], log=log, cwd=PROJECT)


def _await(program: Program, at_s: float) -> None:
    """Sleep until a time; raises ProgramEndedError where the system does not live so long."""
    while (left_s := at_s - time.time()) > 0:
        program.check()
        time.sleep(min(left_s, CHECK_S))


def _joined(folder: Path, usage: UsageSampler, looks: list[Look]) -> Observation:
    """Put together what generator and reader wrote, by event."""
    with np.load(folder / "sent.npz") as stored:
        planned, appended = stored["planned"], stored["appended"]
    found = outputs.load(folder / "seen.npz")
    events = len(planned)
    counted = tally(found.numbers, found.scores, PRELUDE + events, None)
    appended_out, arrived = _first_by_event(found, events)
    trace = Trace(planned, appended, appended_out, arrived)
    return Observation(trace, usage, counted, float(planned[0]), looks)


def _first_by_event(found: Outputs, events: int) -> tuple[Times, Times]:
    """Append and arrival of the first output of each event; NaN where there is none."""
    index = found.numbers - PRELUDE
    known = (index >= 0) & (index < events)
    columns = []
    for times in (found.appended, found.arrived):
        column = np.full(events, np.nan)
        # Later rows win an assignment, so the first output of an event comes last.
        column[index[known][::-1]] = times[known][::-1]
        columns.append(column)
    return columns[0], columns[1]
