"""Starting, and standing by without events."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.programs import Program
from benchmarks.harness.results import Standby
from benchmarks.harness.scrape import page
from benchmarks.harness.usage import UsageSampler
from tests.kafka.processes import wait_until

TIMEOUT_S = 30.0
SETTLE_S = 3.0
IMPORTED = "import worker.app"


def standby(bench: Bench, case: Case, repetition: int, seconds: float) -> Standby:
    """Start Headrace on empty topics, wait until it is ready, and look on for ``seconds`` while nothing comes."""
    source, target = bench.cluster.create_input("in"), bench.cluster.create_topic("out")
    with bench.program(case, source, target) as program:
        begun = time.monotonic()
        program.start()
        _await(program, "startupz")
        started_s = time.monotonic() - begun
        _await(program, "readyz")
        ready_s = time.monotonic() - begun
        time.sleep(SETTLE_S)
        with UsageSampler({"system": program.pid}) as usage:
            start = time.time()
            time.sleep(seconds)
            stop = time.time()
        program.stop()
    bench.cluster.delete_topic(source, f"{source}.dlq", target)
    return Standby(
        **case.names,
        repetition=repetition,
        imports_s=_run_s(IMPORTED) - _run_s("pass"),
        started_s=started_s,
        ready_s=ready_s,
        cores=usage.cpu_us_per_event("system", start * 1000, stop * 1000, 1) / 1e6 / (stop - start),
        rss_mib=usage.peak_rss_mib("system"),
    )


def _await(program: Program, probe: str) -> None:
    """Wait until the probe answers with 200; raises TimeoutError."""

    def answers() -> bool:
        program.check()
        return page(program.metrics_port, probe) is not None

    wait_until(answers, timeout_s=TIMEOUT_S, what=lambda: f"/{probe} did not answer with 200")


def _run_s(program: str) -> float:
    """How long a Python that runs this lives."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.monotonic() - begun
