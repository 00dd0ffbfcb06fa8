"""The brakes: what stops a partition, what does not, and how it gets going again."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.brakes import HEALTHY_WINDOWS, MAX_RETRY_S, BrakeLimits, Brakes, BrakeState
from worker.core.records import Block, Decoded, Slice, Span, TopicPartition

TP, OTHER = TopicPartition("in", 0), TopicPartition("in", 1)
LIMITS = BrakeLimits(max_share=0.5, window_records=10, max_in_a_row=5, retry_s=5.0)
_OFFSETS = count()


def span_of(rows: int, tp: TopicPartition = TP) -> Slice:
    """A slice over a whole span of so many records."""
    nothing: list[bytes | None] = [None] * rows
    offsets = [next(_OFFSETS) for _ in range(rows)]
    span = Span(tp, 1, offsets, [0] * rows, nothing, nothing, [()] * rows)
    return Slice(Block(span, Decoded((np.empty(rows),), [], {})), 0, rows)


def admit(brakes: Brakes, verdicts: str, tp: TopicPartition = TP) -> Slice:
    """Receive a record per letter and judge those that are ``-`` refused, ``+`` passed, ``o`` passed over."""
    rows = span_of(len(verdicts), tp)
    brakes.received(rows.span)
    judge(brakes, rows, verdicts)
    return rows


def judge(brakes: Brakes, rows: Slice, verdicts: str, start: int = 0) -> None:
    """Give the verdicts one by one; ``?`` leaves a row open."""
    calls = {"-": brakes.refused, "+": brakes.passed, "o": brakes.passed_over}
    for at, verdict in enumerate(verdicts, start):
        if verdict != "?":
            calls[verdict](Slice(rows.block, at, at + 1))


def running(limits: BrakeLimits = LIMITS) -> Brakes:
    """Brakes with both partitions assigned."""
    brakes = Brakes(limits)
    brakes.assigned([TP, OTHER])
    return brakes


def stopped(limits: BrakeLimits = LIMITS) -> Brakes:
    """Brakes that have just stopped the first partition."""
    brakes = running(limits)
    admit(brakes, "-----")
    assert TP in brakes.stopped()
    return brakes


def test_refused_records_in_a_row_stop_their_partition_alone() -> None:
    """The limit is reached with the last of N, names itself, and holds for this partition only."""
    brakes = running()
    admit(brakes, "----")
    admit(brakes, "--+--", OTHER)
    assert not brakes.stopped()
    admit(brakes, "-")
    assert list(brakes.stopped()) == [TP]
    stop = brakes.stopped()[TP]
    assert (stop.state, stop.limit, stop.cause) == (BrakeState.STOPPED, "in_a_row", "5 records in a row were refused")
    assert brakes.trips == {"share": 0, "in_a_row": 1}


def test_one_good_record_ends_the_row() -> None:
    """A passed record starts the count anew; one that was passed over does not."""
    brakes = running()
    admit(brakes, "----+----")
    assert not brakes.stopped()
    admit(brakes, "o-")
    assert TP in brakes.stopped()


def test_more_than_the_share_of_a_full_window_stops() -> None:
    """Half of the window is not more than half; nothing is judged before the window is full."""
    brakes = running()
    admit(brakes, "--+--+--+")
    assert not brakes.stopped()
    admit(brakes, "-")
    stop = brakes.stopped()[TP]
    assert (stop.limit, stop.cause) == ("share", "7 of the last 10 records were refused")
    assert brakes.trips == {"share": 1, "in_a_row": 0}
    brakes = running()
    admit(brakes, "+-" * 50)
    assert not brakes.stopped()


def test_what_left_the_window_is_forgotten() -> None:
    """Old refusals do not add up with new ones."""
    brakes = running()
    admit(brakes, "+----" + "+" * 10 + "----+-")
    assert not brakes.stopped()


@pytest.mark.parametrize(
    ("limits", "verdicts", "trips"),
    [
        (BrakeLimits(None, 10, 5), "+----" * 20, False),
        (BrakeLimits(None, 10, 5), "-----", True),
        (BrakeLimits(0.5, 10, None), "-" * 9, False),
        (BrakeLimits(0.5, 10, None), "-" * 10, True),
        (BrakeLimits(), "-" * 5000, False),
    ],
)
def test_each_brake_can_be_off(limits: BrakeLimits, verdicts: str, *, trips: bool) -> None:
    """None turns a brake off; the other one still works."""
    brakes = running(limits)
    admit(brakes, verdicts)
    assert bool(brakes.stopped()) == trips
    assert limits.off == (limits.max_share is None and limits.max_in_a_row is None)


def test_records_are_judged_in_offset_order() -> None:
    """A late verdict on an early record counts before those that came sooner."""
    brakes = running()
    first, second = span_of(3), span_of(4)
    brakes.received(first.span)
    brakes.received(second.span)
    judge(brakes, second, "----")
    judge(brakes, first, "--?")
    assert not brakes.stopped()
    brakes.passed(Slice(first.block, 2, 3))
    assert not brakes.stopped()
    admit(brakes, "-")
    assert TP in brakes.stopped()


def test_records_admitted_before_the_stop_decide_nothing() -> None:
    """What was in flight ends as it may; only a canary resumes."""
    brakes = running()
    rows = admit(brakes, "-----?????")
    judge(brakes, rows, "+++++", 5)
    assert brakes.stopped()[TP].state is BrakeState.STOPPED
    assert brakes.trips["in_a_row"] == 1


def test_a_canary_that_passes_resumes_with_a_clean_record() -> None:
    """After the pause one record is due; while it is judged no other is; when it passes, counting starts at zero."""
    brakes = stopped()
    assert (brakes.due(100.0), brakes.due(104.9), brakes.due(105.0)) == ([], [], [TP])
    rows = span_of(1)
    brakes.received(rows.span)
    assert brakes.stopped()[TP].state is BrakeState.TRYING
    assert brakes.due(1000.0) == []
    brakes.passed(rows)
    assert not brakes.stopped()
    admit(brakes, "----")
    assert not brakes.stopped()


def test_canaries_that_fail_come_ever_more_seldom() -> None:
    """The pause doubles up to a minute; a failed canary is no new trip."""
    brakes, now, pauses = stopped(), 0.0, []
    for _ in range(6):
        assert brakes.due(now) == []
        pause_s = next(step for step in range(1, 100) if brakes.due(now + step))
        pauses.append(pause_s)
        now += pause_s
        admit(brakes, "-")
    assert pauses == [5, 10, 20, 40, MAX_RETRY_S, MAX_RETRY_S]
    assert brakes.trips["in_a_row"] == 1


def test_a_long_first_pause_is_kept() -> None:
    """A pause above the ceiling stays as it was set."""
    brakes = stopped(BrakeLimits(0.5, 10, 5, retry_s=90.0))
    brakes.due(0.0)
    brakes.due(90.0)
    admit(brakes, "-")
    assert (brakes.due(100.0), brakes.due(189.0), brakes.due(190.0)) == ([], [], [TP])


def test_a_canary_that_was_passed_over_gives_way_to_the_next() -> None:
    """A skipped record shows nothing, so another one is tried at once."""
    brakes = stopped()
    brakes.due(0.0)
    admit(brakes, "o")
    assert brakes.stopped()[TP].state is BrakeState.STOPPED
    assert brakes.due(0.0) == [TP]


def test_a_partition_that_stops_again_soon_waits_longer() -> None:
    """The pause goes on growing unless the partition ran well for many windows."""
    brakes = stopped()
    brakes.due(0.0)
    admit(brakes, "+-----")
    assert brakes.due(10.0) == []
    assert (brakes.due(19.9), brakes.due(20.0)) == ([], [TP])
    admit(brakes, "+" * (HEALTHY_WINDOWS * LIMITS.window_records + 1) + "-----")
    assert brakes.due(100.0) == []
    assert (brakes.due(104.9), brakes.due(105.0)) == ([], [TP])


def test_without_a_pause_only_the_operator_resumes() -> None:
    """No canary is ever due; ``resume`` starts every stopped partition with a clean record."""
    brakes = stopped(BrakeLimits(0.5, 10, 5, retry_s=None))
    assert brakes.due(math.inf) == []
    assert brakes.resume() == [TP]
    assert not brakes.stopped()
    assert brakes.resume() == []
    admit(brakes, "----")
    assert not brakes.stopped()


def test_the_operator_overrules_a_canary_in_flight() -> None:
    """Its verdict counts as any other then, and the pauses start over."""
    brakes = stopped()
    brakes.due(0.0)
    rows = span_of(1)
    brakes.received(rows.span)
    brakes.resume()
    brakes.refused(rows)
    assert not brakes.stopped()
    admit(brakes, "----")
    assert brakes.stopped()[TP].state is BrakeState.STOPPED
    assert brakes.due(50.0) == []
    assert brakes.due(55.0) == [TP]


def test_a_rebalance_is_no_way_around() -> None:
    """A partition that comes back is still stopped, but may be tried at once; while away it is nobody's business."""
    brakes = stopped()
    brakes.revoked([TP, OTHER])
    assert not brakes.stopped()
    assert brakes.due(math.inf) == []
    assert brakes.resume() == []
    brakes = stopped()
    brakes.revoked([TP])
    brakes.assigned([TP])
    assert TP in brakes.stopped()
    assert brakes.due(0.0) == [TP]


