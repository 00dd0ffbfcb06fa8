"""Figures of a system under load: latency at a rate, capacity, a burst, a long run."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.figures import Times, Trace, histogram, lag, percentiles, recovery_s, why_not_held
from benchmarks.harness.loops import Observation, observe
from benchmarks.harness.results import Burst, Capacity, Latency, LongRun, Window
from benchmarks.harness.search import highest_held
from benchmarks.systems import Runtime

BASE, BURST = 0.7, 1.1
BEFORE_S, BURST_S, AFTER_S = 20.0, 30.0, 60.0
WINDOW_S = 10.0
LONG_WARM_UP_S = 10.0
# A compiler that works while the program runs needs longer.
WARM_UP_S = {Runtime.PROJECT: 3.0, Runtime.PYTHON: 3.0, Runtime.JAVA: 10.0}


def latency(bench: Bench, case: Case, load: str, rate: float, seconds: float) -> Latency:
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
        rate=rate,
        seconds=seconds,
        appended=percentiles(window.appended_out - window.appended_in),
        seen=percentiles(window.arrived - window.appended_in),
        planned=percentiles(window.arrived - window.planned),
        generator=percentiles(window.appended_in - window.planned),
        held=not why_not_held(window, rate),
        cpu_us=seen.usage.cpu_us_per_event("system", *edges, events),
        broker_cpu_us=seen.usage.cpu_us_per_event("broker", *edges, events),
        rss_mib=seen.usage.peak_rss_mib("system"),
        histogram=histogram(_by_reader(case, window)),
        tally=seen.tally,
        batches=seen.batches,
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


def long_run(bench: Bench, case: Case, capacity_per_s: float, minutes: float) -> LongRun:
    """70 % of the capacity for minutes, in windows of ten seconds."""
    rate = BASE * capacity_per_s
    seen = observe(bench, case, [(rate, LONG_WARM_UP_S + minutes * 60)], keep_all=False)
    steady = seen.trace.window(seen.start_ms + LONG_WARM_UP_S * 1000, np.inf)
    return LongRun(
        **case.names,
        rate=rate,
        minutes=minutes,
        windows=_windows(case, seen),
        held=not why_not_held(steady, rate),
        tally=seen.tally,
    )


def _windows(case: Case, seen: Observation) -> list[Window]:
    windows = []
    for start in np.arange(seen.start_ms + LONG_WARM_UP_S * 1000, seen.trace.planned[-1], WINDOW_S * 1000).tolist():
        stop = start + WINDOW_S * 1000
        part = seen.trace.window(start, stop)
        at_s = (start - seen.start_ms) / 1000
        windows.append(Window(at_s, percentiles(_by_reader(case, part)), seen.usage.rss_mib_at("system", stop)))
    return windows


def _by_reader(case: Case, trace: Trace) -> Times:
    """Latency as the system's readers have it: to the append, or, with transactions, to the arrival."""
    return _left(case, trace) - trace.appended_in


def _left(case: Case, trace: Trace) -> Times:
    return trace.arrived if case.entry.is_transactional else trace.appended_out
