"""Synthetic card transactions: customers spend at terminals near them, and some of it is fraud.

Written from the published rules of the transaction simulator in the Fraud Detection Handbook; code and random
streams are our own. Everything is a column, and one seed determines every number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.demo.windows import customer_windows, terminal_windows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

DAY_S = 86_400
# A Wednesday; only the day of the week matters.
START = np.datetime64("2025-01-01T00:00:00", "s")
_START_WEEKDAY = 2

# Terminal windows look back 7 + 30 days and compromised terminals stay so for 28: after 45 days the world is steady.
WARM_UP_DAYS = 45
# The shipped model was trained on this world, so nothing else may use it: scores on it would flatter the model.
TRAINING_SEED = 90_210

_SATURDAY = 5
_LAST_HOUR_OF_NIGHT = 6
_LARGE_AMOUNT = 220.0
_TERMINAL_SPELL_DAYS = 28
_CUSTOMER_SPELL_DAYS = 14
_CUSTOMER_FACTOR = 5.0


@dataclass(frozen=True, slots=True)
class World:
    """How many customers and terminals there are, on a square of side ``side``, and how fast fraud strikes."""

    customers: int = 5_000
    terminals: int = 10_000
    side: float = 100.0
    radius: float = 5.0
    compromised_terminals_per_day: int = 2
    compromised_customers_per_day: int = 3


@dataclass(frozen=True, slots=True)
class Transactions:
    """Transactions in order of time, one entry per transaction in every column.

    ``time_s`` counts whole seconds from ``START``; ``amount`` is in currency units, rounded to cents;
    ``scenario`` is 0 for honest use, else the fraud scenario 1, 2 or 3; ``features`` maps each windowed feature
    to its column, counts as int64, means and shares as float64.
    """

    time_s: Integers
    customer: Integers
    terminal: Integers
    amount: Floats
    scenario: NDArray[np.int8]
    features: dict[str, Integers | Floats]

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def day(self) -> Integers:
        """Whole days since ``START``."""
        return self.time_s // DAY_S

    @property
    def is_weekend(self) -> Booleans:
        """Saturday or Sunday."""
        return (self.day + _START_WEEKDAY) % 7 >= _SATURDAY

    @property
    def is_night(self) -> Booleans:
        """From 00:00 up to and including 06:59."""
        return self.time_s % DAY_S // 3_600 <= _LAST_HOUR_OF_NIGHT

    def part(self, chosen: slice) -> Transactions:
        """The transactions in ``chosen``; features stay as they were computed with the whole history."""
        return Transactions(
            self.time_s[chosen],
            self.customer[chosen],
            self.terminal[chosen],
            self.amount[chosen],
            self.scenario[chosen],
            {name: column[chosen] for name, column in self.features.items()},
        )


def simulate(seed: int, days: int, world: World | None = None) -> Transactions:
    """All transactions of ``days`` days, frauds and features included; the same seed gives the same columns.

    The first ``WARM_UP_DAYS`` have short histories: leave them out of training and replay.
    """
    world = world or World()
    people, spending, fraud = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3))
    time_s, customer, terminal, amount = _spend(world, days, people, spending)
    scenario = np.zeros(len(time_s), np.int8)
    scenario[amount > _LARGE_AMOUNT] = 1
    day = time_s // DAY_S
    scenario[_compromised_terminals(world, days, fraud)[terminal, day]] = 2
    stolen = _stolen_cards(world, days, customer, day, fraud)
    scenario[stolen] = 3
    amount[stolen] = np.round(amount[stolen] * _CUSTOMER_FACTOR, 2)
    features = customer_windows(time_s, customer, amount) | terminal_windows(time_s, terminal, scenario > 0)
    return Transactions(time_s, customer, terminal, amount, scenario, features)


def after_warm_up(seed: int, count: int, world: World | None = None) -> Transactions:
    """The first ``count`` transactions after the warm-up, simulating as many days as that takes."""
    world = world or World()
    # The mean customer makes two transactions a day, of which about three per cent fall outside the day.
    days = WARM_UP_DAYS + 2 + int(count / (world.customers * 1.8))
    while True:
        everything = simulate(seed, days, world)
        first = int(np.searchsorted(everything.time_s, WARM_UP_DAYS * DAY_S))
        if len(everything) - first >= count:
            return everything.part(slice(first, first + count))
        days += 2 + days // 4


def _spend(
    world: World, days: int, people: np.random.Generator, spending: np.random.Generator
) -> tuple[Integers, Integers, Integers, Floats]:
    """Honest transactions in order of time: second, customer, terminal, amount."""
    near, first, degree = _terminals_in_reach(world, people)
    mean_amount = people.uniform(5, 100, world.customers)
    per_day = people.uniform(0, 4, world.customers)
    # Nobody shops where no terminal is near.
    per_day[degree == 0] = 0
    count = spending.poisson(per_day[:, None], (world.customers, days)).ravel()
    slot = np.repeat(np.arange(count.size), count)
    second = spending.normal(DAY_S / 2, 20_000, slot.size)
    slot, second = (
        slot[(second > 0) & (second < DAY_S)],
        second[(second > 0) & (second < DAY_S)],
    )
    customer, day = np.divmod(slot, days)
    amount = spending.normal(mean_amount[customer], mean_amount[customer] / 2)
    amount = np.where(amount < 0, spending.uniform(0, 2 * mean_amount[customer]), amount)
    pick = (spending.random(slot.size) * degree[customer]).astype(np.int64)
    terminal = near[first[customer] + pick]
    time_s = day * DAY_S + second.astype(np.int64)
    order = np.argsort(time_s, kind="stable")
    return time_s[order], customer[order], terminal[order], np.round(amount[order], 2)


def _terminals_in_reach(world: World, people: np.random.Generator) -> tuple[Integers, Integers, Integers]:
    """Terminals within ``radius`` of each customer: all in one array, where each customer's begin, how many."""
    home = people.uniform(0, world.side, (world.customers, 2)).astype(np.float32)
    place = people.uniform(0, world.side, (world.terminals, 2)).astype(np.float32)
    degree = np.empty(world.customers, np.int64)
    near: list[Integers] = []
    # In blocks, so that the distance matrix stays within a few megabytes.
    for start in range(0, world.customers, 250):
        block = home[start : start + 250]
        apart = np.square(block[:, :1] - place[:, 0]) + np.square(block[:, 1:] - place[:, 1])
        row, column = np.nonzero(apart < world.radius**2)
        degree[start : start + 250] = np.bincount(row, minlength=len(block))
        near.append(column)
    return np.concatenate(near), np.cumsum(degree) - degree, degree


