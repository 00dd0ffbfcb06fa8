"""The faults, each a function on the field: it strikes, heals, and says what it hit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os import kill

from tests.chaos.account import Lane
from tests.chaos.altered import HANGS, AlteredWorker
from tests.chaos.cluster import Cluster, Node
from tests.chaos.fleet import Fleet, OpenWork, Topics
from tests.chaos.ledger import Ledger
from tests.chaos.relay import END_TXN, FETCH, GARBLES, OFFSET_COMMIT, PRODUCE, TXN_OFFSET_COMMIT, Link, Trap
from tests.kafka.processes import tail, wait_until
from tests.kafka.worker_process import WorkerProcess

TRAP_TIMEOUT_S = 30.0
REFUSAL = "the dead-letter topic"
"""How a worker begins its last words when it may not drop a dead letter."""

REFUSING_BYTES = "150"
"""Less than any dead letter, and more than the marker that ends a transaction, without which it hangs for ever."""

UNDER_WAY_S = 1.0
DISCOVERY_TIMEOUT_S = 90.0
"""Clients ask for partitions every 30 s."""

HANG_S = 1.0
"""Time for a hung model call to have records behind it."""


@dataclass(slots=True)
class Field:
    """Everything that faults may touch."""

    cluster: Cluster
    fleet: Fleet
    ledger: Ledger
    topics: Topics
    rng: random.Random
    guarantee: str

    @property
    def session_timeout_s(self) -> float:
        """Silence after which a worker loses its partitions."""
        return float(self.fleet.settings["kafka"]["session_timeout_s"])

    @property
    def exactly_once(self) -> bool:
        """Whether the workers use transactions."""
        return self.guarantee == "exactly_once"

    def pick(self) -> str:
        """Any worker that has partitions."""
        owners = [name for name in sorted(self.fleet.running) if self.fleet.assignment(name)]
        if not owners:
            raise RuntimeError("no worker has partitions")
        return self.rng.choice(owners)


@dataclass(frozen=True, slots=True)
class Strike:
    """What a fault did: its target, what it hit, and how many workers' unfinished work it threw back."""

    target: str
    work: OpenWork
    crashed: int = 0
    graceful: bool = False


Fault = Callable[[Field], Strike]


def _finish_off(field: Field, name: str, work: OpenWork) -> Strike:
    """Kill a frozen worker and put another in its place, as a supervisor would."""
    field.fleet.running[name].kill9()
    field.fleet.forget(name)
    field.fleet.start()
    return Strike(name, work, crashed=1)


def kill_worker(field: Field) -> Strike:
    """kill -9 at a random moment."""
    name = field.pick()
    time.sleep(field.rng.uniform(0, 0.5))
    return _finish_off(field, name, field.fleet.freeze_at_work(name))


def _kill_at(field: Field, before: int, *, after: int | None, at_response: bool = False) -> Strike:
    """kill -9 at a named point of the protocol."""
    name = field.pick()
    lanes = field.fleet.assignment(name)
    pid = field.fleet.pid(name)
    trap = Trap(name, before, lambda: kill(pid, signal.SIGSTOP), after, at_response)
    field.cluster.relay.arm(trap)
    if not trap.sprung.wait(TRAP_TIMEOUT_S):
        field.cluster.relay.disarm(trap)
        raise TimeoutError(f"{name} never came to the named point (request {before} after {after})")
    work = field.fleet._observed(lanes, field.fleet.ends(lanes))
    return _finish_off(field, name, work)


def kill_while_producing(field: Field) -> Strike:
    """kill -9 while outputs are under way: produced, but not at the broker yet."""
    name = field.pick()
    lanes = field.fleet.assignment(name)
    field.cluster.relay.set_link(name, Link(held=frozenset({PRODUCE})))
    time.sleep(UNDER_WAY_S)
    field.fleet.running[name].pause()
    work = field.fleet._observed(lanes, field.fleet.ends(lanes))
    # What the relay holds must not arrive after all.
    field.cluster.relay.set_link(name, Link(cut=True))
    struck = _finish_off(field, name, work)
    field.cluster.relay.heal(name)
    return struck


def kill_before_commit(field: Field) -> Strike:
    """kill -9 after outputs are acknowledged, before the offsets are committed (or enter the transaction)."""
    return _kill_at(field, TXN_OFFSET_COMMIT if field.exactly_once else OFFSET_COMMIT, after=PRODUCE)


def kill_before_end(field: Field) -> Strike:
    """kill -9 after the offsets are in the transaction, before its end is asked for (exactly_once only)."""
    return _kill_at(field, END_TXN, after=TXN_OFFSET_COMMIT)


