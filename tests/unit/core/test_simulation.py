"""The simulator: times that can be worked out by hand, and that it behaves like the worker that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worker.core.batching import BatchLimits
from worker.core.flow import FlowLimits
from worker.core.simulation import HAND_OVER_S, Line, Load, Machine, Result, Rules, poisson, simulate

MACHINE = Machine(
    calls=((1, 0.010), (3, 0.030)),
    decode=Line(0.001, 0.0001),
    handle=Line(0.002, 0.0002),
    cycle_s=0.004,
    row_s=0.002,
    fetch_s=0.2,
    round_trips_s=(0.1, 0.1),
)
FREE = Line(0.0, 0.0)
QUICK = Machine(((1, 0.001),), FREE, FREE, 0.0, 0.0, 0.0002, (0.0002, 0.0002))
FLOW = FlowLimits(1000, 1 << 30, 2000)
RULES = Rules(BatchLimits(8, 1 << 20, 0.5), FLOW, 512, 0.001)


def _load(*arrivals: tuple[float, int], value_bytes: int = 100) -> Load:
    times_s, partitions = zip(*arrivals, strict=True)
    return Load(np.array(times_s), np.array(partitions), value_bytes)


def _run(machine: Machine, rules: Rules, load: Load) -> Result:
    result = simulate(machine, rules, load)
    assert len(result.sent_at) == len(load.times_s) == sum(rows * n for rows, n in result.sizes.items())
    return result


def test_one_record_takes_the_sum_of_its_steps() -> None:
    """Half a fetch, for the request is waiting; poll, call, handling, sending; and half or all of a round trip."""
    result = _run(MACHINE, RULES, _load((1.0, 0)))
    loop_s = (0.004 + 0.0011 + 0.001) + 0.0022 + 0.001 + 0.004
    before_s = 0.1 + loop_s + 0.010 + HAND_OVER_S
    assert result.appended_s.tolist() == pytest.approx([before_s + 0.05])
    assert result.delivered_s.tolist() == pytest.approx([before_s + 0.1])
    assert result.produce_mean_s == pytest.approx(0.001 + 0.004 + 0.1)
    assert result.until_s == pytest.approx(1.0 + before_s + 0.1)
    assert result.loop_share == pytest.approx(loop_s / (before_s + 0.1))
    assert result.engine_share == pytest.approx(0.010 / (before_s + 0.1))
    assert (dict(result.sizes), dict(result.reasons)) == ({1: 1}, {"idle": 1})


@pytest.mark.parametrize(("rows", "call_s"), [(1, 0.010), (2, 0.020), (3, 0.030), (6, 0.060)])
def test_a_call_costs_what_its_size_does(rows: int, call_s: float) -> None:
    """Between the known sizes by interpolation, beyond them in proportion."""
    result = _run(MACHINE, RULES, _load(*[(1.0, 0)] * rows))
    assert result.engine_share * (result.until_s - 1.0) == pytest.approx(call_s)


def test_a_padded_call_costs_its_bucket() -> None:
    """Three rows cost four."""
    rules = replace(RULES, batch=BatchLimits(8, 1 << 20, 0.5, None, (4, 8), padded=True))
    result = _run(MACHINE, rules, _load(*[(1.0, 0)] * 3))
    assert result.engine_share * (result.until_s - 1.0) == pytest.approx(0.040)


def test_batches_grow_while_the_engine_is_busy() -> None:
    """The first record goes alone; what comes during its call goes together, over all partitions."""
    load = _load((1.0, 0), *[(1.0 + step / 1000, step % 3) for step in range(2, 7)])
    result = _run(replace(QUICK, calls=((1, 0.1),)), RULES, load)
    assert dict(result.sizes) == {1: 1, 5: 1}
    assert dict(result.reasons) == {"idle": 2}


def test_a_batch_that_waited_long_enough_is_prefetched() -> None:
    """The timer closes it while the engine is busy; one whose time is over when a place gets free has waited too."""
    rules = replace(RULES, batch=BatchLimits(8, 1 << 20, 0.01))
    load = _load((1.0, 0), (1.02, 0), (1.025, 1), (1.06, 0))
    result = _run(replace(QUICK, calls=((1, 0.1),)), rules, load)
    assert dict(result.reasons) == {"idle": 1, "delay": 2}
    assert dict(result.sizes) == {1: 2, 2: 1}
    assert (result.sent_at + result.delivered_s)[1:].tolist() == pytest.approx([1.3, 1.3, 1.4], abs=0.001)


def test_an_earlier_deadline_moves_the_timer() -> None:
    """By the objective a later record may be the more urgent one."""
    rules = replace(RULES, batch=BatchLimits(8, 1 << 20, 0.2, 0.15))
    load = _load((1.0, 0), (1.02, 0), (1.03, 0))
    result = _run(replace(QUICK, calls=((1, 0.5),)), rules, load)
    assert dict(result.reasons) == {"idle": 1, "age": 1}
    urgent = replace(load, times_s=np.array([1.0, 1.02, 1.02]))
    assert dict(_run(replace(QUICK, calls=((1, 0.5),)), rules, urgent).reasons) == {"idle": 1, "age": 1}


def test_outputs_gather_while_a_request_is_under_way() -> None:
    """The second and third record wait for the first one's round trip, and then share one."""
    machine = replace(QUICK, round_trips_s=(0.1, 0.1))
    result = _run(machine, RULES, _load((1.0, 0), (1.01, 0), (1.02, 0)))
    first, second, third = (result.sent_at + result.delivered_s).tolist()
    assert second == pytest.approx(first + 0.1)
    assert third == second


