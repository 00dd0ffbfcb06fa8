"""The fetch loop over a client in memory: who is asked for what, and what becomes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka

from tests.adapters.batches import batch, broken, plain
from worker.adapters import kafka_fetch
from worker.adapters.kafka_batches import Columns, Unread
from worker.adapters.kafka_fetch import WORK_S, FetchLoop
from worker.adapters.kafka_fetch_wire import Answer, Answers, Fetch
from worker.core.flow import AHEAD_BYTES, FEW_BYTES
from worker.core.records import TopicPartition

A, B = TopicPartition("in", 0), TopicPartition("in", 1)
TIMEOUT_S = 10.0
OFFSET_OUT_OF_RANGE, NOT_LEADER, TOPIC_DENIED = 1, 6, 29


@dataclass
class _Request:
    """A fetch that was sent, and its answer to come."""

    node: int
    asked: dict[TopicPartition, int]
    max_wait_ms: int
    answer: asyncio.Future[Answers]

    def reply(self, *parts: tuple[TopicPartition, bytes], codes: dict[TopicPartition, int] | None = None) -> None:
        """Answer with these records, and nothing for the rest."""
        found, codes = dict(parts), codes or {}
        answers = {tp: Answer(kafka.for_code(codes.get(tp, 0)), 1000, (), found.get(tp, b"")) for tp in self.asked}
        self.answer.set_result(Answers(0, answers))


@dataclass
class _Client:
    """Leaders as given; requests wait to be answered by the test."""

    leaders: dict[TopicPartition, int]
    requests: list[_Request] = field(default_factory=list)
    metadata_updates: int = 0
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    _conns: dict[Any, Any] = field(default_factory=dict)

    @property
    def cluster(self) -> _Client:
        return self

    def leader_for_partition(self, tp: ClientPartition) -> int | None:
        return self.leaders.get(TopicPartition(*tp))

    def force_metadata_update(self) -> None:
        self.metadata_updates += 1

    async def send(self, node: int, request: Fetch) -> Answers:
        answer = asyncio.get_running_loop().create_future()
        self.requests.append(_Request(node, dict(request.positions), request.max_wait_ms, answer))
        self.sent.set()
        return await self.requests[-1].answer

    async def request(self, number: int) -> _Request:
        """The request of this number, as soon as it is sent."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.requests) <= number:
                self.sent.clear()
                await self.sent.wait()
        return self.requests[number]


@pytest.fixture
async def client() -> _Client:
    """Two partitions, one leader."""
    return _Client({A: 1, B: 1})


MakeLoop = Callable[..., FetchLoop]


@pytest.fixture
async def make_loop(client: _Client) -> AsyncIterator[MakeLoop]:
    """Loops on the client; each is stopped."""
    made: list[FetchLoop] = []

    def make(**changes: Any) -> FetchLoop:
        options = {"max_wait_s": 0.1, "max_bytes": 1 << 20, "gather_s": 0.0, "committed_only": False} | changes
        made.append(FetchLoop(client, **options))
        return made[-1]

    yield make
    for loop in made:
        await loop.stop()


def _offsets(taken: list[tuple[TopicPartition, Any]]) -> list[tuple[int, int]]:
    return [(tp.partition, at) for tp, piece in taken for at in piece.offsets]


async def _take(loop: FetchLoop, max_records: int = 100) -> list[tuple[TopicPartition, Any]]:
    """The next that there is of both partitions."""
    async with asyncio.timeout(TIMEOUT_S):
        while not (taken := loop.take({A, B}, max_records)):
            await loop.wait(0.05)
    return taken


async def test_one_request_asks_for_all_that_a_leader_has(client: _Client, make_loop: MakeLoop) -> None:
    """From the positions given; what is answered is taken, and the next request goes on behind it."""
    loop = make_loop()
    loop.read(A, 5)
    loop.read(B, 7)
    assert loop.take({A, B}, 10) == []
    first = await client.request(0)
    assert first.asked == {A: 5, B: 7}
    first.reply((A, batch(plain(5, 3))), (B, batch(plain(7, 1))))
    assert _offsets(await _take(loop)) == [(0, 5), (0, 6), (0, 7), (1, 7)]
    assert (await client.request(1)).asked == {A: 8, B: 8}
    assert (loop.position(A), loop.end(A), loop.position(B)) == (8, 1000, 8)


