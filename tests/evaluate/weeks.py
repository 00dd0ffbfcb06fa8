"""Small made-up weeks in the shape of the real files."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.evaluate.dataset import FEATURES, Week


def made_up_week(rows: int, seed: int = 0) -> Week:
    """Random transactions, one a minute, a tenth of them frauds with high amounts; the dtypes are the files'."""
    random = np.random.default_rng(seed)
    fraud = random.random(rows) < 0.1
    start = np.datetime64("2018-07-25T00:00:00", "ns")
    columns: dict[str, Any] = {
        "TRANSACTION_ID": np.arange(1000, 1000 + rows, dtype=np.int32),
        "TX_DATETIME": start + np.arange(rows) * np.timedelta64(60, "s"),
        "CUSTOMER_ID": random.integers(0, 50, rows).astype(np.int16),
        "TERMINAL_ID": random.integers(0, 90, rows).astype(np.int16),
        "TX_TIME_SECONDS": np.arange(rows, dtype=np.int32) * 60,
        "TX_TIME_DAYS": (np.arange(rows) // 1440).astype(np.int8),
        "TX_FRAUD": fraud.astype(np.int8),
    }
    for name in FEATURES:
        if name == "TX_AMOUNT":
            columns[name] = np.round(random.uniform(1, 100, rows) + 80 * fraud, 2)
        elif name.startswith("TX_DURING"):
            columns[name] = random.integers(0, 2, rows).astype(np.int8)
        elif "_NB_TX_" in name:
            columns[name] = random.integers(1, 40, rows).astype(np.float64)
        else:
            columns[name] = random.random(rows) * (1 if "_RISK_" in name else 100)
    return Week(columns)
