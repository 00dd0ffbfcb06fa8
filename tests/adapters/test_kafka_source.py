"""The source over a fetch loop in memory: positions, epochs, and what nobody can read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka

from worker.adapters import kafka_source
from worker.adapters.kafka_batches import Columns, Piece, Unread
from worker.adapters.kafka_source import KafkaSource, Polled, Unreadable
from worker.core.records import Span, TopicPartition
from worker.errors import BrokerError
from worker.settings import KafkaSection

TP = TopicPartition("in", 0)
SECTION = KafkaSection(bootstrap_servers=("127.0.0.1:1",), group_id="group", input_topics=("in",), output_topic="out")


class _Consumer:
    """Knows where the partition begins and ends."""

    async def beginning_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 100)


class _Fetch:
    """A fetch loop whose records are numbers: it has as many as are asked for, while it may answer."""

    def __init__(self) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.out_of_range: set[TopicPartition] = set()
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


async def _committed(*_: object, stable: bool) -> dict[TopicPartition, int]:
    assert not stable
    return {TP: 3}


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


async def test_a_position_that_is_gone_is_found_anew_by_policy(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log begins behind it by now: reading goes on at the beginning, as a new assignment."""
    source, fetch, owner = parts

    async def later(_self: object, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 50)

    monkeypatch.setattr(_Consumer, "beginning_offsets", later)
    fetch.out_of_range.add(TP)
    assert _offsets(await source.poll(1, 0)) == [(2, 50)]
    assert owner.resets == [(TP, 50, "out_of_range")]


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
