"""Draining a preloaded backlog: throughput, and what a kill -9 in the middle does."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.harness.bench import RESTART_STALL_S, Bench, Case
from benchmarks.harness.figures import rates
from benchmarks.harness.results import Crash, Drain
from benchmarks.harness.usage import UsageSampler

KILL_AT = 0.4


def drain(bench: Bench, case: Case, size: int, repetition: int) -> Drain:
    """Start the system on the backlog, wait for the last output, stop it, read and count.

    Processor time is taken between the first and the last append, so that starting is not in it.
    """
    source = bench.cluster.backlog(case.workload, case.pool, size)
    target = bench.cluster.create_topic("out")
    with bench.program(case, source, target) as program:
        started_ms = time.time() * 1000
        program.start()
        with UsageSampler({"system": program.pid, "broker": bench.cluster.broker_pid}) as usage:
            bench.await_outputs(program, target, size)
        program.stop()
    found = bench.read(case, target)
    bench.cluster.delete_topic(target)
    rate = rates(found.appended)
    whole, late = (
        (since, rate.last_ms, int((found.appended > since).sum())) for since in (rate.first_ms, rate.middle_ms)
    )
    return Drain(
        **case.names,
        repetition=repetition,
        events_per_s=rate.events_per_s,
        late_events_per_s=rate.late_events_per_s,
        cpu_us=usage.cpu_us_per_event("system", *whole),
        late_cpu_us=usage.cpu_us_per_event("system", *late),
        broker_cpu_us=usage.cpu_us_per_event("broker", *whole),
        rss_mib=usage.peak_rss_mib("system"),
        first_output_s=(rate.first_ms - started_ms) / 1000,
        tally=case.count(found, size),
    )


def crash(bench: Bench, case: Case, size: int) -> Crash:
    """Kill the system once it wrote ``KILL_AT`` of its outputs, start it again at once, wait for the rest, count."""
    source = bench.cluster.backlog(case.workload, case.pool, size)
    target = bench.cluster.create_topic("out")
    with bench.program(case, source, target) as program:
        program.start()
        while bench.cluster.written(target) < KILL_AT * size:
            program.check()
            time.sleep(0.01)
        program.kill9()
        killed_after = bench.cluster.written(target)
        if killed_after >= size:
            raise ValueError("the backlog was drained before the kill; take a larger one")
        program.start()
        bench.await_outputs(program, target, size, RESTART_STALL_S)
        program.stop()
    found = bench.read(case, target)
    bench.cluster.delete_topic(target)
    return Crash(
        **case.names,
        killed_after_events=killed_after,
        silence_s=float(np.diff(np.unique(found.appended)).max()) / 1000,
        tally=case.count(found, size),
    )
