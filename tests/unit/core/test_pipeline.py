"""The pipeline: every record ends exactly once, and offsets follow only then."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from worker.core.actions import Action, CommitOffsets, Outcome, Policy, Produce, RunBatch
from worker.core.batching import Batch, BatchLimits, FlushReason
from worker.core.committing import COMMIT_RETRY_S
from worker.core.flow import FlowLimits
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import ENGINE_SLOTS, Pipeline
from worker.core.records import Parcel, Refusal, Span, TopicPartition
from worker.testing import FakeDecoder, FakeEncoder, make_span, source_of

A, B, C = TopicPartition("in", 0), TopicPartition("in", 1), TopicPartition("in", 2)
INTERVAL_S = 10.0
REFUSED = Refusal("produce", "broker_refused", "no")


class Rig:
    """A pipeline with the partitions A (epoch 1) and B (epoch 2) and what it asked for so far, unanswered."""

    def __init__(
        self,
        *,
        batch: int = 4,
        in_flight: int = 100,
        in_flight_bytes: int = 10_000,
        commit_records: int = 1000,
        interval_s: float = INTERVAL_S,
        skip: bool = False,
        output_max_bytes: int = 10_000,
    ) -> None:
        routing = Routing(
            "out", 4, output_max_bytes, "dlq", 1, 10_000, "source", (), "group", "fraud@1.0.0", "0123456789ab"
        )
        policy = Policy(
            BatchLimits(batch, 1000, 0.5),
            FlowLimits(in_flight, in_flight_bytes, in_flight + commit_records),
            interval_s,
            commit_records,
            skip,
        )
        self.pipeline = Pipeline(FakeDecoder(), FakeEncoder(), Dispatcher(routing, lambda key: key[0] % 4), policy)
        self.epochs = self.pipeline.partitions_assigned([A, B], 0.0)
        self.batches: list[Batch] = []
        self.parcels: list[Parcel] = []
        self.commits: list[CommitOffsets] = []

    def receive(
        self, offsets: list[int], values: list[bytes | None] | None = None, *, tp: TopicPartition = A, now: float = 0.0
    ) -> Span:
        """Feed one span and carry out nothing."""
        epoch = self.pipeline.epoch(tp)
        assert epoch is not None
        span = make_span(tp, offsets, values, epoch=epoch, received_at=now)
        self.pipeline.records_received([span], now)
        self.pull()
        return span

    def occupy(self) -> None:
        """Keep the engine busy with one record of partition C, so that what comes next shares a batch."""
        self.pipeline.partitions_assigned([C], 0.0)
        self.receive([0], tp=C)

    def finish_occupant(self) -> None:
        """Let that record go, which frees the engine for what has gathered."""
        self.score()
        self.acknowledge()

    def pull(self) -> list[Action]:
        """Collect what the pipeline wants."""
        actions = self.pipeline.take_actions()
        for action in actions:
            match action:
                case RunBatch(batch):
                    self.batches.append(batch)
                case Produce(parcels):
                    self.parcels += parcels
                case CommitOffsets():
                    self.commits.append(action)
        return actions

    def score(self, refusals: Mapping[int, Refusal] | None = None, *, now: float = 0.0) -> Batch:
        """The engine finishes its next batch: each row scores its own offset."""
        batch = self.batches.pop(0)
        scores = [float(o) for rows in batch.slices for o in rows.span.offsets[rows.start : rows.stop]]
        self.pipeline.batch_succeeded(batch, Outcome({"score": np.array(scores)}, dict(refusals or {})), now)
        self.pull()
        return batch

    def acknowledge(self, refused: Mapping[int, Refusal] | None = None, *, now: float = 0.0) -> Parcel:
        """The broker's verdict on the next parcel."""
        parcel = self.parcels.pop(0)
        self.pipeline.parcel_delivered(parcel, refused or {}, now)
        self.pull()
        return parcel

    def commit_ended(self, now: float, *, done: bool = True) -> None:
        """The brokers' answer to the last commit."""
        self.pipeline.commit_ended(self.commits[-1].commit, now, done=done)

    def through(self, *, now: float = 0.0) -> None:
        """Score and acknowledge until nothing is left to do."""
        while self.batches or self.parcels:
            if self.batches:
                self.score(now=now)
            if self.parcels:
                self.acknowledge(now=now)


def _offsets(batch: Batch) -> list[int]:
    return [offset for rows in batch.slices for offset in rows.span.offsets[rows.start : rows.stop]]


