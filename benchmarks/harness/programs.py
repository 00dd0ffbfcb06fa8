"""A system under test as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

from benchmarks.harness import environments
from benchmarks.harness.cluster import Cluster
from benchmarks.harness.usage import tree
from benchmarks.systems import Entry
from benchmarks.workloads import Pool, Workload
from benchmarks.workloads.recipes import ID_FIELD
from tests.kafka.processes import free_ports, spawn, tail

STOP_TIMEOUT_S = 40.0


class ProgramEndedError(RuntimeError):
    """The system ended by itself; the message holds the end of its log."""


class Program:
    """One system on one pair of topics; may be started again after it was killed, with the same group and state."""

    def __init__(
        self,
        entry: Entry,
        workload: Workload,
        pool: Pool,
        cluster: Cluster,
        topics: tuple[str, str],
        root: Path,
    ) -> None:
        self.entry = entry
        self.folder = root / f"{entry.system.name}-{uuid.uuid4().hex[:8]}"
        self.log = self.folder / "program.log"
        state = self.folder / "state"
        state.mkdir(parents=True)
        (self.metrics_port,) = free_ports(1)
        self._command = environments.command(entry.system)
        self._process: subprocess.Popen[bytes] | None = None
        self._environ = {
            "BENCH_BOOTSTRAP": cluster.bootstrap,
            "BENCH_INPUT": topics[0],
            "BENCH_OUTPUT": topics[1],
            "BENCH_GROUP": f"bench-{uuid.uuid4().hex[:8]}",
            "BENCH_MODEL": str(pool.folder / "model.onnx"),
            "BENCH_FIELDS": ",".join(workload.fields),
            "BENCH_ID": ID_FIELD,
            "BENCH_DELIVERY": entry.variant,
            "BENCH_STATE": str(state),
            "BENCH_METRICS_PORT": str(self.metrics_port),
        }

    @property
    def pid(self) -> int:
        """Its process id; the process may have ended."""
        return self._started().pid

    def start(self) -> None:
        """Start the process; returns at once."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "BENCH_"))}
        self._process = spawn(self._command, log=self.log, env=inherited | self._environ, cwd=self.folder)

    def check(self) -> None:
        """Raise ProgramEndedError where the process is gone."""
        code = self._started().poll()
        if code is not None:
            raise ProgramEndedError(f"{self.entry.name} ended with exit code {code}:\n{tail(self.log)}")

    def stop(self) -> None:
        """SIGTERM, and wait for the orderly end; raises TimeoutError, after a kill, where none comes."""
        process = self._started()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise TimeoutError(
                f"{self.entry.name} runs on {STOP_TIMEOUT_S:g} s after SIGTERM:\n{tail(self.log)}"
            ) from None

    def kill9(self) -> None:
        """Kill the process and its children as a crash would, and wait until they are gone."""
        process = self._started()
        for pid in reversed(tree(process.pid)) if process.poll() is None else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()

    def discard(self) -> None:
        """End the process, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.kill9()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.entry.name} was never started")
        return self._process