def _compromised_terminals(world: World, days: int, fraud: np.random.Generator) -> Booleans:
    """Scenario 2, ``[terminals, days]``: whether every transaction there on that day is a fraud."""
    compromised = np.zeros((world.terminals, days), np.bool_)
    for day in range(days):
        struck = fraud.choice(world.terminals, world.compromised_terminals_per_day, replace=False)
        compromised[struck, day : day + _TERMINAL_SPELL_DAYS] = True
    return compromised


def _stolen_cards(
    world: World,
    days: int,
    customer: Integers,
    day: Integers,
    fraud: np.random.Generator,
) -> Integers:
    """Scenario 3: transactions made with stolen card data, a third of those in each spell, each one once."""
    order = np.argsort(customer, kind="stable")
    # Within a customer the days ascend, so this key ascends over everything.
    key = customer[order] * days + day[order]
    stolen: list[Integers] = []
    for today in range(days):
        for victim in fraud.choice(world.customers, world.compromised_customers_per_day, replace=False):
            start = victim * days + today
            end = victim * days + min(today + _CUSTOMER_SPELL_DAYS, days)
            low, high = np.searchsorted(key, [start, end])
            stolen.append(fraud.choice(order[low:high], (high - low) // 3, replace=False))
    return np.unique(np.concatenate(stolen)) if stolen else np.empty(0, np.int64)