def test_a_request_takes_the_batches_of_all_partitions() -> None:
    """One is under way per broker, not one per partition."""
    machine = replace(QUICK, round_trips_s=(0.1, 0.1))
    result = _run(machine, RULES, _load((1.0, 0), (1.01, 1), (1.02, 2)))
    first, second, third = (result.sent_at + result.delivered_s).tolist()
    assert second == third == pytest.approx(first + 0.1)


def test_what_is_in_flight_is_bounded() -> None:
    """With a full house nothing is polled until there is room again."""
    rules = replace(RULES, flow=FlowLimits(8, 1 << 30, 100))
    result = _run(replace(QUICK, round_trips_s=(0.1, 0.1)), rules, _load(*[(1.0, 0)] * 32))
    ends = sorted(set(np.round(result.sent_at + result.delivered_s, 9).tolist()))
    assert len(ends) == 4
    assert np.diff(ends).min() > 0.1


def test_a_poll_takes_no_more_than_it_may() -> None:
    """Partitions have their turns, and what is left comes with the next poll."""
    rules = replace(RULES, max_poll=3, batch=BatchLimits(3, 1 << 20, 0.5))
    result = _run(QUICK, rules, _load(*[(1.0, step % 2) for step in range(8)]))
    assert max(result.sizes) == 3


def test_a_reader_that_is_behind_does_not_pause() -> None:
    """After a long answer the next fetch follows at once; after a short one there is the gathering pause."""
    for value_bytes, pause_s in ((100, 0.05), (70_000, 0.0)):
        rules = replace(RULES, gather_s=0.05)
        result = _run(QUICK, rules, _load((1.0, 0), (1.001, 0), value_bytes=value_bytes))
        late_s = result.delivered_s[1] - result.delivered_s[0]
        assert late_s == pytest.approx(pause_s, abs=0.002)


def test_a_partition_with_enough_unread_is_not_fetched() -> None:
    """It is fetched again once polls have taken of it, and nothing is lost."""
    rules = replace(RULES, max_poll=1, batch=BatchLimits(1, 1 << 20, 0.5))
    load = _load(*[(1.0, 0)] * 6, (1.005, 0), value_bytes=100_000)
    assert len(_run(QUICK, rules, load).sent_at) == 7


def test_the_same_seed_gives_the_same_result() -> None:
    """To the last digit; another one does not."""
    machine = replace(MACHINE, round_trips_s=(0.001, 0.002, 0.01), fetch_s=0.001)
    load = poisson(200, 1.0, 4)
    first, again, other = (simulate(machine, RULES, load, seed) for seed in (1, 1, 2))
    assert first.delivered_s.tolist() == again.delivered_s.tolist()
    assert first.reasons == again.reasons
    assert first.delivered_s.tolist() != other.delivered_s.tolist()


def test_the_learned_costs_close_batches() -> None:
    """The model is the real one: with an expensive row it prefetches what gains nothing more."""
    machine = replace(QUICK, calls=((1, 0.002), (64, 0.065)), handle=Line(0.0001, 0.00001))
    rules = replace(RULES, batch=BatchLimits(256, 1 << 20, 0.5, None, (1, 8, 32, 128, 256)))
    result = _run(machine, rules, poisson(970, 4.0, 4))
    assert result.reasons["no_gain"] > 0


def test_poisson_arrivals() -> None:
    """As many as the rate says, in order, over all partitions; a producer's tick hands them over together."""
    load = poisson(1000, 2.0, 4, value_bytes=7)
    assert len(load.times_s) == 2000
    assert load.value_bytes == 7
    assert np.all(np.diff(load.times_s) >= 0)
    assert (load.times_s.min() >= 0, load.times_s.max() < 2.0) == (True, True)
    assert set(load.partitions.tolist()) == {0, 1, 2, 3}
    assert load.times_s.tolist() == poisson(1000, 2.0, 4).times_s.tolist()
    assert load.times_s.tolist() != poisson(1000, 2.0, 4, seed=2).times_s.tolist()
    ticks = poisson(1000, 2.0, 4, tick_s=0.1).times_s
    assert len(set(ticks.round(6).tolist())) == 20
    assert np.all(ticks >= load.times_s)
    assert len(poisson(0.001, 1.0, 1).times_s) == 1