def kill_unheard_commit(field: Field) -> Strike:
    """kill -9 after the broker has committed and before the worker hears of it."""
    return _kill_at(field, END_TXN if field.exactly_once else OFFSET_COMMIT, after=PRODUCE, at_response=True)


def kill_in_drain(field: Field) -> Strike:
    """kill -9 when the drain is about to commit; a worker that had nothing to commit is replaced by the next."""
    deadline = time.monotonic() + 2 * TRAP_TIMEOUT_S
    point = END_TXN if field.exactly_once else OFFSET_COMMIT
    while time.monotonic() < deadline:
        name = field.pick()
        process, pid = field.fleet.running[name], field.fleet.pid(name)
        lanes = field.fleet.assignment(name)
        trap = Trap(name, point, partial(kill, pid, signal.SIGSTOP))
        field.cluster.relay.arm(trap)
        process.sigterm()
        wait_until(
            lambda trap=trap, process=process: trap.sprung.is_set() or not process.is_alive,  # type: ignore[misc]
            timeout_s=TRAP_TIMEOUT_S,
            what=lambda: "a worker neither commits nor ends its drain",
        )
        if trap.sprung.is_set():
            return _finish_off(field, name, field.fleet._observed(lanes, field.fleet.ends(lanes)))
        field.cluster.relay.disarm(trap)
        _drained_well(field.fleet.forget(name), name)
        field.fleet.start()
        # A worker whose partitions are just being given up has committed already.
        field.fleet.await_members(len(field.fleet.running))
    raise TimeoutError("no drain had anything to commit")


def _wake_when_replaced(field: Field, name: str, lanes: list[Lane], held: Trap | None = None) -> None:
    """Let a frozen worker go on as soon as others have committed work that it began."""
    before = field.fleet.committed(lanes)

    def replaced_by_others() -> bool:
        now = field.fleet.committed(lanes)
        return not field.fleet.is_member(name) and any(now.get(lane, 0) > before.get(lane, 0) for lane in lanes)

    wait_until(
        replaced_by_others,
        timeout_s=field.session_timeout_s + 30,
        what=lambda: f"nobody took the partitions of the frozen {name} over",
    )
    if held is not None:
        field.cluster.relay.release(held)
    field.fleet.running[name].resume()
    wait_until(
        lambda: field.fleet.is_member(name) or not field.fleet.running[name].is_alive,
        timeout_s=60,
        what=lambda: f"the woken {name} does not join again",
    )


def zombie(field: Field) -> Strike:
    """SIGSTOP until others own the partitions and have committed, then SIGCONT with all the old work in hand."""
    name = field.pick()
    lanes = field.fleet.assignment(name)
    work = field.fleet.freeze_at_work(name)
    _wake_when_replaced(field, name, lanes)
    return Strike(name, work, crashed=1)


def zombie_commits(field: Field) -> Strike:
    """As ``zombie``, frozen with the offset commit under way: it arrives when others own the partitions."""
    name = field.pick()
    lanes = field.fleet.assignment(name)
    pid = field.fleet.pid(name)
    point = TXN_OFFSET_COMMIT if field.exactly_once else OFFSET_COMMIT
    trap = Trap(name, point, lambda: kill(pid, signal.SIGSTOP), PRODUCE, hold=True)
    field.cluster.relay.arm(trap)
    if not trap.sprung.wait(TRAP_TIMEOUT_S):
        raise TimeoutError(f"{name} never committed offsets")
    work = field.fleet._observed(lanes, field.fleet.ends(lanes))
    _wake_when_replaced(field, name, lanes, trap)
    return Strike(name, work, crashed=1)


def model_hangs(field: Field) -> Strike:
    """A model call hangs through a rebalance and returns when others own the partitions."""
    name = field.fleet.start(alterations=[HANGS])
    worker = field.fleet.running[name]
    if not isinstance(worker, AlteredWorker):
        raise TypeError(f"{name} is not altered")
    field.fleet.await_members(len(field.fleet.running))
    worker.hang()
    time.sleep(HANG_S)
    work = field.fleet.open_work(name)
    added = field.fleet.start(ready=False)
    try:
        field.fleet.await_members(len(field.fleet.running), 60)
    finally:
        worker.go_on()
    marks = field.ledger.marks()
    wait_until(lambda: field.ledger.passed(marks), timeout_s=60, what=lambda: f"{name} hung on")
    for each in (name, added):
        _drain(field, each)
    return Strike(name, work, crashed=1)