def _reason(parcel: Parcel) -> str | None:
    return None if parcel.dead_letter is None else parcel.dead_letter.reason


# ---- the way of a healthy record -------------------------------------------------------------------------------


def test_a_new_pipeline_is_idle() -> None:
    """Nothing in flight, nothing to do, nothing to wait for, all room."""
    rig = Rig()
    pipeline = rig.pipeline
    assert rig.epochs == {A: 1, B: 2}
    assert pipeline.take_actions() == []
    assert pipeline.next_wakeup() is None
    assert pipeline.room() == 100
    assert (pipeline.in_flight_records, pipeline.in_flight_bytes, pipeline.uncommitted_records) == (0, 0, 0)
    assert (pipeline.queued_records, pipeline.running_batches) == (0, 0)
    assert pipeline.oldest_received_at() is None
    assert pipeline.committable() is None
    assert sorted(pipeline.partitions()) == [A, B]
    assert pipeline.next_offsets() == {A: -1, B: -1}
    assert pipeline.standings() == {A: (-1, -1, 0, -1), B: (-1, -1, 0, -1)}
    tally = pipeline.tally
    assert (tally.skipped, tally.stale_rows, tally.abandoned, tally.dead_lettered) == (0, 0, 0, {})


def test_one_record_goes_all_the_way() -> None:
    """Received, scored, sent, acknowledged, committed: each step asks for the next and no sooner."""
    rig = Rig()
    pipeline = rig.pipeline
    rig.receive([7], now=1.0)
    assert (pipeline.in_flight_records, pipeline.running_batches, pipeline.oldest_received_at()) == (1, 1, 1.0)
    assert rig.parcels == []
    rig.score(now=2.0)
    assert pipeline.running_batches == 0
    (parcel,) = rig.parcels
    assert (parcel.tp, parcel.keys, parcel.values) == (TopicPartition("out", 0), [b"k7"], [b"7:7"])
    assert pipeline.in_flight_records == 1
    assert pipeline.next_offsets()[A] == -1
    rig.acknowledge(now=3.0)
    assert (pipeline.in_flight_records, pipeline.uncommitted_records, pipeline.next_offsets()[A]) == (0, 1, 8)
    assert rig.commits == []
    pipeline.tick(INTERVAL_S)
    rig.pull()
    assert dict(rig.commits[0].commit.offsets) == {A: 8}
    rig.commit_ended(INTERVAL_S)
    assert (pipeline.uncommitted_records, rig.pull()) == (0, [])


def test_actions_are_handed_out_once() -> None:
    """Taking them empties the list."""
    rig = Rig()
    pipeline = rig.pipeline
    pipeline.records_received([make_span(A, [0], epoch=1)], 0.0)
    assert [type(action) for action in pipeline.take_actions()] == [RunBatch]
    assert pipeline.take_actions() == []


def test_a_poll_of_several_partitions_makes_one_batch() -> None:
    """The engine is asked when all spans are in; each row keeps its place, and refused ones go their own way."""
    rig = Rig()
    first = make_span(A, [0, 1], [b"1", b"2"], epoch=rig.epochs[A])
    second = make_span(B, [4, 5, 6], [b"3", b"x", b"4"], epoch=rig.epochs[B])
    assert rig.pipeline.records_received([first, second], 0.0) == [first, second]
    rig.pull()
    (batch,) = rig.batches
    rows = [
        (rows.span.tp, rows.start, rows.stop, rows.block.decoded.rows[rows.start : rows.stop]) for rows in batch.slices
    ]
    assert rows == [(A, 0, 2, [b"1", b"2"]), (B, 0, 1, [b"3"]), (B, 2, 3, [b"4"])]
    assert [parcel.origin[0].span.offsets[parcel.origin[0].start] for parcel in rig.parcels] == [5]


def test_only_spans_of_running_assignments_are_taken() -> None:
    """The others of the poll are, and are named."""
    rig = Rig()
    late, held = make_span(A, [0], epoch=9), make_span(B, [0], epoch=rig.epochs[B])
    assert rig.pipeline.records_received([late, held], 0.0) == [held]
    assert (rig.pipeline.tally.stale_rows, rig.pipeline.in_flight_records) == (1, 1)


# ---- engine slots ----------------------------------------------------------------------------------------------


