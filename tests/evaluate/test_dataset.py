"""Reading the weeks, and the events that are made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.evaluate import dataset
from benchmarks.evaluate.failure import EvaluationError
from tests.evaluate.weeks import made_up_week
from worker.core.decoder import Decoder
from worker.core.features import TensorSpec
from worker.core.schema import compile_schema


def save(week: dataset.Week, path: Path) -> None:
    """Write the week as a file like the real ones."""
    parquet.write_table(pa.table(week.columns), path)


def test_rows_are_put_in_the_order_of_ids(tmp_path: Path) -> None:
    """The file's order does not matter, and all columns move together."""
    week = made_up_week(5)
    shuffled = dataset.Week({name: values[[3, 0, 4, 1, 2]] for name, values in week.columns.items()})
    save(shuffled, tmp_path / "week.parquet")
    found = dataset.read_week(tmp_path, "week.parquet")
    assert found.identities == ["1000", "1001", "1002", "1003", "1004"]
    np.testing.assert_array_equal(found.features, week.features)
    np.testing.assert_array_equal(found.labels.fraud, week.labels.fraud)


def test_delay_week_needs_only_labels(tmp_path: Path) -> None:
    """A file without features is fine where only labels are asked for."""
    week = made_up_week(3)
    names = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TX_TIME_DAYS", "TX_FRAUD")
    save(dataset.Week({name: week.columns[name] for name in names}), tmp_path / "delay.parquet")
    found = dataset.read_week(tmp_path, "delay.parquet", labels_only=True)
    np.testing.assert_array_equal(found.labels.card, week.labels.card)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The error names file, folder and option."""
    with pytest.raises(EvaluationError, match=r"no week\.parquet in .*--data"):
        dataset.read_week(tmp_path, "week.parquet")


def test_missing_column_is_named(tmp_path: Path) -> None:
    """A file of another kind is refused by its columns."""
    columns = made_up_week(3).columns
    del columns["TX_AMOUNT"]
    save(dataset.Week(columns), tmp_path / "week.parquet")
    with pytest.raises(EvaluationError, match="lacks the columns TX_AMOUNT"):
        dataset.read_week(tmp_path, "week.parquet")


def test_empty_cell_is_refused(tmp_path: Path) -> None:
    """A row without one of its values cannot be scored, so the file is refused."""
    table = pa.table(made_up_week(2).columns)
    amounts = table.column_names.index("TX_AMOUNT")
    parquet.write_table(table.set_column(amounts, "TX_AMOUNT", [[1.0, None]]), tmp_path / "week.parquet")
    with pytest.raises(EvaluationError, match="empty cells in TX_AMOUNT"):
        dataset.read_week(tmp_path, "week.parquet")


def test_worker_decodes_events_to_the_same_features() -> None:
    """Every event passes its schema in full, and the tensor is bit for bit what scikit-learn is asked about."""
    week = made_up_week(40)
    inputs = (TensorSpec("features", "float32", (15,), dataset.FEATURES),)
    decoder = Decoder(compile_schema(dataset.event_schema()), inputs, dataset.ID_FIELD, (), full=True)
    decoded = decoder.decode([value for _, value in dataset.events(week)])
    assert decoded.refusals == {}
    np.testing.assert_array_equal(decoded.tensors[0], week.features)


def test_event_has_ids_as_strings_and_no_label() -> None:
    """The customer is the key; time is RFC 3339; counts are whole numbers; the label stays at home."""
    week = made_up_week(1)
    ((key, value),) = dataset.events(week)
    event = orjson.loads(value)
    assert event["TRANSACTION_ID"] == "1000"
    assert event["TX_DATETIME"] == "2018-07-25T00:00:00Z"
    assert event["CUSTOMER_ID"] == key.decode() == str(int(week.columns["CUSTOMER_ID"][0]))
    assert isinstance(event["CUSTOMER_ID_NB_TX_7DAY_WINDOW"], int)
    assert "TX_FRAUD" not in event
