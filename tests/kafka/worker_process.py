"""The worker as its users run it: a process with a configuration file, watched through its probes and its log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.kafka.processes import spawn, tail, wait_until

READY_TIMEOUT_S = 40.0
EXIT_TIMEOUT_S = 60.0
LOOPBACK = "127.0.0.1"


class WorkerProcess:
    """``headrace run`` on one configuration file; may be started again after it ended."""

    def __init__(self, folder: Path, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.config = config
        self.log = folder / "worker.log"
        self.config_path = folder / "worker.yaml"
        self.port = int(config["probes"]["port"])
        self._environ = {"PYTHONUNBUFFERED": "1"} | dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(yaml.safe_dump(dict(config), sort_keys=False))

    def start(self) -> None:
        """Start the process; returns at once."""
        if self.is_alive:
            raise RuntimeError("the worker is running already")
        command = [sys.executable, "-m", "worker", "run", "--config", str(self.config_path)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}
        self._process = spawn(command, log=self.log, env=inherited | self._environ)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until ``/readyz`` says yes; a worker that ends before is a RuntimeError with its log."""

        def is_ready() -> bool:
            if not self.is_alive:
                raise RuntimeError(f"the worker ended with exit code {self.exit_code}:\n{tail(self.log)}")
            return self.probe("/readyz") == 200

        wait_until(is_ready, timeout_s=timeout_s, what=lambda: f"the worker is not ready:\n{tail(self.log)}")

    def wait_exit(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """Wait for the process to end; returns its exit code (negative: ended by that signal)."""
        try:
            return self._started().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the worker still runs after {timeout_s:g} s:\n{tail(self.log)}") from None

    def sigterm(self) -> None:
        """Ask for a drain and an orderly end."""
        self._started().send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.sigterm()
        return self.wait_exit(timeout_s)

    def kill9(self) -> None:
        """End the process as a crash would, and wait until it is gone."""
        self._started().kill()
        self._started().wait()

    def pause(self) -> None:
        """Freeze the process. Undo with ``resume``."""
        self._started().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._started().send_signal(signal.SIGCONT)

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the ended process; None while it runs."""
        return self._started().poll()

    def probe(self, path: str) -> int:
        """HTTP status of a probe; 0 where nobody listens."""
        return self._get(path)[0]

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics`` as ``name{label="value"}``, labels sorted, braces left out when empty."""
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(self._get("/metrics")[1].decode()):
            for sample in family.samples:
                labels = ",".join(f'{name}="{sample.labels[name]}"' for name in sorted(sample.labels))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    def status(self) -> dict[str, Any]:
        """The JSON of ``/status``."""
        found: dict[str, Any] = json.loads(self._get("/status")[1])
        return found

    def log_lines(self) -> list[dict[str, Any]]:
        """The log so far, one mapping per line; a line that is no JSON object comes as ``{"text": line}``."""
        return [_parsed(line) for line in tail(self.log, 100_000_000).splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.log_lines() if line.get("event") == name]

    def wait_event(self, name: str, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the log holds an event; returns its first line."""
        wait_until(
            lambda: bool(self.events(name)),
            timeout_s=timeout_s,
            what=lambda: f"the log has no event {name!r}:\n{tail(self.log)}",
        )
        return self.events(name)[0]

    def discard(self) -> None:
        """End the process, whatever state it is in."""
        if self.is_alive:
            self.kill9()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker was never started")
        return self._process

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``overrides`` laid over it, section by section; neither is changed."""
    result = dict(config)
    for key, value in overrides.items():
        below = result.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if nested else value  # type: ignore[arg-type]  # nested: it is a mapping
    return result


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {"text": line}
    return found if isinstance(found, dict) else {"text": line}
