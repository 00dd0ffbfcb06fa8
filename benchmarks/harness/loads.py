"""Figures of a system under load: latency at a rate, capacity, a burst, a long run."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.figures import Times, Trace, histogram, lag, percentiles, recovery_s, why_not_held
from benchmarks.harness.loops import Look, Observation, observe
from benchmarks.harness.pauses import longest_ms, loop_pause_ms
from benchmarks.harness.plan import FRAUD
from benchmarks.harness.results import Batches, Burst, Capacity, Latency, LongRun, Window
from benchmarks.harness.scrape import batches_between
from benchmarks.harness.search import highest_held
from benchmarks.systems import ECHO, Runtime, entry
from benchmarks.workloads import WORKLOADS

BASE, BURST = 0.7, 1.1
BEFORE_S, BURST_S, AFTER_S = 20.0, 30.0, 60.0
WINDOW_S = 5.0
LONG_WARM_UP_S = 10.0
BROKER_WARM_UP_RATE, BROKER_WARM_UP_S = 10_000, 30.0
# A compiler that works while the program runs needs longer.
WARM_UP_S = {Runtime.PROJECT: 3.0, Runtime.PYTHON: 3.0, Runtime.JAVA: 10.0}


def warm_up(bench: Bench, seconds: float = BROKER_WARM_UP_S) -> None:
    """Load the broker by the echo: Java compiles while it runs, until what it does often is compiled."""
    observe(bench, bench.case(entry(ECHO), WORKLOADS[FRAUD]), [(BROKER_WARM_UP_RATE, seconds)])


def latency(bench: Bench, case: Case, load: str, repetition: int, rate: float, seconds: float) -> Latency:
    """Latency at a constant rate over ``seconds``, after a warm-up at the same rate that is not counted."""
    warm_up_s = WARM_UP_S[case.entry.system.runtime]
    span = (warm_up_s, warm_up_s + seconds)
    seen = observe(bench, case, [(rate, span[1])], span)
    edges = (seen.start_ms + span[0] * 1000, seen.start_ms + span[1] * 1000)
    window = seen.trace.window(*edges)
    events = len(window.planned)
    return Latency(
        **case.names,
        load=load,
        repetition=repetition,
        rate=rate,
        seconds=seconds,
        appended=percentiles(window.appended_out - window.appended_in, whole=True),
        seen=percentiles(window.arrived - window.appended_in),
        planned=percentiles(window.arrived - window.planned),
        generator=percentiles(window.appended_in - window.planned),
        why_not_held=why_not_held(window, rate),
        cpu_us=seen.usage.cpu_us_per_event("system", *edges, events),
        broker_cpu_us=seen.usage.cpu_us_per_event("broker", *edges, events),
        rss_mib=seen.usage.peak_rss_mib("system"),
        histogram=histogram(_by_reader(case, window)),
        tally=seen.tally,
        batches=_batches(seen.looks),
    )


def capacity(bench: Bench, case: Case, drained_per_s: float, hold_s: float) -> Capacity:
    """The highest rate that the system held for ``hold_s``, searched from its drain's rate."""

    def why_not(rate: float) -> str:
        seen = observe(bench, case, [(rate, WARM_UP_S[case.entry.system.runtime] + hold_s)])
        if seen.tally.lost:
            return f"{seen.tally.lost} events had no output"
        return why_not_held(seen.trace.window(float(seen.trace.planned[-1]) - hold_s * 1000, np.inf), rate)

    held, trials = highest_held(drained_per_s, why_not)
    return Capacity(**case.names, events_per_s=held, trials=trials)


def burst(bench: Bench, case: Case, capacity_per_s: float) -> Burst:
    """70 % of the capacity, 110 % for half a minute, and 70 % again."""
    base, peak = BASE * capacity_per_s, BURST * capacity_per_s
    seen = observe(bench, case, [(base, BEFORE_S), (peak, BURST_S), (base, AFTER_S)])
    # From the plan on, so that what waits in an overtaxed generator counts as well.
    at, lags = lag(seen.trace.planned, _left(case, seen.trace))
    start = seen.start_ms + BEFORE_S * 1000
    return Burst(
        **case.names,
        base_rate=base,
        burst_rate=peak,
        burst_s=BURST_S,
        recovery_s=recovery_s(at, lags, start, start + BURST_S * 1000),
        largest_lag_events=int(lags.max()),
        lag=[(round(float(t - seen.start_ms) / 1000, 1), int(n)) for t, n in zip(at[::5], lags[::5], strict=True)],
        tally=seen.tally,
    )


def long_run(bench: Bench, case: Case, rate: float, minutes: float) -> LongRun:
    """A constant rate for minutes, after a warm-up, in windows of ``WINDOW_S``; raises ValueError for less than two."""
    stop_s = LONG_WARM_UP_S + minutes * 60
    edges_s = np.arange(LONG_WARM_UP_S, stop_s + WINDOW_S / 2, WINDOW_S).tolist()
    if len(edges_s) < 3:
        raise ValueError(f"{minutes:g} minutes are less than two windows of {WINDOW_S:g} s")
    seen = observe(bench, case, [(rate, stop_s)], edges_s, keep_all=False)
    return LongRun(
        **case.names,
        rate=rate,
        minutes=minutes,
        windows=_windows(bench, case, seen, edges_s),
        why_not_held=why_not_held(seen.trace.window(seen.start_ms + LONG_WARM_UP_S * 1000, np.inf), rate),
        tally=seen.tally,
    )


def _windows(bench: Bench, case: Case, seen: Observation, edges_s: list[float]) -> list[Window]:
    windows, pauses = [], bench.cluster.pauses()
    looks: list[Look] = seen.looks or [None] * len(edges_s)
    for index, at_s in enumerate(edges_s[:-1]):
        start, stop = (seen.start_ms + edge * 1000 for edge in edges_s[index : index + 2])
        before, after = looks[index : index + 2]
        windows.append(
            Window(
                at_s=at_s,
                latency=percentiles(
                    _by_reader(case, seen.trace.window(start, stop)), whole=not case.entry.is_transactional
                ),
                rss_mib=seen.usage.rss_mib_at("system", stop),
                loop_pause_ms=None if before is None or after is None else loop_pause_ms(before, after),
                broker_pause_ms=longest_ms(pauses, start, stop),
                stolen_ms=seen.usage.stolen_ms(start, stop),
            )
        )
    return windows


def _batches(looks: list[Look]) -> Batches | None:
    """Headrace's batches from the first look to the last; None where it does not tell."""
    if not looks or looks[0] is None or looks[-1] is None:
        return None
    return batches_between(looks[0], looks[-1])


def _by_reader(case: Case, trace: Trace) -> Times:
    """Latency as the system's readers have it: to the append, or, with transactions, to the arrival."""
    return _left(case, trace) - trace.appended_in


def _left(case: Case, trace: Trace) -> Times:
    return trace.arrived if case.entry.is_transactional else trace.appended_out
