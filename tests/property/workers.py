"""Worker processes around the real pipeline, as actions that a schedule picks: driver, source and sink in miniature."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import Enum

import numpy as np

from tests.property.brokerage import (
    POISON,
    Brokers,
    MemberStamp,
    Output,
    ProducerFencedError,
    RecordsRefusedError,
    StampRefusedError,
)
from worker.core.actions import CommitOffsets, Outcome, Policy, Produce, RunBatch
from worker.core.batching import Batch, BatchLimits
from worker.core.flow import FlowLimits
from worker.core.outgoing import Dispatcher, Routing
from worker.core.pipeline import Pipeline
from worker.core.records import Parcel, Refusal, TopicPartition
from worker.testing import FakeDecoder, FakeEncoder, make_span, source_of

Action = Callable[[], None]
ROUTING = Routing("out", 2, 10_000, "dlq", 2, 10_000, "source", (), "group", "fraud@1", "0123456789ab")
POLICY = Policy(BatchLimits(3, 1000, 0.0), FlowLimits(9, 1000, 20), 1.0, 1, skip_tombstones=True, transactional=True)


class Stage(Enum):
    """Where a worker's transaction stands."""

    NONE = "none"
    OPEN = "open"
    CLOSED = "closed"
    CUT = "cut"
    BROKEN = "broken"


class Membership(Enum):
    """Where a worker stands in its group."""

    ACTIVE = "active"
    REVOKING = "revoking"
    JOINING = "joining"


