"""The verdict of the soak: noise is forgiven, growth is not."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace

import pytest

from tests.soak.steadiness import COUNTED, MEBIBYTE, Sample, broken_promises, reading, rss_slope_mib

STEADY = [Sample(5.0 * at, 130 * MEBIBYTE + at % 7 * 65536, 30 + at % 3, 9, 30, 7) for at in range(300)]


def test_a_worker_that_goes_up_and_down_is_steady() -> None:
    """Readings that come back to where they were are no growth."""
    assert broken_promises(STEADY) == []
    assert abs(rss_slope_mib(STEADY)) < 0.1


def test_memory_that_grows_is_found() -> None:
    """Two mebibytes in ten minutes are twice what is allowed."""
    growing = [replace(one, rss_bytes=one.rss_bytes + int(one.at_s / 600 * 2 * MEBIBYTE)) for one in STEADY]
    assert rss_slope_mib(growing) == pytest.approx(2.0, abs=0.1)
    (text,) = broken_promises(growing)
    assert text.startswith("the resident memory grew by 2.")


@pytest.mark.parametrize("name", COUNTED)
def test_a_count_that_grows_is_found(name: str) -> None:
    """One leaked task, socket, file or thread in every rebalance shows."""
    growing = [replace(one, **{name: getattr(one, name) + int(one.at_s // 20)}) for one in STEADY]
    (text,) = broken_promises(growing)
    assert text.startswith(f"{name} grew from ")


def test_a_reading_counts_what_the_process_has() -> None:
    """A socket and a thread more are seen as such."""
    before = reading(os.getpid(), 0.0, 3)
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    with socket.socket():
        thread.start()
        after = reading(os.getpid(), 1.0, 3)
        gate.set()
        thread.join()
    assert (after.sockets - before.sockets, after.threads - before.threads) == (1, 1)
    assert after.rss_bytes > 10 * MEBIBYTE