def test_one_batch_runs_and_one_is_prefetched() -> None:
    """The first goes at once; the second only when full or waited for; a third waits for a slot."""
    rig = Rig(batch=4)
    rig.receive([0])
    rig.receive([1, 2])
    assert [_offsets(batch) for batch in rig.batches] == [[0]]
    assert (rig.pipeline.queued_records, rig.pipeline.next_wakeup()) == (2, 0.5)
    rig.receive([3, 4, 5])
    assert [_offsets(batch) for batch in rig.batches] == [[0], [1, 2, 3, 4]]
    assert rig.pipeline.running_batches == ENGINE_SLOTS == 2
    rig.receive(list(range(6, 14)))
    assert len(rig.batches) == 2
    assert (rig.pipeline.queued_records, rig.pipeline.next_wakeup()) == (9, None)
    assert rig.score().reason is FlushReason.IDLE
    assert [_offsets(batch) for batch in rig.batches] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert rig.batches[0].reason is FlushReason.SIZE


def test_a_tick_at_the_deadline_closes_the_prefetched_batch() -> None:
    """Before the deadline a tick does nothing; at it, the open batch closes by delay."""
    rig = Rig()
    rig.receive([0], now=1.0)
    rig.receive([1], now=2.0)
    assert rig.pipeline.next_wakeup() == 2.5
    rig.pipeline.tick(2.25)
    assert rig.pull() == []
    rig.pipeline.tick(2.5)
    rig.pull()
    assert rig.batches[1].reason is FlushReason.DELAY


def test_an_engine_that_becomes_idle_takes_the_open_batch() -> None:
    """The next batch starts before the finished one is encoded."""
    rig = Rig()
    rig.receive([0])
    rig.receive([1])
    batch = rig.batches.pop(0)
    rig.pipeline.batch_succeeded(batch, Outcome({"score": np.zeros(1)}, {}), 0.1)
    assert [type(action) for action in rig.pull()] == [RunBatch, Produce]
    assert _offsets(rig.batches[0]) == [1]


def test_batches_finish_in_the_order_they_were_given() -> None:
    """Any other batch than the next is a bug of the caller and changes nothing."""
    rig = Rig(batch=1)
    rig.receive([0, 1])
    first, second = rig.batches
    with pytest.raises(ValueError, match=r"^the engine finished a batch that was not next$"):
        rig.pipeline.batch_succeeded(second, Outcome({}, {}), 0.0)
    assert rig.pipeline.running_batches == 2
    rig.score()
    assert rig.batches == [second]
    with pytest.raises(ValueError, match="not next"):
        rig.pipeline.batch_succeeded(first, Outcome({}, {}), 0.0)


def test_no_batch_finishes_on_an_idle_engine() -> None:
    """A result without a batch is a bug of the caller."""
    rig = Rig()
    rig.receive([0])
    batch = rig.score()
    assert batch.size == 1
    with pytest.raises(ValueError, match="not next"):
        rig.pipeline.batch_succeeded(batch, Outcome({}, {}), 0.0)


def test_rows_of_two_partitions_part_ways_after_the_model() -> None:
    """A shared batch gives one parcel per input partition, each with its own rows and scores."""
    rig = Rig()
    rig.occupy()
    rig.receive([0, 1])
    rig.receive([50, 51], tp=B)
    rig.finish_occupant()
    rig.score()
    assert [(parcel.tp.partition, parcel.values) for parcel in rig.parcels] == [
        (0, [b"0:0", b"1:1"]),
        (1, [b"50:50", b"51:51"]),
    ]


# ---- refusals --------------------------------------------------------------------------------------------------


def test_bad_rows_become_dead_letters_and_the_rest_is_scored() -> None:
    """First, last and neighbouring bad rows: each one is alone in its letter, good rows keep their order."""
    rig = Rig(batch=10)
    rig.receive([0, 1, 2, 3, 4, 5, 6], [None, b"1", b"", b"x", b"4", b"5", b"bad"])
    assert [(_reason(parcel), source_of(parcel.headers[0])) for parcel in rig.parcels] == [
        ("tombstone", (A, 0)),
        ("empty_value", (A, 2)),
        ("invalid_json", (A, 3)),
        ("invalid_json", (A, 6)),
    ]
    assert rig.pipeline.tally.dead_lettered == {"tombstone": 1, "empty_value": 1, "invalid_json": 2}
    assert [_offsets(batch) for batch in rig.batches] == [[1, 4, 5]]
    rig.through()
    assert rig.pipeline.in_flight_records == 0
    assert rig.pipeline.next_offsets()[A] == 7


