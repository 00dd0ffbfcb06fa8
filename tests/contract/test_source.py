"""What every source keeps to: order, limits, committed positions, epochs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.contract.conftest import TIMEOUT_S, RecordingOwner, World
from worker.adapters.kafka_source import KafkaSource
from worker.core.records import Span, TopicPartition
from worker.testing import FakeSource

Source = KafkaSource | FakeSource


@asynccontextmanager
async def _started(world: World, topic: str, group: str, owner: RecordingOwner) -> AsyncIterator[Source]:
    source = world.source(topic, group, owner)
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


async def _collect(source: Source, count: int, max_records: int = 500) -> list[Span]:
    """Poll until there are ``count`` records."""
    spans: list[Span] = []
    async with asyncio.timeout(TIMEOUT_S):
        while sum(map(len, spans)) < count:
            for item in await source.poll(max_records, 0.2):
                assert isinstance(item, Span)
                spans.append(item)
    return spans


def _offsets(spans: list[Span], partition: int = 0) -> list[int]:
    return [offset for span in spans if span.tp.partition == partition for offset in span.offsets]


def _numbers(count: int) -> list[bytes | None]:
    return [b"%d" % number for number in range(count)]


async def test_records_arrive_whole_and_in_order(world: World, group: str, owner: RecordingOwner) -> None:
    """Offsets ascend without a hole; key, value, headers and timestamp are those that were written."""
    topic = world.topic()
    world.produce(topic, [b"\xff\x00", b"", None, b"x"])
    async with _started(world, topic, group, owner) as source:
        spans = await _collect(source, 4)
    assert _offsets(spans) == [0, 1, 2, 3]
    assert [value for span in spans for value in span.values] == [b"\xff\x00", b"", None, b"x"]
    assert [key for span in spans for key in span.keys] == [b"k0", b"k1", b"k2", b"k3"]
    assert [timestamp for span in spans for timestamp in span.timestamps] == [1000, 1001, 1002, 1003]
    assert [list(headers) for span in spans for headers in span.headers] == [[("h", b"\xff")]] * 4


async def test_spans_carry_the_epoch_of_their_assignment(world: World, group: str, owner: RecordingOwner) -> None:
    """Every partition is assigned, and its spans are stamped with the number that the owner gave."""
    topic = world.topic(3)
    for partition in range(3):
        world.produce(topic, _numbers(2), partition)
    async with _started(world, topic, group, owner) as source:
        spans = await _collect(source, 6)
        assert sorted(owner.epochs) == [TopicPartition(topic, partition) for partition in range(3)]
        assert {span.tp: span.epoch for span in spans} == owner.epochs
    assert [_offsets(spans, partition) for partition in range(3)] == [[0, 1]] * 3


async def test_a_poll_returns_no_more_than_asked_for(world: World, group: str, owner: RecordingOwner) -> None:
    """The limit counts over all partitions, and what a poll leaves behind comes later, once."""
    topic = world.topic(2)
    for partition in range(2):
        world.produce(topic, _numbers(10), partition)
    async with _started(world, topic, group, owner) as source:
        spans: list[Span] = []
        async with asyncio.timeout(TIMEOUT_S):
            while sum(map(len, spans)) < 20:
                polled = [item for item in await source.poll(3, 0.2) if isinstance(item, Span)]
                assert sum(map(len, polled)) <= 3
                spans += polled
    assert [_offsets(spans, partition) for partition in range(2)] == [list(range(10))] * 2


async def test_a_poll_for_liveness_moves_nothing(world: World, group: str, owner: RecordingOwner) -> None:
    """With no room, nothing is returned and nothing is skipped."""
    topic = world.topic()
    world.produce(topic, _numbers(5))
    async with _started(world, topic, group, owner) as source:
        spans = await _collect(source, 2, max_records=2)
        assert [await source.poll(0, 0.0) for _ in range(3)] == [[], [], []]
        spans += await _collect(source, 3)
    assert _offsets(spans) == [0, 1, 2, 3, 4]


async def test_a_poll_ends_without_records(world: World, group: str, owner: RecordingOwner) -> None:
    """An empty topic ends the wait after the time, not never."""
    topic = world.topic()
    async with _started(world, topic, group, owner) as source, asyncio.timeout(TIMEOUT_S):
        assert await source.poll(10, 0.05) == []


async def test_a_restart_goes_on_at_the_commit(world: World, group: str, owner: RecordingOwner) -> None:
    """What was read and not committed is read again; what was committed is not."""
    topic = world.topic()
    world.produce(topic, _numbers(6))
    async with _started(world, topic, group, owner) as source:
        assert _offsets(await _collect(source, 6)) == [0, 1, 2, 3, 4, 5]
        assert await source.commit({TopicPartition(topic, 0): 4})
    again = RecordingOwner()
    async with _started(world, topic, group, again) as source:
        assert _offsets(await _collect(source, 2)) == [4, 5]
    assert again.resets == []


async def test_nothing_committed_starts_at_the_beginning(world: World, group: str, owner: RecordingOwner) -> None:
    """The owner is told that policy, not a commit, decided; every start without a commit is the same."""
    topic = world.topic()
    world.produce(topic, _numbers(2))
    for one in (owner, RecordingOwner()):
        async with _started(world, topic, group, one) as source:
            assert _offsets(await _collect(source, 2)) == [0, 1]
        assert one.resets == [(TopicPartition(topic, 0), 0, "none_committed")]


async def test_groups_do_not_share_commits(world: World, group: str, owner: RecordingOwner) -> None:
    """Another group reads everything."""
    topic = world.topic()
    world.produce(topic, _numbers(3))
    async with _started(world, topic, group, owner) as source:
        await _collect(source, 3)
        assert await source.commit({TopicPartition(topic, 0): 3})
    async with _started(world, topic, f"{group}-other", RecordingOwner()) as source:
        assert _offsets(await _collect(source, 3)) == [0, 1, 2]


async def test_a_commit_for_what_is_not_assigned_is_refused(world: World, group: str, owner: RecordingOwner) -> None:
    """It is answered with False, and the source goes on."""
    topic = world.topic()
    world.produce(topic, _numbers(1))
    async with _started(world, topic, group, owner) as source:
        await _collect(source, 1)
        assert not await source.commit({TopicPartition(topic, 9): 1})
        assert await source.commit({TopicPartition(topic, 0): 1})


async def test_held_partitions_are_assigned_but_not_read(world: World, group: str, owner: RecordingOwner) -> None:
    """Partitions from the limit on wait; when the limit rises, they start at their beginning."""
    topic = world.topic(2)
    for partition in range(2):
        world.produce(topic, _numbers(3), partition)
    async with _started(world, topic, group, owner) as source:
        source.partition_limit = 1
        spans = await _collect(source, 3)
        spans += [item for item in await source.poll(100, 0.3) if isinstance(item, Span)]
        assert source.held() == {TopicPartition(topic, 1)}
        assert (_offsets(spans, 0), _offsets(spans, 1)) == ([0, 1, 2], [])
        source.partition_limit = 2
        assert source.held() == set()
        assert _offsets(await _collect(source, 3), 1) == [0, 1, 2]


async def test_a_hot_partition_does_not_starve_the_others(world: World, group: str, owner: RecordingOwner) -> None:
    """However much one partition holds, each poll that fills up is followed by the turn of those that wait."""
    topic = world.topic(3)
    world.produce(topic, _numbers(3000), 0)
    for partition in (1, 2):
        world.produce(topic, _numbers(10), partition)
    async with _started(world, topic, group, owner) as source:
        spans = await _collect(source, 320, max_records=100)
        assert (_offsets(spans, 1), _offsets(spans, 2)) == (list(range(10)), list(range(10)))
        spans += await _collect(source, 3020 - sum(map(len, spans)), max_records=100)
        assert _offsets(spans, 0) == list(range(3000))


async def test_a_source_that_reads_is_not_silent(world: World, group: str, owner: RecordingOwner) -> None:
    """Answers to fetches count, with records or without; before an assignment there is nothing to judge."""
    topic = world.topic()
    world.produce(topic, _numbers(1))
    async with _started(world, topic, group, owner) as source:
        await _collect(source, 1)
        await source.poll(10, 0.3)
        silent_s = source.silent_s()
        assert silent_s is not None
        assert silent_s < TIMEOUT_S


@pytest.mark.parametrize(("reached", "lag"), [(-1, 0), (1, 4), (5, 0)])
async def test_lag_counts_from_what_may_be_committed(
    world: World, group: str, owner: RecordingOwner, reached: int, lag: int
) -> None:
    """Between the offset to commit (where none is known: the position) and the end."""
    topic = world.topic()
    world.produce(topic, _numbers(5))
    async with _started(world, topic, group, owner) as source:
        await _collect(source, 5)
        assert source.lag({TopicPartition(topic, 0): reached}) == {TopicPartition(topic, 0): lag}
