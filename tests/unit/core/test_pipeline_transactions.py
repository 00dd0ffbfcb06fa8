"""The pipeline under exactly_once: commits in need only, parcels in input order, known refusals as dead letters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from worker.core.actions import CommitOffsets, Outcome, Policy, Produce, RunBatch
from worker.core.batching import Batch, BatchLimits
from worker.core.flow import FlowLimits
from worker.core.offsets import Commit
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import Pipeline
from worker.core.records import Parcel, Refusal, Span, TopicPartition
from worker.testing import FakeDecoder, FakeEncoder, make_span, source_of

A, B = TopicPartition("in", 0), TopicPartition("in", 1)
REFUSED = Refusal("produce", "broker_refused", "no")


class Rig:
    """A transactional pipeline with A (epoch 1) and B (epoch 2), and what it asked for, unanswered."""

    def __init__(self, *, batch: int = 10, skip: bool = False, output_max_bytes: int = 10_000) -> None:
        routing = Routing(
            "out", 2, output_max_bytes, "dlq", 1, 10_000, "source", (), "group", "fraud@1", "0123456789ab"
        )
        policy = Policy(BatchLimits(batch, 1000, 0.5), FlowLimits(100, 10_000, 101), 10.0, 1, skip, transactional=True)
        self.pipeline = Pipeline(FakeDecoder(), FakeEncoder(), Dispatcher(routing, lambda _key: 0), policy)
        self.pipeline.partitions_assigned([A, B], 0.0)
        self.batches: list[Batch] = []
        self.parcels: list[Parcel] = []
        self.ends: list[Commit] = []

    def receive(self, offsets: list[int], values: list[bytes | None] | None = None, tp: TopicPartition = A) -> Span:
        """Feed one span."""
        epoch = self.pipeline.epoch(tp)
        assert epoch is not None
        span = make_span(tp, offsets, values, epoch=epoch)
        self.pipeline.records_received([span], 0.0)
        self.pull()
        return span

    def pull(self) -> None:
        """Collect what the pipeline wants."""
        for action in self.pipeline.take_actions():
            match action:
                case RunBatch(batch):
                    self.batches.append(batch)
                case Produce(parcels):
                    assert parcels
                    self.parcels += parcels
                case CommitOffsets(commit):
                    self.ends.append(commit)

    def score(self, refusals: Mapping[int, Refusal] | None = None) -> None:
        """The engine finishes its next batch."""
        batch = self.batches.pop(0)
        scores = [float(at) for rows in batch.slices for at in rows.span.offsets[rows.start : rows.stop]]
        self.pipeline.batch_succeeded(batch, Outcome({"score": np.array(scores)}, dict(refusals or {})), 0.0)
        self.pull()

    def acknowledge(self) -> Parcel:
        """The broker has the next parcel."""
        parcel = self.parcels.pop(0)
        self.pipeline.parcel_delivered(parcel, {}, 1000.0)
        self.pull()
        return parcel

    def commit(self) -> Commit:
        """The transaction with all that was acknowledged is committed."""
        commit = self.pipeline.committable()
        assert commit is not None
        self.pipeline.commit_ended(commit, 0.0, done=True)
        return commit

    def rewind(self) -> None:
        """A transaction was aborted: everything is received again, under new epochs."""
        tps = self.pipeline.partitions()
        self.pipeline.partitions_revoked(tps)
        self.pipeline.partitions_assigned(tps, 0.0)
        self.parcels.clear()

    def sent(self) -> list[tuple[str, int]]:
        """Topic and input offset of every record that waits for its acknowledgement, in the order of sending."""
        return [(p.tp.topic, source_of(headers)[1]) for p in self.parcels for headers in p.headers]


def test_offsets_are_left_to_the_transaction() -> None:
    """However much is settled and however late it is, no commit is asked for and no timer is set for one."""
    rig = Rig()
    for first in (0, 3):
        rig.receive([first, first + 1, first + 2])
        rig.score()
        rig.acknowledge()
    rig.pipeline.tick(1000.0)
    rig.pull()
    assert rig.pipeline.next_wakeup() is None
    assert (rig.ends, rig.pipeline.uncommitted_records) == ([], 6)
    assert rig.commit().offsets == {A: 6}
    assert rig.pipeline.uncommitted_records == 0
    assert rig.pipeline.committable() is None


def test_a_transaction_that_keeps_new_records_out_is_ended() -> None:
    """As soon as little is left to score; its offsets are those of all that is settled."""
    rig = Rig(batch=50)
    rig.receive(list(range(76)))
    rig.score()
    rig.receive(list(range(76, 101)))
    rig.acknowledge()
    assert (rig.pipeline.room(), rig.pipeline.in_flight_records, rig.ends) == (0, 51, [])
    rig.score()
    rig.acknowledge()
    assert (rig.pipeline.in_flight_records, rig.ends) == (25, [Commit({A: 76}, {A: (1, 76)})])
    rig.commit()
    rig.ends.clear()
    rig.pipeline.tick(1000.0)
    rig.pull()
    assert (rig.pipeline.room(), rig.ends) == (75, [])


def test_a_dead_letter_waits_for_the_rows_before_it() -> None:
    """Found at decode, it is ready long before the scores: all leave in the order they came in."""
    rig = Rig()
    rig.receive([0, 1, 2, 3], [b"0", b"bad", b"2", b"worse"])
    assert rig.sent() == []
    rig.score()
    assert rig.sent() == [("out", 0), ("dlq", 1), ("out", 2), ("dlq", 3)]


def test_a_dead_letter_with_nothing_before_it_goes_at_once() -> None:
    """At the front of its partition nothing holds it, whatever another partition waits for."""
    rig = Rig()
    rig.receive([0], tp=B)
    rig.receive([0, 1, 2], [b"bad", b"1", b"worse"])
    assert rig.sent() == [("dlq", 0)]


def test_an_unreadable_record_keeps_its_place() -> None:
    """A record of which only the coordinates are known waits for the span before it."""
    rig = Rig()
    rig.receive([0, 1])
    rig.pipeline.record_unreadable(make_span(A, [2], [None], epoch=1), Refusal("decode", "corrupt_record", "checksum"))
    rig.pull()
    assert rig.sent() == []
    rig.score()
    assert rig.sent() == [("out", 0), ("out", 1), ("dlq", 2)]


def test_an_unreadable_record_of_an_ended_assignment_counts_as_stale() -> None:
    """It is neither sent nor queued in front of what the next assignment brings."""
    rig = Rig()
    rig.rewind()
    rig.pipeline.record_unreadable(make_span(A, [0], [None], epoch=1), Refusal("decode", "corrupt_record", "checksum"))
    rig.pull()
    assert rig.pipeline.tally.stale_rows == 1
    rig.receive([0])
    rig.score()
    assert rig.sent() == [("out", 0)]


def test_refusals_of_the_model_keep_their_place() -> None:
    """A row that the engine refuses leaves between its neighbours."""
    rig = Rig()
    rig.receive([0, 1, 2])
    rig.score({1: Refusal("infer", "model_error", "no")})
    assert rig.sent() == [("out", 0), ("dlq", 1), ("out", 2)]


def test_outputs_that_are_too_large_keep_their_place() -> None:
    """A row whose output exceeds the topic's limit leaves between its neighbours."""
    rig = Rig(output_max_bytes=470)
    rig.receive([0, 1, 2], [b"0", b"1" * 50, b"2"])
    rig.score()
    assert rig.sent() == [("out", 0), ("dlq", 1), ("out", 2)]


