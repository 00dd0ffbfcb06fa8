"""The simulator's predictions beside real runs: arrivals from a trace, errors, and what they may be."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.figures import Trace
from benchmarks.simulator.__main__ import _rules
from benchmarks.simulator.comparison import Row, load_of, predict, real, table
from worker.core.simulation import Line, Machine

MACHINE = Machine(((1, 0.001),), Line(0.0, 0.0), Line(0.0, 0.0), 0.0, 0.0, 0.002, (0.002, 0.002))


def test_arrivals_come_from_the_append_times() -> None:
    """Partitions take turns, what was appended together arrives together, and what never was is left out."""
    appended = np.array([1000.0, 1000.0, np.nan, 1003.0, 1001.0])
    load = load_of(Trace(np.arange(5.0), appended, appended, appended), 2, 77)
    assert load.partitions.tolist() == [0, 1, 0, 1]
    assert load.value_bytes == 77
    assert load.times_s[0] == load.times_s[1] == 0.0
    assert np.diff(load.times_s)[1:].tolist() == pytest.approx([0.001, 0.002], abs=0.001)
    assert np.all(np.diff(load.times_s) >= 0)


def test_a_prediction_leaves_out_the_warm_up() -> None:
    """Milliseconds from append to append: half a fetch, the call, half a round trip."""
    appended = np.array([1000.0, 2000.0, 3000.0])
    load = load_of(Trace(appended, appended, appended, appended), 1, 100)
    median, tail = predict(MACHINE, _rules(), load, 0.5)
    assert median == pytest.approx(tail)
    assert median == pytest.approx(1.0 + 1.0 + 0.05 + 1.0)


def test_a_real_run_is_read_off_its_trace() -> None:
    """The difference of the append times."""
    appended = np.zeros(100)
    assert real(Trace(appended, appended, appended + 7.0, appended)) == pytest.approx((7.0, 7.5), abs=0.02)


@pytest.mark.parametrize(
    ("predicted", "holds"),
    [((8.0, 20.0), True), ((10.0, 26.9), True), ((10.1, 20.0), False), ((8.0, 27.1), False), ((5.9, 20.0), False)],
)
def test_a_prediction_may_be_off_by_so_much(predicted: tuple[float, float], holds: bool) -> None:
    """A quarter at the median, 35 % at the 99th percentile, either way."""
    row = Row(0.7, 1000.0, (8.0, 20.0), predicted)
    assert row.holds is holds
    assert ("missed" in table([row])[1]) is not holds
    assert "70%" in table([row])[1]
