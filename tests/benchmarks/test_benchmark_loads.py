"""What is made of an open loop that was observed; the observation is made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import loads
from benchmarks.harness.bench import Case
from benchmarks.harness.figures import Trace
from benchmarks.harness.loops import Observation
from benchmarks.harness.pauses import Pause
from benchmarks.systems import EXACTLY, LEAST, entry
from benchmarks.workloads import WORKLOADS, Pool
from tests.benchmarks.samples import CLEAN

RATE, START_MS = 100.0, 1_000_000.0
POOL = Pool(Path(), [b"key"], [b'"x":1}'], np.zeros(1, np.float32), "score")


class Usage:
    """1 MiB per second of the plan, and 30 ms stolen in the second window of the long run."""

    @staticmethod
    def rss_mib_at(_name: str, at_ms: float) -> float:
        """Memory that grows."""
        return (at_ms - START_MS) / 1000

    @staticmethod
    def stolen_ms(start_ms: float, stop_ms: float) -> float:
        """Taken at 16 s."""
        return 30.0 * (start_ms <= START_MS + 16_000 < stop_ms)

    @staticmethod
    def peak_rss_mib(_name: str) -> float:
        """The largest."""
        return 99.0

    @staticmethod
    def cpu_us_per_event(_name: str, _start_ms: float, _stop_ms: float, _events: int) -> float:
        """Always the same."""
        return 7.0


def observed(looks: list[Any], seconds: float, delay_ms: float) -> Observation:
    """Events at ``RATE``: appended 2 ms after their plan, put out ``delay_ms`` later, read another 3 ms later."""
    planned = START_MS + np.arange(seconds * RATE) * 1000 / RATE
    trace = Trace(planned, planned + 2, planned + 2 + delay_ms, planned + 5 + delay_ms)
    usage: Any = Usage()
    return Observation(trace, usage, CLEAN, START_MS, looks)


def beats(within_ms: int, slower: int) -> dict[str, float]:
    """Heartbeats so far: delayed by at most 1 ms, and by at most 50 ms; one batch of four per beat."""
    count = float(within_ms + slower)
    batches = {"reason|idle": count, "size|+Inf": count, "records": 4 * count}
    return {"loop|0.001": float(within_ms), "loop|0.05": count, "loop|+Inf": count} | batches


@pytest.fixture
def bench() -> Any:
    """A broker that stood still for 12 ms, 17 s after the plan began."""
    return SimpleNamespace(cluster=SimpleNamespace(pauses=lambda: [Pause(START_MS + 17_000, 12.0)]))


def test_long_run_is_cut_into_windows_with_what_happened_in_each(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen seconds after the warm-up are three windows; pauses stand beside the latency of their own."""
    looks = [beats(40, 0), beats(60, 0), beats(79, 1), None]
    asked: list[Any] = []

    def observe(*given: Any, **more: Any) -> Observation:
        asked.append((given[2:], more))
        return observed(looks, 25.0, 5.0)

    monkeypatch.setattr(loads, "observe", observe)
    found = loads.long_run(bench, Case(entry(LEAST), WORKLOADS["fraud"], POOL), RATE, 0.25)
    assert asked == [(([(RATE, 25.0)], [10.0, 15.0, 20.0, 25.0]), {"keep_all": False})]
    assert [window.at_s for window in found.windows] == [10.0, 15.0, 20.0]
    assert [window.loop_pause_ms for window in found.windows] == [1.0, 50.0, None]
    assert [window.broker_pause_ms for window in found.windows] == [0.0, 12.0, 0.0]
    assert [window.stolen_ms for window in found.windows] == [0.0, 30.0, 0.0]
    assert [window.rss_mib for window in found.windows] == [15.0, 20.0, 25.0]
    assert [window.latency.largest for window in found.windows] == [5.0, 5.0, 5.0]
    assert found.why_not_held == ""


def test_a_long_run_too_short_to_be_one_is_refused(bench: Any) -> None:
    """One window shows neither drift nor stall."""
    with pytest.raises(ValueError, match="less than two windows"):
        loads.long_run(bench, Case(entry(LEAST), WORKLOADS["fraud"], POOL), RATE, 0.1)


@pytest.mark.parametrize(("name", "seen_ms"), [(LEAST, 5.0), (EXACTLY, 8.0)])
def test_latency_is_what_readers_have(name: str, seen_ms: float, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the append, or with transactions to the arrival; from the planned send it is 2 and 3 ms more."""
    monkeypatch.setattr(loads, "observe", lambda *_: observed([beats(1, 0), beats(11, 0)], 13.0, 5.0))
    found = loads.latency(bench, Case(entry(name), WORKLOADS["fraud"], POOL), "100/s", 2, RATE, 10.0)
    assert (found.repetition, found.appended.largest, found.seen.largest, found.planned.largest) == (2, 5.0, 8.0, 10.0)
    assert found.histogram == [(int(seen_ms), 1000)]
    assert found.batches is not None
    assert (found.batches.by_reason, found.batches.records) == ({"idle": 10}, 40.0)
    assert found.why_not_held == ""


def test_without_metrics_there_are_no_batches(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that got no answer is no figure."""
    monkeypatch.setattr(loads, "observe", lambda *_: observed([None, beats(11, 0)], 13.0, 5.0))
    found = loads.latency(bench, Case(entry(LEAST), WORKLOADS["fraud"], POOL), "100/s", 1, RATE, 10.0)
    assert found.batches is None
