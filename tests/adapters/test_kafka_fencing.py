"""Fenced requests: their bytes, what each answer leads to, and what is refused at the start."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer import sender as kafka_sender
from aiokafka.producer.transaction_manager import TransactionManager, TransactionState
from aiokafka.structs import OffsetAndMetadata

from worker.adapters import kafka_fencing
from worker.adapters.kafka_fencing import (
    MemberFencedError,
    Stamp,
    UnstableOffsetsError,
    check_client,
    committed_offsets,
    discard,
    fence,
    note_poll,
    require_fencing,
    silence_fetcher,
    stamp_of,
)
from worker.adapters.kafka_fencing_wire import FencedOffsetCommit
from worker.core.records import TopicPartition
from worker.errors import BrokerError, EnvironmentFault

TP = ClientPartition("in", 1)
OTHER = ClientPartition("in", 2)
STAMP = Stamp(7, "member-1", None)
BROKER = {28: (0, 4), 9: (1, 9)}
GROUP = kafka_sender.CoordinationType.GROUP


def _text(value: str | None) -> bytes:
    """A compact string of fewer than 127 bytes."""
    return b"\x00" if value is None else bytes([len(value) + 1]) + value.encode()


class _Sender:
    """As much of aiokafka's sender as a commit of offsets uses, with its real transaction manager."""

    _retry_backoff = 0.0

    def __init__(self, answers: list[bytes]) -> None:
        self._txn_manager = TransactionManager("txn-1", 10_000)
        self._txn_manager.set_pid_and_epoch(1000, 5)
        self._txn_manager.begin_transaction()
        self._answers = answers
        self.client = self
        self.sent: list[bytes] = []
        self.dead: list[object] = []
        self.denied = False

    async def send(self, node: int, request: Any, *, group: object) -> Any:
        """Encode the request as for the wire and decode the next answer."""
        assert node == 1
        assert group is kafka_sender.TxnOffsetCommitHandler.group
        encoded = request.prepare(BROKER)
        self.sent.append(encoded.encode())
        return encoded.RESPONSE_TYPE.decode(BytesIO(self._answers.pop(0)))

    async def _find_coordinator(self, kind: object, key: str) -> int:
        assert (kind, key) == (GROUP, "group")
        if self.denied:
            raise kafka.GroupAuthorizationFailedError(key)
        return 1

    def _coordinator_dead(self, kind: object) -> None:
        self.dead.append(kind)


def _answer(*codes: int) -> bytes:
    """TxnOffsetCommit response 3 for partitions 1, 2 and so on of the topic."""
    partitions = b"".join(struct.pack(">ih", at + 1, code) + b"\x00" for at, code in enumerate(codes))
    return struct.pack(">i", 0) + b"\x02" + _text("in") + bytes([len(codes) + 1]) + partitions + b"\x00" + b"\x00"


def _fenced(*answers: bytes, stamp: Stamp = STAMP) -> tuple[_Sender, Any]:
    sender = _Sender(list(answers))
    fence(SimpleNamespace(_sender=sender), [stamp])
    return sender, sender._do_txn_offset_commit  # type: ignore[attr-defined] # set by fence


async def _commit(sender: _Sender, commit: Any, *tps: ClientPartition) -> asyncio.Future[None]:
    """One attempt at committing offset 42 of each partition; returns what aiokafka's caller waits on."""
    offsets = {tp: OffsetAndMetadata(42, "") for tp in tps}
    waiter: asyncio.Future[None] = sender._txn_manager.add_offsets_to_txn(offsets, "group")
    await commit(offsets, "group")
    return waiter


# ---- the bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instance", [None, "pod-1"])
async def test_the_request_carries_the_stamp_as_the_protocol_says(instance: str | None) -> None:
    """TxnOffsetCommit 3, field for field: ids, epoch, generation, member, instance, offsets."""
    sender, commit = _fenced(_answer(0), stamp=Stamp(7, "member-1", instance))
    await _commit(sender, commit, TP)
    partition = struct.pack(">iqi", 1, 42, -1) + _text("") + b"\x00"
    assert sender.sent == [
        _text("txn-1")
        + _text("group")
        + struct.pack(">qhi", 1000, 5, 7)
        + _text("member-1")
        + _text(instance)
        + (b"\x02" + _text("in") + b"\x02" + partition + b"\x00")
        + b"\x00"
    ]