class Network:
    """Requests that may be lost, answered with an error although they arrive, or arrive later."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.faults = 0.15
        self.late: list[Action] = []
        self.timeouts = 0

    def send(self, request: Action) -> None:
        """Carry out ``request``; a TimeoutError leaves its fate open."""
        if self.chance.random() >= self.faults:
            request()
            return
        self.timeouts += 1
        fate = self.chance.random()
        if fate < 0.4:
            self.late.append(request)
        elif fate < 0.8:
            arrive(request)
        raise TimeoutError


def arrive(request: Action) -> None:
    """A request whose answer nobody waits for."""
    try:
        request()
    except (StampRefusedError, ProducerFencedError, RecordsRefusedError):
        return


class SimulatedWorker:
    """One process with one transactional id; a crash is forgetting it."""

    def __init__(self, name: str, brokers: Brokers, network: Network) -> None:
        self.name, self.brokers, self.network = name, brokers, network
        self.pipeline = Pipeline(FakeDecoder(), FakeEncoder(), Dispatcher(ROUTING, lambda _key: 0), POLICY)
        self.membership = Membership.JOINING
        self.stamp = MemberStamp(-1, name)
        self.frozen = False
        self.lives = 0
        self.positions: dict[TopicPartition, int] = {}
        self.unresolved: set[TopicPartition] = set()
        self.engine: deque[Batch] = deque()
        self.stage = Stage.NONE
        self.epoch = brokers.init_producer(name)
        self.staged: list[Parcel] = []
        self.lanes: dict[TopicPartition, deque[tuple[Parcel, int]]] = {}
        self.max_rows: dict[TopicPartition, int] = {}
        self.covered = self.pipeline.committable()
        self.aborts = 0
        self.fenced = 0

    # ---- what may happen next --------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Everything this worker could do now."""
        found: list[Action] = []
        if self.membership is Membership.ACTIVE:
            if self.unresolved:
                found.append(self.resolve)
            if self.positions and self.pipeline.room():
                found.append(self.poll)
        if self.engine:
            found.append(self.score)
        found += self._transaction_actions()
        if self.membership is Membership.REVOKING:
            found.append(self.give_up)
        return found

    def _transaction_actions(self) -> list[Action]:
        match self.stage:
            case Stage.BROKEN:
                return [self.rebuild]
            case Stage.NONE:
                return [self.begin] if self.staged or self.pipeline.committable() is not None else []
            case Stage.CUT:
                return [self.end]
        busy = [tp for tp, lane in self.lanes.items() if lane]
        found: list[Action] = [lambda tp=tp: self.deliver(tp) for tp in busy]  # type: ignore[misc] # bound as default
        if self.stage is Stage.OPEN:
            found.append(self.close)
        elif self.may_cut():
            found.append(self.cut)
        return found

    @property
    def settled(self) -> bool:
        """Whether nothing is in flight, in doubt or unread."""
        behind = any(at < len(self.brokers.inputs[tp]) for tp, at in self.positions.items())
        return not (self.engine or self.unresolved or behind or self.staged) and self.stage is Stage.NONE

    # ---- source ----------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Read the committed offsets, once no transaction holds them."""
        offsets = self.brokers.stable_offsets(sorted(self.unresolved))
        if offsets is not None:
            self.positions.update(offsets)
            self.unresolved.clear()

    def poll(self) -> None:
        """Some records of one partition."""
        tp = self.network.chance.choice(sorted(self.positions))
        start, log = self.positions[tp], self.brokers.inputs[tp]
        stop = min(len(log), start + min(self.pipeline.room(), self.network.chance.randint(1, 4)))
        epoch = self.pipeline.epoch(tp)
        assert epoch is not None
        if stop > start:
            self.positions[tp] = stop
            self.pipeline.records_received([make_span(tp, range(start, stop), log[start:stop], epoch=epoch)], 0.0)
            self.pump()

    def score(self) -> None:
        """The engine finishes a batch; the poison is refused."""
        batch = self.engine.popleft()
        values = [value for rows in batch.slices for value in rows.span.values[rows.start : rows.stop]]
        refusals = {at: Refusal("infer", "model_error", "") for at, value in enumerate(values) if value == POISON}
        outputs = {"score": np.zeros(len(values))} if len(refusals) < len(values) else {}
        self.pipeline.batch_succeeded(batch, Outcome(outputs, refusals), 0.0)
        self.pump()

    def pump(self) -> None:
        """Carry out what the pipeline wants."""
        for action in self.pipeline.take_actions():
            match action:
                case RunBatch(batch):
                    self.engine.append(batch)
                case Produce(parcels):
                    if self.stage is Stage.OPEN:
                        self._enter(parcels)
                    else:
                        self.staged += parcels
                case CommitOffsets():
                    if self.stage is Stage.OPEN:
                        self.close()

    # ---- sink ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction opens with all that waited for it."""
        self.stage = Stage.OPEN
        staged, self.staged = self.staged, []
        self._enter(staged)

    def _enter(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            self.lanes.setdefault(parcel.tp, deque()).extend((parcel, at) for at in range(len(parcel)))

    def deliver(self, tp: TopicPartition) -> None:
        """One batch of one output partition."""
        lane = self.lanes[tp]
        count = min(len(lane), self.max_rows.get(tp, 99), self.network.chance.randint(1, 9))
        rows = [lane.popleft() for _ in range(count)]
        outputs = [Output(tp.topic, *source_of(parcel.headers[at]), parcel.values[at]) for parcel, at in rows]
        name, epoch = self.name, self.epoch
        try:
            self.network.send(lambda: self.brokers.produce(name, epoch, outputs))
        except RecordsRefusedError:
            if len(rows) > 1:
                self.max_rows[tp] = len(rows) // 2
            else:
                self.pipeline.output_refused(outputs[0].source, outputs[0].offset, Refusal("produce", "refused", ""))
            self.abort()
        except (ProducerFencedError, TimeoutError):
            self.abort()
        else:
            for parcel, at in rows:
                if at == len(parcel) - 1:
                    self.pipeline.parcel_delivered(parcel, {}, 0.0)
            self.pump()

    def close(self) -> None:
        """The interval is over."""
        self.stage = Stage.CLOSED

    def may_cut(self) -> bool:
        """Every batch is acknowledged."""
        return not any(self.lanes.values())

    def cut(self) -> None:
        """The offsets of what was acknowledged go in."""
        self.covered = commit = self.pipeline.committable()
        self.stage = Stage.CUT
        if commit is None:
            return
        name, epoch, stamp, offsets = self.name, self.epoch, self.stamp, dict(commit.offsets)
        try:
            self.network.send(lambda: self.brokers.offset_commit(name, epoch, stamp, offsets))
        except (StampRefusedError, ProducerFencedError, TimeoutError) as error:
            self.fenced += not isinstance(error, TimeoutError)
            self.abort()

    def end(self) -> None:
        """The transaction commits."""
        name, epoch = self.name, self.epoch
        try:
            self.network.send(lambda: self.brokers.commit(name, epoch))
        except (ProducerFencedError, TimeoutError):
            self.abort()
            return
        self.stage = Stage.NONE
        self.max_rows.clear()
        if self.covered is not None:
            self.pipeline.commit_ended(self.covered, 0.0, done=True)
        self.pump()

    def abort(self) -> None:
        """Nothing since the last commit counts: read again from there, under a new producer epoch."""
        self.aborts += 1
        self.stage = Stage.BROKEN
        self.staged.clear()
        self.lanes.clear()
        tps = self.pipeline.partitions()
        self.pipeline.partitions_revoked(tps)
        self.pipeline.partitions_assigned(tps, 0.0)
        self.positions.clear()
        self.unresolved = set(tps)
        self.pump()

    def rebuild(self) -> None:
        """The next producer."""
        self.epoch = self.brokers.init_producer(self.name)
        self.stage = Stage.NONE

    # ---- group -----------------------------------------------------------------------------------------------

    def notice_rebalance(self) -> None:
        """The partitions are about to go; what is under way may still be finished."""
        self.membership = Membership.REVOKING
        self.positions.clear()
        self.unresolved.clear()
        self.pipeline.revocation_began(0.0)
        self.pump()

    def give_up(self) -> None:
        """The partitions are gone, finished or not."""
        self.pipeline.partitions_revoked(self.pipeline.partitions())
        self.positions.clear()
        self.unresolved.clear()
        self.abandon()
        self.pump()
        self.membership = Membership.JOINING

    def abandon(self) -> None:
        """What the sink still holds, short of offsets, belongs to nobody's commit any more."""
        self.staged.clear()
        if self.stage in (Stage.OPEN, Stage.CLOSED):
            self.abort()

    def assigned(self, generation: int, tps: list[TopicPartition]) -> None:
        """A new assignment, stamped at once."""
        self.stamp = MemberStamp(generation, self.name)
        self.membership = Membership.ACTIVE
        self.pipeline.partitions_assigned(tps, 0.0)
        self.positions.clear()
        self.unresolved = set(tps)
