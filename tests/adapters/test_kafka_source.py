"""The source over a fetch loop in memory: positions, epochs, and what nobody can read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from types import SimpleNamespace
from typing import Literal

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka

from worker.adapters import kafka_source
from worker.adapters.kafka_batches import Columns, Piece, Unread
from worker.adapters.kafka_fencing import UnstableOffsetsError
from worker.adapters.kafka_source import KafkaSource, Polled, Unreadable
from worker.core.records import Span, TopicPartition
from worker.errors import BrokerError
from worker.settings import KafkaSection

TP = TopicPartition("in", 0)
SECTION = KafkaSection(bootstrap_servers=("127.0.0.1:1",), group_id="group", input_topics=("in",), output_topic="out")


class _Consumer:
    """Knows where the partition begins and ends; notes what is committed."""

    def __init__(self) -> None:
        self.commits: list[dict[ClientPartition, int]] = []

    async def commit(self, offsets: dict[ClientPartition, int]) -> None:
        self.commits.append(offsets)

    async def beginning_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 100)


class _Fetch:
    """A fetch loop whose records are numbers: it has as many as are asked for, while it may answer."""

    def __init__(self) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.out_of_range: set[TopicPartition] = set()
        self.leaderless: set[TopicPartition] = set()
        self.ends: dict[TopicPartition, int] = {}
        self.may_answer = True
        self.unread: int | None = None
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    def read(self, tp: TopicPartition, position: int) -> None:
        self.out_of_range.discard(tp)
        self.positions[tp] = position

    def forget(self) -> None:
        self.positions.clear()

    def position(self, tp: TopicPartition) -> int | None:
        return self.positions.get(tp)

    def has_leader(self, tp: TopicPartition) -> bool:
        return tp not in self.leaderless

    def end(self, tp: TopicPartition) -> int | None:
        return self.ends.get(tp)

    def ends_at(self, tp: TopicPartition, end: int) -> None:
        self.ends[tp] = end

    def take(self, tps: Collection[TopicPartition], max_records: int) -> list[tuple[TopicPartition, Piece]]:
        if TP not in self.positions or TP not in tps or not self.may_answer:
            return []
        first = self.positions[TP]
        if first == self.unread:
            self.positions[TP] = first + 1
            return [(TP, Unread(first, "spoilt"))]
        offsets = list(range(first, first + max_records))
        self.positions[TP] = offsets[-1] + 1
        none: list[bytes | None] = [None for _ in offsets]
        return [(TP, Columns(offsets, [0 for _ in offsets], none, none, [() for _ in offsets]))]

    async def wait(self, timeout_s: float) -> None:
        assert timeout_s >= 0
        self.asked.set()
        await self.go_on.wait()


async def _committed(
    _client: object, _group: str, tps: list[TopicPartition], _within_s: float, *, stable: bool
) -> dict[TopicPartition, int | None]:
    assert not stable
    return dict.fromkeys(tps, 3)


class _Owner:
    """Numbers assignments; may rewind the source while its partitions are taken away."""

    def __init__(self) -> None:
        self.epochs = 0
        self.rewinds: KafkaSource | None = None
        self.resets: list[tuple[TopicPartition, int, str]] = []

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.epochs += 1
        return dict.fromkeys(tps, self.epochs)

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        if self.rewinds is not None:
            self.rewinds.rewind(self.assigned(tps))
            await self.rewinds.poll(1, 0)

    def offset_reset(self, tp: TopicPartition, offset: int, why: Literal["none_committed", "out_of_range"]) -> None:
        self.resets.append((tp, offset, why))


Parts = tuple[KafkaSource, _Fetch, _Owner]


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """A source with one partition assigned, read up to offset 5."""
    owner, fetch = _Owner(), _Fetch()
    source = KafkaSource(SECTION, owner)
    monkeypatch.setattr(source, "_consumer", _Consumer())
    monkeypatch.setattr(source, "_fetch", fetch, raising=False)
    for name in ("stamp_of", "silence_fetcher", "note_poll"):
        monkeypatch.setattr(kafka_source, name, lambda _consumer: None)
    monkeypatch.setattr(kafka_source, "committed_offsets", _committed)
    await source.on_partitions_assigned([ClientPartition(*TP)])
    assert _offsets(await source.poll(2, 0)) == [(1, 3), (1, 4)]
    return source, fetch, owner


def _offsets(polled: list[Polled]) -> list[tuple[int, int]]:
    assert all(isinstance(item, Span) for item in polled)
    return [(item.epoch, at) for item in polled if isinstance(item, Span) for at in item.offsets]


async def test_a_rewind_while_records_are_waited_for_starts_anew(parts: Parts) -> None:
    """That poll returns nothing; the next one goes on at the committed offset under the new epoch."""
    source, fetch, owner = parts
    fetch.may_answer = False
    polling = asyncio.create_task(source.poll(2, 0))
    await fetch.asked.wait()
    source.rewind(owner.assigned([TP]))
    fetch.may_answer = True
    fetch.go_on.set()
    assert await polling == []
    assert _offsets(await source.poll(2, 0)) == [(2, 3), (2, 4)]


async def test_a_rewind_during_a_revocation_leaves_nothing_behind(parts: Parts) -> None:
    """A transaction that is aborted while partitions go must not have them read again."""
    source, fetch, owner = parts
    fetch.go_on.set()
    owner.rewinds = source
    await source.on_partitions_revoked([ClientPartition(*TP)])
    assert await source.poll(1, 0) == []
    owner.rewinds = None
    await source.on_partitions_assigned([ClientPartition(*TP)])
    assert _offsets(await source.poll(1, 0)) == [(3, 3)]


async def test_a_record_that_nobody_can_read_is_known_by_its_coordinates(parts: Parts) -> None:
    """It comes in its turn, with the reason; those behind it follow."""
    source, fetch, _ = parts
    fetch.unread = 5
    (item,) = await source.poll(1, 0)
    assert isinstance(item, Unreadable)
    assert (item.span.tp, item.span.epoch, item.span.offsets, item.span.values) == (TP, 1, [5], [None])
    assert item.refusal == ("decode", "corrupt_record", "spoilt")
    assert _offsets(await source.poll_one(TP)) == [(1, 6)]


def _at(monkeypatch: pytest.MonkeyPatch, **offsets: int) -> None:
    """Have the partition begin, or end, elsewhere."""
    for name, offset in offsets.items():

        async def answer(
            _self: object, tps: Iterable[ClientPartition], offset: int = offset
        ) -> dict[ClientPartition, int]:
            return dict.fromkeys(tps, offset)

        monkeypatch.setattr(_Consumer, f"{name}_offsets", answer)


async def test_a_position_that_was_deleted_is_a_gap(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on where the log begins by now, and what was read before keeps its assignment: it is not lost."""
    source, fetch, owner = parts
    _at(monkeypatch, beginning=50)
    fetch.out_of_range.add(TP)
    assert _offsets(await source.poll(1, 0)) == [(1, 50)]
    assert owner.resets == [(TP, 50, "out_of_range")]