async def test_no_other_version_is_ever_sent() -> None:
    """A broker that only speaks the versions without a stamp gets nothing."""
    request = FencedOffsetCommit("txn-1", "group", 1, 1, 1, "m", None, [], {})
    assert request.prepare({28: (0, 3)}).API_VERSION == 3
    with pytest.raises(NotImplementedError):
        request.prepare({28: (0, 2)})
    with pytest.raises(kafka.IncompatibleBrokerVersion):
        request.prepare({})


# ---- answers -----------------------------------------------------------------------------------------------------


async def test_code_0_completes_the_offsets() -> None:
    """The caller goes on, and the transaction is as good as before."""
    sender, commit = _fenced(_answer(0, 0))
    waiter = await _commit(sender, commit, TP, OTHER)
    assert waiter.result() is None
    assert sender._txn_manager.state is TransactionState.IN_TRANSACTION
    assert sender.dead == []


@pytest.mark.parametrize(("code", "moved"), [(3, False), (14, True), (15, True), (16, True)])
async def test_passing_troubles_are_asked_again(code: int, moved: bool) -> None:
    """Nothing is decided; where the coordinator may have moved, it is looked up anew."""
    sender, commit = _fenced(_answer(code), _answer(0))
    waiter = await _commit(sender, commit, TP)
    assert not waiter.done()
    assert sender.dead == ([GROUP] if moved else [])
    offsets, group = sender._txn_manager._pending_txn_offsets[0][1], "group"
    await commit(offsets, group)
    assert waiter.result() is None


async def test_only_what_is_missing_is_asked_again() -> None:
    """A partition that is in keeps its place; the request after has the other one."""
    sender, commit = _fenced(_answer(0, 14), _answer(0))
    waiter = await _commit(sender, commit, TP, OTHER)
    assert not waiter.done()
    offsets = sender._txn_manager._pending_txn_offsets[0][1]
    assert list(offsets) == [OTHER]


@pytest.mark.parametrize("code", [22, 25, 27, 82, 30, -1])
async def test_a_refused_member_must_abort(code: int) -> None:
    """The caller learns the code; the transaction can only be aborted."""
    sender, commit = _fenced(_answer(0, code))
    waiter = await _commit(sender, commit, TP, OTHER)
    error = waiter.exception()
    assert isinstance(error, MemberFencedError)
    assert error.code == code
    assert str(code) in str(error)
    assert sender._txn_manager.state is TransactionState.ABORTABLE_ERROR
    with pytest.raises(MemberFencedError):
        sender._txn_manager.committing_transaction()


@pytest.mark.parametrize("code", [47, 90])
async def test_a_fenced_producer_ends_the_sender(code: int) -> None:
    """Another producer has the id: aiokafka's own error tells so, whatever other partitions say."""
    sender, commit = _fenced(_answer(22, code))
    with pytest.raises(kafka.ProducerFenced):
        await _commit(sender, commit, TP, OTHER)


async def test_a_group_that_is_denied_must_abort() -> None:
    """Looking up the coordinator already says so."""
    sender, commit = _fenced()
    sender.denied = True
    waiter = await _commit(sender, commit, TP)
    assert isinstance(waiter.exception(), kafka.GroupAuthorizationFailedError)
    assert isinstance(sender._txn_manager.wait_for_transaction_end().exception(), kafka.GroupAuthorizationFailedError)
    assert sender.sent == []


async def test_without_offsets_nothing_is_sent() -> None:
    """A request without partitions would commit nothing."""
    sender, commit = _fenced()
    await commit({}, "group")
    assert sender.sent == []


# ---- stable offsets ----------------------------------------------------------------------------------------------


class _Member:
    """A consumer and its coordinator in one."""

    generation, member_id, _group_instance_id = 4, "member-4", "pod-4"

    def __init__(self, answers: list[tuple[int, Mapping[int, tuple[int, int]]]]) -> None:
        self._coordinator = self
        self._answers = answers
        self.sent: list[bytes] = []
        self.deaths = 0

    async def ensure_coordinator_known(self) -> None:
        """It is."""

    def coordinator_dead(self) -> None:
        self.deaths += 1

    async def _send_req(self, request: Any) -> Any:
        encoded = request.prepare(BROKER)
        self.sent.append(encoded.encode())
        error, partitions = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        rows = b"".join(
            struct.pack(">iqi", at, offset, -1) + _text("") + struct.pack(">h", code) + b"\x00"
            for at, (offset, code) in partitions.items()
        )
        topics = b"\x02" + _text("in") + bytes([len(partitions) + 1]) + rows + b"\x00"
        body = struct.pack(">i", 0) + topics + struct.pack(">h", error) + b"\x00"
        return encoded.RESPONSE_TYPE.decode(BytesIO(body))


