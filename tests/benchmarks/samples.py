"""A made-up result with every kind of figure."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.results import (
    Batches,
    Burst,
    Capacity,
    Crash,
    Drain,
    Failure,
    Latency,
    LongRun,
    Percentiles,
    Result,
    Tally,
    Trial,
    Window,
)

CLEAN = Tally(events=1000, outputs=1000, lost=0, repeated=0, unknown=0, wrong=0, largest_difference=1e-7)
HURT = Tally(events=1000, outputs=1012, lost=3, repeated=15, unknown=0, wrong=0, largest_difference=1e-7)
SPEEDS = {
    "echo_aiokafka:pipelined": (180_000.0, 4.0),
    "echo_confluent:background_commit": (140_000.0, 3.1),
    "headrace:at_least_once": (120_000.0, 6.5),
    "headrace:exactly_once": (110_000.0, 7.0),
    "confluent_loop:unsafe": (100_000.0, 8.0),
    "confluent_loop:safe": (28_000.0, 12.0),
    "quix:message": (20_000.0, 46.0),
    "quix:batch": (26_000.0, 23.0),
    "kafka_streams:at_least_once": (90_000.0, 15.0),
    "tutorial_loop:auto_commit": (1_200.0, 530.0),
}
SHARES = ("10 %", "40 %", "70 %", "90 %")


def named(name: str, workload: str = "fraud") -> dict[str, Any]:
    """The fields that name a case."""
    system, _, variant = name.partition(":")
    return {"system": system, "variant": variant, "workload": workload}


def drain(name: str, repetition: int, events_per_s: float, cpu_us: float, **more: Any) -> Drain:
    """A drain; ``more`` replaces fields."""
    fields: dict[str, Any] = {
        "late_events_per_s": events_per_s,
        "broker_cpu_us": 5.0,
        "rss_mib": 120.0,
        "first_output_s": 1.5,
        "tally": CLEAN,
    }
    return Drain(**named(name), repetition=repetition, events_per_s=events_per_s, cpu_us=cpu_us, **(fields | more))


def percentiles(p50: float) -> Percentiles:
    """A plausible tail above the median."""
    return Percentiles(p50, 2 * p50, 4 * p50, 6 * p50, 9 * p50, 1.2 * p50)


def latency(name: str, load: str, p50: float, **more: Any) -> Latency:
    """A window; ``more`` replaces fields."""
    spread = percentiles(p50)
    fields: dict[str, Any] = {
        "rate": 2000.0,
        "seconds": 30.0,
        "appended": spread,
        "seen": percentiles(p50 + 1),
        "planned": percentiles(p50 + 3),
        "generator": percentiles(1.0),
        "held": True,
        "cpu_us": 150.0,
        "broker_cpu_us": 90.0,
        "rss_mib": 120.0,
        "histogram": [(0, 10), (int(p50), 60), (int(2 * p50) + 1, 20), (90, 1)],
        "tally": CLEAN,
    }
    return Latency(**named(name), load=load, **(fields | more))


def batches(size: float) -> Batches:
    """A window's batches of that mean size."""
    return Batches({"idle": int(900 / size), "size": int(size), "delay": 10}, [("1.0", 5), ("+Inf", 0)], 1000 * size)


def result(form: str = "full") -> Result:
    """Every kind of figure once or more."""
    made = Result(
        form=form,
        started="2026-11-22T20:00:00+00:00",
        command="python -m benchmarks --form full",
        minutes=118.0,
        machine={"processor": "CPU", "cores": "2", "memory": "23 GiB", "kernel": "Linux 6", "load before": "0.02"},
        versions={"headrace": "0.1.0 (abc)", "python": "3.11.7", "quix": "quixstreams==3"},
        broker={"version": "Apache Kafka 4.3.1", "partitions": "8"},
        settings={"repetitions": 3},
        workloads={"fraud": {"event_bytes": "541", "model_sha256": "0" * 64}},
    )
    for name, (speed, cpu_us) in SPEEDS.items():
        made.drains += [drain(name, n, speed * (0.9 + 0.1 * n), cpu_us) for n in (0, 1, 2)]
    for place, share in enumerate(SHARES):
        for offset, name in enumerate(("echo_aiokafka:pipelined", "headrace:at_least_once", "confluent_loop:safe")):
            extra = {"batches": batches(4.0 ** (place + 1))} if name.startswith("headrace") else {}
            made.latencies.append(latency(name, share, (1 + offset) * 1.8**place, **extra))
    made.latencies += [
        latency("echo_aiokafka:pipelined", "2,000/s", 1.0),
        latency("headrace:exactly_once", "2,000/s", 60.0),
    ]
    made.capacities.append(
        Capacity(**named("headrace:at_least_once"), events_per_s=90_000.0, trials=[Trial(90_000.0, True, "")])
    )
    made.bursts.append(
        Burst(
            **named("headrace:at_least_once"),
            base_rate=63_000.0,
            burst_rate=99_000.0,
            burst_s=30.0,
            recovery_s=4.2,
            largest_lag_events=220_000,
            lag=[(0.0, 100), (25.0, 220_000), (40.0, 90)],
            tally=CLEAN,
        )
    )
    windows = [Window(10.0 * n, percentiles(3.0 + (n % 7 == 0) * 2), 120.0 + n / 10) for n in range(60)]
    made.long_runs.append(
        LongRun(**named("headrace:at_least_once"), rate=63_000.0, minutes=10.0, windows=windows, held=True, tally=CLEAN)
    )
    made.crashes.append(Crash(**named("confluent_loop:unsafe"), killed_after_events=400, silence_s=46.0, tally=HURT))
    made.failures.append(Failure(**named("faust:at_least_once"), measurement="installation", reason="no wheel\nlog"))
    return made
