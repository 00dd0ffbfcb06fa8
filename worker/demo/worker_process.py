"""The real worker as a process of its own, with a configuration made for the mock cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from worker import resources
from worker.errors import HeadraceError, Problem

INPUT_TOPIC = "transactions"
OUTPUT_TOPIC = "scored-transactions"
DEAD_LETTER_TOPIC = "transactions.dlq"
GROUP_ID = "headrace-demo"

_START_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 2.0
_LOG_TAIL_LINES = 25

_LABELS = ("le", "reason", "provider")

Samples = dict[tuple[str, str], float]


class WorkerFailure(HeadraceError):
    """The worker did not start, or ended by itself; carries the end of its log."""

    def __init__(self, message: str, log_tail: str, exit_code: int) -> None:
        super().__init__(
            Problem(
                f"{message}\n{log_tail}",
                remedy="its last log lines say why",
                code="worker_failed",
            )
        )
        self.exit_code = exit_code


def configuration(bootstrap_servers: list[str], probe_port: int) -> dict[str, Any]:
    """The demo's ``worker.yaml``: the shipped schema and model, everything else as by default."""
    return {
        "kafka": {
            "bootstrap_servers": bootstrap_servers,
            "group_id": GROUP_ID,
            "input_topics": [INPUT_TOPIC],
            "output_topic": OUTPUT_TOPIC,
            "dead_letter_topic": DEAD_LETTER_TOPIC,
            # The mock cluster answers a waiting fetch only when its wait is over.
            "fetch_max_wait_s": 0.003,
        },
        "event": {
            "schema": str(resources.path("schemas/transaction.schema.json")),
            "id_field": "transaction_id",
        },
        "model": {"path": str(resources.path("models/fraud"))},
        "output": {"include": ["transaction_id", "customer_id"]},
        "probes": {"host": "127.0.0.1", "port": probe_port},
        "log": {"format": "json"},
    }


def free_port() -> int:
    """A loopback port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WorkerProcess:
    """``headrace run`` with its configuration and its log in ``folder``.

    The configuration has the probes on a loopback port. ``variables`` go into the worker's environment: secrets, which
    no file shall hold.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> None:
        self._url = f"http://127.0.0.1:{config['probes']['port']}"
        self._log = folder / "worker.log"
        self._config = folder / "worker.yaml"
        self._config.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
        self._variables = variables or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of the started process."""
        return self._running.pid

    def start(self) -> None:
        """Start the process; it is not ready yet. It ends when the calling thread does, so call from the main one."""
        # A setting in the user's environment is meant for a worker of theirs and would win over the demo's file.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}
        environment |= self._variables
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.demo.leash", "run", "--config", str(self._config)],
                cwd=self._config.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which then stops the worker in order.
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return once the worker has its model and its partitions; raises WorkerFailure if that never happens."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._ask("/readyz") is None:
            self.check_alive()
            if time.monotonic() > deadline:
                raise WorkerFailure(
                    f"the worker is not ready after {_START_TIMEOUT_S:.0f} s",
                    self.log_tail(),
                    1,
                )
            time.sleep(0.05)

    def check_alive(self) -> None:
        """Raise WorkerFailure if the process has ended."""
        code = self._running.poll()
        if code is not None:
            message = f"the worker ended by itself with exit code {code}"
            raise WorkerFailure(message, self.log_tail(), code if code > 0 else 1)

    def samples(self) -> Samples | None:
        """What ``/metrics`` shows; None if the worker does not answer.

        Keyed by the sample's name and the first of its labels ``le``, ``reason``, ``provider``, else nothing; what else
        tells them apart is added up.
        """
        text = self._ask("/metrics")
        if text is None:
            return None
        samples: Samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, next((sample.labels[name] for name in _LABELS if name in sample.labels), ""))
                samples[key] = samples.get(key, 0.0) + sample.value
        return samples

    def stop(self, timeout_s: float) -> int | None:
        """SIGTERM, then wait: the exit code, or None if the worker had to be killed."""
        self._running.send_signal(signal.SIGTERM)
        try:
            return self._running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """Make sure that the process is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines of the worker's log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process

    def _ask(self, path: str) -> str | None:
        """The body of a 200 answer; None for any other answer or none."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=_ASK_TIMEOUT_S) as answer:  # noqa: S310 - our own http
                body: bytes = answer.read()
                return body.decode()
        except (urllib.error.URLError, OSError):
            return None
