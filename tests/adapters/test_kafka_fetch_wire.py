"""Our layout of fetches, held against aiokafka's description of the same versions."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import pytest
from aiokafka import errors as kafka
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v4, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters.kafka_fetch_wire import Answer, Answers, Fetch
from worker.core.records import TopicPartition

RANGES = {11: (4, 17), 4: (0, 10)}
INT32, INT64 = 2**31 - 1, 2**63 - 1

topics = st.text(alphabet="abc.-_Ω", min_size=1, max_size=20)
positions = st.dictionaries(
    st.builds(TopicPartition, topics, st.integers(0, INT32)), st.integers(0, INT64), min_size=1, max_size=12
)
transactions = st.lists(st.tuples(st.integers(0, INT64), st.integers(0, INT64)), max_size=3)
answers = st.dictionaries(
    st.builds(TopicPartition, topics, st.integers(0, INT32)),
    st.builds(
        Answer,
        st.sampled_from([kafka.for_code(code) for code in (0, 1, 6, 29)]),
        st.integers(-1, INT64),
        transactions,
        st.binary(max_size=60),
    ),
    max_size=8,
)


@pytest.mark.parametrize("version", RANGES)
@given(asked=positions, wait_ms=st.integers(0, INT32), max_bytes=st.integers(1, INT32), committed=st.booleans())
def test_a_request_is_what_aiokafka_would_send(
    version: int, asked: dict[TopicPartition, int], wait_ms: int, max_bytes: int, committed: bool
) -> None:
    """Byte for byte, header and body."""
    by_topic: dict[str, list[tuple[int, int, int]]] = {}
    for tp, position in asked.items():
        by_topic.setdefault(tp.topic, []).append((tp.partition, position, max_bytes))
    theirs = FetchRequest(wait_ms, 1, max_bytes, int(committed), list(by_topic.items())).prepare(
        {1: (version, version)}
    )
    ours = Fetch(asked, wait_ms, max_bytes, committed_only=committed).prepare({1: RANGES[version]})
    assert version == ours.API_VERSION
    header = theirs.build_request_header(7, "wörker").encode()
    assert ours.build_request_header(7, "wörker").encode() + ours.encode() == header + theirs.encode()


def _sent(version: int, found: dict[TopicPartition, Answer]) -> bytes:
    """These answers as a broker would send them, by aiokafka's description."""
    by_topic: dict[str, list[Any]] = {}
    for (topic, partition), answer in found.items():
        row = [partition, answer.error.errno, answer.end, 0]
        row += [0, answer.aborted, -1, answer.raw] if version == 11 else [answer.aborted, answer.raw]
        by_topic.setdefault(topic, []).append(tuple(row))
    body = list(by_topic.items())
    response = FetchResponse_v11(3, 0, 0, body) if version == 11 else FetchResponse_v4(3, body)
    raw: bytes = response.encode()
    return raw


def _received(version: int, raw: bytes, asked: Iterable[TopicPartition] = ()) -> Answers:
    """The answer as aiokafka's connection reads it, behind its correlation id, when ``asked`` were asked for."""
    request = Fetch(dict.fromkeys(asked, 0), 1, 1, committed_only=False).prepare({1: (version, version)})
    frame = BytesIO(struct.pack(">i", 7) + raw)
    assert request.parse_response_header(frame).correlation_id == 7
    return request.RESPONSE_TYPE.decode(frame)


@pytest.mark.parametrize("version", RANGES)
@given(found=answers)
def test_an_answer_is_read_as_it_was_sent(version: int, found: dict[TopicPartition, Answer]) -> None:
    """Errors, ends, aborted transactions and records of every partition."""
    assert _received(version, _sent(version, found), found) == Answers(0, found)


@pytest.mark.parametrize("version", RANGES)
def test_an_answer_that_is_cut_short_is_refused(version: int) -> None:
    """At whatever byte it ends."""
    found = {TopicPartition("in", 3): Answer(kafka.NoError, 9, [(1, 2)], b"records")}
    raw = _sent(version, found)
    for length in range(len(raw)):
        with pytest.raises(struct.error):
            _received(version, raw[:length], found)


@pytest.mark.parametrize("version", RANGES)
@pytest.mark.parametrize("told", [(), (3,), (3, 5), (3, 4, 5)], ids=["none", "one too few", "another", "one too many"])
def test_an_answer_of_other_partitions_than_were_asked_for_is_refused(version: int, told: tuple[int, ...]) -> None:
    """It is not the answer to this request."""
    raw = _sent(version, {TopicPartition("in", partition): Answer(kafka.NoError, 9, [], b"") for partition in told})
    with pytest.raises(struct.error):
        _received(version, raw, [TopicPartition("in", 3), TopicPartition("in", 4)])


def test_a_topic_of_negative_length_is_refused() -> None:
    """Reading on before its beginning could go on for ever."""
    with pytest.raises(struct.error):
        _received(4, struct.pack(">iihi", 0, 2**31 - 1, -6, 0))


def test_the_code_of_the_whole_request_is_kept() -> None:
    """It concerns all partitions, none of which is named then."""
    assert _received(11, FetchResponse_v11(0, 71, 0, []).encode()) == Answers(71, {})


def test_null_lists_are_empty() -> None:
    """Brokers send null where there are no aborted transactions, and may where there are no records."""
    row = (0, 0, 5, 5, 0, None, -1, None)
    raw = FetchResponse_v11(0, 0, 0, [("in", [row])]).encode()
    tp = TopicPartition("in", 0)
    assert _received(11, raw, [tp]).partitions == {tp: Answer(kafka.NoError, 5, [], b"")}


def test_a_broker_that_speaks_neither_version_is_an_error() -> None:
    """It says which versions there are."""
    with pytest.raises(kafka.IncompatibleBrokerVersion, match="0 to 3"):
        Fetch({}, 1, 1, committed_only=False).prepare({1: (0, 3)})
