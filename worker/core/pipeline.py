"""The pipeline: facts in, actions out. The only core module that knows the others.

Every record that comes in ends exactly once as delivered, dead-lettered, skipped by configuration, or released
because its partition was taken away. Offsets become committable only after that. Bad data never raises here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from worker.core.actions import Action, CommitOffsets, Outcome, Policy, Produce, RowDecoder, RowEncoder, RunBatch, Tally
from worker.core.batching import Batch, FlushReason, MicroBatcher
from worker.core.brakes import Brakes
from worker.core.committing import CommitInNeed, CommitSchedule
from worker.core.flow import FlowGate
from worker.core.offsets import Commit, OffsetTracker, Standing
from worker.core.outgoing import Dispatcher
from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, Span, TopicPartition
from worker.core.sequencing import Sequencer

ENGINE_SLOTS = 2
"""One batch running and one prefetched: the engine never waits for the loop, and no batch closes too early."""


class Pipeline:
    """Owns every decision between a received record and a committed offset."""

    def __init__(self, decoder: RowDecoder, encoder: RowEncoder, dispatcher: Dispatcher, policy: Policy) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._dispatcher = dispatcher
        self._policy = policy
        self._tracker = OffsetTracker()
        self.batcher = MicroBatcher(policy.batch)
        self._gate = FlowGate(policy.flow)
        self._running: list[Batch] = []
        self._actions: list[Action] = []
        self._sequencer = Sequencer() if policy.transactional else None
        self._refused: dict[tuple[TopicPartition, int], Refusal] = {}
        self._flush: FlushReason | None = None
        self._commits = (
            CommitInNeed(self._tracker, self._gate)
            if policy.transactional
            else CommitSchedule(self._tracker, policy.commit_interval_s, policy.commit_max_records)
        )
        self.brakes = Brakes(policy.brakes)
        self.tally = Tally()

    # ---- facts -------------------------------------------------------------------------------------------

    def partitions_assigned(self, tps: Iterable[TopicPartition], now: float) -> dict[TopicPartition, int]:
        """New assignments begin; returns the epoch to stamp on each partition's spans."""
        if self._flush is FlushReason.REVOKE:
            self._flush = None
        self._commits.restart(now)
        epochs = {tp: self._tracker.assign(tp) for tp in tps}
        self.brakes.assigned(epochs)
        if self._sequencer is not None:
            for tp in epochs:
                self._sequencer.forget(tp)
        return epochs

    def revocation_began(self, now: float) -> None:
        """Partitions are about to be taken away: flush what is queued and admit nothing until it is over."""
        if self._flush is None:
            self._flush = FlushReason.REVOKE
        self._dispatch(now)

    def partitions_revoked(self, tps: Iterable[TopicPartition]) -> int:
        """The assignments are over; what is unsettled is released to the next owner. Returns how many records."""
        tps = list(tps)
        epochs = {epoch for tp in tps if (epoch := self._tracker.epoch(tp)) is not None}
        abandoned = sum(self._tracker.revoke(tp) for tp in tps)
        self.batcher.drop(epochs)
        self.brakes.revoked(tps)
        if self._sequencer is not None:
            for tp in tps:
                self._sequencer.forget(tp)
        self.tally.abandoned += abandoned
        return abandoned

    def drain_requested(self, now: float) -> None:
        """The worker stops: flush what is queued and admit nothing more."""
        self._flush = FlushReason.DRAIN
        self._dispatch(now)

    def records_received(self, spans: Sequence[Span], now: float) -> list[Span]:
        """Take in what a poll returned, in order; returns the spans whose assignment is not over already.

        They are decoded by one call, and the engine is asked only then, so that one batch may hold all of them.
        """
        admitted = [span for span in spans if self._admit(span)]
        if not admitted:
            return []
        letters: list[Parcel] = []
        for block in self._decoded(admitted):
            self._enqueue(block, now, letters)
        self._produce(letters)
        self._dispatch(now)
        self._maybe_commit(now)
        return admitted

    def record_unreadable(self, span: Span, refusal: Refusal) -> None:
        """A record of which only the coordinates are known (its value is None) goes to the dead letters."""
        if self._admit(span):
            letters: list[Parcel] = []
            self._refuse(Slice(Block(span, Decoded((), [None], {})), 0, 1), refusal, letters)
            self._produce(letters)

    def batch_succeeded(self, batch: Batch, outcome: Outcome, now: float) -> None:
        """The engine finished the batch it was given first."""
        if not self._running or self._running[0] is not batch:
            raise ValueError("the engine finished a batch that was not next")
        del self._running[0]
        if not outcome.refusals:  # else the call may have been repeated in halves
            self.batcher.calls.observe(batch.size, outcome.infer_s)
        self._dispatch(now)
        self._deliver(batch, outcome)

    def parcel_delivered(self, parcel: Parcel, refused: Mapping[int, Refusal], now: float) -> None:
        """The broker acknowledged a parcel except the ``refused`` records, by index in the parcel."""
        self.batcher.delivered(now - parcel.sent_at)
        letters: list[Parcel] = []
        for index, refusal in refused.items():
            row = parcel.row(index)
            if self._tracker.is_current(row.span):
                self._dead_letter(row, refusal, letters)
            else:
                self.tally.stale_rows += 1
        if refused:
            for index in range(len(parcel)):
                if index not in refused:
                    self._delivered(parcel, parcel.row(index))
        else:
            for rows in parcel.origin:
                self._delivered(parcel, rows)
        self._produce(letters)
        self._maybe_commit(now)

    def commit_ended(self, commit: Commit, now: float, *, done: bool) -> None:
        """The brokers took a commit; one that failed is tried again after a while if the partitions are still ours."""
        if done:
            self._tracker.committed(commit)
            reached = commit.offsets
            self._refused = {key: why for key, why in self._refused.items() if key[1] >= reached.get(key[0], 0)}
        self._commits.ended(now, done=done)
        self._maybe_commit(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._dispatch(now)
        self._maybe_commit(now)

    # ---- out ---------------------------------------------------------------------------------------------

    def take_actions(self) -> list[Action]:
        """What is to be done now, in order; each action is handed out once."""
        actions, self._actions = self._actions, []
        return actions

    def next_wakeup(self) -> float | None:
        """When ``tick`` is due next; None while nothing waits for time."""
        times = []
        if len(self._running) < ENGINE_SLOTS and (deadline := self.batcher.deadline()) is not None:
            times.append(deadline)
        if (due := self._commits.wakeup()) is not None:
            times.append(due)
        return min(times, default=None)

    def room(self) -> int:
        """How many records the next poll may return; 0: none, poll for liveness only."""
        if self._flush is not None:
            return 0
        tracker = self._tracker
        return self._gate.room(tracker.in_flight_records, tracker.in_flight_bytes, tracker.uncommitted_records)

    @property
    def in_flight_records(self) -> int:
        """Records received and not settled."""
        return self._tracker.in_flight_records

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the values in flight."""
        return self._tracker.in_flight_bytes

    @property
    def queued_records(self) -> int:
        """Records that wait for a batch."""
        return self.batcher.queued_records

    @property
    def running_batches(self) -> int:
        """Batches that run or are prefetched."""
        return len(self._running)

    @property
    def uncommitted_records(self) -> int:
        """Records that a crash now would repeat at most."""
        return self._tracker.uncommitted_records

    def oldest_received_at(self) -> float | None:
        """When the oldest span with unsettled rows was received; None with nothing in flight."""
        return self._tracker.oldest_received_at()

    def partitions(self) -> list[TopicPartition]:
        """The partitions assigned now."""
        return self._tracker.partitions()

    def epoch(self, tp: TopicPartition) -> int | None:
        """The epoch of a partition's current assignment."""
        return self._tracker.epoch(tp)

    def next_offsets(self) -> dict[TopicPartition, int]:
        """The contiguous settled ``next_offset`` per partition, -1 where nothing is settled yet."""
        return self._tracker.next_offsets()

    def standings(self) -> dict[TopicPartition, Standing]:
        """How far each assigned partition has come."""
        return self._tracker.standings()

    def committable(self) -> Commit | None:
        """The offsets of all that is settled, whatever is due; None while none has moved."""
        return self._tracker.committable()

    def output_refused(self, tp: TopicPartition, offset: int, refusal: Refusal) -> None:
        """The brokers refuse this record's output: it becomes a dead letter when it comes again."""
        self._refused[tp, offset] = refusal

    # ---- inside ------------------------------------------------------------------------------------------

    def _admit(self, span: Span) -> bool:
        """Track a span; False when its assignment is already over."""
        if not self._tracker.track(span):
            self.tally.stale_rows += len(span)
            return False
        self.brakes.received(span)
        if self._sequencer is not None:
            self._sequencer.received(span)
        return True

    def _decoded(self, spans: list[Span]) -> Iterator[Block]:
        """The spans with their columns."""
        if len(spans) == 1:
            yield Block(spans[0], self._decoder.decode(spans[0].values))
            return
        decoded = self._decoder.decode([value for span in spans for value in span.values])
        start = 0
        for span in spans:
            yield Block(span, decoded.part(start, start + len(span)))
            start += len(span)

    def _enqueue(self, block: Block, now: float, letters: list[Parcel]) -> None:
        """Queue a block's good rows for a batch, its refused ones for the dead letters."""
        refusals = block.decoded.refusals
        for rows, row in Slice(block, 0, len(block.span)).parted(sorted(refusals)):
            if row is None:
                self.batcher.add(rows, now)
            else:
                self._refuse(rows, refusals[row], letters)

    def _dispatch(self, now: float) -> None:
        """Fill the engine's slots with the batches that are due."""
        while len(self._running) < ENGINE_SLOTS:
            batch = self.batcher.take(now, idle=not self._running, flush=self._flush)
            if batch is None:
                return
            self._running.append(batch)
            self._actions.append(RunBatch(batch))

    def _deliver(self, batch: Batch, outcome: Outcome) -> None:
        """Encode the scored rows of a batch and send them and its refusals on their way."""
        parcels: list[Parcel] = []
        base = 0
        pieces: list[tuple[Slice, int]] = []
        for rows in batch.slices:
            count = rows.stop - rows.start
            if self._tracker.is_current(rows.span):
                pieces += self._scored_runs(rows, base, outcome.refusals, parcels)
            else:
                self.tally.stale_rows += count
            base += count
        if pieces:
            self._encode(pieces, outcome.outputs, parcels, whole=sum(p.stop - p.start for p, _ in pieces) == base)
        self._produce(parcels)

    def _scored_runs(
        self, rows: Slice, base: int, refusals: Mapping[int, Refusal], parcels: list[Parcel]
    ) -> list[tuple[Slice, int]]:
        """Split a slice at its refused rows; returns the runs in between with their row in the batch."""
        if not refusals:
            return [(rows, base)]
        runs: list[tuple[Slice, int]] = []
        own = [row - base for row in sorted(refusals) if base <= row < base + rows.stop - rows.start]
        for piece, index in rows.parted(own):
            if index is None:
                runs.append((piece, base + piece.start - rows.start))
            else:
                self._dead_letter(piece, refusals[base + index], parcels)
        return runs

    def _encode(
        self, pieces: list[tuple[Slice, int]], outputs: Mapping[str, np.ndarray], parcels: list[Parcel], *, whole: bool
    ) -> None:
        """One encode call for all scored rows, then a parcel (or, by key, several) for each run of rows."""
        if not whole:
            index = np.concatenate([np.arange(row, row + rows.stop - rows.start) for rows, row in pieces])
            outputs = {name: values[index] for name, values in outputs.items()}
        fields: list[object] = []
        for rows, _ in pieces:
            fields += rows.block.decoded.rows[rows.start : rows.stop]
        values = self._encoder.encode(fields, outputs)
        taken = 0
        for rows, _ in pieces:
            count = rows.stop - rows.start
            self._dispatch_scored(rows, values[taken : taken + count], parcels)
            taken += count

    def _dispatch_scored(self, rows: Slice, values: list[bytes], parcels: list[Parcel]) -> None:
        """Parcels for one run of scored rows; those too large for the topic become dead letters."""
        refused = {**self._dispatcher.oversize(rows, values), **self._known_refusals(rows)}
        for piece, index in rows.parted(sorted(refused)):
            if index is None:
                first = piece.start - rows.start
                parcels += self._dispatcher.scored(piece, values[first : first + piece.stop - piece.start])
            else:
                self._dead_letter(piece, refused[index], parcels)

    def _refuse(self, row: Slice, refusal: Refusal, letters: list[Parcel]) -> None:
        """A record that did not decode: skipped if the operator says so, else a dead letter."""
        if refusal.reason == "tombstone" and self._policy.skip_tombstones:
            self.tally.skipped += 1
            self._settle(row)
            self.brakes.passed_over(row)
            if self._sequencer is not None:
                self._queue(self._sequencer.passed(row))
        else:
            self._dead_letter(row, refusal, letters)

    def _dead_letter(self, row: Slice, refusal: Refusal, letters: list[Parcel]) -> None:
        """Queue a dead letter; its record settles when the broker has acknowledged it."""
        parcel = self._dispatcher.dead_letter(row, refusal)
        reason = parcel.dead_letter.reason if parcel.dead_letter else refusal.reason
        self.tally.dead_lettered[reason] = self.tally.dead_lettered.get(reason, 0) + 1
        letters.append(parcel)
        self.brakes.refused(row)

    def _produce(self, parcels: list[Parcel]) -> None:
        """Queue parcels for sending; in a transaction they wait for those before them in their partition."""
        self._queue(parcels if self._sequencer is None else self._sequencer.offer(parcels))

    def _queue(self, parcels: list[Parcel]) -> None:
        """Ask for these parcels to be sent."""
        if parcels:
            self._actions.append(Produce(parcels))

    def _known_refusals(self, rows: Slice) -> dict[int, Refusal]:
        """Rows whose output the brokers refused in a transaction that was aborted for it, by row of the slice."""
        if not self._refused:
            return {}
        tp, offsets = rows.span.tp, rows.span.offsets[rows.start : rows.stop]
        return {row: self._refused[tp, at] for row, at in enumerate(offsets) if (tp, at) in self._refused}

    def _delivered(self, parcel: Parcel, rows: Slice) -> None:
        """The broker has these rows of a parcel; an output speaks for its partition, a dead letter did already."""
        self._settle(rows)
        if parcel.dead_letter is None:
            self.brakes.passed(rows)

    def _settle(self, rows: Slice) -> None:
        """These rows have reached their fate; late ones of an ended assignment only count as stale."""
        if not self._tracker.settle(rows.span, rows.start, rows.stop):
            self.tally.stale_rows += rows.stop - rows.start

    def _maybe_commit(self, now: float) -> None:
        """Ask for the commit that is due."""
        if (commit := self._commits.due(now)) is not None:
            self._actions.append(CommitOffsets(commit))