TPS = [TopicPartition("in", 0), TopicPartition("in", 1)]


async def _stable(member: _Member, timeout_s: float = 20.0) -> dict[TopicPartition, int | None]:
    return await committed_offsets(member, "group", TPS, timeout_s, stable=True)


async def test_stable_offsets_are_required_in_the_request() -> None:
    """OffsetFetch 7, field for field; offset -1 means that there is none."""
    member = _Member([(0, {0: (5, 0), 1: (-1, 0)})])
    assert await _stable(member) == {TPS[0]: 5, TPS[1]: None}
    partitions = b"\x03" + struct.pack(">ii", 0, 1)
    assert member.sent == [_text("group") + b"\x02" + _text("in") + partitions + b"\x00" + b"\x01" + b"\x00"]


@pytest.mark.parametrize(("code", "deaths"), [(88, 0), (14, 1), (16, 1), (3, 0)])
async def test_offsets_in_doubt_are_asked_again(monkeypatch: pytest.MonkeyPatch, code: int, deaths: int) -> None:
    """As long as a transaction holds them, or the coordinator moves, nothing is returned."""
    monkeypatch.setattr(kafka_fencing, "_BACKOFF_S", 0.0)
    member = _Member([(0, {0: (5, 0), 1: (-1, code)}), (code, {}), (0, {0: (5, 0), 1: (6, 0)})])
    assert await _stable(member) == {TPS[0]: 5, TPS[1]: 6}
    assert len(member.sent) == 3
    assert member.deaths == 2 * deaths


async def test_offsets_that_stay_in_doubt_are_asked_for_later() -> None:
    """The wait is bounded, and the error one that passes."""
    with pytest.raises(UnstableOffsetsError) as caught:
        await _stable(_Member([(0, {0: (-1, 88), 1: (-1, 0)})]), timeout_s=-1.0)
    assert caught.value.retriable


async def test_a_discarded_producer_waits_for_nothing() -> None:
    """Its sender ends as soon as the requests do, which fail with their connections."""
    failed = asyncio.Event()

    async def send() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await failed.wait()

    async def close() -> None:
        failed.set()

    sending = asyncio.create_task(send())
    producer = SimpleNamespace(_sender=SimpleNamespace(sender_task=sending), client=SimpleNamespace(close=close))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await discard(producer)
    assert sending.done()
    assert producer._closed


async def test_a_final_answer_is_aiokafkas_error() -> None:
    """The group is denied: asking again would not help."""
    with pytest.raises(kafka.GroupAuthorizationFailedError):
        await _stable(_Member([(30, {})]))


class _Coordinator(_Member):
    """Answers as the version that aiokafka speaks: offsets by partition, and an error for the whole group."""

    def __init__(self, answers: list[tuple[int, list[tuple[int, int, str, int]]]]) -> None:
        super().__init__([])
        self._groups = answers

    async def _send_req(self, request: Any) -> Any:
        self.sent.append(request.prepare(BROKER).encode())
        error, partitions = self._groups.pop(0) if len(self._groups) > 1 else self._groups[0]
        return SimpleNamespace(topics=[("in", partitions)] if partitions else [], error_code=error)


@pytest.mark.parametrize(("code", "deaths"), [(14, 1), (15, 1), (16, 1), (7, 0)])
async def test_a_group_whose_coordinator_moves_is_not_taken_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch, code: int, deaths: int
) -> None:
    """An error for the whole group comes without any partition: that is no sign that nothing was committed."""
    monkeypatch.setattr(kafka_fencing, "_BACKOFF_S", 0.0)
    member = _Coordinator([(code, []), (0, [(0, -1, "", code), (1, 6, "", 0)]), (0, [(0, 5, "", 0), (1, -1, "", 0)])])
    found = await committed_offsets(member, "group", TPS, 20.0, stable=False)
    assert found == {TPS[0]: 5, TPS[1]: None}
    assert (len(member.sent), member.deaths) == (3, 2 * deaths)


async def test_a_coordinator_that_stays_away_is_an_error_to_be_tried_again() -> None:
    """The poll loop turns meanwhile."""
    with pytest.raises(kafka.NotCoordinatorForGroupError) as caught:
        await committed_offsets(_Coordinator([(16, [])]), "group", TPS, -1.0, stable=False)
    assert caught.value.retriable


