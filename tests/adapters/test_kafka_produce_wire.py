"""Our layout of produce requests, held against aiokafka's description of the same versions."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from io import BytesIO

import pytest
from aiokafka import errors as kafka
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v3, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters.kafka_produce_wire import Produce, Produced

RANGES = {7: (3, 13), 3: (0, 6)}
INT16, INT32, INT64 = 2**15 - 1, 2**31 - 1, 2**63 - 1

topics = st.text(alphabet="abc.-_Ω", min_size=1, max_size=20)
batches = st.dictionaries(
    topics, st.lists(st.tuples(st.integers(0, INT32), st.binary(max_size=60)), min_size=1, max_size=4), max_size=4
)
parts = st.tuples(
    st.integers(0, INT32), st.integers(-1, INT16), st.integers(-1, INT64), st.integers(-1, INT64), st.integers(-1, 9)
)
answers = st.lists(st.tuples(topics, st.lists(parts, max_size=4)), max_size=4, unique_by=lambda found: found[0])


@pytest.mark.parametrize("version", RANGES)
@given(identity=st.none() | topics, timeout_ms=st.integers(0, INT32), given_batches=batches)
def test_a_request_is_what_aiokafka_would_send(
    version: int, identity: str | None, timeout_ms: int, given_batches: dict[str, list[tuple[int, bytes]]]
) -> None:
    """Byte for byte, header and body."""
    theirs = ProduceRequest(
        transactional_id=identity, required_acks=-1, timeout=timeout_ms, topics=list(given_batches.items())
    ).prepare({0: (version, version)})
    ours = Produce(identity, timeout_ms, given_batches).prepare({0: RANGES[version]})
    assert version == ours.API_VERSION
    header = theirs.build_request_header(7, "wörker").encode()
    assert ours.build_request_header(7, "wörker").encode() + ours.encode() == header + theirs.encode()


def _received(version: int, raw: bytes, written: Mapping[str, Iterable[int]]) -> Produced:
    """The answer as aiokafka's connection reads it, behind its correlation id, when ``written`` was asked for."""
    topics = {topic: [(partition, b"") for partition in partitions] for topic, partitions in written.items()}
    request = Produce(None, 1, topics).prepare({0: (version, version)})
    frame = BytesIO(struct.pack(">i", 7) + raw)
    assert request.parse_response_header(frame).correlation_id == 7
    return request.RESPONSE_TYPE.decode(frame)


@given(found=answers)
def test_an_answer_is_read_as_it_was_sent(found: list[tuple[str, list[tuple[int, ...]]]]) -> None:
    """In both versions, of which the older one lacks the log's start."""
    written = {topic: [part[0] for part in partitions] for topic, partitions in found}
    assert _received(7, ProduceResponse_v7(found, 0).encode(), written) == Produced(7, found)
    short = [(topic, [part[:4] for part in partitions]) for topic, partitions in found]
    assert _received(3, ProduceResponse_v3(short, 0).encode(), written) == Produced(3, short)


@pytest.mark.parametrize("version", RANGES)
def test_an_answer_that_is_cut_short_is_refused(version: int) -> None:
    """At whatever byte it ends."""
    part = (3, 0, 9, -1, 0)
    whole = (
        ProduceResponse_v7([("out", [part, part])], 0)
        if version == 7
        else ProduceResponse_v3([("out", [part[:4], part[:4]])], 0)
    )
    raw: bytes = whole.encode()
    for length in range(len(raw)):
        with pytest.raises(struct.error):
            _received(version, raw[:length], {"out": [3]})


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">ii", -1, 0),
        struct.pack(">ii", 0, 0),
        struct.pack(">ih3sii", 1, 3, b"out", -1, 0),
        struct.pack(">ihi", 2**31 - 1, -6, 0),
        ProduceResponse_v7([("out", [(3, 0, 9, -1, 0)])], 0).encode(),
        ProduceResponse_v7([("out", [(3, 0, 9, -1, 0), (4, 0, 9, -1, 0), (5, 0, 9, -1, 0)])], 0).encode(),
    ],
    ids=["null", "empty", "no partition", "a text of negative length", "one too few", "one too many"],
)
def test_an_answer_that_does_not_tell_of_every_batch_is_refused(answer: bytes) -> None:
    """The batches that it leaves out would wait for ever."""
    with pytest.raises(struct.error):
        _received(7, answer, {"out": [3, 4]})


def test_a_broker_that_speaks_neither_version_is_an_error() -> None:
    """It says which versions there are."""
    with pytest.raises(kafka.IncompatibleBrokerVersion, match="0 to 2"):
        Produce(None, 1, {}).prepare({0: (0, 2)})