async def test_offsets_that_go_back_are_a_new_assignment(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log ends before it by now: what is in flight would be settled under offsets that mean other records."""
    source, fetch, owner = parts
    _at(monkeypatch, end=4)
    fetch.out_of_range.add(TP)
    assert _offsets(await source.poll(1, 0)) == [(2, 0)]
    assert owner.resets == [(TP, 0, "out_of_range")]


@pytest.mark.parametrize(("taken", "commits"), [(True, []), (False, [{ClientPartition(*TP): 100}])])
async def test_what_is_skipped_by_policy_is_committed_unless_records_are_in_flight(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, *, taken: bool, commits: list[dict[ClientPartition, int]]
) -> None:
    """Committed past records that are not settled yet, a crash would lose them."""
    source, fetch, owner = parts
    monkeypatch.setattr(source, "_section", SECTION.model_copy(update={"auto_offset_reset": "latest"}))
    if not taken:
        source.rewind(owner.assigned([TP]))
        fetch.may_answer = False
        fetch.go_on.set()
        await source.poll(1, 0)
        fetch.may_answer = True
    _at(monkeypatch, beginning=50)
    fetch.out_of_range.add(TP)
    assert [at for _, at in _offsets(await source.poll(1, 0))] == [100]
    assert source._client.commits == commits


async def test_a_committed_offset_is_taken_at_its_word(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind an open transaction the stable end is before it, which is no reason to begin anew."""
    source, _, owner = parts
    _at(monkeypatch, end=1)
    source.rewind(owner.assigned([TP]))
    assert _offsets(await source.poll(1, 0)) == [(2, 3)]
    assert owner.resets == []


async def test_a_partition_without_a_leader_keeps_no_other_waiting(parts: Parts) -> None:
    """Its position is looked for once there is one; until then the worker is not ready, and reads the others."""
    source, fetch, _ = parts
    other = TopicPartition("in", 1)
    fetch.leaderless.add(other)
    await source.on_partitions_assigned([ClientPartition(*TP), ClientPartition(*other)])
    assert _offsets(await source.poll(1, 0)) == [(2, 3)]
    waiting = source.resolving
    fetch.leaderless.clear()
    await source.poll(1, 0)
    assert (waiting, source.resolving) == (True, False)
    assert fetch.positions[other] == 3


async def test_offsets_in_doubt_cost_polls_and_in_the_end_the_worker(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll loop turns while a transaction holds them; longer than it may last, somebody has to look."""
    source, _, owner = parts
    now = asyncio.get_running_loop().time()

    async def unstable(*_: object, stable: bool) -> dict[TopicPartition, int | None]:
        assert stable
        raise UnstableOffsetsError

    monkeypatch.setattr(kafka_source, "committed_offsets", unstable)
    monkeypatch.setattr(source, "_stable_within_s", 40.0)
    monkeypatch.setattr(kafka_source, "asyncio", SimpleNamespace(get_running_loop=lambda: SimpleNamespace(time=clock)))
    source.rewind(owner.assigned([TP]))
    fetch = source._fetch
    monkeypatch.setattr(fetch, "wait", _no_wait)

    def clock() -> float:
        return now

    assert await source.poll(1, 0) == []
    now += 40.0
    assert await source.poll(1, 0) == []
    now += 1.0
    with pytest.raises(BrokerError) as caught:
        await source.poll(1, 0)
    assert caught.value.problems[0].code == "unstable_offsets"


async def _no_wait(timeout_s: float) -> None:
    assert timeout_s >= 0


async def test_a_partition_that_stops_during_the_wait_is_not_taken(parts: Parts) -> None:
    """What the brakes stop while records are waited for is left for the canary."""
    source, fetch, _ = parts
    stopped: list[TopicPartition] = []
    source.stopped = lambda: stopped
    fetch.may_answer = False
    polling = asyncio.create_task(source.poll(2, 0))
    await fetch.asked.wait()
    stopped.append(TP)
    fetch.may_answer = True
    fetch.go_on.set()
    assert await polling == []
    assert _offsets(await source.poll_one(TP)) == [(1, 5)]


async def test_what_is_not_read_is_asked_for_its_end(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lag of a stopped partition follows the log; where nobody answers, it stays as it was."""
    source, fetch, _ = parts
    fetch.ends[TP] = 10
    await source.renew_ends(1.0)
    assert source.lag({TP: 5}) == {TP: 5}
    source.stopped = lambda: [TP]
    await source.renew_ends(1.0)
    assert source.lag({TP: 5}) == {TP: 95}

    async def silent(_self: object, _tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        raise kafka.KafkaTimeoutError

    monkeypatch.setattr(_Consumer, "end_offsets", silent)
    await source.renew_ends(1.0)
    assert source.lag({TP: 5}) == {TP: 95}


@pytest.mark.parametrize("error", [kafka.GroupAuthorizationFailedError, kafka.TopicAuthorizationFailedError])
async def test_what_an_operator_must_cure_ends_the_worker(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: type[kafka.KafkaError]
) -> None:
    """Being denied the group or the topic is no matter of waiting."""
    source, _, _ = parts
    monkeypatch.setattr(kafka_source, "note_poll", lambda _consumer: (_ for _ in ()).throw(error("denied")))
    with pytest.raises(BrokerError):
        await source.poll(1, 0)


async def test_what_passes_costs_one_poll(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that moves is found by aiokafka itself."""
    source, _, _ = parts
    with monkeypatch.context() as patch:
        error = kafka.GroupCoordinatorNotAvailableError()
        patch.setattr(kafka_source, "note_poll", lambda _consumer: (_ for _ in ()).throw(error))
        assert await source.poll(1, 0) == []
    assert _offsets(await source.poll(1, 0)) == [(1, 5)]


async def test_a_rebalance_that_ends_after_the_stop_is_nobodys(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source leaves the group: what it is still told of assignments has no effect, and is no error."""
    source, _, owner = parts
    monkeypatch.setattr(source, "_consumer", None)
    await source.on_partitions_revoked([ClientPartition(*TP)])
    await source.on_partitions_assigned([ClientPartition(*TP)])
    assert owner.epochs == 1
    assert source.failure is None
