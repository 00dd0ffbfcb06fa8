"""What the ledger knows of records whose place the broker did not tell."""

from __future__ import annotations

import pytest

from tests.chaos.account import NOTHING, Account
from tests.chaos.events import Load
from tests.chaos.ledger import Ledger

LANE = ("in", 0)


def _ledger() -> Ledger:
    return Ledger("127.0.0.1:1", ("out", "dlq"), [LANE], load=Load(1), rate=1)


@pytest.mark.parametrize("offset", [None, -1, -1001])
def test_a_record_without_a_place_takes_nobody_elses(offset: int | None) -> None:
    """It counts as written; what is known of other offsets stays."""
    ledger = _ledger()
    ledger.wrote(LANE, 8, 0)
    ledger.wrote(LANE, 9, offset)
    assert ledger.snapshot().written == 2
    assert ledger.marks() == {LANE: 1}
    assert ledger._accounts[LANE].written.tolist() == [8]


def test_records_are_placed_by_what_is_stored() -> None:
    """In the gaps, and behind the last one known."""
    account = Account()
    account.wrote(0, 5)
    account.wrote(2, 7)
    assert account.unknown(4) == [1, 3]
    account.place({1: b"six", 3: None}, {8: None, 6: b"six"})
    assert account.written.tolist() == [5, 6, 7, 8]


def test_a_record_that_is_nowhere_is_an_error() -> None:
    """The broker confirmed it; nothing is entered in its place."""
    account = Account()
    account.wrote(1, 7)
    with pytest.raises(LookupError, match="6"):
        account.place({0: b"other"}, {6: b"six"})
    assert account.written.tolist() == [NOTHING, 7]
