"""Starting and standing by; the program is a probe that comes up step by step."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import standby as module
from benchmarks.harness.bench import Case
from benchmarks.harness.standby import standby
from benchmarks.systems import LEAST, entry
from benchmarks.workloads import WORKLOADS, Pool

CASE = Case(entry(LEAST), WORKLOADS["fraud"], Pool(Path(), [b"key"], [b'"x":1}'], np.zeros(1, np.float32), "score"))


class Probe:
    """Answers 503 to the first looks at each path, then 200 where it comes up at all."""

    def __init__(self, looks: int, *, comes_up: bool = True) -> None:
        self.asked: list[str] = []
        probe = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                probe.asked.append(self.path)
                self.send_response(200 if comes_up and probe.asked.count(self.path) > looks else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.metrics_port = self._server.server_address[1]
        self.pid = os.getpid()
        self.stopped = False

    def start(self) -> None:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def check(self) -> None:
        """Alive."""

    def stop(self) -> None:
        """Noted."""
        self.stopped = True

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()


def bench_with(probe: Probe, deleted: list[str]) -> Any:
    """A bench whose only program is the probe."""

    @contextmanager
    def program(*_: Any) -> Iterator[Probe]:
        try:
            yield probe
        finally:
            probe.close()

    cluster = SimpleNamespace(
        create_input=lambda _: "in-1", create_topic=lambda _: "out-1", delete_topic=lambda *names: deleted.extend(names)
    )
    return SimpleNamespace(cluster=cluster, program=program)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time to settle, and nothing to import."""
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    monkeypatch.setattr(module, "IMPORTED", "pass")


def test_a_start_is_followed_probe_by_probe() -> None:
    """Readiness is asked for once the start is through; this process, which is looked at, uses memory."""
    probe, deleted = Probe(looks=2), list[str]()
    found = standby(bench_with(probe, deleted), CASE, 3, 0.2)
    assert probe.asked == ["/startupz"] * 3 + ["/readyz"] * 3
    assert 0 < found.started_s <= found.ready_s
    assert (found.entry, found.repetition, found.cores >= 0, found.rss_mib > 1) == (LEAST, 3, True, True)
    assert probe.stopped
    assert deleted == ["in-1", "in-1.dlq", "out-1"]


def test_who_does_not_come_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which probe was waited for."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    with pytest.raises(TimeoutError, match="/startupz did not answer with 200"):
        standby(bench_with(Probe(looks=0, comes_up=False), []), CASE, 1, 0.1)