def test_a_dead_letter_settles_its_record_when_acknowledged() -> None:
    """Not when it is sent: the offset waits for the broker."""
    rig = Rig()
    rig.receive([3], [b"bad"])
    assert (rig.pipeline.in_flight_records, rig.batches) == (1, [])
    assert rig.pipeline.committable() is None
    rig.acknowledge()
    assert rig.pipeline.in_flight_records == 0
    commit = rig.pipeline.committable()
    assert commit is not None
    assert dict(commit.offsets) == {A: 4}


def test_a_wholly_good_span_sends_no_letters() -> None:
    """No empty action is handed out."""
    rig = Rig()
    rig.pipeline.records_received([make_span(A, [0], epoch=1)], 0.0)
    assert [type(action) for action in rig.pipeline.take_actions()] == [RunBatch]


def test_tombstones_are_skipped_when_told() -> None:
    """A skipped record settles at once, without a letter; other refusals are not skipped."""
    rig = Rig(skip=True)
    rig.receive([0, 1, 2], [None, b"", None])
    assert [_reason(parcel) for parcel in rig.parcels] == ["empty_value"]
    assert (rig.pipeline.tally.skipped, rig.pipeline.in_flight_records) == (2, 1)
    assert rig.pipeline.next_offsets()[A] == 1
    rig.acknowledge()
    assert rig.pipeline.next_offsets()[A] == 3
    assert rig.pipeline.tally.dead_lettered == {"empty_value": 1}


def test_skipped_records_alone_lead_to_a_commit() -> None:
    """A stream of tombstones commits by count as any other: nothing else would ever free its room."""
    rig = Rig(skip=True, commit_records=3)
    rig.receive([0, 1], [None, None])
    assert rig.commits == []
    rig.receive([2], [None])
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 3}]


def test_an_unreadable_record_goes_to_the_dead_letters() -> None:
    """Its coordinates are all that is known; it settles like any dead letter."""
    rig = Rig()
    span = make_span(A, [5], [None], epoch=1)
    refusal = Refusal("decode", "corrupt_record", "checksum")
    rig.pipeline.record_unreadable(span, refusal)
    rig.pull()
    (parcel,) = rig.parcels
    assert parcel.dead_letter == refusal
    assert (parcel.values, parcel.tp) == ([None], TopicPartition("dlq", 0))
    assert source_of(parcel.headers[0]) == (A, 5)
    assert rig.pipeline.tally.dead_lettered == {"corrupt_record": 1}
    rig.acknowledge()
    assert rig.pipeline.next_offsets()[A] == 6


def test_rows_the_engine_refuses_are_cut_out() -> None:
    """First, middle and last row of slices: the others are delivered with their own scores, in order."""
    rig = Rig(batch=8)
    rig.occupy()
    rig.receive([0, 1, 2, 3])
    rig.receive([50, 51, 52, 53], tp=B)
    bad = Refusal("infer", "model_error", "boom")
    rig.finish_occupant()
    rig.score({0: bad, 2: bad, 6: bad, 7: bad})
    letters = [parcel for parcel in rig.parcels if parcel.dead_letter]
    scored = [parcel for parcel in rig.parcels if not parcel.dead_letter]
    assert [source_of(parcel.headers[0]) for parcel in letters] == [(A, 0), (A, 2), (B, 52), (B, 53)]
    assert [(parcel.tp.partition, parcel.values) for parcel in scored] == [
        (0, [b"1:1"]),
        (0, [b"3:3"]),
        (1, [b"50:50", b"51:51"]),
    ]
    assert rig.pipeline.tally.dead_lettered == {"model_error": 4}
    rig.through()
    assert rig.pipeline.in_flight_records == 0


def test_a_batch_of_culprits_is_not_encoded() -> None:
    """Without outputs there is nothing to encode, and every row has its letter."""
    rig = Rig()
    rig.receive([0, 1])
    bad = Refusal("infer", "model_error", "boom")
    batch = rig.batches.pop()
    rig.pipeline.batch_succeeded(batch, Outcome({}, {0: bad, 1: bad}), 0.0)
    rig.pull()
    assert [_reason(parcel) for parcel in rig.parcels] == ["model_error", "model_error"]