async def test_fetching_goes_on_while_little_is_left_to_take(
    client: _Client, make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition with enough unread bytes is left out; the others are asked for all the same."""
    monkeypatch.setattr(kafka_fetch, "AHEAD_BYTES", 300)
    loop = make_loop()
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply((A, batch(plain(0, 20))), (B, batch(plain(0, 1))))
    second = await client.request(1)
    assert second.asked == {B: 1}
    second.reply((B, batch(plain(1, 1))))
    assert (await client.request(2)).asked == {B: 2}
    assert _offsets(loop.take({A, B}, 100)) == [(0, at) for at in range(20)] + [(1, 0), (1, 1)]


async def test_partitions_have_turns(client: _Client, make_loop: MakeLoop) -> None:
    """Who was served stands behind who was not, however much it has."""
    loop = make_loop()
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply((A, batch(plain(0, 50))), (B, batch(plain(0, 3))))
    assert _offsets(await _take(loop, 10)) == [(0, at) for at in range(10)]
    assert _offsets(loop.take({A, B}, 10)) == [(1, 0), (1, 1), (1, 2)] + [(0, at) for at in range(10, 17)]


async def test_only_what_is_asked_for_is_taken(client: _Client, make_loop: MakeLoop) -> None:
    """The rest stays where it is."""
    loop = make_loop()
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply((A, batch(plain(0, 2))), (B, batch(plain(0, 2))))
    await loop.wait(TIMEOUT_S)
    assert _offsets(loop.take({B}, 1)) == [(1, 0)]
    assert _offsets(loop.take({A, B}, 10)) == [(0, 0), (0, 1), (1, 1)]


async def test_each_leader_has_a_request_of_its_own(client: _Client, make_loop: MakeLoop) -> None:
    """One that does not answer keeps nobody else waiting."""
    client.leaders[B] = 2
    loop = make_loop()
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take(set(), 1)
    await client.request(1)
    assert {request.node: request.asked for request in client.requests} == {1: {A: 0}, 2: {B: 0}}
    client.requests[1].reply((B, batch(plain(0, 1))))
    assert _offsets(await _take(loop)) == [(1, 0)]
    assert (await client.request(2)).asked == {B: 1}


async def test_an_answer_to_an_old_question_is_dropped(client: _Client, make_loop: MakeLoop) -> None:
    """Read anew from elsewhere, a partition goes on from there."""
    loop = make_loop()
    loop.read(A, 5)
    loop.take(set(), 1)
    first = await client.request(0)
    loop.read(A, 3)
    first.reply((A, batch(plain(5, 1))))
    assert (await client.request(1)).asked == {A: 3}
    assert loop.take({A}, 10) == []


async def test_what_is_forgotten_is_not_taken(client: _Client, make_loop: MakeLoop) -> None:
    """Neither what was fetched nor what is under way; the request is given up."""
    loop = make_loop()
    loop.read(A, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply((A, batch(plain(0, 2))))
    second = await client.request(1)
    loop.forget()
    assert loop.take({A}, 10) == []
    assert loop.position(A) is None
    await loop.stop()
    assert second.answer.cancelled()


async def test_a_partition_without_a_leader_is_looked_for(
    client: _Client, make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata is asked for, and the partition is read when somebody leads it."""
    monkeypatch.setattr(kafka_fetch, "BACKOFF_S", 0.01)
    del client.leaders[A]
    loop = make_loop()
    loop.read(A, 0)
    loop.take(set(), 1)
    assert (client.metadata_updates, client.requests) == (1, [])
    client.leaders[A] = 3
    assert (await client.request(0)).node == 3


async def test_a_leader_that_moved_is_asked_again(
    client: _Client, make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal or a lost connection, with metadata anew; nothing is skipped."""
    monkeypatch.setattr(kafka_fetch, "BACKOFF_S", 0.01)
    loop = make_loop()
    loop.read(A, 4)
    loop.take(set(), 1)
    (await client.request(0)).reply(codes={A: NOT_LEADER})
    (await client.request(1)).answer.set_exception(kafka.NodeNotReadyError())
    third = await client.request(2)
    assert third.asked == {A: 4}
    assert client.metadata_updates == 2
    third.reply((A, batch(plain(4, 1))))
    assert _offsets(await _take(loop)) == [(0, 4)]


async def test_a_position_that_is_gone_is_told(client: _Client, make_loop: MakeLoop) -> None:
    """It is asked for no more until it is read from elsewhere."""
    loop = make_loop()
    loop.read(A, 4)
    loop.read(B, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply(codes={A: OFFSET_OUT_OF_RANGE})
    second = await client.request(1)
    assert loop.out_of_range == {A}
    assert second.asked == {B: 0}
    loop.read(A, 0)
    second.reply()
    assert loop.out_of_range == set()
    assert (await client.request(2)).asked == {A: 0, B: 0}


async def test_what_was_fetched_before_a_gap_is_taken_first(client: _Client, make_loop: MakeLoop) -> None:
    """Deleted behind what is fetched already: that is handed out before the partition is said to be out of range."""
    loop = make_loop()
    loop.read(A, 4)
    loop.take(set(), 1)
    (await client.request(0)).reply((A, batch(plain(4, 2))))
    (await client.request(1)).reply(codes={A: OFFSET_OUT_OF_RANGE})
    await loop.wait(TIMEOUT_S)
    assert loop.out_of_range == set()
    assert _offsets(loop.take({A}, 10)) == [(0, 4), (0, 5)]
    assert loop.out_of_range == {A}


async def test_what_nobody_can_cure_is_raised(client: _Client, make_loop: MakeLoop) -> None:
    """A topic that may not be read ends the wait at once, and every take."""
    loop = make_loop()
    loop.read(A, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply(codes={A: TOPIC_DENIED})
    async with asyncio.timeout(TIMEOUT_S):
        await loop.wait(2 * TIMEOUT_S)
    for _ in range(2):
        with pytest.raises(kafka.TopicAuthorizationFailedError):
            loop.take({A}, 1)


async def test_a_corrupt_batch_is_fetched_once_more(client: _Client, make_loop: MakeLoop) -> None:
    """Whole the second time, it costs nothing; broken again, its records are named, and those behind it come."""
    loop = make_loop()
    loop.read(A, 0)
    loop.take(set(), 1)
    spoilt, behind = broken(batch(plain(1, 2))), batch(plain(3, 1))
    (await client.request(0)).reply((A, batch(plain(0, 1)) + spoilt + behind))
    assert _offsets(await _take(loop)) == [(0, 0)]
    (await client.request(1)).reply()
    assert loop.take({A}, 10) == []
    again = await client.request(2)
    assert again.asked == {A: 1}
    again.reply((A, spoilt + behind))
    pieces = [piece for _, piece in await _take(loop)]
    assert [piece.offset for piece in pieces if isinstance(piece, Unread)] == [1, 2]
    assert [piece.offsets for piece in pieces if isinstance(piece, Columns)] == [[3]]


async def test_a_short_answer_is_followed_by_a_pause(client: _Client, make_loop: MakeLoop) -> None:
    """Records gather meanwhile; they can be taken at once, and a long or an empty answer is followed by none."""
    loop = make_loop(gather_s=3600.0)
    loop.read(A, 0)
    loop.take(set(), 1)
    (await client.request(0)).reply()
    (await client.request(1)).reply((A, batch([(0, 0, None, bytes(FEW_BYTES), ())])))
    (await client.request(2)).reply((A, batch(plain(1, 1))))
    await loop.wait(TIMEOUT_S)
    assert _offsets(await _take(loop)) == [(0, 0), (0, 1)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(client.requests) == 3


async def test_empty_partitions_do_not_hold_up_one_that_is_read(client: _Client, make_loop: MakeLoop) -> None:
    """While much of one is left to read, its broker holds a fetch of the others for a moment only."""
    loop = make_loop(max_wait_s=0.5)
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take({A, B}, 1)
    first = await client.request(0)
    first.reply((A, batch([(0, 0, None, bytes(AHEAD_BYTES), ()), (1, 0, None, bytes(AHEAD_BYTES), ())])))
    others = await client.request(1)
    assert (first.asked, first.max_wait_ms) == ({A: 0, B: 0}, 500)
    assert (others.asked, others.max_wait_ms) == ({B: 0}, WORK_S * 1000)


async def test_a_partition_that_nobody_takes_of_makes_no_haste(client: _Client, make_loop: MakeLoop) -> None:
    """Stopped partitions may stand still for hours: the others are asked for at leisure."""
    loop = make_loop(max_wait_s=0.5)
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take({B}, 1)
    (await client.request(0)).reply((A, batch([(0, 0, None, bytes(AHEAD_BYTES), ())])))
    assert (await client.request(1)).max_wait_ms == 500


async def test_a_wait_ends_with_its_time(make_loop: MakeLoop) -> None:
    """Nothing came."""
    loop = make_loop()
    async with asyncio.timeout(TIMEOUT_S):
        await loop.wait(0.0)
    assert loop.take({A}, 1) == []
    assert loop.answered_at([A]) is None


async def test_answers_count_with_records_or_without(client: _Client, make_loop: MakeLoop) -> None:
    """They tell that the client lives."""
    loop = make_loop()
    loop.read(A, 0)
    loop.take(set(), 1)
    begun = asyncio.get_running_loop().time()
    (await client.request(0)).reply()
    await client.request(1)
    answered_at = loop.answered_at([A, B])
    assert answered_at is not None
    assert answered_at >= begun


async def test_a_leader_with_few_records_does_not_wait_for_the_backlog_of_another(
    client: _Client, make_loop: MakeLoop
) -> None:
    """The reader never asks for more while there is more: the pause begins all the same."""
    client.leaders = {A: 1, B: 2}
    loop = make_loop(gather_s=0.001)
    loop.read(A, 0)
    loop.read(B, 0)
    loop.take(set(), 1)
    first, second = await client.request(0), await client.request(1)
    assert {first.node, second.node} == {1, 2}
    few, many = (first, second) if first.node == 1 else (second, first)
    many.reply((B, batch(plain(0, 50))))
    few.reply((A, batch(plain(0, 1))))
    assert _offsets(await _take(loop, 2))
    assert {(await client.request(number)).node for number in (2, 3)} == {1, 2}
