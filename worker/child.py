"""One worker process of several in a pod: how it is started, how it is asked, what it says when it fails."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import orjson
import structlog

from worker.errors import HeadraceError
from worker.settings import Settings

LOOPBACK = "127.0.0.1"
ASK_TIMEOUT_S = 2.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True, eq=False)
class Child:
    """A running worker process and the port of its probes."""

    number: int
    process: SpawnProcess
    port: int
    failures: Connection
    started_at: float
    status: dict[str, Any] = field(default_factory=dict)
    """Its last ``/status``; empty before the first answer."""
    answered_at: float = 0.0
    """When it last said that it lives."""

    def ask(self, path: str) -> bytes | None:
        """The body of a page of its probes; None where it has none, or does not answer in time. Blocking."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=ASK_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if answer.status == http.client.OK else None

    def refresh(self, now: float) -> None:
        """Read its status. Blocking, for ``ASK_TIMEOUT_S`` at most."""
        body = self.ask("/status")
        if body is None:
            return
        self.status = orjson.loads(body)
        if self.status["live"]["ok"]:
            self.answered_at = now

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def failure(self) -> HeadraceError | None:
        """What ended it, in its own words; None where it could not say."""
        try:
            error = self.failures.recv() if self.failures.poll() else None
        except EOFError:
            return None
        return error if isinstance(error, HeadraceError) else None


def own_settings(settings: Settings, number: int) -> Settings:
    """The settings of one process: a name of its own at the brokers, probes on loopback."""
    kafka = settings.kafka
    names: dict[str, object] = {"client_id": f"{kafka.client_id}-{number}"}
    if kafka.group_instance_id is not None:
        names["group_instance_id"] = f"{kafka.group_instance_id}-{number}"
    return settings.model_copy(update={"kafka": kafka.model_copy(update=names)})


def start_child(settings: Settings, number: int, now: float) -> Child:
    """Start worker ``number``; its probes listen before it runs, so its port is known and its own."""
    context = multiprocessing.get_context("spawn")
    listener = socket.create_server((LOOPBACK, 0))
    failures, told = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(own_settings(settings, number), listener, told, number), name=f"headrace-{number}"
    )
    process.start()
    port = listener.getsockname()[1]
    listener.close()
    told.close()
    return Child(number, process, port, failures, now, answered_at=now)


def _work(settings: Settings, listener: socket.socket, failures: Connection, number: int) -> None:
    """The life of a worker process; ends it with its exit code."""
    signal.signal(signal.SIGTERM, _stop_before_start)
    # A terminal's Ctrl-C is for the supervisor, which passes it on once.
    os.setpgid(0, 0)
    end_with_parent()
    structlog.contextvars.bind_contextvars(process=number)
    from worker.app import run

    try:
        code = asyncio.run(run(settings, listener))
    except HeadraceError as error:
        failures.send(error)
        code = error.exit_code
    sys.exit(code)


def _stop_before_start(_number: int, _frame: FrameType | None) -> None:
    """Nothing has been read yet, so stopping is a clean end."""
    sys.exit(0)


def end_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent is gone; other systems have no such request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
