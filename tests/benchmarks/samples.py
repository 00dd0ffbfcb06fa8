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
    Part,
    Percentiles,
    Result,
    Standby,
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
    "headrace:two_processes": (180_000.0, 7.5),
    "confluent_loop:unsafe": (100_000.0, 8.0),
    "confluent_loop:safe": (28_000.0, 12.0),
    "quix:message": (20_000.0, 46.0),
    "quix:batch": (26_000.0, 23.0),
    "kafka_streams:at_least_once": (90_000.0, 15.0),
    "java_loop:at_least_once": (150_000.0, 8.0),
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
        "late_cpu_us": cpu_us,
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
        "repetition": 1,
        "rate": 2000.0,
        "seconds": 30.0,
        "appended": spread,
        "seen": percentiles(p50 + 1),
        "planned": percentiles(p50 + 3),
        "generator": percentiles(1.0),
        "why_not_held": "",
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
        commands=["python -m benchmarks --form full"],
        machine={"processor": "CPU", "cores": "2", "memory": "23 GiB", "kernel": "Linux 6"},
        versions={"headrace": "0.1.0 (abc)", "python": "3.11.7", "quix": "quixstreams==3"},
        broker={"version": "Apache Kafka 4.3.1", "partitions": "8"},
        settings={"repetitions": 3},
        wanted=["throughput:fraud", "crash", "standby", "latency", "idle", "capacity", "long"],
        workloads={"fraud": {"event_bytes": "541", "model_sha256": "0" * 64}},
    )
    made.parts = [_throughput(), _crash(), _standby(), _latency(), _idle(), _capacity(), _long()]
    return made


def part(name: str, **figures: Any) -> Part:
    """A complete part between two drains of the echo."""
    echo = [drain("echo_aiokafka:pipelined", 0, speed, 4.0) for speed in (181_000.0, 179_000.0)]
    fields: dict[str, Any] = {"minutes": 20.0, "is_complete": True, "others_cores": 0.05, "echo": echo}
    return Part(name=name, started="2026-11-22T20:00:00+00:00", **(fields | figures))


def _throughput() -> Part:
    drains = [
        drain(name, repetition, speed * (0.9 + 0.1 * repetition), cpu_us)
        for name, (speed, cpu_us) in SPEEDS.items()
        for repetition in (0, 1, 2)
    ]
    failure = Failure(**named("faust:at_least_once"), measurement="installation", reason="no wheel\nlog")
    return part("throughput:fraud", drains=drains, failures=[failure])


def _crash() -> Part:
    crash = Crash(**named("confluent_loop:unsafe"), killed_after_events=400, silence_s=46.0, tally=HURT)
    return part("crash", crashes=[crash])


def _standby() -> Part:
    found = [
        Standby(
            **named("headrace:at_least_once"),
            repetition=repetition,
            imports_s=0.4,
            started_s=0.7,
            ready_s=ready_s,
            cores=0.004,
            rss_mib=110.0,
        )
        for repetition, ready_s in ((1, 2.1), (2, 2.4), (3, 2.2))
    ]
    return part("standby", standbys=found)


def _latency() -> Part:
    found = [
        latency("echo_aiokafka:pipelined", "2,000/s", 1.0),
        latency("headrace:exactly_once", "2,000/s", 60.0),
        latency("headrace:at_least_once", "2,000/s", 1.5, batches=batches(3.0)),
        latency("headrace:at_least_once", "10,000/s", 2.5, batches=batches(9.0), rate=10_000.0),
    ]
    return part("latency", latencies=found)


def _idle() -> Part:
    found = []
    for repetition, (ours, echo) in enumerate(((3.0, 2.0), (3.4, 2.2), (3.9, 2.1)), 1):
        for name, p50 in (("headrace:at_least_once", ours), ("echo_aiokafka:pipelined", echo)):
            more: dict[str, Any] = {"repetition": repetition, "rate": 100.0, "planned": percentiles(p50)}
            more |= {"batches": batches(1.0)} if name.startswith("headrace") else {}
            found.append(latency(name, "idle", p50 - 1, **more))
    return part("idle", latencies=found)


def _capacity() -> Part:
    found = []
    for place, share in enumerate(SHARES):
        for offset, name in enumerate(("echo_aiokafka:pipelined", "headrace:at_least_once", "confluent_loop:safe")):
            more: dict[str, Any] = {"rate": 900.0 * float(share[:2])}
            more |= {"batches": batches(4.0 ** (place + 1))} if name.startswith("headrace") else {}
            found.append(latency(name, share, (1 + offset) * 1.8**place, **more))
    ours = named("headrace:at_least_once")
    burst = Burst(
        **ours,
        base_rate=63_000.0,
        burst_rate=99_000.0,
        burst_s=30.0,
        recovery_s=4.2,
        largest_lag_events=220_000,
        lag=[(0.0, 100), (25.0, 220_000), (40.0, 90)],
        tally=CLEAN,
    )
    capacity = Capacity(**ours, events_per_s=90_000.0, trials=[Trial(90_000.0, True, "")])
    return part("capacity", capacities=[capacity], latencies=found, bursts=[burst])


def window(number: int, p50: float) -> Window:
    """The window that begins 5 s after the last one; a slow one has pauses to blame."""
    slow = p50 > 4
    return Window(10.0 + 5.0 * number, percentiles(p50), 120.0 + number / 10, 20.0 if slow else 0.5, 12.0 * slow, 0.0)


def _long() -> Part:
    runs = [
        LongRun(
            **named(name),
            rate=63_000.0,
            minutes=10.0,
            windows=[window(number, usual + number % 3 / 10 + (number % 40 == 39) * 12) for number in range(120)],
            why_not_held="",
            tally=CLEAN,
        )
        for name, usual in (("headrace:at_least_once", 3.0), ("echo_aiokafka:pipelined", 2.0))
    ]
    return part("long", long_runs=runs)
