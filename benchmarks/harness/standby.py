"""Starting, and standing by without events."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.programs import Program
from benchmarks.harness.results import Standby
from benchmarks.harness.usage import UsageSampler

LOOK_S = 0.01
TIMEOUT_S = 30.0
SETTLE_S = 3.0
IMPORTED = "import worker.app"


def standby(bench: Bench, case: Case, repetition: int, seconds: float) -> Standby:
    """Start Headrace on empty topics, wait until it is ready, and look on for ``seconds`` while nothing comes."""
    source, target = bench.cluster.create_input("in"), bench.cluster.create_topic("out")
    with bench.program(case, source, target) as program:
        begun = time.monotonic()
        program.start()
        _await(program, "startupz", begun)
        started_s = time.monotonic() - begun
        _await(program, "readyz", begun)
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


def _await(program: Program, probe: str, begun: float) -> None:
    """Wait until the probe answers with 200; raises TimeoutError."""
    while not _answers(program.metrics_port, probe):
        program.check()
        if time.monotonic() - begun > TIMEOUT_S:
            raise TimeoutError(f"/{probe} did not answer with 200 within {TIMEOUT_S:g} s")
        time.sleep(LOOK_S)


def _answers(port: int, probe: str) -> bool:
    """Whether the probe answers with 200 now; no connection and any other answer is an OSError of urllib."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{probe}", timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def _run_s(program: str) -> float:
    """How long a Python that runs this lives."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.monotonic() - begun