async def test_the_fetcher_of_the_client_is_silenced() -> None:
    """Its task ends, as often as it is asked to."""
    task = asyncio.create_task(asyncio.sleep(60))
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(_fetch_task=task))
    for _ in range(2):
        silence_fetcher(consumer)
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_poll_is_noted_where_the_group_looks() -> None:
    """What ended the membership is raised; else the time since the last poll begins anew."""
    subscription = SubscriptionState()
    subscription._last_fetch_ended -= 100
    errors: list[Exception] = []

    def check_errors() -> None:
        if errors:
            raise errors[0]

    consumer = SimpleNamespace(_coordinator=SimpleNamespace(check_errors=check_errors), _subscription=subscription)
    note_poll(consumer)
    assert subscription.fetcher_idle_time < 50
    errors.append(kafka.GroupAuthorizationFailedError())
    with pytest.raises(kafka.GroupAuthorizationFailedError):
        note_poll(consumer)


def test_the_stamp_is_the_membership_now() -> None:
    """Generation, member id and instance id, as the next commit needs them."""
    assert stamp_of(_Member([])) == Stamp(4, "member-4", "pod-4")


# ---- the start ---------------------------------------------------------------------------------------------------


class _Client:
    def __init__(self, versions: Mapping[int, tuple[int, int]]) -> None:
        self._conns = {"conn": SimpleNamespace(_versions=versions)}

    def get_random_node(self) -> int:
        return 1

    async def ready(self, node: int) -> bool:
        return node == 1


async def test_a_broker_that_can_fence_is_taken() -> None:
    """Both requests are there in the versions needed."""
    client = _Client({28: (0, 3), 9: (7, 9)})
    await require_fencing(SimpleNamespace(client=client))
    assert client.get_random_node() == 1


class _Nobody(_Client):
    """Metadata names no broker, or the one it names has gone."""

    def __init__(self, node: int | None, *, answers: bool) -> None:
        super().__init__({})
        self._conns.clear()
        self.node, self.answers = node, answers

    def get_random_node(self) -> int | None:  # type: ignore[override]
        return self.node

    async def ready(self, node: int) -> bool:
        assert node == self.node
        return self.answers


@pytest.mark.parametrize(("node", "answers"), [(None, False), (1, False), (1, True)])
async def test_a_cluster_of_which_nobody_answers_is_asked_again(node: int | None, *, answers: bool) -> None:
    """The error is one that the start retries, not a verdict on the broker's age."""
    with pytest.raises(kafka.KafkaConnectionError) as caught:
        await require_fencing(SimpleNamespace(client=_Nobody(node, answers=answers)))
    assert caught.value.retriable


@pytest.mark.parametrize(
    ("versions", "name"),
    [({28: (0, 2), 9: (0, 7)}, "TxnOffsetCommit"), ({28: (0, 3), 9: (0, 6)}, "OffsetFetch"), ({}, "TxnOffsetCommit")],
)
async def test_a_broker_that_cannot_fence_is_refused(versions: Mapping[int, tuple[int, int]], name: str) -> None:
    """The error names the request, and the versions of Kafka that have it."""
    with pytest.raises(BrokerError) as caught:
        await require_fencing(SimpleNamespace(client=_Client(versions)))
    (problem,) = caught.value.problems
    assert (problem.code, problem.key) == ("broker_too_old", "delivery.guarantee")
    assert f"the broker offers {name} versions" in str(caught.value)
    assert "Kafka 2.5" in problem.remedy


def test_the_installed_client_is_fit() -> None:
    """The pinned aiokafka has every private part that fencing builds on."""
    check_client()
    assert hasattr(kafka_sender.Sender, "_do_txn_offset_commit")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (kafka_sender.Sender, "_do_txn_offset_commit"),
        (kafka_sender.Sender, "_find_coordinator"),
        (kafka_sender.TxnOffsetCommitHandler, "handle_response"),
    ],
)
def test_another_client_is_refused(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """The error names what is missing and the version to install."""
    monkeypatch.delattr(owner, name)
    if name == "handle_response":
        monkeypatch.delattr(kafka_sender.BaseHandler, name)
    with pytest.raises(EnvironmentFault) as caught:
        check_client()
    assert f"{owner.__name__}.{name}" in str(caught.value)
    assert caught.value.problems[0].code == "client_unfit"