def test_batches_of_one_partition_follow_each_other() -> None:
    """A span that is scored in two batches leaves in two parcels, and the offsets follow each."""
    rig = Rig(batch=2)
    rig.receive([0, 1, 2, 3])
    rig.score()
    assert rig.sent() == [("out", 0), ("out", 1)]
    rig.acknowledge()
    assert rig.commit().offsets == {A: 2}
    rig.score()
    rig.acknowledge()
    assert rig.commit().offsets == {A: 4}


def test_offsets_cover_exactly_what_was_acknowledged() -> None:
    """What is sent and not acknowledged is in no commit."""
    rig = Rig()
    rig.receive([0, 1, 2], [b"0", b"bad", b"2"])
    rig.score()
    assert rig.pipeline.committable() is None
    rig.acknowledge()
    assert rig.commit().offsets == {A: 1}
    rig.acknowledge()
    assert rig.commit().offsets == {A: 2}


def test_skipped_tombstones_hold_nothing_back() -> None:
    """A skipped record needs no parcel: what waited behind it goes with what was before it."""
    rig = Rig(skip=True)
    rig.receive([0, 1, 2, 3], [b"0", None, b"bad", None])
    assert rig.sent() == []
    rig.score()
    assert rig.sent() == [("out", 0), ("dlq", 2)]
    rig.acknowledge()
    rig.acknowledge()
    assert rig.commit().offsets == {A: 4}
    assert rig.pipeline.tally.skipped == 2