def test_outputs_too_large_for_the_topic_become_dead_letters() -> None:
    """First, middle and last value of a run: only those, with the neighbours whole."""
    rig = Rig(batch=6, output_max_bytes=560)
    big = b"7" * 150
    rig.occupy()
    rig.receive([0, 1, 2, 3, 4, 5], [big, b"1", b"2", big, b"4", big])
    rig.finish_occupant()
    rig.score()
    scored = [(parcel.values, [row[1:] for row in parcel.origin]) for parcel in rig.parcels if not parcel.dead_letter]
    assert scored == [([b"1:1", b"2:2"], [(1, 3)]), ([b"4:4"], [(4, 5)])]
    letters = [source_of(parcel.headers[0]) for parcel in rig.parcels if parcel.dead_letter]
    assert letters == [(A, 0), (A, 3), (A, 5)]
    assert rig.pipeline.tally.dead_lettered == {"output_oversize": 3}
    rig.through()
    assert (rig.pipeline.in_flight_records, rig.pipeline.next_offsets()[A]) == (0, 6)


def test_records_the_broker_refuses_become_dead_letters() -> None:
    """Their neighbours settle at once, they themselves when the letter is acknowledged."""
    rig = Rig()
    rig.receive([0, 1, 2])
    rig.score()
    rig.acknowledge({1: REFUSED})
    assert rig.pipeline.in_flight_records == 1
    assert rig.pipeline.next_offsets()[A] == 1
    (letter,) = rig.parcels
    assert (source_of(letter.headers[0]), _reason(letter)) == ((A, 1), "broker_refused")
    assert rig.pipeline.tally.dead_lettered == {"broker_refused": 1}
    rig.acknowledge()
    assert rig.pipeline.next_offsets()[A] == 3


def test_the_tally_counts_the_reason_that_was_sent() -> None:
    """A letter that is itself too large counts as oversize."""
    rig = Rig()
    rig.receive([0], [b"x" * 20_000])
    assert [_reason(parcel) for parcel in rig.parcels] == ["oversize"]
    assert rig.pipeline.tally.dead_lettered == {"oversize": 1}


# ---- commits ---------------------------------------------------------------------------------------------------


def test_commits_wait_for_the_interval() -> None:
    """The interval starts with the assignment; one commit covers all partitions that moved."""
    rig = Rig()
    rig.receive([0], now=1.0)
    rig.receive([9], tp=B, now=1.0)
    rig.through(now=INTERVAL_S - 0.1)
    assert rig.commits == []
    assert rig.pipeline.next_wakeup() == INTERVAL_S
    rig.pipeline.tick(INTERVAL_S)
    rig.pull()
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 1, B: 10}]


def test_an_acknowledgement_after_the_interval_commits_at_once() -> None:
    """No timer is needed while records flow."""
    rig = Rig()
    rig.receive([0])
    rig.through(now=INTERVAL_S)
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 1}]


def test_enough_settled_records_commit_before_the_interval() -> None:
    """The bound counts settled records that are not committed, exactly."""
    rig = Rig(commit_records=3, batch=1)
    rig.receive([0, 1])
    rig.through()
    assert rig.commits == []
    rig.receive([2])
    rig.through()
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 3}]


def test_only_one_commit_is_under_way() -> None:
    """What settles meanwhile is committed by the next one, when the interval has passed again."""
    rig = Rig()
    rig.receive([0])
    rig.through(now=INTERVAL_S)
    rig.receive([1], now=INTERVAL_S)
    rig.through(now=3 * INTERVAL_S)
    rig.pipeline.tick(3 * INTERVAL_S)
    rig.pull()
    assert len(rig.commits) == 1
    assert rig.pipeline.next_wakeup() is None
    rig.commit_ended(3 * INTERVAL_S)
    rig.pull()
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 1}, {A: 2}]


def test_the_interval_counts_from_the_last_commit() -> None:
    """A commit moves the next one a whole interval away."""
    rig = Rig()
    rig.receive([0])
    rig.through(now=INTERVAL_S + 1)
    rig.commit_ended(INTERVAL_S + 2)
    rig.receive([1], now=INTERVAL_S + 3)
    rig.through(now=INTERVAL_S + 3)
    assert len(rig.commits) == 1
    assert rig.pipeline.next_wakeup() == 2 * INTERVAL_S + 1


