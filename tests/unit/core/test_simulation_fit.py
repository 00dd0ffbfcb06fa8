"""Fitting a machine: from the account of a worker whose costs are known, they come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worker.core.batching import BatchLimits
from worker.core.flow import FlowLimits
from worker.core.simulation import Line, Load, Machine, Rules, poisson, simulate
from worker.core.simulation_fit import ROW_S, STAMP_S, Measured, fit

TRUTH = Machine(
    calls=((1, 0.00002), (512, 0.0003)),
    decode=Line(0.00003, 0.000002),
    handle=Line(0.00006, 0.0000015),
    cycle_s=0.0002,
    row_s=0.000003,
    fetch_s=0.0015,
    round_trips_s=(0.001, 0.0014, 0.002, 0.003, 0.006),
)
RULES = Rules(
    BatchLimits(512, 1 << 22, 0.005, None, (1, 8, 32, 128, 512)), FlowLimits(8192, 1 << 26, 16_384), 512, 0.001
)
CAPACITY = 1 / (0.000002 + 0.0000015 + 0.000003 + (0.00006 + 2 * 0.0002) / 512)


def _account(machine: Machine, load: Load) -> Measured:
    """What a worker on this machine would tell."""
    result = simulate(machine, RULES, load)
    records, batches = len(result.sent_at), result.sizes.total()
    engine_s, loop_s = (share * result.until_s for share in (result.engine_share, result.loop_share))
    handle_s = batches * machine.handle.fixed_s + records * machine.handle.per_row_s
    decode_s = loop_s - handle_s - records * machine.row_s - 2 * batches * machine.cycle_s
    spans = (decode_s - records * machine.decode.per_row_s) / machine.decode.fixed_s
    slope_s = (machine.calls[1][1] - machine.calls[0][1]) / (machine.calls[1][0] - machine.calls[0][0])
    return Measured(
        seconds=result.until_s,
        records=records,
        batches=batches,
        polls=spans,
        cpu_s=engine_s + loop_s,
        assemble_s=batches * 0.000005,
        call=Line(machine.calls[0][1] - slope_s - 0.000005, slope_s),
        decode=machine.decode,
        handle=machine.handle,
        produce_s=tuple(trip_s * 1.7 for trip_s in machine.round_trips_s),
        produce_mean_s=result.produce_mean_s,
        latency_mean_s=float(result.delivered_s.mean()) + STAMP_S,
    )


@pytest.fixture(scope="module")
def measured() -> Measured:
    """The account at 40 % of capacity."""
    return _account(TRUTH, poisson(0.4 * CAPACITY, 0.4, 8))


@pytest.fixture(scope="module")
def fitted(measured: Measured) -> Machine:
    """What the fit makes of it."""
    return fit(measured, RULES, poisson(0.4 * CAPACITY, 0.4, 8, seed=2), CAPACITY)


def test_costs_come_back(fitted: Machine) -> None:
    """What was learned is taken; round trips and the rest of the loop's work are found."""
    assert [rows for rows, _ in fitted.calls] == [1, 512]
    assert [took_s for _, took_s in fitted.calls] == pytest.approx([took_s for _, took_s in TRUTH.calls])
    assert (fitted.decode, fitted.handle) == (TRUTH.decode, TRUTH.handle)
    assert fitted.row_s == pytest.approx(TRUTH.row_s, rel=0.1)
    assert fitted.cycle_s == pytest.approx(TRUTH.cycle_s, rel=0.2)
    assert fitted.fetch_s == pytest.approx(TRUTH.fetch_s, rel=0.3)
    assert np.mean(fitted.round_trips_s) == pytest.approx(np.mean(TRUTH.round_trips_s), rel=0.15)


@pytest.mark.parametrize("share", [0.1, 0.7, 0.9])
def test_other_loads_are_predicted(fitted: Machine, share: float) -> None:
    """Within a quarter at the median and a third at the 99th percentile, at loads that the fit has not seen."""
    real = simulate(TRUTH, RULES, poisson(share * CAPACITY, 0.5, 8, seed=3)).appended_s
    predicted = simulate(fitted, RULES, poisson(share * CAPACITY, 0.5, 8, seed=4), 5).appended_s
    assert np.percentile(predicted, 50) == pytest.approx(np.percentile(real, 50), rel=0.25)
    assert np.percentile(predicted, 99) == pytest.approx(np.percentile(real, 99), rel=0.35)


SMALL = poisson(2000, 0.05, 2)


@pytest.mark.parametrize(
    ("changes", "capacity"),
    [
        ({}, None),
        ({"batches": 10.0, "records": 10 * 600.0}, CAPACITY),
        ({"call": Line(0.0, 0.001), "cpu_s": 100.0}, CAPACITY),
    ],
)
def test_without_a_telling_capacity_a_record_costs_the_usual(
    measured: Measured, changes: dict[str, float | Line], capacity: float | None
) -> None:
    """None given, batches as large as they get, or an engine that is the limit."""
    account = replace(measured, **changes)  # type: ignore[arg-type]  # fields of two types
    assert fit(account, RULES, SMALL, capacity).row_s == ROW_S


def test_work_that_is_not_there_is_not_invented(measured: Measured) -> None:
    """A process that spent less than its parts say has no other work, and no cost is negative."""
    machine = fit(replace(measured, cpu_s=0.0, latency_mean_s=0.0), RULES, SMALL, CAPACITY)
    assert (machine.row_s, machine.cycle_s) == (0.0, 0.0)
    assert machine.fetch_s > 0
    for capacity in (1.0, 1e9):
        machine = fit(measured, RULES, SMALL, capacity)
        assert machine.row_s >= 0
        assert machine.cycle_s >= 0
