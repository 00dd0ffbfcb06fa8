"""Rules that hold for every test: who may open sockets, and that nothing is logged as an error unnoticed."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Time limits would judge the machine's other work, not the code.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")

pytest_plugins = ("tests.kafka.fixtures",)

TESTS = Path(__file__).resolve().parent
# Suites without any network; all others may talk to this machine only.
OFFLINE = ("unit", "property")


class SocketRefusedError(AssertionError):
    """A test opened a connection that its suite does not allow."""


@pytest.fixture(autouse=True)
def socket_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit and property tests connect to nothing; the other suites to loopback addresses only."""
    suite = request.path.relative_to(TESTS).parts[0]
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def judge(address: Any) -> None:
        if suite in OFFLINE or not _is_local(address):
            raise SocketRefusedError(f"a test of {suite}/ must not connect to {address!r}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        judge(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        judge(address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)


@pytest.fixture(autouse=True)
def no_unexpected_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that logs an error, asyncio's lost exceptions among them, unless marked ``logs_errors``."""
    yield
    if request.node.get_closest_marker("logs_errors") is not None:
        return
    records = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    unexpected = [f"{record.name}: {record.getMessage()}" for record in records]
    assert not unexpected, f"logged as errors: {unexpected}"


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