def test_a_failed_commit_is_tried_again_soon() -> None:
    """Nothing counts as committed until then; a long interval would let records pile up to the bound meanwhile."""
    rig = Rig()
    rig.receive([0])
    rig.through(now=INTERVAL_S)
    rig.commit_ended(12.0, done=False)
    assert rig.pull() == []
    assert rig.pipeline.uncommitted_records == 1
    assert rig.pipeline.next_wakeup() == 12.0 + COMMIT_RETRY_S
    rig.pipeline.tick(11.9 + COMMIT_RETRY_S)
    assert rig.pull() == []
    rig.pipeline.tick(12.0 + COMMIT_RETRY_S)
    rig.pull()
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 1}, {A: 1}]


def test_a_short_interval_is_kept_after_a_failed_commit() -> None:
    """It is tried again when the next one would be due."""
    rig = Rig(interval_s=0.2)
    rig.receive([0])
    rig.through(now=0.2)
    rig.commit_ended(0.3, done=False)
    assert rig.pipeline.next_wakeup() == pytest.approx(0.5)


def test_a_commit_that_failed_holds_up_none_of_the_next_assignment() -> None:
    """The group refused a member that it had replaced; as a new one, it commits when enough is settled."""
    rig = Rig(commit_records=1)
    rig.receive([0])
    rig.through()
    rig.commit_ended(1.0, done=False)
    rig.pipeline.partitions_revoked([A])
    rig.pipeline.partitions_assigned([A], 1.0)
    rig.receive([0], now=1.0)
    rig.through(now=1.0)
    assert [dict(action.commit.offsets) for action in rig.commits] == [{A: 1}, {A: 1}]


def test_a_failed_commit_by_count_waits_for_its_turn_too() -> None:
    """However much is settled, a broker that refuses is not asked again at each acknowledgement."""
    rig = Rig(commit_records=1)
    rig.receive([0])
    rig.through()
    assert len(rig.commits) == 1
    rig.commit_ended(1.0, done=False)
    rig.receive([1], now=1.0)
    rig.through(now=1.0)
    assert len(rig.commits) == 1
    rig.pipeline.tick(1.0 + COMMIT_RETRY_S)
    rig.pull()
    assert dict(rig.commits[-1].commit.offsets) == {A: 2}
    rig.commit_ended(2.0 + COMMIT_RETRY_S)
    rig.receive([2], now=2.0 + COMMIT_RETRY_S)
    rig.through(now=2.0 + COMMIT_RETRY_S)
    assert len(rig.commits) == 3


def test_a_final_commit_waits_for_no_interval() -> None:
    """It covers all that is settled, and counts when it is confirmed."""
    rig = Rig()
    rig.receive([0, 1])
    rig.through()
    commit = rig.pipeline.committable()
    assert commit is not None
    assert dict(commit.offsets) == {A: 2}
    rig.pipeline.commit_ended(commit, 0.0, done=True)
    assert rig.pipeline.uncommitted_records == 0
    assert rig.pipeline.committable() is None


# ---- flow ------------------------------------------------------------------------------------------------------


def test_room_shrinks_with_what_is_in_flight() -> None:
    """Room is what the high mark leaves, none at it, and back below the low mark."""
    rig = Rig(in_flight=4, batch=1)
    rig.receive([0, 1, 2])
    assert rig.pipeline.room() == 1
    rig.receive([3])
    assert rig.pipeline.room() == 0
    rig.score()
    rig.acknowledge()
    assert rig.pipeline.room() == 0
    rig.score()
    rig.acknowledge()
    assert rig.pipeline.room() == 2


def test_bytes_in_flight_close_the_gate() -> None:
    """Large values are bounded by their bytes."""
    rig = Rig(in_flight_bytes=5)
    rig.receive([0], [b"12345"])
    assert (rig.pipeline.in_flight_bytes, rig.pipeline.room()) == (5, 0)
    rig.through()
    assert (rig.pipeline.in_flight_bytes, rig.pipeline.room()) == (0, 100)


def test_uncommitted_records_bound_the_room() -> None:
    """Settled records take room until a commit covers them: that bounds the repeats after a crash."""
    rig = Rig(in_flight=4, commit_records=2, batch=4)
    for first in (0, 3):
        rig.receive(list(range(first, first + 3)))
        rig.through()
    assert rig.pipeline.uncommitted_records == 6
    assert rig.pipeline.room() == 0
    rig.commit_ended(0.0)
    assert (rig.pipeline.uncommitted_records, rig.pipeline.room()) == (3, 3)