def _drain(field: Field, name: str) -> None:
    """SIGTERM; the worker must end well."""
    process = field.fleet.forget(name)
    process.sigterm()
    _drained_well(process, name)


def _drained_well(process: WorkerProcess, name: str) -> None:
    code = process.wait_exit()
    if code != 0:
        raise AssertionError(f"{name} ended its drain with exit code {code}:\n{tail(process.log)}")


def rolling_restart(field: Field) -> Strike:
    """SIGTERM to each worker in turn; the next only when its replacement is ready."""
    names = sorted(field.fleet.running)
    records = 0
    for name in names:
        records += field.fleet.open_work(name).records
        _drain(field, name)
        field.fleet.start()
    return Strike(", ".join(names), OpenWork(records), graceful=True)


def scale_out_and_in(field: Field) -> Strike:
    """Two workers more, then as many less by SIGTERM."""
    names = sorted(field.fleet.running)
    works = [field.fleet.open_work(name) for name in names]
    added = [field.fleet.start(ready=False) for _ in range(2)]
    for name in added:
        field.fleet.running[name].wait_ready()
    field.fleet.await_members(len(names) + 2)
    for name in [*names[:1], *added[:1]]:
        _drain(field, name)
    work = OpenWork(sum(work.records for work in works), sum(work.transactions for work in works))
    return Strike(", ".join([*names, *added]), work, graceful=True)


def scale_one_four_one(field: Field) -> Strike:
    """Down to one worker, up to four, and down to one again, by SIGTERM; then the fleet as it was."""
    names = sorted(field.fleet.running)
    work = field.fleet.open_work(names[0])
    for name in names[1:]:
        _drain(field, name)
    added = [field.fleet.start(ready=False) for _ in range(3)]
    for name in added:
        field.fleet.running[name].wait_ready()
    field.fleet.await_members(4)
    for name in [names[0], *added[:2]]:
        _drain(field, name)
    field.fleet.await_members(1)
    field.fleet.restore(len(names))
    return Strike(", ".join([*names, *added]), work, graceful=True)


# ---- network -------------------------------------------------------------------------------------------------


def _linked(field: Field, link: Link, seconds: float) -> Strike:
    name = field.pick()
    work = field.fleet.open_work(name)
    field.cluster.relay.set_link(name, replace(link))
    time.sleep(seconds)
    field.cluster.relay.heal(name)
    return Strike(name, work, crashed=1)


def latency(field: Field) -> Strike:
    """500 ms on every request of one worker."""
    return _linked(field, Link(delay_s=0.5), 5)


def cut_short(field: Field) -> Strike:
    """One worker is cut off for less than its session."""
    return _linked(field, Link(cut=True), field.session_timeout_s / 2)


def cut_long(field: Field) -> Strike:
    """One worker is cut off for longer than its session."""
    return _linked(field, Link(cut=True), field.session_timeout_s + 2)


def half_open(field: Field) -> Strike:
    """One worker's connections swallow everything for longer than its session, then are reset."""
    return _linked(field, Link(silent=True), field.session_timeout_s + 2)


def storage_errors(field: Field) -> Strike:
    """The next produce requests of one worker are answered with KAFKA_STORAGE_ERROR."""
    name = field.pick()
    work = field.fleet.open_work(name)
    before = field.cluster.relay.answered_with_errors
    field.cluster.relay.set_link(name, Link(storage_errors=5))
    wait_until(
        lambda: field.cluster.relay.answered_with_errors >= before + 5,
        timeout_s=TRAP_TIMEOUT_S,
        what=lambda: f"{name} produced too little",
    )
    field.cluster.relay.heal(name)
    return Strike(name, work, crashed=1)


def garbled_answers(field: Field) -> Strike:
    """One worker's next answers to fetches and to produce requests are no answers: each kind of garbage once."""
    name = field.pick()
    work = field.fleet.open_work(name)
    left = {api: list(GARBLES) for api in (FETCH, PRODUCE)}
    field.cluster.relay.set_link(name, Link(garbled=left))
    wait_until(
        lambda: not any(left.values()),
        timeout_s=TRAP_TIMEOUT_S,
        what=lambda: f"{name} asks no more: {left} are still to come",
    )
    field.cluster.relay.heal(name)
    return Strike(name, work, crashed=1)


# ---- brokers -------------------------------------------------------------------------------------------------