def test_skipped_tombstones_alone_move_the_offsets() -> None:
    """With nothing to send, the offsets are there to commit, and the next span is not held."""
    rig = Rig(skip=True)
    rig.receive([0, 1], [None, None])
    assert rig.parcels == []
    assert rig.commit().offsets == {A: 2}
    rig.receive([2], [b"bad"])
    assert rig.sent() == [("dlq", 2)]


def test_tombstones_are_dead_letters_by_default() -> None:
    """Where they are not skipped they leave in their place."""
    rig = Rig()
    rig.receive([0, 1], [b"0", None])
    assert rig.sent() == []
    rig.score()
    assert rig.sent() == [("out", 0), ("dlq", 1)]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_known_refusal_becomes_a_dead_letter_when_its_record_comes_again(at: int) -> None:
    """The broker refused one output: after the rewind that record is dead-lettered and the others are scored."""
    rig = Rig()
    rig.receive([5, 6, 8, 9])
    rig.score()
    offset = [5, 6, 8, 9][at]
    rig.pipeline.output_refused(A, offset, REFUSED)
    rig.rewind()
    rig.receive([5, 6, 8, 9])
    rig.score()
    assert rig.sent() == [("dlq" if one == offset else "out", one) for one in (5, 6, 8, 9)]
    (letter,) = (parcel for parcel in rig.parcels if parcel.dead_letter is not None)
    assert letter.dead_letter == REFUSED
    assert letter.values == [b"%d" % offset]
    assert rig.pipeline.tally.dead_lettered == {"broker_refused": 1}


def test_a_known_refusal_means_one_partition_only() -> None:
    """The same offset of another partition is scored."""
    rig = Rig()
    rig.pipeline.output_refused(A, 0, REFUSED)
    rig.receive([0], tp=B)
    rig.score()
    assert rig.sent() == [("out", 0)]


def test_a_known_refusal_and_an_oversize_output_meet() -> None:
    """Rows refused for different reasons in one run keep their places and reasons; the broker's word wins."""
    rig = Rig(output_max_bytes=470)
    rig.pipeline.output_refused(A, 0, REFUSED)
    rig.pipeline.output_refused(A, 2, REFUSED)
    rig.receive([0, 1, 2], [b"1" * 50, b"1" * 50, b"2"])
    rig.score()
    assert rig.sent() == [("dlq", 0), ("dlq", 1), ("dlq", 2)]
    reasons = [parcel.dead_letter.reason for parcel in rig.parcels if parcel.dead_letter is not None]
    assert reasons == ["broker_refused", "output_oversize", "broker_refused"]


def test_known_refusals_are_forgotten_once_committed() -> None:
    """Only when the offsets have passed it: were the group reset, the record would be tried anew."""
    rig = Rig()
    for offset in (1, 2):
        rig.pipeline.output_refused(A, offset, REFUSED)
    rig.pipeline.output_refused(B, 0, REFUSED)
    rig.receive([0, 1, 2])
    rig.score()
    rig.acknowledge()
    rig.acknowledge()
    assert rig.commit().offsets == {A: 2}
    rig.rewind()
    rig.receive([1, 2])
    rig.score()
    assert rig.sent() == [("out", 1), ("dlq", 2)]
    rig.receive([0], tp=B)
    rig.score()
    assert rig.sent()[2:] == [("dlq", 0)]


def test_a_revoked_partition_leaves_nothing_behind() -> None:
    """Parcels that were held are dropped, late results count as stale, and the next assignment is not held up."""
    rig = Rig()
    rig.receive([0, 1], [b"0", b"bad"])
    rig.receive([0], tp=B)
    assert rig.pipeline.partitions_revoked([A]) == 2
    rig.score()
    assert rig.sent() == []
    assert rig.pipeline.tally.stale_rows == 1
    rig.pipeline.partitions_assigned([A], 0.0)
    rig.score()
    assert rig.sent() == [("out", 0)]
    rig.parcels.clear()
    rig.receive([0], [b"bad"])
    assert rig.sent() == [("dlq", 0)]


def test_a_reset_partition_leaves_nothing_behind() -> None:
    """An assignment may begin anew without a revocation, after an offset out of range: nothing old holds it up."""
    rig = Rig()
    rig.receive([0, 1], [b"0", b"bad"])
    rig.pipeline.partitions_assigned([A], 0.0)
    rig.receive([50], [b"bad"])
    assert rig.sent() == [("dlq", 50)]
