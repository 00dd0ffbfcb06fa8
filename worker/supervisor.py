"""Several workers in one pod: starts them, restarts those that crash, drains all, and answers the probes for all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from worker import __version__, logs
from worker.adapters.probes import ProbeServer
from worker.child import Child, start_child
from worker.errors import HeadraceError
from worker.settings import Settings
from worker.telemetry.merged import MergedMetrics

log = structlog.get_logger("headrace.supervisor")

TURN_S = 0.25
REFRESH_S = 1.0
LOOP_LIMIT_S = 10.0

STUCK_S = 60.0
"""A worker that says for so long that it does not live, or says nothing, is killed and started anew."""

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S = 60.0
"""A worker that ran so long starts again with the shortest pause."""

END_MARGIN_S = 10.0
"""Beyond the drain's deadline, after which a worker that still runs is killed."""

CRASHED_EXIT = 1


class Supervisor:
    """Keeps ``run.processes`` workers running until a signal, or until one of them ends with an error of its own.

    A worker that is killed by a signal is started again; one that ends with an error would only do so again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: dict[int, Child] = {}
        self._restarts: dict[int, int] = dict.fromkeys(range(settings.run.processes), 0)
        self._in_a_row: dict[int, int] = dict.fromkeys(range(settings.run.processes), 0)
        self._start_at: dict[int, float] = dict.fromkeys(range(settings.run.processes), 0.0)
        self._turned_at = time.monotonic()
        self._started = False
        self._stopping = False
        self._failure: HeadraceError | None = None

    async def run(self) -> int:
        """Supervise until a signal; returns the exit code, or raises the error that ended a worker."""
        logs.configure(self._settings.log.level, self._settings.log.format)
        probes, place = self._settings.probes, MergedMetrics(self._expositions, lambda: self._restarts)
        server = ProbeServer(probes.host, probes.port, place.registry, self)
        server.start()
        processes = self._settings.run.processes
        log.info("supervising", version=__version__, pid=os.getpid(), processes=processes, probes_port=server.port)
        stop = asyncio.Event()
        try:
            with self._signals(stop):
                code = await self._supervise(stop)
                return await self._end(code)
        finally:
            for child in self._children.values():
                child.signal(signal.SIGKILL)
            server.stop()

    @contextmanager
    def _signals(self, stop: asyncio.Event) -> Iterator[None]:
        """The first SIGTERM or SIGINT asks all workers to drain; the second ends them at once. SIGUSR1 is passed on."""
        loop = asyncio.get_running_loop()

        def received(name: str) -> None:
            log.info("signal", signal=name)
            if stop.is_set():
                self._pass_on(signal.SIGTERM)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, received, number.name)
        loop.add_signal_handler(signal.SIGUSR1, self._pass_on, signal.SIGUSR1)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                loop.remove_signal_handler(number)

    def _pass_on(self, number: signal.Signals) -> None:
        for child in self._children.values():
            child.signal(number)

    # ---- while it runs -----------------------------------------------------------------------------------

    async def _supervise(self, stop: asyncio.Event) -> int:
        """Start, watch, restart; returns when told to stop, or with the exit code of a worker that gave up."""
        refreshed_at = 0.0
        while not stop.is_set():
            now = self._turned_at = time.monotonic()
            for number in self._start_at.keys() - self._children.keys():
                if now >= self._start_at[number]:
                    self._children[number] = start_child(self._settings, number, now)
            for child in list(self._children.values()):
                code = self._looked_after(child, now)
                if code is not None:
                    return code
            if now - refreshed_at >= REFRESH_S:
                refreshed_at = now
                running = list(self._children.values())
                await asyncio.gather(*(asyncio.to_thread(child.refresh, now) for child in running))
            try:
                async with asyncio.timeout(TURN_S):
                    await stop.wait()
            except TimeoutError:
                continue
        return 0

    def _looked_after(self, child: Child, now: float) -> int | None:
        """Kill a stuck worker, arrange for a new one in place of a crashed one; an exit code if it gave up."""
        if child.process.is_alive():
            if now - child.answered_at > STUCK_S:
                cause = child.status.get("live", {}).get("cause") or "its probes do not answer"
                log.error("worker_stuck", process=child.number, pid=child.process.pid, cause=cause)
                child.answered_at = now
                child.signal(signal.SIGKILL)
            return None
        code = child.process.exitcode or 0
        if code > 0:
            self._failure = child.failure()
            log.error("worker_gave_up", process=child.number, exit_code=code, cause=str(self._failure or "a bug"))
            return code
        number = child.number
        del self._children[number]
        steady = now - child.started_at >= STEADY_S
        self._in_a_row[number] = 0 if steady else self._in_a_row[number] + 1
        pause_s = BACKOFF_S[min(self._in_a_row[number], len(BACKOFF_S) - 1)]
        self._restarts[number] += 1
        self._start_at[number] = now + pause_s
        log.error("worker_ended", process=number, signal=-code, restart_in_s=pause_s)
        return None

    async def _end(self, code: int) -> int:
        """Let every worker drain, and report: the first error of any of them is raised, else the worst code counts."""
        self._stopping = True
        begun = time.monotonic()
        deadline = begun + self._settings.drain.timeout_s + END_MARGIN_S
        self._pass_on(signal.SIGTERM)
        while any(child.process.is_alive() for child in self._children.values()):
            now = self._turned_at = time.monotonic()
            if now > deadline:
                self._pass_on(signal.SIGKILL)
            await asyncio.sleep(TURN_S)
        for child in self._children.values():
            ended = child.process.exitcode or 0
            # Before its first line a worker cannot catch the signal; it has read nothing yet.
            if ended and ended != -signal.SIGTERM:
                self._failure = self._failure or child.failure()
                code = code or (ended if ended > 0 else CRASHED_EXIT)
                log.error("worker_ended_badly", process=child.number, exit_code=ended)
        if self._failure is not None:
            raise self._failure
        log.info("ended", took_s=round(time.monotonic() - begun, 3), exit_code=code)
        return code

    # ---- answers (any thread) ----------------------------------------------------------------------------

    def live(self) -> tuple[bool, str]:
        """Whether the supervisor turns: it sees to stuck workers itself."""
        age = time.monotonic() - self._turned_at
        return age <= LOOP_LIMIT_S, "" if age <= LOOP_LIMIT_S else f"the supervisor has not turned for {age:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Whether every worker is ready."""
        if self._stopping:
            return False, "the workers are draining"
        causes = [f"process {number}: {cause}" for number, cause in self._causes("ready").items()]
        return not causes, "; ".join(causes)

    def started(self) -> tuple[bool, str]:
        """Whether every worker has had its model loaded, checked and warm."""
        causes = {} if self._started else self._causes("started")
        self._started = not causes
        return not causes, "; ".join(f"process {number}: {cause}" for number, cause in causes.items())

    def status(self) -> dict[str, object]:
        """What every worker says of itself."""
        children = dict(self._children)
        return {
            "version": __version__,
            "processes": {
                str(number): (children[number].status if number in children else {"state": "crashed"})
                | {"restarts": restarts}
                for number, restarts in self._restarts.items()
            },
        }

    def _causes(self, what: str) -> dict[int, str]:
        """Why a check fails, for the processes where it does."""
        causes: dict[int, str] = {}
        children = dict(self._children)
        for number in self._restarts:
            child = children.get(number)
            if child is None:
                causes[number] = "it ended and will be started again"
            elif not child.status:
                causes[number] = "it has not answered yet"
            elif not child.status[what]["ok"]:
                causes[number] = child.status[what]["cause"]
        return causes

    def _expositions(self) -> Mapping[int, str]:
        """The metrics of every worker that answers; blocking, on the thread that scrapes."""
        texts = {number: child.ask("/metrics") for number, child in dict(self._children).items()}
        return {number: text.decode() for number, text in texts.items() if text is not None}