def test_a_revocation_flushes_and_admits_nothing() -> None:
    """Queued records go to the engine as soon as it has a slot; room is gone until the next assignment."""
    rig = Rig()
    rig.receive([0])
    rig.receive([1])
    rig.pipeline.revocation_began(0.1)
    rig.pull()
    assert rig.batches[1].reason is FlushReason.REVOKE
    assert rig.pipeline.room() == 0
    assert rig.pipeline.partitions_revoked([A, B]) == 2
    assert rig.pipeline.room() == 0
    assert rig.pipeline.partitions_assigned([A], 1.0) == {A: 3}
    assert rig.pipeline.room() == 100


def test_revoked_partitions_release_their_records() -> None:
    """Queued rows are dropped, late results are counted as stale and sent nowhere."""
    rig = Rig(batch=2)
    rig.receive([0, 1, 2, 3, 4])
    assert rig.pipeline.queued_records == 1
    assert rig.pipeline.partitions_revoked([A]) == 5
    pipeline = rig.pipeline
    assert (pipeline.tally.abandoned, pipeline.queued_records, pipeline.in_flight_records) == (5, 0, 0)
    rig.score()
    rig.score()
    assert (rig.parcels, pipeline.tally.stale_rows) == ([], 4)
    assert pipeline.partitions() == [B]
    assert (pipeline.epoch(A), pipeline.epoch(B)) == (None, 2)
    rig.receive([7], tp=B)
    pipeline.partitions_revoked([B])
    assert pipeline.tally.abandoned == 6


def test_partitions_may_come_from_any_iterable() -> None:
    """One that can be read only once is as good as a list."""
    rig = Rig(batch=1)
    rig.receive([0, 1, 2])
    assert rig.pipeline.partitions_revoked(iter([A])) == 3
    assert rig.pipeline.queued_records == 0
    assert rig.pipeline.partitions_assigned(iter([A]), 0.0) == {A: 3}


def test_a_batch_keeps_the_rows_that_are_still_ours() -> None:
    """Of a shared batch only the stale rows are dropped; the others have their own scores."""
    rig = Rig(batch=8)
    rig.occupy()
    rig.receive([0, 1, 2])
    rig.receive([50, 51], tp=B)
    rig.finish_occupant()
    rig.pipeline.partitions_revoked([A])
    rig.score()
    (parcel,) = rig.parcels
    assert (parcel.tp.partition, parcel.values) == (1, [b"50:50", b"51:51"])
    assert rig.pipeline.tally.stale_rows == 3
    rig.acknowledge()
    assert rig.pipeline.next_offsets() == {B: 52, C: 1}


def test_refusals_of_stale_rows_are_not_written() -> None:
    """The next owner judges them; refusals of our own rows are found at their place in the batch."""
    rig = Rig(batch=8)
    rig.occupy()
    rig.receive([0, 1])
    rig.receive([50, 51], tp=B)
    rig.finish_occupant()
    rig.pipeline.partitions_revoked([A])
    bad = Refusal("infer", "model_error", "boom")
    rig.score({0: bad, 3: bad})
    assert [(_reason(parcel), parcel.values) for parcel in rig.parcels] == [
        ("model_error", [b"51"]),
        (None, [b"50:50"]),
    ]


def test_late_acknowledgements_are_stale() -> None:
    """They settle nothing in the next assignment."""
    rig = Rig()
    rig.receive([0, 1])
    rig.score()
    rig.pipeline.partitions_revoked([A])
    rig.pipeline.partitions_assigned([A], 0.0)
    rig.acknowledge(now=50.0)
    assert rig.pipeline.tally.stale_rows == 2
    assert rig.pipeline.committable() is None
    assert rig.commits == []


def test_a_late_refusal_by_the_broker_is_stale() -> None:
    """The next owner sends the record again and writes the letter itself if need be."""
    rig = Rig()
    rig.receive([0, 1, 2])
    rig.score()
    rig.pipeline.partitions_revoked([A])
    rig.acknowledge({1: REFUSED, 2: REFUSED})
    assert rig.parcels == []
    assert rig.pipeline.tally.stale_rows == 3
    assert rig.pipeline.tally.dead_lettered == {}


def test_stale_spans_are_counted_and_dropped() -> None:
    """What a poll returned under an ended assignment is not decoded."""
    rig = Rig()
    late = make_span(A, [0, 1, 2], epoch=9)
    assert rig.pipeline.records_received([late], 0.0) == []
    rig.pipeline.record_unreadable(make_span(A, [3], [None], epoch=9), REFUSED)
    assert rig.pipeline.tally.stale_rows == 4
    assert (rig.pull(), rig.pipeline.in_flight_records) == ([], 0)


