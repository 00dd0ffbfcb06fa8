"""Two test processes that choose at the same moment never choose the same port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.kafka import processes

CHOOSER = "from tests.kafka.processes import free_ports; print(free_ports(1)[0], flush=True); input()"


@pytest.fixture
def port_of_another() -> Iterator[int]:
    """A port that another process was given and has not bound yet."""
    with subprocess.Popen(
        [sys.executable, "-c", CHOOSER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as chooser:
        assert chooser.stdout
        yield int(chooser.stdout.readline())


def test_a_port_given_to_another_process_is_not_given_again(
    port_of_another: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draw in both processes: the second takes its next one."""
    first = processes.BELOW_EPHEMERAL.index(port_of_another)
    draws = iter([first, *range(first + 1, len(processes.BELOW_EPHEMERAL)), *range(first)])
    monkeypatch.setattr("secrets.randbelow", lambda _: next(draws))
    assert processes.free_ports(1) != [port_of_another]


def test_a_process_can_be_given_more_ports_than_it_claims() -> None:
    """All of them differ, and the claims stay few."""
    ports = processes.free_ports(processes.CLAIMS + 10)
    assert len(set(ports)) == len(ports)
    assert len(processes._claims) == processes.CLAIMS
