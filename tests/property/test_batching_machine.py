"""The batcher against a plain queue of records: order, limits, reasons and deadlines; seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from worker.core.batching import Batch, BatchLimits, FlushReason, MicroBatcher
from worker.core.records import Block, Decoded, Slice
from worker.testing import make_span

DELAY_S = 4.0


class _Record(NamedTuple):
    epoch: int
    offset: int
    size: int
    arrived_at: float


class BatchMachine(RuleBasedStateMachine):
    """Spans arrive, engines ask, partitions go, time passes."""

    @initialize(max_size=st.integers(1, 6), max_bytes=st.integers(1, 20))
    def start(self, max_size: int, max_bytes: int) -> None:
        """Small limits, so that they are met often."""
        self.limits = BatchLimits(max_size, max_bytes, DELAY_S)
        self.batcher = MicroBatcher(self.limits)
        self.queue: list[_Record] = []
        self.now = 0.0
        self.offset = 0

    @rule(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=9), epoch=st.integers(1, 3), data=st.data())
    def add(self, sizes: list[int], epoch: int, data: st.DataObject) -> None:
        """Rows arrive: a whole span or a part of one."""
        offsets = range(self.offset, self.offset + len(sizes))
        self.offset += len(sizes)
        span = make_span(("in", epoch), offsets, [b"v" * size for size in sizes], epoch=epoch)
        start = data.draw(st.integers(0, len(sizes) - 1))
        stop = data.draw(st.integers(start + 1, len(sizes)))
        block = Block(span, Decoded((np.zeros((len(sizes), 1)),), [], {}))
        self.batcher.add(Slice(block, start, stop), self.now)
        self.queue += [_Record(epoch, offsets[at], sizes[at], self.now) for at in range(start, stop)]

    @rule(passed_s=st.sampled_from([0.5, 1.0, DELAY_S]))
    def wait(self, passed_s: float) -> None:
        """Time passes."""
        self.now += passed_s

    @rule(epochs=st.sets(st.integers(1, 3)))
    def drop(self, epochs: set[int]) -> None:
        """Assignments end."""
        kept = [record for record in self.queue if record.epoch not in epochs]
        assert self.batcher.drop(epochs) == len(self.queue) - len(kept)
        self.queue = kept

    def _expected(self) -> tuple[int, bool]:
        """How many records the next batch holds, and whether it is full."""
        count = total = 0
        for record in self.queue:
            if count == self.limits.max_batch_size or (count and total + record.size > self.limits.max_batch_bytes):
                return count, True
            count += 1
            total += record.size
        return count, count == self.limits.max_batch_size or total >= self.limits.max_batch_bytes

    @rule(idle=st.booleans(), flush=st.sampled_from([None, None, FlushReason.DRAIN, FlushReason.REVOKE]))
    def take(self, idle: bool, flush: FlushReason | None) -> None:
        """The engine asks."""
        batch = self.batcher.take(self.now, idle=idle, flush=flush)
        count, full = self._expected()
        due = bool(self.queue) and self.now >= self.queue[0].arrived_at + DELAY_S
        if not self.queue or not (full or idle or flush or due):
            assert batch is None
            return
        assert batch is not None
        taken, self.queue = self.queue[:count], self.queue[count:]
        assert _contents(batch) == [(record.epoch, record.offset) for record in taken]
        assert (batch.size, batch.size_bytes) == (count, sum(record.size for record in taken))
        assert count == 1 or batch.size_bytes <= self.limits.max_batch_bytes
        assert batch.waited_s == self.now - taken[0].arrived_at
        if full:
            assert batch.reason is (FlushReason.SIZE if count == self.limits.max_batch_size else FlushReason.BYTES)
        else:
            assert batch.reason is (flush or (FlushReason.IDLE if idle else FlushReason.DELAY))

    @invariant()
    def deadline_is_the_first_arrival_plus_the_delay(self) -> None:
        """Whatever was taken, added or dropped."""
        assert self.batcher.queued_records == len(self.queue)
        assert self.batcher.deadline() == (self.queue[0].arrived_at + DELAY_S if self.queue else None)


def _contents(batch: Batch) -> list[tuple[int, int]]:
    return [(rows.span.epoch, offset) for rows in batch.slices for offset in rows.span.offsets[rows.start : rows.stop]]


TestBatching = BatchMachine.TestCase
TestBatching.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ---- with costs, buckets and an objective ----------------------------------------------------------------------------

SLO_S = 6.0
EDGES = (1, 2, 4)


class CostMachine(RuleBasedStateMachine):
    """As above, with everything that closes a batch earlier: batches get smaller, never late, and nothing is lost."""

    @initialize(
        padded=st.booleans(),
        max_size=st.sampled_from([4, 5, 6]),
        costs=st.lists(st.tuples(st.integers(1, 6), st.floats(0.01, 2.0)), max_size=90),
    )
    def start(self, padded: bool, max_size: int, costs: list[tuple[int, float]]) -> None:
        """Learned from whatever timings."""
        self.limits = BatchLimits(max_size, 40, DELAY_S, SLO_S, (*EDGES, max_size)[-4:], padded)
        self.batcher = MicroBatcher(self.limits)
        self.queue: list[_Record] = []
        self.now, self.offset = 100.0, 0
        for rows, took_s in costs:
            for _ in range(6):
                self.batcher.calls.observe(rows, took_s)
                self.batcher.handling.observe(rows, took_s / 2)

    @rule(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), age_s=st.sampled_from([0.0, 1.0, 5.0, 50.0]))
    def add(self, sizes: list[int], age_s: float) -> None:
        """Rows of one age arrive."""
        offsets = range(self.offset, self.offset + len(sizes))
        self.offset += len(sizes)
        span = make_span(("in", 0), offsets, [b"v" * size for size in sizes])
        span.timestamps = [round((self.now - age_s) * 1000)] * len(sizes)
        block = Block(span, Decoded((np.zeros((len(sizes), 1)),), [], {}))
        self.batcher.add(Slice(block, 0, len(sizes)), self.now)
        self.queue += [_Record(1, offset, size, self.now) for offset, size in zip(offsets, sizes, strict=True)]

    @rule(passed_s=st.sampled_from([0.01, 0.5, 1.0, DELAY_S]))
    def wait(self, passed_s: float) -> None:
        """Time passes."""
        self.now += passed_s

    @rule(took_s=st.floats(0.0, 3.0))
    def deliver(self, took_s: float) -> None:
        """An output was acknowledged."""
        self.batcher.delivered(took_s)

    @rule(idle=st.booleans(), flush=st.sampled_from([None, None, None, FlushReason.DRAIN]))
    def take(self, idle: bool, flush: FlushReason | None) -> None:
        """The engine asks: in order, within the limits, and for a reason that holds."""
        deadline = self.batcher.deadline()
        batch = self.batcher.take(self.now, idle=idle, flush=flush)
        if batch is None:
            assert not self.queue or not (idle or flush)
            assert deadline is None or self.now < deadline
            return
        taken, self.queue = self.queue[: batch.size], self.queue[batch.size :]
        assert _contents(batch) == [(record.epoch, record.offset) for record in taken]
        assert 1 <= batch.size <= self.limits.max_batch_size
        assert batch.size == 1 or batch.size_bytes <= self.limits.max_batch_bytes
        match batch.reason:
            case FlushReason.IDLE:
                assert idle
                assert not self.queue
            case FlushReason.DELAY | FlushReason.AGE:
                assert deadline is not None
                assert self.now >= deadline
            case FlushReason.BUCKET:
                assert self.limits.padded
                assert batch.size in EDGES
            case FlushReason.NO_GAIN:
                assert not self.queue

    @invariant()
    def nothing_waits_beyond_the_delay(self) -> None:
        """The deadline is at most the first arrival and the delay, and there is one while anything waits."""
        deadline = self.batcher.deadline()
        assert self.batcher.queued_records == len(self.queue)
        assert (deadline is None) is (not self.queue)
        assert deadline is None or deadline <= self.queue[0].arrived_at + DELAY_S


TestCosts = CostMachine.TestCase
TestCosts.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ---- seeded bugs -----------------------------------------------------------------------------------------------


def _rest_of_a_cut_span_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MicroBatcher._cut

    def cut(self: MicroBatcher, reason: FlushReason, now: float, most: int) -> Batch:
        batch = original(self, reason, now, most)
        if self._queue and self._queue[0][0].block is batch.slices[-1].block:
            self._queue.popleft()
        return batch

    monkeypatch.setattr(MicroBatcher, "_cut", cut)


def _delay_from_the_last_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    def deadline(self: MicroBatcher) -> float | None:
        return self._queue[-1][1] + self._limits.max_batch_delay_s if self._queue else None

    monkeypatch.setattr(MicroBatcher, "deadline", deadline)


def _limit_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MicroBatcher.__init__

    def init(self: MicroBatcher, limits: BatchLimits) -> None:
        original(self, BatchLimits(limits.max_batch_size, limits.max_batch_bytes + 1, limits.max_batch_delay_s))

    monkeypatch.setattr(MicroBatcher, "__init__", init)


def _newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(self: MicroBatcher, rows: Slice, now: float) -> None:
        self._queue.appendleft((rows, now, inf))
        self.queued_records += rows.stop - rows.start

    monkeypatch.setattr(MicroBatcher, "add", add)


@pytest.mark.parametrize(
    "seed_bug",
    [_rest_of_a_cut_span_is_lost, _delay_from_the_last_arrival, _limit_is_one_too_many, _newest_first],
)
def test_seeded_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, seed_bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A batcher with a known bug does not pass the machine."""
    seed_bug(monkeypatch)
    checks = settings(
        max_examples=500,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(BatchMachine, settings=checks)