def _kill_node(field: Field, node: Node, what: str) -> Strike:
    works = [field.fleet.open_work(name) for name in sorted(field.fleet.running)]
    node.kill()
    time.sleep(field.rng.uniform(1, 6))
    field.cluster.restart(node)
    work = OpenWork(sum(work.records for work in works), sum(work.transactions for work in works))
    return Strike(f"node {node.number} ({what})", work, crashed=len(works))


def kill_any_broker(field: Field) -> Strike:
    """kill -9 of a broker, restarted after some seconds."""
    return _kill_node(field, field.rng.choice(field.cluster.nodes), "any")


def kill_controller(field: Field) -> Strike:
    """kill -9 of the node that clients know as controller."""
    return _kill_node(field, field.cluster.controller(), "controller")


def kill_coordinator(field: Field) -> Strike:
    """kill -9 of the group's coordinator: the coordinator moves."""
    return _kill_node(field, field.cluster.coordinator(field.topics.group), "coordinator")


def kill_leader(field: Field) -> Strike:
    """kill -9 of the leader of an output partition: leaders move."""
    return _kill_node(field, field.cluster.leader(field.topics.output, 0), "leader")


def slow_broker(field: Field) -> Strike:
    """A broker stands still for a moment and goes on."""
    works = [field.fleet.open_work(name) for name in sorted(field.fleet.running)]
    node = field.rng.choice(field.cluster.nodes)
    node.pause()
    time.sleep(2)
    node.resume()
    work = OpenWork(sum(work.records for work in works), sum(work.transactions for work in works))
    return Strike(f"node {node.number}", work, crashed=len(works))


# ---- topics --------------------------------------------------------------------------------------------------


def dead_letters_refused(field: Field) -> Strike:
    """The dead-letter topic takes nothing for a while: workers must stop rather than drop; then it heals."""
    size = len(field.fleet.running)
    works = [field.fleet.open_work(name) for name in sorted(field.fleet.running)]
    field.fleet.tolerated = REFUSAL
    field.cluster.client.set_topic_config(field.topics.dead_letters, {"max.message.bytes": REFUSING_BYTES})
    wait_until(
        lambda: field.fleet.reap() > 0,
        timeout_s=60,
        what=lambda: "no worker stopped although its dead letters are refused",
    )
    field.cluster.client.set_topic_config(field.topics.dead_letters, {"max.message.bytes": "1048588"})
    field.fleet.restore(size)
    work = OpenWork(sum(work.records for work in works), sum(work.transactions for work in works))
    return Strike(field.topics.dead_letters, work, crashed=size)


def partitions_added(field: Field) -> Strike:
    """Input, output and dead-letter topics get a partition more each, and load on it."""
    works = [field.fleet.open_work(name) for name in sorted(field.fleet.running)]
    total = field.cluster.client.partition_count(field.topics.output) + 1
    for topic in (field.topics.output, field.topics.dead_letters, *field.topics.inputs):
        field.cluster.client.add_partitions(topic, total)
    sinks = [(topic, total - 1) for topic in (field.topics.output, field.topics.dead_letters)]
    lanes = [(topic, total - 1) for topic in field.topics.inputs]
    field.ledger.grow(lanes, sinks)
    wait_until(
        lambda: all(field.ledger.marks()[lane] for lane in lanes) and field.ledger.passed(dict.fromkeys(lanes, 1)),
        timeout_s=DISCOVERY_TIMEOUT_S,
        what=lambda: f"nothing comes out of the new partitions {lanes}",
    )
    work = OpenWork(sum(work.records for work in works), sum(work.transactions for work in works))
    return Strike(f"{total} partitions", work, crashed=len(works))


def output_recreated(field: Field) -> Strike:
    """The output topic is deleted when all of it has been read, missed under load, and created again, empty."""
    topic = field.topics.output
    names = sorted(field.fleet.running)
    partitions = field.cluster.client.partition_count(topic)
    lanes = list(field.ledger.marks())
    field.ledger.hold()
    wait_until(
        lambda: field.ledger.open_records() == 0 and field.fleet.committed(lanes) == field.fleet.ends(lanes),
        timeout_s=DISCOVERY_TIMEOUT_S,
        what=lambda: "the workers do not come to rest",
    )
    field.ledger.close_topic(topic, partitions)
    field.cluster.client.delete_topic(topic)
    field.ledger.go_on()
    time.sleep(UNDER_WAY_S)
    work = OpenWork(sum(field.fleet.ends(lanes).values()) - sum(field.fleet.committed(lanes).values()))
    field.cluster.create_topic(topic, partitions)
    field.ledger.open_topic(topic, partitions)
    return Strike(topic, work, crashed=len(names))
