"""Pipelines, a transactional broker and a group, under thousands of schedules that a seed replays.

After every commit of the broker a read_committed consumer sees one fate for each record before the committed offsets,
in order, and none for any other; when the faults end, everything comes to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from tests.property.brokerage import POISON, UNWANTED, Brokers
from tests.property.workers import Membership, Network, SimulatedWorker, arrive
from worker.core.pipeline import Pipeline
from worker.core.records import Parcel, TopicPartition
from worker.core.sequencing import Sequencer

TPS = [TopicPartition("in", number) for number in range(2)]
VALUES = [b"1", b"22", b"4444", b"55", b"bad", None, POISON, UNWANTED]
WEIGHTS = [6, 6, 6, 6, 2, 1, 1, 1]
FAULTY_STEPS = 120
CALM_STEPS = 4000
FAULT_SHARE = 0.1
NOTICE_SHARE = 0.3


class Schedule:
    """Two workers, their broker, and a seed that decides everything."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        inputs = {tp: self.chance.choices(VALUES, WEIGHTS, k=self.chance.randint(6, 14)) for tp in TPS}
        self.brokers = Brokers(inputs)
        self.network = Network(self.chance)
        self.started = 0
        self.rebalancing = True
        self.dead: list[str] = []
        self.gone: list[SimulatedWorker] = []
        self.workers = [self._start(), self._start()]

    def _start(self) -> SimulatedWorker:
        self.started += 1
        return SimulatedWorker(f"worker-{self.started}", self.brokers, self.network)

    def run(self) -> None:
        """Faults for a while, then calm until all is done."""
        for _ in range(FAULTY_STEPS):
            if self.chance.random() < FAULT_SHARE:
                self.chance.choice(self._faults())()
            self._step()
        self.network.faults = 0.0
        for worker in self.workers:
            worker.frozen = False
        for name in self.dead:
            self.brokers.expire(name)
        for _ in range(CALM_STEPS):
            if self._done():
                break
            self._step()
        assert self._done(), "it hangs"
        self.brokers.check()
        assert {tp: self.brokers.committed.get(tp, 0) for tp in TPS} == {tp: len(self.brokers.inputs[tp]) for tp in TPS}

    def _done(self) -> bool:
        if self.rebalancing or any(self._is_outsider(worker) for worker in self.workers):
            return False
        ends = all(self.brokers.committed.get(tp, 0) == len(values) for tp, values in self.brokers.inputs.items())
        return ends and all(worker.settled for worker in self.workers)

    # ---- steps -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One action of one worker, a late request, or a move of the group."""
        actions: list[Callable[[], None]] = []
        for worker in self.workers:
            if not worker.frozen:
                actions += worker.actions()
                told = self.rebalancing or self._is_outsider(worker)
                if told and worker.membership is Membership.ACTIVE and self.chance.random() < NOTICE_SHARE:
                    actions.append(worker.notice_rebalance)
        if self.network.late:
            actions.append(self._late)
        if self.rebalancing and all(self._ready(worker) for worker in self.workers):
            actions.append(self._complete_rebalance)
        if any(worker.membership is Membership.JOINING and not worker.frozen for worker in self.workers):
            self.rebalancing = True
        if actions:
            self.chance.choice(actions)()

    def _late(self) -> None:
        arrive(self.network.late.pop(self.chance.randrange(len(self.network.late))))

    def _is_outsider(self, worker: SimulatedWorker) -> bool:
        return worker.membership is Membership.ACTIVE and worker.stamp.generation != self.brokers.generation

    def _ready(self, worker: SimulatedWorker) -> bool:
        """Whether the group need not wait for this worker: it joins, or it was put out."""
        return worker.membership is Membership.JOINING or self._is_outsider(worker) or worker.name in self.dead

    def _complete_rebalance(self) -> None:
        joined = [worker for worker in self.workers if worker.membership is Membership.JOINING and not worker.frozen]
        if not joined:
            return
        self.brokers.complete_rebalance([worker.name for worker in joined])
        self.rebalancing = False
        for worker in joined:
            worker.assigned(self.brokers.generation, list(self.brokers.members[worker.name]))

    # ---- faults ----------------------------------------------------------------------------------------------

    def _faults(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = [self._rebalance, self._crash, self._freeze]
        if self.dead:
            found.append(self._expire_dead)
        if any(worker.frozen for worker in self.workers):
            found += [self._expire_session, self._expire_session, self._thaw, self._expire_transaction]
        return found

    def _rebalance(self) -> None:
        self.rebalancing = True

    def _crash(self) -> None:
        """kill -9 and a new process; the transaction stays open until its timeout."""
        at = self.chance.randrange(2)
        self.dead.append(self.workers[at].name)
        self.gone.append(self.workers[at])
        self.workers[at] = self._start()
        self.rebalancing = True

    def _freeze(self) -> None:
        self.chance.choice(self.workers).frozen = True

    def _thaw(self) -> None:
        self.chance.choice([worker for worker in self.workers if worker.frozen]).frozen = False

    def _expire_dead(self) -> None:
        self.brokers.expire(self.dead.pop())

    def _expire_session(self) -> None:
        """Frozen workers are put out of their group, which goes on without them; one of them wakes up."""
        for worker in self.workers:
            if not worker.frozen:
                if worker.membership is Membership.ACTIVE:
                    worker.notice_rebalance()
                worker.give_up()
        self._complete_rebalance()
        self._thaw()

    def _expire_transaction(self) -> None:
        frozen = [worker for worker in self.workers if worker.frozen]
        self.brokers.expire(self.chance.choice(frozen).name)


def _run(seeds: Iterable[int]) -> list[Schedule]:
    schedules = []
    for seed in seeds:
        schedule = Schedule(seed)
        try:
            schedule.run()
        except Exception as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        schedules.append(schedule)
    return schedules


@pytest.mark.parametrize("block", range(10))
def test_every_schedule_keeps_exactly_once(block: int) -> None:
    """Whatever happens in whatever order, the committed view is right after every commit and complete at the end."""
    schedules = _run(range(200 * block, 200 * (block + 1)))
    workers = [worker for schedule in schedules for worker in schedule.workers + schedule.gone]
    assert sum(worker.aborts for worker in workers) > 200
    assert sum(worker.fenced for worker in workers) > 20
    assert all(schedule.brokers.commits for schedule in schedules)


def test_a_seed_replays_its_schedule() -> None:
    """The same seed leads to the same log, another one does not."""
    logs = [[output for output, _ in _run([seed])[0].brokers.log] for seed in (7, 7, 8)]
    assert logs[0] == logs[1] != logs[2]


# ---- seeded bugs -----------------------------------------------------------------------------------------------


def _no_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parcels leave as they are made."""
    monkeypatch.setattr(Sequencer, "offer", lambda _self, parcels: list(parcels))
    monkeypatch.setattr(Sequencer, "passed", lambda _self, _rows: [])


def _no_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker takes offsets from anybody, as by the first version of the request."""
    monkeypatch.setattr(Brokers, "_stamp_holds", lambda _self, _stamp: True)


def _commit_before_the_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parcels count as delivered when they are sent, and nobody waits for them."""
    original = SimulatedWorker._enter

    def enter(self: SimulatedWorker, parcels: list[Parcel]) -> None:
        original(self, parcels)
        for parcel in parcels:
            self.pipeline.parcel_delivered(parcel, {}, 0.0)

    def nothing(_self: Pipeline, _parcel: Parcel, _refused: object, _now: float) -> None:
        return

    deliver = SimulatedWorker.deliver

    def deliver_unseen(self: SimulatedWorker, tp: TopicPartition) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "parcel_delivered", nothing)
            deliver(self, tp)

    monkeypatch.setattr(SimulatedWorker, "_enter", enter)
    monkeypatch.setattr(SimulatedWorker, "deliver", deliver_unseen)
    monkeypatch.setattr(SimulatedWorker, "may_cut", lambda _self: True)


def _same_epoch_after_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late requests of an aborted transaction are not told from those of the next."""
    monkeypatch.setattr(Brokers, "_next_epoch", lambda _self, _epoch: 0)


def _unstable_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets are read past the transactions that hold newer ones."""
    monkeypatch.setattr(Brokers, "stable_offsets", lambda self, tps: {tp: self.committed.get(tp, 0) for tp in tps})


def _transaction_outlives_the_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of partitions that are gone stay in the transaction, whose offsets no longer name them."""
    monkeypatch.setattr(SimulatedWorker, "abandon", lambda _self: None)


@pytest.mark.parametrize(
    "seed_bug",
    [
        _no_sequence,
        _no_stamp,
        _commit_before_the_acknowledgement,
        _same_epoch_after_an_abort,
        _unstable_offsets,
        _transaction_outlives_the_assignment,
    ],
)
def test_seeded_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, seed_bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """With a known bug some schedule fails."""
    seed_bug(monkeypatch)
    with pytest.raises(AssertionError, match="schedule"):
        _run(range(1000))
