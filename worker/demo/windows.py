"""Windowed features of a ledger of transactions, in one pass per window and without a loop over transactions."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Values = TypeVar("Values", Integers, Floats)

DAY_S = 86_400
WINDOWS_DAYS = (1, 7, 30)
# Frauds become known a week after they happened.
LABEL_DELAY_DAYS = 7


def customer_windows(time_s: Integers, customer: Integers, amount: Floats) -> dict[str, Integers | Floats]:
    """Count and mean amount of the customer's transactions in ``(t - window, t]``, the current one included.

    ``time_s`` must ascend. Transactions of the same second count in the order they stand.
    """
    order, key, span = _by_owner(time_s, customer)
    total = _running_sum(amount[order])
    last = np.arange(1, len(order) + 1)
    features: dict[str, Integers | Floats] = {}
    for days in WINDOWS_DAYS:
        first = _first_after(key, key - days * DAY_S, customer[order] * span)
        count = last - first
        features[f"customer_count_{days}d"] = _back(order, count)
        features[f"customer_mean_amount_{days}d"] = np.round(_back(order, (total[last] - total[first]) / count), 2)
    return features


def terminal_windows(time_s: Integers, terminal: Integers, fraud: NDArray[np.bool_]) -> dict[str, Integers | Floats]:
    """Count and fraud share of the terminal's transactions in the window that ended ``LABEL_DELAY_DAYS`` ago.

    ``time_s`` must ascend. The share is 0 where the window is empty.
    """
    order, key, span = _by_owner(time_s, terminal)
    total = _running_sum(fraud[order].astype(np.int64))
    owner = terminal[order] * span
    last = _first_after(key, key - LABEL_DELAY_DAYS * DAY_S, owner)
    features: dict[str, Integers | Floats] = {}
    for days in WINDOWS_DAYS:
        first = _first_after(key, key - (LABEL_DELAY_DAYS + days) * DAY_S, owner)
        count = last - first
        share = (total[last] - total[first]) / np.maximum(count, 1)
        features[f"terminal_count_{days}d"] = _back(order, count)
        features[f"terminal_fraud_share_{days}d"] = np.round(_back(order, share), 6)
    return features


def _by_owner(time_s: Integers, owner: Integers) -> tuple[Integers, Integers, int]:
    """The order that groups by owner, a key that ascends in it, and how far apart two owners' keys begin."""
    order = np.argsort(owner, kind="stable")
    span = int(time_s.max(initial=0)) + 1
    return order, owner[order] * span + time_s[order], span


def _first_after(key: Integers, bound: Integers, owner_start: Integers) -> Integers:
    """Index of each owner's first transaction later than ``bound``, never one of the owner before."""
    return np.searchsorted(key, np.maximum(bound, owner_start - 1), side="right")


def _running_sum(values: NDArray[np.float64] | NDArray[np.int64]) -> Floats:
    """Sums of all prefixes, the empty one first."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _back(order: Integers, values: Values) -> Values:
    """``values``, which stand in ``order``, put back into the order of time."""
    result = np.empty_like(values)
    result[order] = values
    return result
