"""The simulator keeps the published rules, and its windowed features equal a plain count."""

from __future__ import annotations

import numpy as np
import pytest

from worker.demo import simulator
from worker.demo.simulator import DAY_S, START, Transactions, World
from worker.demo.windows import customer_windows, terminal_windows

SMALL = World(customers=300, terminals=600, side=25.0)


@pytest.fixture(scope="module")
def ledger() -> Transactions:
    """Sixty days of a small world."""
    return simulator.simulate(5, 60, SMALL)


def test_same_seed_gives_same_transactions(ledger: Transactions) -> None:
    """One seed determines every column; another seed gives another world."""
    again, other = simulator.simulate(5, 60, SMALL), simulator.simulate(6, 60, SMALL)
    for name in ("time_s", "customer", "terminal", "amount", "scenario"):
        np.testing.assert_array_equal(getattr(ledger, name), getattr(again, name))
    for name, column in ledger.features.items():
        np.testing.assert_array_equal(column, again.features[name])
    assert len(other) != len(ledger) or not np.array_equal(other.amount, ledger.amount)


def test_rates_follow_the_rules(ledger: Transactions) -> None:
    """Time ascends within the days, customers make about two transactions a day at few terminals, in cents."""
    assert (np.diff(ledger.time_s) >= 0).all()
    assert ledger.time_s[0] >= 0
    assert ledger.time_s[-1] < 60 * DAY_S
    assert len(ledger) / 60 / SMALL.customers == pytest.approx(1.93, abs=0.2)
    assert (ledger.amount >= 0).all()
    np.testing.assert_allclose(np.round(ledger.amount, 2), ledger.amount)
    # A circle of radius 5 holds about 75 of the terminals, fewer at the border.
    used = [len(np.unique(ledger.terminal[ledger.customer == customer])) for customer in range(50)]
    assert max(used) < 130


def test_large_honest_looking_amounts_are_frauds(ledger: Transactions) -> None:
    """No transaction above 220 passes as honest, and every scenario occurs."""
    assert ledger.amount[ledger.scenario == 0].max() <= 220
    assert (ledger.amount[ledger.scenario == 1] > 220).all()
    assert set(np.unique(ledger.scenario)) == {0, 1, 2, 3}


def test_published_share_of_fraud() -> None:
    """In the world of the published size, about 0.84 % of the transactions of half a year are frauds."""
    year_half = simulator.simulate(7, 183)
    assert (year_half.scenario > 0).mean() == pytest.approx(0.0084, abs=0.0008)
    assert len(year_half) / 183 == pytest.approx(9_586, rel=0.05)


def test_compromised_terminal_stays_so_for_four_weeks() -> None:
    """With one terminal struck a day, all of its transactions in 28 days are frauds and then none."""
    world = World(customers=200, terminals=5, side=5.0, compromised_terminals_per_day=1)
    ledger = simulator.simulate(3, 40, world)
    caught = np.array(
        [
            (ledger.scenario[(ledger.terminal == terminal) & (ledger.day == day)] >= 2).mean()
            for terminal in range(5)
            for day in range(28, 40)
        ]
    )
    assert (caught == 1).all()


def test_calendar_flags_follow_the_date(ledger: Transactions) -> None:
    """Weekend and night agree with the calendar date of the event time."""
    times = (START + ledger.time_s.astype("timedelta64[s]")).astype("datetime64[s]").tolist()
    assert ledger.is_weekend.tolist() == [time.weekday() >= 5 for time in times]
    assert ledger.is_night.tolist() == [time.hour <= 6 for time in times]


def test_customer_windows_equal_a_plain_count(ledger: Transactions) -> None:
    """Count and mean over the window, the current transaction included, for a sample of transactions."""
    windows = customer_windows(ledger.time_s, ledger.customer, ledger.amount)
    for index in range(0, len(ledger), 997):
        for days in (1, 7, 30):
            age = ledger.time_s[index] - ledger.time_s[: index + 1]
            inside = (ledger.customer[: index + 1] == ledger.customer[index]) & (age < days * DAY_S)
            assert windows[f"customer_count_{days}d"][index] == inside.sum()
            mean = ledger.amount[: index + 1][inside].mean()
            assert windows[f"customer_mean_amount_{days}d"][index] == pytest.approx(mean, abs=0.0051)


def test_terminal_windows_know_labels_a_week_late(ledger: Transactions) -> None:
    """Count and fraud share over the window that ended seven days before, for a sample of transactions."""
    fraud = ledger.scenario > 0
    windows = terminal_windows(ledger.time_s, ledger.terminal, fraud)
    for index in range(0, len(ledger), 997):
        for days in (1, 7, 30):
            age = ledger.time_s[index] - ledger.time_s
            same = ledger.terminal == ledger.terminal[index]
            inside = same & (age >= 7 * DAY_S) & (age < (7 + days) * DAY_S)
            assert windows[f"terminal_count_{days}d"][index] == inside.sum()
            share = fraud[inside].sum() / max(inside.sum(), 1)
            assert windows[f"terminal_fraud_share_{days}d"][index] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_replay_begins_after_the_warm_up(count: int) -> None:
    """Exactly as many transactions as asked for, the first at the end of the warm-up."""
    ledger = simulator.after_warm_up(11, count, SMALL)
    assert len(ledger) == count
    assert (ledger.day >= simulator.WARM_UP_DAYS).all()


def test_empty_world_gives_no_transactions() -> None:
    """Where no terminal is in reach, nobody spends and nothing breaks."""
    world = World(customers=3, terminals=1, side=1e6, compromised_terminals_per_day=1, compromised_customers_per_day=1)
    assert len(simulator.simulate(1, 3, world)) == 0
