"""The transactional sink over a producer in memory: what a transaction holds, when it ends, and what spoils it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from aiokafka import errors as kafka

from worker.adapters import kafka_sink, kafka_transactions
from worker.adapters.kafka_fencing import MemberFencedError, Stamp
from worker.adapters.kafka_transactions import TransactionalSink
from worker.core.offsets import Commit
from worker.core.records import Block, Decoded, Parcel, Refusal, Slice, TopicPartition
from worker.errors import BrokerError, HeadraceError
from worker.settings import KafkaSection
from worker.testing import make_span

IN, OUT = TopicPartition("in", 0), TopicPartition("out", 0)
STAMP = Stamp(3, "member", None)
LETTER = Refusal("decode", "invalid_json", "no")
SECTION = KafkaSection(bootstrap_servers=("127.0.0.1:1",), group_id="group", input_topics=("in",), output_topic="out")
WITHIN_S = 20.0

Values = list[bytes | None]


class _Builder:
    """A batch, and the compiled one inside it, which takes its fields by place."""

    def __init__(self) -> None:
        self.values: Values = []
        self._builder = SimpleNamespace(append=self._append)

    def append(self, *, value: bytes | None, **_: object) -> object:
        return self._append(len(self.values), None, None, value, None)

    def _append(self, index: int, _timestamp: object, _key: object, value: bytes | None, _headers: object) -> object:
        assert index == len(self.values)
        self.values.append(value)
        return self

    def close(self) -> None:
        """Nothing to finish."""


@dataclass
class _Cluster:
    """What the producers of a test share: committed transactions, and how the next requests end."""

    commits: list[tuple[Values, dict[str, int], Stamp | None]] = field(default_factory=list)
    batches: list[Values] = field(default_factory=list)
    producers: list[_Producer] = field(default_factory=list)
    judge: Callable[[Values], Exception | None] = field(default=lambda _values: None)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    asked: dict[str, asyncio.Event] = field(default_factory=dict)

    def close_gate(self, name: str) -> asyncio.Event:
        """Let requests of this name wait; returns what lets them through."""
        self.asked[name] = asyncio.Event()
        return self.gates.setdefault(name, asyncio.Event())

    async def pass_gate(self, name: str) -> None:
        """A request arrives: it waits, fails or goes through."""
        if name in self.gates:
            self.asked[name].set()
            await self.gates[name].wait()
        if self.errors.get(name):
            raise self.errors[name].pop(0)


class _Producer:
    """As much of aiokafka's transactional producer as the sink uses."""

    def __init__(self, cluster: _Cluster, options: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._sender = SimpleNamespace(sender_task=None)
        nowhere = SimpleNamespace(partitions_for_topic=lambda _topic: None)
        self.client = SimpleNamespace(cluster=nowhere, close=self.stop)
        self.options = options
        self.values: Values = []
        self.offsets: dict[str, int] = {}
        self.stamps: list[Stamp] = []
        self.stopped = False
        cluster.producers.append(self)

    async def start(self) -> None:
        await self._cluster.pass_gate("start")

    async def stop(self) -> None:
        self.stopped = True
        await self._cluster.pass_gate("stop")

    async def begin_transaction(self) -> None:
        self.values, self.offsets = [], {}

    def create_batch(self) -> _Builder:
        return _Builder()

    async def send_batch(self, builder: _Builder, _topic: str, *, partition: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._cluster.batches.append(builder.values)
        await self._cluster.pass_gate("batch")
        error = self._cluster.judge(builder.values)
        if error is not None:
            future.set_exception(error)
        else:
            self.values += builder.values
            future.set_result(partition)
        return future

    async def send_offsets_to_transaction(self, offsets: Mapping[Any, Any], group: str) -> None:
        assert group == "group"
        await self._cluster.pass_gate("offsets")
        self.offsets = {f"{tp.topic}/{tp.partition}": at.offset for tp, at in offsets.items()}

    async def commit_transaction(self) -> None:
        await self._cluster.pass_gate("commit")
        stamp = self.stamps[0] if self.stamps else None
        self._cluster.commits.append((self.values, self.offsets, stamp))


class _Owner:
    """Input 0, 1, 2 and so on; everything since the last commit is sent again after an abort, as the driver does."""

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self.sink = TransactionalSink(SECTION, interval_s, timeout_s, self, self._delivered, self.failures_append)
        self.stamp: Stamp | None = STAMP
        self.parcels: list[Parcel] = []
        self.acknowledged = self.committed = 0
        self.aborts: list[bool] = []
        self.known: dict[int, Refusal] = {}
        self.failures: list[BaseException] = []
        self.resend = True
        self._more = asyncio.Event()

    def failures_append(self, error: BaseException) -> None:
        """The sink failed."""
        self.failures.append(error)
        self._more.set()

    def send(self, values: Sequence[bytes], letter: Refusal | None = None) -> Parcel:
        """A parcel of the next input records."""
        first = sum(map(len, self.parcels))
        parcel = _parcel(first, values, letter)
        self.parcels.append(parcel)
        self.sink.send([parcel])
        return parcel

    def _delivered(self, parcel: Parcel, refused: Mapping[int, Refusal]) -> None:
        assert not refused
        self.acknowledged += sum(rows.stop - rows.start for rows in parcel.origin)
        self._more.set()

    def transaction_offsets(self) -> Commit | None:
        """What was acknowledged and is not committed."""
        if self.acknowledged == self.committed:
            return None
        return Commit({IN: self.acknowledged}, {IN: (1, self.acknowledged)})

    def transaction_stamp(self) -> Stamp | None:
        """The membership."""
        return self.stamp

    def transaction_committed(self, commit: Commit | None, took_s: float) -> None:
        """Account for it."""
        assert took_s >= 0
        if commit is not None:
            self.committed = commit.offsets[IN]
        self._more.set()

    def transaction_aborted(self, fenced: bool) -> None:
        """Go back, and send again; known refusals as dead letters."""
        self.aborts.append(fenced)
        self.stamp = STAMP
        self.acknowledged = self.committed
        self._more.set()
        if self.resend:
            at = self.committed
            for value in [value for parcel in self.parcels for value in parcel.values][at:]:
                self.sink.send([_parcel(at, [value or b""], self.known.get(at))])
                at += 1

    def record_refused(self, tp: TopicPartition, offset: int, refusal: Refusal) -> None:
        """Remember it."""
        assert tp == IN
        self.known[offset] = refusal

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the next callbacks until ``condition`` holds."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self._more.clear()
                await self._more.wait()


def _parcel(first: int, values: Sequence[bytes], letter: Refusal | None = None) -> Parcel:
    count = len(values)
    rows = Slice(Block(make_span(IN, range(first, first + count)), Decoded((), [], {})), 0, count)
    return Parcel(OUT, [None] * count, list(values), [[] for _ in values], [0] * count, [rows], letter)


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> _Cluster:
    """A cluster in place of Kafka, whose broker can fence; retries wait for nothing."""
    cluster = _Cluster()

    def fence(producer: _Producer, stamps: list[Stamp]) -> None:
        producer.stamps = stamps

    async def require_fencing(_producer: _Producer) -> None:
        await cluster.pass_gate("versions")

    monkeypatch.setattr(kafka_sink, "AIOKafkaProducer", lambda **options: _Producer(cluster, options))
    monkeypatch.setattr(kafka_transactions, "fence", fence)
    monkeypatch.setattr(kafka_transactions, "require_fencing", require_fencing)
    monkeypatch.setattr(kafka_transactions, "RETRY_BACKOFF_S", 0.0)
    return cluster


@pytest.fixture
async def owner(cluster: _Cluster) -> AsyncIterator[_Owner]:
    """The owner of a started sink, whose transactions end by ``finish`` alone."""
    owner = _Owner(60.0, WITHIN_S)
    await owner.sink.start()
    assert len(cluster.producers) == 1
    yield owner
    cluster.gates.clear()
    await owner.sink.stop()


@pytest.fixture
async def hasty(cluster: _Cluster) -> AsyncIterator[_Owner]:
    """The owner of a started sink with a short interval and a short timeout."""
    owner = _Owner(0.01, 0.2)
    await owner.sink.start()
    assert len(cluster.producers) == 1
    yield owner
    cluster.gates.clear()
    await owner.sink.stop()


async def _finish(owner: _Owner) -> None:
    async with asyncio.timeout(WITHIN_S):
        await owner.sink.finish()


# ---- transactions that go well -----------------------------------------------------------------------------------


async def test_the_interval_ends_a_transaction(cluster: _Cluster, hasty: _Owner) -> None:
    """Outputs, offsets and the stamp go in together, with nobody asking for the end."""
    hasty.send([b"a", b"b"])
    await hasty.until(lambda: hasty.committed == 2)
    assert cluster.commits == [([b"a", b"b"], {"in/0": 2}, STAMP)]
    hasty.send([b"c"])
    await hasty.until(lambda: hasty.committed == 3)
    assert cluster.commits[1:] == [([b"c"], {"in/0": 3}, STAMP)]
    assert (hasty.aborts, hasty.failures, hasty.sink.rebuilds) == ([], [], 0)


async def test_a_cut_ends_a_transaction_at_once(cluster: _Cluster, owner: _Owner) -> None:
    """Long before its interval is over; the next one lasts as long as any."""
    owner.send([b"a"])
    await owner.until(lambda: owner.acknowledged == 1)
    owner.sink.cut()
    await owner.until(lambda: owner.committed == 1)
    owner.send([b"b"])
    await owner.until(lambda: owner.acknowledged == 2)
    assert [values for values, _, _ in cluster.commits] == [[b"a"]]
    await _finish(owner)
    assert [values for values, _, _ in cluster.commits] == [[b"a"], [b"b"]]


async def test_what_comes_while_it_is_open_enters_it(cluster: _Cluster, owner: _Owner) -> None:
    """Within the interval nothing is committed, although it is sent and acknowledged; then all of it at once."""
    owner.send([b"a"])
    await owner.until(lambda: owner.acknowledged == 1)
    owner.send([b"b"])
    await owner.until(lambda: owner.acknowledged == 2)
    assert cluster.commits == []
    await _finish(owner)
    assert cluster.commits == [([b"a", b"b"], {"in/0": 2}, STAMP)]


async def test_what_comes_while_it_commits_waits_for_the_next(cluster: _Cluster, owner: _Owner) -> None:
    """Nothing is sent between the offsets and the end; ``finish`` waits for what came meanwhile too."""
    gate = cluster.close_gate("commit")
    owner.send([b"a"])
    finishing = asyncio.create_task(_finish(owner))
    await cluster.asked["commit"].wait()
    owner.send([b"b"])
    assert cluster.batches == [[b"a"]]
    assert not finishing.done()
    gate.set()
    await finishing
    assert cluster.commits == [([b"a"], {"in/0": 1}, STAMP), ([b"b"], {"in/0": 2}, STAMP)]


async def test_the_offsets_wait_for_every_batch(cluster: _Cluster, owner: _Owner) -> None:
    """While a batch is not acknowledged, neither offsets nor the end are sent."""
    gate = cluster.close_gate("batch")
    owner.send([b"a"])
    finishing = asyncio.create_task(_finish(owner))
    await cluster.asked["batch"].wait()
    offsets = cluster.close_gate("offsets")
    assert not cluster.asked["offsets"].is_set()
    gate.set()
    await cluster.asked["offsets"].wait()
    assert owner.acknowledged == 1
    assert cluster.commits == []
    offsets.set()
    await finishing
    assert cluster.commits == [([b"a"], {"in/0": 1}, STAMP)]


async def test_finish_without_work_returns_at_once(cluster: _Cluster, owner: _Owner) -> None:
    """There is nothing to commit, and no transaction is made for it."""
    await _finish(owner)
    assert cluster.commits == []


async def test_offsets_alone_are_committed(cluster: _Cluster, hasty: _Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are skipped move the offsets without any output."""
    monkeypatch.setattr(kafka_transactions, "OFFSETS_ONLY_INTERVAL_S", 0.01)
    hasty.acknowledged = 5
    hasty.send([b"a"])
    await hasty.until(lambda: hasty.committed == 6)
    hasty.acknowledged = 9
    await hasty.until(lambda: hasty.committed == 9)
    assert cluster.commits[1:] == [([], {"in/0": 9}, STAMP)]


async def test_finish_commits_offsets_alone(cluster: _Cluster, owner: _Owner) -> None:
    """A drain does not wait for the pause between such commits."""
    owner.acknowledged = 5
    await _finish(owner)
    assert cluster.commits == [([], {"in/0": 5}, STAMP)]


async def test_outputs_without_offsets_are_committed(cluster: _Cluster, owner: _Owner) -> None:
    """Where no offset moves, no stamp is needed."""
    owner.send([b"a"])
    await owner.until(lambda: owner.acknowledged == 1)
    owner.committed, owner.stamp = 1, None
    owner.sink.cut()
    await owner.until(lambda: bool(cluster.commits))
    assert cluster.commits == [([b"a"], {}, None)]


async def test_the_producer_is_transactional(cluster: _Cluster) -> None:
    """It has an id of its own, waits for all replicas, and the broker knows the timeout."""
    owners = [_Owner(60.0, 7.5), _Owner(60.0, 7.5)]
    for owner in owners:
        await owner.sink.start()
    first, second = (producer.options for producer in cluster.producers)
    assert first["transactional_id"] != second["transactional_id"]
    assert (second["transaction_timeout_ms"], second["acks"], second["enable_idempotence"]) == (7500, "all", True)
    for owner in owners:
        await owner.sink.stop()
    assert [producer.stopped for producer in cluster.producers] == [True, True]


async def test_a_broker_that_cannot_fence_is_refused(cluster: _Cluster) -> None:
    """The start fails with the broker's error."""
    cluster.errors["versions"] = [HeadraceError()]
    owner = _Owner(60.0, 10.0)
    with pytest.raises(HeadraceError):
        await owner.sink.start()
    await owner.sink.stop()
    assert cluster.producers[0].stopped


async def test_nothing_is_sent_before_the_start() -> None:
    """Using the producer then is a bug."""
    with pytest.raises(RuntimeError):
        _ = _Owner(60.0, 10.0).sink.producer


# ---- aborts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "error", "fenced"),
    [
        ("batch", kafka.RequestTimedOutError(), False),
        ("batch", kafka.OutOfOrderSequenceNumber(), False),
        ("offsets", MemberFencedError(22), True),
        ("offsets", MemberFencedError(49), False),
        ("offsets", kafka.UnknownMemberIdError(), True),
        ("offsets", kafka.KafkaError("sender is gone"), False),
        ("commit", kafka.ProducerFenced(), False),
        ("commit", kafka.RequestTimedOutError(), False),
    ],
)
async def test_an_error_aborts_and_all_comes_again(
    cluster: _Cluster, owner: _Owner, where: str, error: kafka.KafkaError, fenced: bool
) -> None:
    """The owner goes back, a new producer takes over under the same id, and the second time all is committed."""
    cluster.errors[where] = [error]
    owner.send([b"a", b"b"])
    await _finish(owner)
    await owner.until(lambda: bool(owner.aborts))
    await _finish(owner)
    assert cluster.commits == [([b"a", b"b"], {"in/0": 2}, STAMP)]
    assert (owner.aborts, owner.failures, owner.sink.rebuilds) == ([fenced], [], 1)
    old, new = cluster.producers
    assert old.options == new.options
    assert (old.stopped, new.stopped) == (True, False)
    assert owner.sink.producer is new


@pytest.mark.parametrize("where", ["batch", "offsets", "commit"])
async def test_silence_aborts_after_the_timeout(cluster: _Cluster, hasty: _Owner, where: str) -> None:
    """A request that is not answered within the transaction timeout is given up."""
    cluster.close_gate(where)
    hasty.send([b"a"])
    await hasty.until(lambda: bool(hasty.aborts))
    del cluster.gates[where]
    await hasty.until(lambda: hasty.committed == 1)
    assert [values for values, _, _ in cluster.commits] == [[b"a"]]
    assert hasty.failures == []


@pytest.mark.parametrize("stamp", [None, Stamp(-1, "member", None), Stamp(3, "", None)])
async def test_offsets_without_a_membership_abort(cluster: _Cluster, owner: _Owner, stamp: Stamp | None) -> None:
    """Unfenced offsets are never sent."""
    owner.stamp = stamp
    owner.send([b"a"])
    await _finish(owner)
    await owner.until(lambda: bool(owner.aborts))
    await _finish(owner)
    assert owner.aborts == [True]
    assert cluster.commits == [([b"a"], {"in/0": 1}, STAMP)]


async def test_the_stamp_is_taken_with_the_offsets(cluster: _Cluster, owner: _Owner) -> None:
    """Each commit carries the membership of its own moment."""
    owner.send([b"a"])
    await _finish(owner)
    owner.stamp = Stamp(4, "member", "instance")
    owner.send([b"b"])
    await _finish(owner)
    assert [stamp.generation for stamp in cluster.producers[0].stamps] == [4]


async def test_what_was_staged_is_dropped_with_the_abort(cluster: _Cluster, owner: _Owner) -> None:
    """It comes again with all the rest: sent from both sides it would be there twice."""
    gate = cluster.close_gate("commit")
    cluster.errors["commit"] = [kafka.RequestTimedOutError()]
    owner.send([b"a"])
    finishing = asyncio.create_task(_finish(owner))
    await cluster.asked["commit"].wait()
    owner.send([b"b"])
    gate.set()
    await finishing
    await _finish(owner)
    assert [value for values, _, _ in cluster.commits for value in values] == [b"a", b"b"]
    assert owner.aborts == [False]


async def test_a_producer_that_does_not_start_is_tried_again(cluster: _Cluster, owner: _Owner) -> None:
    """While no broker answers, the next producer waits."""
    cluster.errors = {
        "batch": [kafka.RequestTimedOutError()],
        "start": [kafka.KafkaConnectionError("down"), kafka.KafkaConnectionError("down")],
    }
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.aborts))
    await _finish(owner)
    assert [values for values, _, _ in cluster.commits] == [[b"a"]]
    assert (len(cluster.producers), owner.sink.rebuilds) == (4, 1)


