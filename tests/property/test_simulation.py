"""The simulator under any load and machine: nothing lost, nothing early, order kept, the same again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.batching import BatchLimits
from worker.core.flow import FlowLimits
from worker.core.simulation import Line, Load, Machine, Rules, simulate

costs = st.floats(0.0, 0.01)
lines = st.builds(Line, costs, st.floats(0.0, 0.001))
machines = st.builds(
    Machine,
    st.lists(costs, min_size=2, max_size=2).map(lambda pair: ((1, min(pair)), (16, max(pair)))),
    lines,
    lines,
    costs,
    st.floats(0.0, 0.001),
    st.floats(0.0001, 0.01),
    st.lists(st.floats(0.0001, 0.02), min_size=2, max_size=5).map(lambda trips: tuple(sorted(trips))),
)
rules = st.builds(
    lambda size, flow, slo_s, padded, gather_s: Rules(
        BatchLimits(size, 1 << 20, 0.005, slo_s, (1, *([4] if size > 4 else []), size)[-2:], padded),
        FlowLimits(max(flow, size), 1 << 26, 2 * max(flow, size)),
        max(size, 8),
        gather_s,
    ),
    st.integers(2, 16),
    st.integers(2, 40),
    st.none() | st.floats(0.001, 0.1),
    st.booleans(),
    st.sampled_from([0.0, 0.001]),
)
loads = st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(0, 3)), min_size=1, max_size=80).map(
    lambda arrivals: Load(np.array([at for at, _ in sorted(arrivals)]), np.array([one for _, one in sorted(arrivals)]))
)


@given(machines, rules, loads)
@settings(deadline=None, max_examples=60)
def test_every_record_comes_out_once_and_in_order(machine: Machine, rules: Rules, load: Load) -> None:
    """As many as came in, none before its steps can have been taken, and a repetition gives the same."""
    result = simulate(machine, rules, load)
    assert sorted(result.sent_at.tolist()) == load.times_s.tolist()
    assert sum(rows * count for rows, count in result.sizes.items()) == len(load.times_s)
    assert max(result.sizes) <= rules.batch.max_batch_size
    assert result.sizes.total() == result.reasons.total()
    least_s = machine.calls[0][1] + machine.round_trips_s[0]
    assert np.all(result.delivered_s >= least_s)
    assert np.all(result.appended_s < result.delivered_s)
    ends = result.sent_at + result.delivered_s
    assert np.all(np.diff(ends) >= -1e-9)
    for partition in set(load.partitions.tolist()):
        assert np.isin(load.times_s[load.partitions == partition], result.sent_at).all()
    again = simulate(machine, rules, load)
    assert again.delivered_s.tolist() == result.delivered_s.tolist()
