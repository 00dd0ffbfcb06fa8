"""One run of the real worker: it drains a backlog, then keeps up with a steady stream, and both are measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.demo.worker_process import WorkerFailure, WorkerProcess, free_port
from worker.errors import HeadraceError, Problem
from worker.settings import Settings
from worker.settings_fields import fields
from worker.tuning.brokers import Place, Stage
from worker.tuning.space import Value
from worker.tuning.stream import Arrivals, Outputs, Sender, Times
from worker.tuning.trial import Figures

# A backlog of so many seconds of the rate: a worker that holds the rate drains it in less.
BACKLOG_S = 30.0
MOST_BACKLOG = 200_000
WARM_UP_S = 2.0
_LOOK_S = 0.02
_HEAD_START_S = 0.2
# The first tenth of a backlog meets a worker that still warms up.
_SKIPPED_SHARE = 0.1
_SEEN_SHARE = 0.5
# Give up on what is missing after so long without any progress.
_QUIET_S = 10.0
# The first output waits for the worker's start as well.
_START_S = 60.0
_STOP_TIMEOUT_S = 30.0

Point = tuple[float, int, float]
"""Seconds of ``time.monotonic``, outputs so far, processor seconds of the worker so far."""


@dataclass(frozen=True, slots=True)
class Rig:
    """Runs the worker of ``settings`` on the sample: ``rate`` events a second for ``seconds`` after a warm-up."""

    settings: Settings
    place: Place
    sample: Sequence[bytes]
    rate: float
    seconds: float

    def measure(self, values: Mapping[str, Value]) -> Figures:
        """The figures of one run with these values of keys; raises HeadraceError where it fails.

        Call it from the main thread: the worker ends with the thread that started it.
        """
        from confluent_kafka import KafkaException

        with tempfile.TemporaryDirectory(prefix="headrace-tune-") as folder, self.place.stage() as stage:
            sender = Sender(stage, self.sample)
            backlog = min(MOST_BACKLOG, round(self.rate * BACKLOG_S))
            sender.backlog(backlog)
            config, variables = trial_config(self.settings, values, stage, free_port())
            worker = WorkerProcess(Path(folder), config, variables)
            try:
                return self._run(worker, stage, sender, backlog)
            except KafkaException as error:
                raise HeadraceError(Problem(f"a client of the trial failed: {error}", code="client")) from error
            finally:
                worker.kill()

    def _run(self, worker: WorkerProcess, stage: Stage, sender: Sender, backlog: int) -> Figures:
        worker.start()
        points, ends = _drain(worker, stage, backlog)
        worker.wait_ready()
        drained_per_s, drain_cpu_us = drain_rates(points, backlog)
        with _arrivals(Arrivals(stage, ends, backlog, round(self.rate * (WARM_UP_S + self.seconds)))) as arrivals:
            planned, sent, rate_cpu_us = self._stream(worker, sender, arrivals)
        if worker.stop(_STOP_TIMEOUT_S) != 0:
            raise WorkerFailure("the worker did not drain and end well", worker.log_tail(), 1)
        counted = slice(round(self.rate * WARM_UP_S), None)
        late = arrivals.at[counted] - planned[counted]
        return Figures(
            drained_per_s=drained_per_s,
            drain_cpu_us=drain_cpu_us,
            rate_cpu_us=rate_cpu_us,
            p50_s=float(np.percentile(late, 50)),
            p99_s=float(np.percentile(late, 99)),
            largest_s=float(late.max()),
            sender_p99_s=float(np.percentile(sent[counted] - planned[counted], 99)),
        )

    def _stream(self, worker: WorkerProcess, sender: Sender, arrivals: Arrivals) -> tuple[Times, Times, float]:
        """Send at the rate and wait for all outputs.

        Returns planned times, send times, and the processor time per output, in microseconds, after the warm-up. Not
        per event sent, or a worker that falls behind would look cheap.
        """
        started_at = time.monotonic() + _HEAD_START_S
        planned = started_at + np.arange(len(arrivals.at)) / self.rate
        with ThreadPoolExecutor(1, "sender") as threads:
            sending = threads.submit(sender.steadily, planned)
            time.sleep(max(0.0, started_at + WARM_UP_S - time.monotonic()))
            used, arrived = -processor_s(worker.pid), -arrivals.arrived
            time.sleep(max(0.0, started_at + WARM_UP_S + self.seconds - time.monotonic()))
            worker.check_alive()
            used, arrived = used + processor_s(worker.pid), arrived + arrivals.arrived
            sent = sending.result()
        sender.flush()
        _await_outputs(worker, arrivals)
        return planned, sent, used * 1e6 / max(arrived, 1)


def trial_config(
    settings: Settings, values: Mapping[str, Value], stage: Stage, port: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """The worker's configuration for a trial, and the variables that hold its secrets.

    It is what ``settings`` were set to, on the stage's topics, in one process, with probes on ``port``.
    """
    config = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    variables = {}
    for (section, key), entry in fields().items():
        secret = getattr(getattr(settings, section), entry.attribute) if entry.secret else None
        if secret is not None:
            del config[section][key]
            if key not in stage.kafka:
                variables[entry.variable] = secret.get_secret_value()
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        config.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    config["kafka"] |= {**stage.kafka, "group_instance_id": None, "auto_offset_reset": "earliest"}
    config |= {"probes": {"host": "127.0.0.1", "port": port}, "log": {"format": "json"}, "run": {"processes": 1}}
    return config, variables


def drain_rates(points: Sequence[Point], backlog: int) -> tuple[float, float]:
    """Events a second and microseconds of processor time for each, between the first and last look amid the drain.

    Looks before the first tenth and from the last output on do not count. Where the others saw less than half of the
    backlog, it is judged from the last look before them to the first one after, which makes a short drain look slower
    than it was. Raises HeadraceError where no look was before the end.
    """
    early = [point for point in points if point[1] < _SKIPPED_SHARE * backlog]
    amid = [point for point in points if _SKIPPED_SHARE * backlog <= point[1] < backlog]
    if not amid or amid[-1][1] - amid[0][1] < _SEEN_SHARE * backlog:
        amid = [*early[-1:], points[-1]]
    (start, before, cpu_before), (stop, after, cpu_after) = amid[0], amid[-1]
    if after <= before or stop <= start:
        raise HeadraceError(Problem("the backlog was drained at once, too fast to measure", code="too_fast"))
    return (after - before) / (stop - start), (cpu_after - cpu_before) * 1e6 / (after - before)


def processor_s(pid: int) -> float:
    """Processor seconds that all threads of a process have used; raises HeadraceError where it is gone.

    To the nanosecond, unlike /proc, which counts in hundredths of a second. Linux only.
    """
    try:
        # What clock_getcpuclockid(3) makes of a process id; Python offers it for threads alone.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        raise HeadraceError(Problem(f"the worker's processor time cannot be read: {error}", code="no_clock")) from error


def _drain(worker: WorkerProcess, stage: Stage, backlog: int) -> tuple[list[Point], list[int]]:
    """Look on until the backlog is done: the looks, and the ends of the output's partitions."""
    outputs = Outputs(stage)
    points: list[Point] = []
    changed_at = time.monotonic()
    try:
        while True:
            ends, used = outputs.ends(), processor_s(worker.pid)
            now, count = time.monotonic(), sum(ends)
            if not points or count != points[-1][1]:
                changed_at = now
            points.append((now, count, used))
            if count >= backlog:
                return points, ends
            worker.check_alive()
            if now - changed_at > (_QUIET_S if count else _START_S):
                outputs.raise_for_dead_letter()
                raise _missing(backlog - count, worker)
            time.sleep(_LOOK_S)
    finally:
        outputs.close()


@contextmanager
def _arrivals(arrivals: Arrivals) -> Iterator[Arrivals]:
    arrivals.start()
    try:
        yield arrivals
    finally:
        arrivals.stop()


def _await_outputs(worker: WorkerProcess, arrivals: Arrivals) -> None:
    """Return once every event has its output; raises HeadraceError where that does not happen."""
    count, changed_at = -1, time.monotonic()
    while True:
        if arrivals.failure is not None:
            raise arrivals.failure
        worker.check_alive()
        now = time.monotonic()
        if arrivals.arrived == len(arrivals.at):
            return
        if arrivals.arrived != count:
            count, changed_at = arrivals.arrived, now
        if now - changed_at > _QUIET_S:
            raise _missing(len(arrivals.at) - count, worker)
        time.sleep(_LOOK_S)


def _missing(count: int, worker: WorkerProcess) -> HeadraceError:
    message = f"{count} events had no output, and none came any more; the end of the worker's log:\n"
    return HeadraceError(Problem(message + worker.log_tail(), "see what the log says", code="no_output"))
