"""The pipeline between a fake engine and a fake broker that interleave at will; seeded bugs are caught.

The oracle keeps the log of each input partition and one fate per record and assignment, and nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from worker.core.actions import Action, CommitOffsets, Outcome, Policy, Produce, RunBatch
from worker.core.batching import Batch, BatchLimits, MicroBatcher
from worker.core.flow import FlowLimits
from worker.core.offsets import Commit, OffsetTracker
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import ENGINE_SLOTS, Pipeline
from worker.core.records import Parcel, Refusal, Slice, Span, TopicPartition
from worker.testing import FakeDecoder, FakeEncoder, make_span, source_of

TPS = [TopicPartition("in", number) for number in range(3)]
VALUES: list[bytes | None] = [b"1", b"22", b"333", b"4444", b"bad", b"", None, b"%d" % 10**30]
POISON = 333
BATCH = BatchLimits(max_batch_size=4, max_batch_bytes=12, max_batch_delay_s=2.0)
FLOW = FlowLimits(max_in_flight_records=12, max_in_flight_bytes=60, max_uncommitted_records=20)
INTERVAL_S = 5.0

Identity = tuple[TopicPartition, int, int]
"""Partition, epoch and offset of a received record."""


class PipelineMachine(RuleBasedStateMachine):
    """Polls, completions, acknowledgements, commits, rebalances and time, in any order."""

    @initialize(partitioning=st.sampled_from(["source", "key"]), skip=st.booleans())
    def start(self, partitioning: Any, skip: bool) -> None:
        """All partitions are assigned."""
        routing = Routing("out", 3, 470, "dlq", 2, 500, partitioning, (), "group", "fraud@1", "0123456789ab")
        policy = Policy(BATCH, FLOW, INTERVAL_S, 6, skip)
        dispatcher = Dispatcher(routing, lambda key: sum(key) % 3)
        self.pipeline = Pipeline(FakeDecoder(), FakeEncoder(), dispatcher, policy)
        self.keyed = partitioning == "key"
        self.skip = skip
        self.logs: dict[TopicPartition, list[tuple[int, bytes | None]]] = {tp: [] for tp in TPS}
        self.positions: dict[TopicPartition, int] = {}
        self.epochs: dict[TopicPartition, int] = {}
        self.fates: dict[Identity, str | None] = {}
        self.sent: Counter[tuple[Identity, bool]] = Counter()
        self.last_sent: dict[object, int] = {}
        self.running: deque[Batch] = deque()
        self.waiting: dict[TopicPartition, deque[Parcel]] = {}
        self.committing: Commit | None = None
        self.committed: dict[TopicPartition, int] = {}
        self.queued_since: deque[tuple[Identity, float]] = deque()
        self.now = 0.0
        self._assign(TPS)

    # ---- facts ---------------------------------------------------------------------------------------------

    def _assign(self, tps: Iterable[TopicPartition]) -> None:
        self.epochs = self.pipeline.partitions_assigned(tps, self.now)
        self.positions = {tp: self.committed.get(tp, 0) for tp in self.epochs}
        self._pull()

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), count=st.integers(1, 8))
    def poll(self, data: st.DataObject, count: int) -> None:
        """A poll returns up to ``room()`` records of some partitions: old ones again, or new ones with gaps."""
        spans = []
        room = self.pipeline.room()
        for tp in data.draw(st.lists(st.sampled_from(sorted(self.epochs)), min_size=1, unique=True)):
            if room:
                spans.append(self._polled(data, tp, min(count, room)))
                room -= len(spans[-1])
        assert self.pipeline.records_received(spans, self.now) == spans
        self._pull()

    def _polled(self, data: st.DataObject, tp: TopicPartition, count: int) -> Span:
        """So many records of one partition."""
        log = self.logs[tp]
        records = [record for record in log if record[0] >= self.positions[tp]][:count]
        while len(records) < count:
            gap = data.draw(st.sampled_from([1, 1, 1, 5]))
            record = ((log[-1][0] if log else -1) + gap, data.draw(st.sampled_from(VALUES)))
            log.append(record)
            records.append(record)
        span = make_span(tp, [o for o, _ in records], [v for _, v in records], epoch=self.epochs[tp])
        span.received_at = self.now
        self.positions[tp] = records[-1][0] + 1
        for offset, value in records:
            skipped = self.skip and value is None
            self.fates[tp, span.epoch, offset] = "skipped" if skipped else None
            if value and value.isdigit():
                self.queued_since.append(((tp, span.epoch, offset), self.now))
        return span

    @precondition(lambda self: self.epochs)
    @rule(data=st.data())
    def unreadable(self, data: st.DataObject) -> None:
        """A record of which only the coordinates are known."""
        tp = data.draw(st.sampled_from(sorted(self.epochs)))
        log = self.logs[tp]
        if not self.pipeline.room() or (log and self.positions[tp] <= log[-1][0]):
            return
        offset = log[-1][0] + 1 if log else 0
        log.append((offset, b"bad"))
        self.positions[tp] = offset + 1
        span = make_span(tp, [offset], [None], epoch=self.epochs[tp], received_at=self.now)
        self.fates[tp, span.epoch, offset] = None
        self.pipeline.record_unreadable(span, Refusal("decode", "corrupt_record", "checksum"))
        self._pull()

    @precondition(lambda self: self.running)
    @rule()
    def finish_batch(self) -> None:
        """The engine finishes its batch; the poison among the rows is refused."""
        batch = self.running.popleft()
        values = [value for rows in batch.slices for value in rows.span.values[rows.start : rows.stop]]
        offsets = [offset for rows in batch.slices for offset in rows.span.offsets[rows.start : rows.stop]]
        bad = {at: Refusal("infer", "model_error", "") for at, v in enumerate(values) if v and int(v) == POISON}
        outputs = {"score": np.array(offsets, dtype=np.float64)} if len(bad) < len(values) else {}
        self.pipeline.batch_succeeded(batch, Outcome(outputs, bad), self.now)
        self._pull()

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """The broker's verdict on the first parcel of any output partition; scored records may be refused."""
        tp = data.draw(st.sampled_from(sorted(tp for tp, parcels in self.waiting.items() if parcels)))
        parcel = self.waiting[tp][0]
        rows = st.sets(st.integers(0, len(parcel) - 1), max_size=2)
        refused = data.draw(rows) if parcel.dead_letter is None and data.draw(st.booleans()) else set()
        self._acknowledge(tp, refused)

    def _acknowledge(self, tp: TopicPartition, refused: set[int]) -> None:
        parcel = self.waiting[tp].popleft()
        for at in range(len(parcel)):
            identity = _identity(parcel.row(at))
            if at not in refused and self._current(identity):
                assert self.fates[identity] is None
                self.fates[identity] = "delivered" if parcel.dead_letter is None else "dead_lettered"
        verdict = {at: Refusal("produce", "broker_refused", "") for at in refused}
        self.pipeline.parcel_delivered(parcel, verdict, self.now)
        self._pull()

    @precondition(lambda self: self.committing is not None)
    @rule(succeeds=st.booleans())
    def finish_commit(self, succeeds: bool) -> None:
        """The commit under way comes back."""
        commit, self.committing = self.committing, None
        assert commit is not None
        if succeeds:
            self._store(commit)
        self.pipeline.commit_ended(commit, self.now, done=succeeds)
        self._pull()

    def _store(self, commit: Commit) -> None:
        for tp, offset in commit.offsets.items():
            if self.epochs.get(tp) == commit.covered[tp][0]:
                assert offset >= self.committed.get(tp, 0)
                self.committed[tp] = offset

    @rule(tps=st.sets(st.sampled_from(TPS)), final=st.booleans(), flush=st.booleans())
    def rebalance(self, tps: set[TopicPartition], final: bool, flush: bool) -> None:
        """Everything is taken away, with or without a flush and a final commit, and some of it is assigned again."""
        if flush:
            self.pipeline.revocation_began(self.now)
            self._pull()
            assert self.pipeline.room() == 0
        commit = self.pipeline.committable()
        if final and commit is not None and self.committing is None:
            self._judge(commit)
            self._store(commit)
            self.pipeline.commit_ended(commit, self.now, done=True)
        released = [identity for identity, fate in self.fates.items() if fate is None and self._current(identity)]
        assert self.pipeline.partitions_revoked(iter(self.epochs)) == len(released)
        self.fates.update(dict.fromkeys(released, "released"))
        self.queued_since.clear()
        self.epochs = {}
        assert (self.pipeline.in_flight_records, self.pipeline.uncommitted_records, self.pipeline.queued_records) == (
            0,
            0,
            0,
        )
        self._assign(sorted(tps))

    @rule(passed_s=st.sampled_from([0.5, 2.0, INTERVAL_S]))
    def wait(self, passed_s: float) -> None:
        """Time passes; the timer fires if it was set within that time."""
        self.now += passed_s
        due = self.pipeline.next_wakeup()
        if due is not None and due <= self.now:
            self.pipeline.tick(self.now)
            self._pull()
            after = self.pipeline.next_wakeup()
            assert after is None or after > self.now

    # ---- actions -------------------------------------------------------------------------------------------

    def _current(self, identity: Identity) -> bool:
        tp, epoch, _ = identity
        return self.epochs.get(tp) == epoch

    def _pull(self) -> None:
        """Judge what the pipeline wants, and take it on."""
        actions: list[Action] = self.pipeline.take_actions()
        assert self.pipeline.take_actions() == []
        for action in actions:
            match action:
                case RunBatch(batch):
                    self._take_batch(batch)
                case Produce(parcels):
                    assert parcels
                    for parcel in parcels:
                        self._take_parcel(parcel)
                case CommitOffsets(commit):
                    assert self.committing is None
                    self._judge(commit)
                    self.committing = commit

    def _take_batch(self, batch: Batch) -> None:
        """Within limits, in order of arrival, never more than fit the engine."""
        self.running.append(batch)
        assert len(self.running) <= ENGINE_SLOTS
        rows = [Slice(r.block, at, at + 1) for r in batch.slices for at in range(r.start, r.stop)]
        assert 0 < len(rows) == batch.size <= BATCH.max_batch_size
        assert batch.size_bytes == sum(row.size_bytes for row in rows)
        assert batch.size == 1 or batch.size_bytes <= BATCH.max_batch_bytes
        for row in rows:
            assert self.queued_since
            identity, _ = self.queued_since.popleft()
            assert identity == _identity(row)

    def _take_parcel(self, parcel: Parcel) -> None:
        """Only for current assignments, once per record, with its own value, in order."""
        self.waiting.setdefault(parcel.tp, deque()).append(parcel)
        assert len(parcel) == len(parcel.keys) == len(parcel.headers) == len(parcel.timestamps)
        for at, value in enumerate(parcel.values):
            row = parcel.row(at)
            tp, epoch, offset = identity = _identity(row)
            assert self._current(identity)
            assert self.fates[identity] is None
            assert source_of(parcel.headers[at]) == (tp, offset)
            assert parcel.keys[at] == b"k%d" % offset
            self.sent[identity, parcel.dead_letter is not None] += 1
            assert self.sent[identity, parcel.dead_letter is not None] == 1
            original = row.span.values[row.start]
            if parcel.dead_letter is not None:
                assert value == original or parcel.dead_letter.reason == "oversize"
                continue
            assert original is not None
            assert value == f"{original.decode()}:{offset:g}".encode()
            lane = (parcel.tp, tp, epoch) if self.keyed else (tp, epoch)
            assert self.last_sent.get(lane, -1) < offset
            self.last_sent[lane] = offset

    def _judge(self, commit: Commit) -> None:
        """Everything before a committed offset has its fate; something at its end was received."""
        for tp, next_offset in commit.offsets.items():
            epoch = self.epochs[tp]
            mine = {at: fate for (owner, number, at), fate in self.fates.items() if (owner, number) == (tp, epoch)}
            assert next_offset - 1 in mine
            assert all(fate is not None for at, fate in mine.items() if at < next_offset)

    # ---- invariants ----------------------------------------------------------------------------------------

    @invariant()
    def accounts_agree(self) -> None:
        """In flight is what has no fate; no bound is exceeded; a timer runs while something waits for it."""
        pipeline = self.pipeline
        unsettled = [identity for identity, fate in self.fates.items() if fate is None]
        assert pipeline.in_flight_records == len(unsettled) <= FLOW.max_in_flight_records
        assert pipeline.uncommitted_records <= FLOW.max_uncommitted_records
        assert pipeline.running_batches == len(self.running)
        assert pipeline.queued_records == len(self.queued_since)
        wakeup = pipeline.next_wakeup()
        if self.queued_since and len(self.running) < ENGINE_SLOTS:
            assert self.running
            assert wakeup is not None
            assert wakeup <= self.queued_since[0][1] + BATCH.max_batch_delay_s
        if pipeline.committable() is not None and self.committing is None:
            assert wakeup is not None

    def teardown(self) -> None:
        """A drain ends with nothing in flight, everything at its fate, and the last record as the offset to commit."""
        if not hasattr(self, "pipeline"):
            return
        self.pipeline.drain_requested(self.now)
        self._pull()
        assert self.pipeline.room() == 0
        while self.running or any(self.waiting.values()):
            if self.running:
                self.finish_batch()
            for tp, parcels in list(self.waiting.items()):
                if parcels:
                    self._acknowledge(tp, set())
        assert (self.pipeline.in_flight_records, self.pipeline.queued_records, self.pipeline.running_batches) == (
            0,
            0,
            0,
        )
        assert None not in self.fates.values()
        reached: dict[TopicPartition, int] = {}
        for tp, epoch, offset in self.fates:
            if self.epochs.get(tp) == epoch:
                reached[tp] = max(reached.get(tp, -1), offset + 1)
        assert {tp: offset for tp, offset in self.pipeline.next_offsets().items() if offset >= 0} == reached
        commit = self.pipeline.committable()
        if commit is not None:
            self._judge(commit)
            self.pipeline.commit_ended(commit, self.now, done=True)
        assert self.pipeline.uncommitted_records == 0