async def test_a_transaction_that_the_brokers_never_end_gives_way_to_a_new_id(
    cluster: _Cluster, owner: _Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocked id is named with what to do about it; everything is sent again under one that is not."""
    monkeypatch.setattr(kafka_transactions, "BROKER_ABORT_LAG_S", -WITHIN_S + 0.05)
    cluster.errors["commit"] = [kafka.RequestTimedOutError()]
    gate = cluster.close_gate("start")
    owner.send([b"0", b"1"])
    with structlog.testing.capture_logs() as logs:
        finishing = asyncio.create_task(_finish(owner))
        for _ in range(2):
            await cluster.asked["start"].wait()
            cluster.asked["start"].clear()
        gate.set()
        await finishing
    ids = [producer.options["transactional_id"] for producer in cluster.producers]
    assert ids[0] == ids[1] != ids[2]
    (line,) = [line for line in logs if line["event"] == "transaction_not_ended"][:1]
    assert (line["transactional_id"], "find-hanging" in line["remedy"]) == (ids[0], True)
    assert cluster.producers[1].stopped
    assert [values for values, _, _ in cluster.commits] == [[b"0", b"1"]]


async def test_brokers_that_know_no_broker_are_asked_again(cluster: _Cluster, owner: _Owner) -> None:
    """A cluster that has just lost its only broker answers with none; aiokafka fails an assertion then."""
    cluster.errors = {
        "batch": [kafka.RequestTimedOutError()],
        "start": [AssertionError("Did we not perform bootstrap?")],
    }
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.aborts or owner.failures))
    await _finish(owner)
    assert owner.failures == []
    assert [values for values, _, _ in cluster.commits] == [[b"a"]]


async def test_a_producer_that_is_denied_fails_the_sink(cluster: _Cluster, owner: _Owner) -> None:
    """Waiting does not cure missing permissions; a drain does not wait for it either."""
    cluster.errors = {
        "batch": [kafka.RequestTimedOutError()],
        "start": [kafka.TransactionalIdAuthorizationFailed("id")],
    }
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.failures))
    assert isinstance(owner.failures[0], BrokerError)
    assert cluster.commits == []


async def test_an_old_producer_that_cannot_be_closed_is_left(cluster: _Cluster, owner: _Owner) -> None:
    """Its error means nothing any more."""
    cluster.errors = {"batch": [kafka.RequestTimedOutError()], "stop": [kafka.ProducerFenced()]}
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.aborts))
    await _finish(owner)
    assert [values for values, _, _ in cluster.commits] == [[b"a"]]


# ---- data that the brokers refuse --------------------------------------------------------------------------------


@pytest.mark.parametrize("culprits", [{0}, {4}, {1, 2}, {0, 1, 2, 3, 4, 5, 6, 7}])
async def test_refused_records_are_narrowed_down(cluster: _Cluster, owner: _Owner, culprits: set[int]) -> None:
    """Over several transactions each culprit is found and named; the others are committed once, in order."""
    bad = {b"%d" % at for at in culprits}

    def judge(values: Values) -> Exception | None:
        scored = [value for value in values if int(value or b"0") not in owner.known]
        return kafka.InvalidTimestampError() if bad & set(scored) else None

    cluster.judge = judge
    owner.send([b"%d" % at for at in range(8)])
    async with asyncio.timeout(WITHIN_S):
        while owner.committed < 8:
            await owner.sink.finish()
    assert {at: refusal.reason for at, refusal in owner.known.items()} == dict.fromkeys(culprits, "broker_refused")
    assert [value for values, _, _ in cluster.commits for value in values] == [b"%d" % at for at in range(8)]
    assert owner.failures == []
    assert owner.sink._lanes.max_rows == {}


async def test_a_record_that_is_too_large_says_so(cluster: _Cluster, owner: _Owner) -> None:
    """Its refusal has the reason of outputs that are too large."""
    cluster.judge = lambda _values: None if owner.known else kafka.MessageSizeTooLargeError()
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.known))
    assert owner.known[0].reason == "output_oversize"


async def test_a_dead_letter_that_is_refused_fails_the_sink(cluster: _Cluster, owner: _Owner) -> None:
    """There is no third topic: the worker ends, and nothing of the transaction is committed."""
    cluster.judge = lambda _values: kafka.InvalidTimestampError()
    owner.send([b"a"], LETTER)
    await owner.until(lambda: bool(owner.failures))
    (problem,) = owner.failures[0].problems  # type: ignore[attr-defined] # a BrokerError
    assert problem.code == "dead_letter_refused"
    assert cluster.commits == []


async def test_a_denied_topic_fails_the_sink(cluster: _Cluster, owner: _Owner) -> None:
    """No abort helps against missing permissions."""
    cluster.judge = lambda _values: kafka.TopicAuthorizationFailedError("out")
    owner.send([b"a"])
    await owner.until(lambda: bool(owner.failures))
    assert "denies access to topic out" in str(owner.failures[0])
    assert owner.aborts == []


# ---- endings -----------------------------------------------------------------------------------------------------


async def test_stopping_abandons_what_is_open(cluster: _Cluster, owner: _Owner) -> None:
    """Nothing more is sent or committed, and the connection is closed."""
    owner.send([b"a"])
    await owner.until(lambda: owner.acknowledged == 1)
    await owner.sink.stop()
    assert cluster.commits == []
    assert cluster.producers[0].stopped


async def test_an_ended_assignment_takes_its_open_transaction_along(cluster: _Cluster, owner: _Owner) -> None:
    """Its outputs must not be committed when their offsets no longer can be."""
    owner.resend = False
    owner.send([b"a"])
    await owner.until(lambda: owner.acknowledged == 1)
    owner.acknowledged = 0
    owner.sink.abandon()
    await owner.until(lambda: bool(owner.aborts))
    owner.send([b"b"])
    await _finish(owner)
    assert [values for values, _, _ in cluster.commits] == [[b"b"]]


async def test_an_ended_assignment_takes_its_staged_parcels_along(cluster: _Cluster, owner: _Owner) -> None:
    """What came while a transaction commits is dropped; that transaction has its offsets and may end."""
    gate = cluster.close_gate("commit")
    owner.send([b"a"])
    finishing = asyncio.create_task(_finish(owner))
    await cluster.asked["commit"].wait()
    owner.send([b"b"])
    owner.sink.abandon()
    gate.set()
    await finishing
    assert cluster.commits == [([b"a"], {"in/0": 1}, STAMP)]
    assert owner.aborts == []


async def test_an_ended_assignment_spoils_a_transaction_that_waits_for_its_batches(
    cluster: _Cluster, owner: _Owner
) -> None:
    """Closed but not yet cut, it holds outputs without offsets as well."""
    owner.resend = False
    gate = cluster.close_gate("batch")
    owner.send([b"a"])
    finishing = asyncio.create_task(_finish(owner))
    await cluster.asked["batch"].wait()
    owner.sink.abandon()
    gate.set()
    await owner.until(lambda: bool(owner.aborts))
    await finishing
    assert cluster.commits == []


async def test_abandoning_nothing_does_nothing(cluster: _Cluster, owner: _Owner) -> None:
    """With all committed the next assignment goes on with the same producer."""
    owner.send([b"a"])
    await _finish(owner)
    owner.sink.abandon()
    owner.send([b"b"])
    await _finish(owner)
    assert [values for values, _, _ in cluster.commits] == [[b"a"], [b"b"]]
    assert owner.aborts == []