def test_a_commit_under_way_survives_a_revocation() -> None:
    """It is confirmed for what is still ours and forgotten for the rest; the next one can start."""
    rig = Rig()
    rig.receive([0])
    rig.receive([5], tp=B)
    rig.through(now=INTERVAL_S)
    assert len(rig.commits) == 1
    rig.pipeline.partitions_revoked([A])
    rig.pipeline.partitions_assigned([A], 11.0)
    rig.commit_ended(12.0)
    assert rig.pipeline.uncommitted_records == 1
    rig.pipeline.tick(21.0)
    rig.pull()
    assert dict(rig.commits[-1].commit.offsets) == {B: 6}


def test_an_assignment_starts_the_interval_again() -> None:
    """The first commit of an assignment is an interval away."""
    rig = Rig()
    rig.pipeline.partitions_assigned([A], 3.0)
    rig.receive([0], now=3.0)
    rig.through(now=3.0 + INTERVAL_S - 0.1)
    assert rig.commits == []
    assert rig.pipeline.next_wakeup() == 3.0 + INTERVAL_S


# ---- drain -----------------------------------------------------------------------------------------------------


def test_a_drain_flushes_and_admits_nothing_more() -> None:
    """Queued records are flushed; assignments come and go without opening the gate."""
    rig = Rig()
    rig.receive([0])
    rig.receive([1])
    rig.pipeline.drain_requested(0.1)
    rig.pull()
    assert rig.batches[1].reason is FlushReason.DRAIN
    assert rig.pipeline.room() == 0
    rig.pipeline.revocation_began(0.2)
    rig.pipeline.partitions_revoked([B])
    rig.pipeline.partitions_assigned([B], 0.3)
    assert rig.pipeline.room() == 0
    rig.through()
    assert rig.pipeline.in_flight_records == 0
    commit = rig.pipeline.committable()
    assert commit is not None
    assert dict(commit.offsets) == {A: 2}


def test_a_revocation_during_a_drain_stays_a_drain() -> None:
    """The reason of a drain is kept."""
    rig = Rig()
    rig.pipeline.drain_requested(0.0)
    rig.receive([0])
    rig.pipeline.revocation_began(0.0)
    rig.receive([1])
    rig.pull()
    assert [batch.reason for batch in rig.batches] == [FlushReason.DRAIN, FlushReason.DRAIN]


def test_wakeups_take_the_nearer_of_batch_and_commit() -> None:
    """The earliest deadline counts."""
    rig = Rig()
    rig.receive([0], now=0.0)
    rig.through()
    assert rig.pipeline.next_wakeup() == INTERVAL_S
    rig.receive([1], now=1.0)
    rig.receive([2], now=2.0)
    assert rig.pipeline.next_wakeup() == 2.5


def test_time_alone_does_nothing() -> None:
    """A tick of an idle pipeline asks for nothing, however late."""
    rig = Rig()
    rig.pipeline.tick(1e9)
    assert rig.pull() == []


# ---- what the batcher hears ------------------------------------------------------------------------------------------


def test_the_batcher_learns_from_calls_that_ran_once() -> None:
    """A call whose batch has refused rows may have been repeated in halves, so its time tells nothing."""
    rig = Rig()
    heard: list[tuple[int, float]] = []
    rig.pipeline.batcher.calls.observe = lambda rows, took_s: heard.append((rows, took_s))  # type: ignore[method-assign]
    rig.receive([1, 2])
    rig.receive([3])
    for refusals in ({}, {0: Refusal("infer", "model_error", "")}):
        batch = rig.batches.pop(0)
        outcome = Outcome({"score": np.zeros(batch.size)}, refusals, infer_s=0.25)
        rig.pipeline.batch_succeeded(batch, outcome, 0.0)
        rig.pull()
    assert heard == [(2, 0.25)]


def test_the_batcher_hears_how_long_deliveries_take() -> None:
    """From the time at which the parcel was sent."""
    rig = Rig()
    heard: list[float] = []
    rig.pipeline.batcher.delivered = heard.append  # type: ignore[method-assign, assignment]
    rig.receive([1])
    rig.score()
    rig.parcels[0].sent_at = 2.0
    rig.acknowledge(now=2.5)
    assert heard == [0.5]