def _identity(row: Slice) -> Identity:
    return row.span.tp, row.span.epoch, row.span.offsets[row.start]


TestPipeline = PipelineMachine.TestCase
TestPipeline.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


# ---- seeded bugs -----------------------------------------------------------------------------------------------


def _commit_before_the_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline._produce

    def produce(self: Pipeline, parcels: list[Parcel]) -> None:
        original(self, parcels)
        for parcel in parcels:
            for rows in parcel.origin:
                self._tracker.settle(rows.span, rows.start, rows.stop)

    monkeypatch.setattr(Pipeline, "_produce", produce)


def _non_contiguous_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = OffsetTracker.settle

    def settle(self: OffsetTracker, span: Span, start: int, stop: int) -> bool:
        done = original(self, span, start, stop)
        if done:
            state = self._partitions[span.tp]
            state.next_offset = max(state.next_offset, span.offsets[stop - 1] + 1)
        return done

    monkeypatch.setattr(OffsetTracker, "settle", settle)


def _no_epoch_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetTracker, "is_current", lambda self, span: span.tp in self.partitions())


def _timer_not_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MicroBatcher, "deadline", lambda _self: None)


def _dropped_rows_stay_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MicroBatcher, "drop", lambda _self, _epochs: 0)


def _actions_handed_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "take_actions", lambda self: list(self._actions))


