"""The source over a consumer in memory: nothing that was fetched before a rewind counts after it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka

from worker.adapters import kafka_source
from worker.adapters.kafka_source import KafkaSource, Polled
from worker.core.records import Span, TopicPartition
from worker.settings import KafkaSection

TP = TopicPartition("in", 0)
SECTION = KafkaSection(bootstrap_servers=("127.0.0.1:1",), group_id="group", input_topics=("in",), output_topic="out")


class _Record:
    timestamp, key, headers = 0, None, ()

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.value = b"%d" % offset


class _Consumer:
    """One partition of 100 records, committed at 3; fetches wait at a gate."""

    def __init__(self) -> None:
        self.position = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()
        self.corrupt = False
        self.seeks: list[int] = []

    async def getmany(self, *tps: ClientPartition, timeout_ms: int, max_records: int) -> dict[ClientPartition, Any]:
        assert timeout_ms >= 0
        self.asked.set()
        await self.may_answer.wait()
        if self.corrupt:
            raise kafka.CorruptRecordException
        if ClientPartition(*TP) not in tps:
            return {}
        first, self.position = self.position, self.position + max_records
        return {ClientPartition(*TP): [_Record(offset) for offset in range(first, self.position)]}

    async def beginning_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Iterable[ClientPartition]) -> dict[ClientPartition, int]:
        return dict.fromkeys(tps, 100)

    def seek(self, _tp: ClientPartition, position: int) -> None:
        self.position = position
        self.seeks.append(position)


async def _committed(*_: object, stable: bool) -> dict[TopicPartition, int]:
    assert not stable
    return {TP: 3}


class _Owner:
    """Numbers assignments; may rewind the source while its partitions are taken away."""

    def __init__(self) -> None:
        self.epochs = 0
        self.rewinds: KafkaSource | None = None

    def assigned(self, tps: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.epochs += 1
        return dict.fromkeys(tps, self.epochs)

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        if self.rewinds is not None:
            self.rewinds.rewind(self.assigned(tps))
            await self.rewinds.poll(1, 0)

    def offset_reset(self, tp: TopicPartition, offset: int, why: Literal["none_committed", "out_of_range"]) -> None:
        raise AssertionError((tp, offset, why))


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[KafkaSource, _Consumer, _Owner]:
    """A source with one partition assigned, read up to offset 5."""
    owner, consumer = _Owner(), _Consumer()
    source = KafkaSource(SECTION, owner)
    monkeypatch.setattr(source, "_consumer", consumer)
    for name in ("stamp_of", "own_positions", "check_fetcher"):
        monkeypatch.setattr(kafka_source, name, lambda _consumer: None)
    monkeypatch.setattr(kafka_source, "committed_offsets", _committed)
    await source.on_partitions_assigned([ClientPartition(*TP)])
    assert _offsets(await source.poll(2, 0)) == [(1, 3), (1, 4)]
    return source, consumer, owner


def _offsets(polled: list[Polled]) -> list[tuple[int, int]]:
    assert all(isinstance(item, Span) for item in polled)
    return [(item.epoch, at) for item in polled if isinstance(item, Span) for at in item.offsets]


async def _rewind_during(fetch: Any, parts: tuple[KafkaSource, _Consumer, _Owner]) -> list[Polled]:
    """Rewind while ``fetch`` waits for its records; returns what it brings."""
    source, consumer, owner = parts
    consumer.may_answer.clear()
    consumer.asked.clear()
    fetching = asyncio.create_task(fetch)
    await consumer.asked.wait()
    source.rewind(owner.assigned([TP]))
    consumer.may_answer.set()
    found: list[Polled] = await fetching
    return found


@pytest.mark.parametrize("one", [False, True])
async def test_a_fetch_under_way_does_not_survive_a_rewind(
    parts: tuple[KafkaSource, _Consumer, _Owner], one: bool
) -> None:
    """Its records are dropped, and reading goes on at the committed offset under the new epoch."""
    source, _, _ = parts
    assert await _rewind_during(source.poll_one(TP) if one else source.poll(2, 0), parts) == []
    assert _offsets(await source.poll(2, 0)) == [(2, 3), (2, 4)]


async def test_a_corrupt_record_does_not_survive_a_rewind(parts: tuple[KafkaSource, _Consumer, _Owner]) -> None:
    """It is found again in its turn, after the records before it."""
    source, consumer, _ = parts
    consumer.corrupt = True
    assert await _rewind_during(source.poll_one(TP), parts) == []
    consumer.corrupt = False
    assert _offsets(await source.poll(1, 0)) == [(2, 3)]


async def test_a_rewind_during_a_revocation_leaves_nothing_behind(
    parts: tuple[KafkaSource, _Consumer, _Owner],
) -> None:
    """A transaction that is aborted while partitions go must not have them read again."""
    source, _, owner = parts
    owner.rewinds = source
    await source.on_partitions_revoked([ClientPartition(*TP)])
    assert await source.poll(1, 0) == []
    owner.rewinds = None
    await source.on_partitions_assigned([ClientPartition(*TP)])
    assert _offsets(await source.poll(1, 0)) == [(3, 3)]