def test_the_same_record_again_counts_again() -> None:
    """Records read again after a rewind add to the row; verdicts of before the rewind are void."""
    brakes = running()
    rows = admit(brakes, "--??")
    brakes.assigned([TP])
    judge(brakes, rows, "--", 2)
    admit(brakes, "--")
    assert not brakes.stopped()
    admit(brakes, "-")
    assert TP in brakes.stopped()


def test_a_canary_lost_in_a_rebalance_is_sent_again() -> None:
    """The partition stands still and tries the next record at once."""
    brakes = stopped()
    brakes.due(0.0)
    rows = span_of(1)
    brakes.received(rows.span)
    brakes.assigned([TP])
    brakes.passed(rows)
    assert brakes.stopped()[TP].state is BrakeState.STOPPED
    assert brakes.due(0.0) == [TP]


def test_verdicts_on_unknown_records_are_nothing() -> None:
    """Rows that were never received, of a known or an unknown partition, change nothing."""
    brakes = running()
    brakes.refused(span_of(9))
    admit(brakes, "+")
    brakes.refused(span_of(9))
    assert not brakes.stopped()


class Oracle:
    """The rule itself, one record at a time."""

    def __init__(self, limits: BrakeLimits) -> None:
        self._limits = limits
        self._seen: list[bool] = []
        self.stopped = False

    def take(self, verdict: str) -> None:
        """One more verdict; after the stop none counts."""
        if self.stopped or verdict == "o":
            return
        self._seen.append(verdict == "-")
        if verdict == "+":
            return
        row, window = self._limits.max_in_a_row, self._seen[-self._limits.window_records :]
        in_a_row = row is not None and self._seen[-row:] == [True] * row
        full = len(window) == self._limits.window_records
        share = self._limits.max_share
        self.stopped = in_a_row or (share is not None and full and sum(window) > share * len(window))


@given(
    limits=st.builds(
        BrakeLimits,
        max_share=st.none() | st.sampled_from([0.1, 0.25, 0.5, 0.9]),
        window_records=st.integers(1, 12),
        max_in_a_row=st.none() | st.integers(1, 8),
    ),
    spans=st.lists(st.text("-+o", min_size=1, max_size=12), max_size=8),
    data=st.data(),
)
def test_the_brakes_agree_with_the_rule(limits: BrakeLimits, spans: list[str], data: st.DataObject) -> None:
    """However records fall into spans and in whatever order verdicts come, the rule decides as in offset order."""
    brakes, oracle = running(limits), Oracle(limits)
    received = [span_of(len(verdicts)) for verdicts in spans]
    for rows in received:
        brakes.received(rows.span)
    rows_left = [(rows, at, verdict) for rows, text in zip(received, spans, strict=True) for at, verdict in
                 enumerate(text)]  # fmt: skip
    for rows, at, verdict in data.draw(st.permutations(rows_left)):
        judge(brakes, rows, verdict, at)
    for verdict in "".join(spans):
        oracle.take(verdict)
    assert bool(brakes.stopped()) == oracle.stopped
