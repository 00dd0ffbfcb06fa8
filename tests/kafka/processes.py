"""Child processes, free ports and bounded waiting."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

LEASH = Path(__file__).resolve().parent / "leash.py"
POLL_INTERVAL_S = 0.05

BELOW_EPHEMERAL = range(15_000, 32_000)
"""Linux gives outgoing connections ports from 32768 on: one of those may be gone before a server has bound it."""


_GIVEN: set[int] = set()
"""Ports that this process gave out: whoever got one may not have bound it yet."""

CLAIMS = 128
_claims: deque[socket.socket] = deque()
"""The latest ``CLAIMS`` of them as bound UDP ports, for other test processes to see; older ones are bound by now."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses, that no test process was given lately, and no outgoing connection will be."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = BELOW_EPHEMERAL[0] + secrets.randbelow(len(BELOW_EPHEMERAL))
            if port in _GIVEN:
                continue
            one = stack.enter_context(socket.socket())
            claim = socket.socket(type=socket.SOCK_DGRAM)
            try:
                one.bind(("127.0.0.1", port))
                claim.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
            _claims.append(claim)
            if len(_claims) > CLAIMS:
                _claims.popleft().close()
            found.append(port)
            _GIVEN.add(port)
    return found


def spawn(
    command: Sequence[str | Path], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process on a leash; stdout and stderr are appended to ``log``."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-I", str(LEASH), *(str(part) for part in command)],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: Callable[[], str]) -> None:
    """Poll ``condition`` until it holds; after ``timeout_s`` raise TimeoutError with the text of ``what``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s: {what()}")
        time.sleep(POLL_INTERVAL_S)


def tail(path: Path, size_bytes: int = 4000) -> str:
    """The end of a log file, for a message about a failure."""
    return path.read_bytes()[-size_bytes:].decode(errors="replace") if path.exists() else ""
