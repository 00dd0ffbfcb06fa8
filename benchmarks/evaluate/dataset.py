"""Reads the three weeks of card transactions and turns them into features and events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet
from numpy.typing import NDArray

from benchmarks.evaluate.failure import EvaluationError
from benchmarks.evaluate.protocol import Labels

TRAINING_FILE = "train-2018-07-25_07-31.parquet"
DELAY_FILE = "delay-2018-08-01_08-07.parquet"
TEST_FILE = "test-2018-08-08_08-14.parquet"

ID_FIELD = "TRANSACTION_ID"
KEY_FIELD = "CUSTOMER_ID"
_DAY, _FRAUD, _TIME, _TERMINAL = "TX_TIME_DAYS", "TX_FRAUD", "TX_DATETIME", "TERMINAL_ID"
_WINDOWS = ("1DAY", "7DAY", "30DAY")
# In the order of the published experiments: a forest draws its columns by number.
FEATURES = (
    "TX_AMOUNT",
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    *(f"CUSTOMER_ID_{kind}_{window}_WINDOW" for window in _WINDOWS for kind in ("NB_TX", "AVG_AMOUNT")),
    *(f"TERMINAL_ID_{kind}_{window}_WINDOW" for window in _WINDOWS for kind in ("NB_TX", "RISK")),
)
_LABEL_COLUMNS = (ID_FIELD, KEY_FIELD, _DAY, _FRAUD)
_EVENT_COLUMNS = (ID_FIELD, _TIME, KEY_FIELD, _TERMINAL, "TX_TIME_SECONDS", _DAY, *FEATURES)
_IDENTITIES = frozenset({ID_FIELD, KEY_FIELD, _TERMINAL})
_WHOLE_NUMBER = re.compile(r"TX_TIME_.*|TX_DURING_.*|.*_NB_TX_.*")
_SHARE = re.compile(r"TX_DURING_.*|.*_RISK_.*")


@dataclass(frozen=True, slots=True)
class Week:
    """Transactions in the order of their ids; ``columns`` holds the file's columns, all of one length."""

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns[ID_FIELD])

    @property
    def labels(self) -> Labels:
        """Card, day and fraud of each row."""
        return Labels(
            self.columns[KEY_FIELD].astype(np.int64),
            self.columns[_DAY].astype(np.int64),
            self.columns[_FRAUD].astype(np.bool_),
        )

    @property
    def identities(self) -> list[str]:
        """The id of each row as its event has it."""
        return [str(number) for number in self.columns[ID_FIELD].tolist()]

    @property
    def features(self) -> NDArray[np.float32]:
        """What the worker makes of the events: ``float32[n, 15]``."""
        return np.column_stack([self.columns[name].astype(np.float32) for name in FEATURES])


def read_week(folder: Path, name: str, *, labels_only: bool = False) -> Week:
    """Read one file of the folder; raises EvaluationError where it is missing or lacks a column or a value."""
    path = folder / name
    if not path.is_file():
        raise EvaluationError(f"there is no {name} in {folder}: name the folder that holds the three weeks by --data")
    table = pyarrow.parquet.read_table(path)
    needed = _LABEL_COLUMNS if labels_only else (*_EVENT_COLUMNS, _FRAUD)
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise EvaluationError(f"{path} lacks the columns {', '.join(missing)}: it is not the file that is meant")
    empty = [column for column in needed if table.column(column).null_count]
    if empty:
        raise EvaluationError(f"{path} has empty cells in {', '.join(empty)}: every transaction needs all its values")
    columns = {column: table.column(column).to_numpy() for column in needed}
    # The order decides which rows a forest draws; the published figures belong to this one.
    order = np.argsort(columns[ID_FIELD], kind="stable")
    return Week({column: values[order] for column, values in columns.items()})


def events(week: Week) -> Iterator[tuple[bytes, bytes]]:
    """Key and JSON value of the record of each row: everything that is known when the card is used, no labels."""
    columns = [_event_column(name, week.columns[name]) for name in _EVENT_COLUMNS]
    key = _EVENT_COLUMNS.index(KEY_FIELD)
    for values in zip(*columns, strict=True):
        yield values[key].encode(), orjson.dumps(dict(zip(_EVENT_COLUMNS, values, strict=True)))


def event_schema() -> dict[str, Any]:
    """The JSON Schema of the events."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Card transaction of the evaluation",
        "type": "object",
        "required": list(_EVENT_COLUMNS),
        "properties": {name: _property(name) for name in _EVENT_COLUMNS},
    }


def _property(name: str) -> dict[str, Any]:
    if name in _IDENTITIES:
        return {"type": "string", "minLength": 1}
    if name == _TIME:
        return {"type": "string", "format": "date-time"}
    number = {"type": "integer" if _WHOLE_NUMBER.fullmatch(name) else "number", "minimum": 0}
    return number | {"maximum": 1} if _SHARE.fullmatch(name) else number


def _event_column(name: str, values: NDArray[Any]) -> list[Any]:
    if name in _IDENTITIES:
        return [str(number) for number in values.tolist()]
    if name == _TIME:
        return [f"{time}Z" for time in np.datetime_as_string(values, unit="s").tolist()]
    column: list[Any] = (values.astype(np.int64) if _WHOLE_NUMBER.fullmatch(name) else values).tolist()
    return column