def _refused_neighbours_are_settled_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline.parcel_delivered

    def parcel_delivered(self: Pipeline, parcel: Parcel, _refused: Mapping[int, Refusal], now: float) -> None:
        original(self, parcel, {}, now)

    monkeypatch.setattr(Pipeline, "parcel_delivered", parcel_delivered)


def _scores_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline._encode

    def encode(self: Pipeline, pieces: Any, outputs: Any, parcels: Any, *, whole: bool) -> None:
        kept = sum(rows.stop - rows.start for rows, _ in pieces)
        cut = outputs if whole else {name: values[:kept] for name, values in outputs.items()}
        original(self, pieces, cut, parcels, whole=True)

    monkeypatch.setattr(Pipeline, "_encode", encode)


@pytest.mark.parametrize(
    "seed_bug",
    [
        _commit_before_the_acknowledgement,
        _non_contiguous_commit,
        _no_epoch_check,
        _timer_not_armed,
        _dropped_rows_stay_queued,
        _actions_handed_out_twice,
        _refused_neighbours_are_settled_with_it,
        _scores_of_the_whole_batch,
    ],
)
def test_seeded_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, seed_bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A pipeline with a known bug does not pass the machine."""
    seed_bug(monkeypatch)
    checks = settings(
        max_examples=500,
        stateful_step_count=50,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, ValueError)):
        run_state_machine_as_test(PipelineMachine, settings=checks)
