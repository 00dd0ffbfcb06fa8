"""The gate: closed at a high mark, open again below the low one, never more room than any limit leaves."""

from __future__ import annotations

import pytest

from worker.core.flow import LOW_SHARE, FlowGate, FlowLimits

LIMITS = FlowLimits(max_in_flight_records=100, max_in_flight_bytes=1000, max_uncommitted_records=150)


def test_an_empty_worker_has_room_for_the_record_limit() -> None:
    """Nothing in flight leaves all of the high mark."""
    assert FlowGate(LIMITS).room(0, 0, 0) == 100


@pytest.mark.parametrize(
    ("records", "size_bytes", "uncommitted", "room"),
    [
        (99, 0, 99, 1),
        (100, 0, 100, 0),
        (101, 0, 101, 0),
        (10, 999, 10, 90),
        (10, 1000, 10, 0),
        (10, 0, 60, 90),
        (10, 0, 61, 89),
        (10, 0, 149, 1),
        (10, 0, 150, 0),
    ],
)
def test_each_limit_closes_the_gate_when_reached(records: int, size_bytes: int, uncommitted: int, room: int) -> None:
    """Room is what the tighter of the record limits leaves; at any limit there is none."""
    assert FlowGate(LIMITS).room(records, size_bytes, uncommitted) == room


def test_a_closed_gate_opens_below_the_low_mark_of_records() -> None:
    """Between the marks a closed gate stays closed and an open one stays open."""
    gate = FlowGate(LIMITS)
    assert LOW_SHARE == 0.75
    assert [gate.room(records, 0, records) for records in (90, 100, 90, 75, 74, 90)] == [10, 0, 0, 0, 26, 10]


def test_a_closed_gate_opens_below_the_low_mark_of_bytes() -> None:
    """Bytes have a low mark of their own."""
    gate = FlowGate(LIMITS)
    assert [gate.room(1, size_bytes, 1) for size_bytes in (1000, 999, 750, 749, 999)] == [0, 0, 0, 99, 99]


def test_uncommitted_records_have_no_low_mark() -> None:
    """A commit frees room at once, however little it covers."""
    gate = FlowGate(LIMITS)
    assert [gate.room(1, 0, uncommitted) for uncommitted in (150, 149)] == [0, 1]


@pytest.mark.parametrize(
    ("records", "uncommitted", "starved"), [(25, 150, True), (26, 150, False), (0, 149, False), (0, 151, True)]
)
def test_a_gate_that_only_a_commit_opens_starves_the_engine(records: int, uncommitted: int, starved: bool) -> None:
    """Once a quarter of the mark is left in flight, or less."""
    assert FlowGate(LIMITS).starved(records, uncommitted) == starved


def test_uncommitted_records_at_their_limit_close_the_gate() -> None:
    """Closed, the gate stays closed until the records in flight are below their low mark."""
    gate = FlowGate(LIMITS)
    assert [gate.room(80, 0, uncommitted) for uncommitted in (149, 150, 149)] == [1, 0, 0]


def test_a_limit_of_one_record_still_lets_records_pass() -> None:
    """The smallest limits alternate between one record and none."""
    gate = FlowGate(FlowLimits(1, 1, 1))
    assert [gate.room(*state) for state in ((0, 0, 0), (1, 1, 1), (0, 0, 1), (0, 0, 0))] == [1, 0, 0, 1]
