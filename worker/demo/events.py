"""Simulated transactions as the events that ``schemas/transaction.schema.json`` describes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.demo.simulator import START, Transactions
from worker.demo.windows import WINDOWS_DAYS

_CHANNELS = ("in_store", "online", "phone")
_ENTRY_MODES = ("chip", "contactless", "magstripe", "manual")
_MERCHANT_CATEGORIES = ("5411", "5541", "5812", "5912", "5999", None)

MODEL_FEATURES = (
    "amount",
    "is_weekend",
    "is_night",
    *(f"customer_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "mean_amount")),
    *(f"terminal_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "fraud_share")),
)

FIELDS = (
    *("transaction_id", "event_time", "customer_id", "terminal_id"),
    *("currency", "channel", "entry_mode", "merchant_category"),
    *MODEL_FEATURES,
)

_ENCODER = msgspec.json.Encoder()
_Event = msgspec.defstruct("_Event", FIELDS, frozen=True, gc=False)


def feature_columns(transactions: Transactions) -> dict[str, NDArray[np.generic]]:
    """The model's inputs in its order, one column each."""
    columns: dict[str, NDArray[np.generic]] = {
        "amount": transactions.amount,
        "is_weekend": transactions.is_weekend,
        "is_night": transactions.is_night,
        **transactions.features,
    }
    return {name: columns[name] for name in MODEL_FEATURES}


def feature_matrix(transactions: Transactions) -> NDArray[np.float32]:
    """The model's inputs as ``float32[len(transactions), 15]``, exactly as the worker would build them."""
    return np.column_stack([column.astype(np.float32) for column in feature_columns(transactions).values()])


def transaction_id(number: int) -> str:
    """The identity of the transaction with this running number."""
    return f"tx-{number:010d}"


def number_of(identity: str) -> int:
    """The running number in a transaction's identity; raises ValueError on anything else."""
    prefix, _, digits = identity.partition("-")
    if prefix != "tx":
        raise ValueError(identity)
    return int(digits)


def rows(transactions: Transactions, first_number: int = 0) -> Iterator[tuple[object, ...]]:
    """The values of ``FIELDS`` for each transaction, numbered from ``first_number``."""
    event_time = np.datetime_as_string(START + transactions.time_s.astype("timedelta64[s]"), unit="s")
    # The fields that no model reads need to look real and to repeat, nothing more.
    customer, terminal = transactions.customer, transactions.terminal
    return zip(
        map(transaction_id, range(first_number, first_number + len(transactions))),
        (f"{time}Z" for time in event_time.tolist()),
        (f"customer-{number:05d}" for number in customer.tolist()),
        (f"terminal-{number:05d}" for number in terminal.tolist()),
        ("EUR" for _ in range(len(transactions))),
        map(_CHANNELS.__getitem__, (terminal % len(_CHANNELS)).tolist()),
        map(
            _ENTRY_MODES.__getitem__,
            ((customer + terminal) % len(_ENTRY_MODES)).tolist(),
        ),
        map(
            _MERCHANT_CATEGORIES.__getitem__,
            (terminal % len(_MERCHANT_CATEGORIES)).tolist(),
        ),
        *(column.tolist() for column in feature_columns(transactions).values()),
        strict=True,
    )


def encode(transactions: Transactions, first_number: int = 0) -> list[bytes]:
    """Each transaction as the JSON value of a record, numbered from ``first_number``."""
    return [_ENCODER.encode(_Event(*row)) for row in rows(transactions, first_number)]


def keys(transactions: Transactions) -> list[bytes]:
    """The key of each record: its customer."""
    return [b"customer-%05d" % number for number in transactions.customer.tolist()]
