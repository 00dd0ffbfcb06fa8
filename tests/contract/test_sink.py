"""What every sink keeps to: order per partition, one verdict per parcel, refusals that cost one record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.contract.conftest import Verdicts, World
from worker.adapters.kafka_sink import KafkaSink
from worker.core.records import Block, Decoded, Header, Parcel, Refusal, Slice, TopicPartition
from worker.errors import BrokerError
from worker.testing import FakeSink, make_span


@asynccontextmanager
async def _started(
    world: World, verdicts: Verdicts, max_batch_bytes: int = 1_000_000
) -> AsyncIterator[KafkaSink | FakeSink]:
    sink = world.sink(verdicts)
    await sink.start(max_batch_bytes)
    try:
        yield sink
    finally:
        await sink.stop()


def _parcel(
    topic: str,
    values: Sequence[bytes | None],
    *,
    partition: int = 0,
    keys: Sequence[bytes | None] | None = None,
    dead_letter: Refusal | None = None,
) -> Parcel:
    span = make_span(("in", partition), range(len(values)))
    origin = [Slice(Block(span, Decoded((), [], {})), 0, len(values))]
    found = [b"k"] * len(values) if keys is None else keys
    headers: list[list[Header]] = [[("h", b"\x00\xff"), ("n", None)] for _ in values]
    tp = TopicPartition(topic, partition)
    return Parcel(tp, list(found), list(values), headers, span.timestamps, origin, dead_letter)


async def test_records_are_written_as_they_are(world: World, verdicts: Verdicts) -> None:
    """Key, value, headers and timestamps, null or any bytes, in order; the verdict is that all were taken."""
    topic = world.topic()
    parcel = _parcel(topic, [b"\xff\x00", None, b""], keys=[None, b"", b"\xfe"])
    async with _started(world, verdicts) as sink:
        sink.send([parcel])
        await verdicts.wait(1)
    assert verdicts.reported == [(parcel, {})]
    assert [record[1:] for record in world.read(topic)] == [
        (1000, None, b"\xff\x00", (("h", b"\x00\xff"), ("n", None))),
        (1001, b"", None, (("h", b"\x00\xff"), ("n", None))),
        (1002, b"\xfe", b"", (("h", b"\x00\xff"), ("n", None))),
    ]


async def test_each_partition_keeps_the_order_it_was_sent_in(world: World, verdicts: Verdicts) -> None:
    """Many parcels for several partitions: each is reported once, per partition in order, and so is the log."""
    topic = world.topic(3)
    parcels = [
        _parcel(topic, [b"%d-%d" % (number, at) for at in range(number % 4 + 1)], partition=number % 3)
        for number in range(60)
    ]
    async with _started(world, verdicts) as sink:
        for start in range(0, 60, 5):
            sink.send(parcels[start : start + 5])
        await verdicts.wait(60)
    for partition in range(3):
        mine = [parcel for parcel in parcels if parcel.tp.partition == partition]
        assert [parcel for parcel, _ in verdicts.reported if parcel.tp.partition == partition] == mine
        expected = [value for parcel in mine for value in parcel.values]
        assert [record.value for record in world.read(topic, partition)] == expected
    assert len(verdicts.reported) == 60


async def test_more_than_a_batch_is_split(world: World, verdicts: Verdicts) -> None:
    """Parcels far above what goes in one request arrive whole and in order."""
    topic = world.topic(max_message_bytes=20_000)
    parcels = [_parcel(topic, [b"%d-%d-" % (number, at) + b"x" * 500 for at in range(200)]) for number in range(3)]
    async with _started(world, verdicts, 20_000) as sink:
        sink.send(parcels)
        await verdicts.wait(3)
    assert verdicts.reported == [(parcel, {}) for parcel in parcels]
    assert [record.value for record in world.read(topic)] == [value for one in parcels for value in one.values]


@pytest.mark.logs_errors
async def test_a_record_too_large_for_the_topic_is_refused_alone(world: World, verdicts: Verdicts) -> None:
    """It is reported by its place and reason; its neighbours and later parcels arrive, in order."""
    topic = world.topic(max_message_bytes=2_000)
    parcels = [_parcel(topic, [b"a", b"b" * 5_000, b"c", b"d"]), _parcel(topic, [b"e"])]
    async with _started(world, verdicts, 2_000) as sink:
        sink.send(parcels)
        await verdicts.wait(2)
    assert [parcel for parcel, _ in verdicts.reported] == parcels
    refused, none = (dict(refusals) for _, refusals in verdicts.reported)
    assert {at: (refusal.stage, refusal.reason) for at, refusal in refused.items()} == {
        1: ("produce", "output_oversize")
    }
    assert none == {}
    assert [record.value for record in world.read(topic)] == [b"a", b"c", b"d", b"e"]
    assert verdicts.failures == []


@pytest.mark.logs_errors
async def test_records_against_the_topics_rules_are_refused_alone(world: World, verdicts: Verdicts) -> None:
    """A compacted topic takes no record without a key: those are refused, wherever they stand, and no others."""
    topic = world.topic(compacted=True)
    parcel = _parcel(topic, [b"0", b"1", b"2", b"3", b"4"], keys=[None, b"k1", b"k2", None, None])
    async with _started(world, verdicts) as sink:
        sink.send([parcel])
        await verdicts.wait(1)
        ((reported, refused),) = verdicts.reported
        assert reported is parcel
        assert {at: refusal.reason for at, refusal in refused.items()} == dict.fromkeys((0, 3, 4), "broker_refused")
        sink.send([_parcel(topic, [b"5"])])
        await verdicts.wait(2)
    assert verdicts.reported[1][1] == {}
    assert [record.value for record in world.read(topic)] == [b"1", b"2", b"5"]


@pytest.mark.logs_errors
async def test_a_refused_dead_letter_stops_the_line(world: World, verdicts: Verdicts) -> None:
    """There is nowhere left to put the record: the sink fails, and the letter is never reported as settled."""
    topic = world.topic(compacted=True)
    letter = _parcel(topic, [b"0"], keys=[None], dead_letter=Refusal("decode", "invalid_json", ""))
    async with _started(world, verdicts) as sink:
        sink.send([letter])
        await verdicts.wait(1)
    assert verdicts.reported == []
    (error,) = verdicts.failures
    assert isinstance(error, BrokerError)
    assert [problem.code for problem in error.problems] == ["dead_letter_refused"]
    assert topic in str(error)


async def test_dead_letters_that_are_taken_are_reported(world: World, verdicts: Verdicts) -> None:
    """A dead letter is a parcel like any other until it is refused."""
    topic = world.topic()
    letter = _parcel(topic, [None], dead_letter=Refusal("decode", "tombstone", ""))
    async with _started(world, verdicts) as sink:
        sink.send([letter])
        await verdicts.wait(1)
    assert verdicts.reported == [(letter, {})]


async def test_the_cluster_answers_for_its_topics(world: World, verdicts: Verdicts) -> None:
    """Through the producer's client: the sign that a broker is there, and how many partitions a topic has."""
    topic = world.topic(3)
    async with _started(world, verdicts) as sink:
        sink.send([_parcel(topic, [b"0"])])
        await verdicts.wait(1)
        assert await sink.producer.client.force_metadata_update()
        assert sink.producer.client.cluster.partitions_for_topic(topic) == {0, 1, 2}


async def test_a_sink_must_be_started(world: World, verdicts: Verdicts) -> None:
    """Without a connection there is no producer."""
    topic = world.topic()
    sink = world.sink(verdicts)
    with pytest.raises(RuntimeError, match="not started"):
        _ = sink.producer
    assert world.read(topic) == []
