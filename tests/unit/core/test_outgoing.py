"""Outgoing records: identity headers, partitions, limits, and dead letters that keep the record byte for byte."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from worker.core.outgoing import RECORD_OVERHEAD_BYTES, SOURCE_HEADER_BYTES, Dispatcher, Routing
from worker.core.records import Block, Decoded, Header, Parcel, Refusal, Slice, Span, TopicPartition
from worker.testing import make_span

ROUTING = Routing(
    output_topic="out",
    output_partitions=4,
    output_max_bytes=10_000,
    dead_letter_topic="dlq",
    dead_letter_partitions=2,
    dead_letter_max_bytes=10_000,
    partitioning="source",
    passed_headers=("tenant",),
    group_id="group-1",
    model_label="fraud@1.0.0",
    model_digest="0123456789ab",
)
REFUSAL = Refusal("decode", "invalid_json", "no JSON at byte 3")


def _by_key(key: bytes) -> int:
    return key[-1] % 4


def _dispatcher(routing: Routing = ROUTING) -> Dispatcher:
    return Dispatcher(routing, _by_key)


def _slice(span: Span, start: int = 0, stop: int | None = None) -> Slice:
    block = Block(span, Decoded((np.zeros((len(span), 1)),), list(span.values), {}))
    return Slice(block, start, len(span) if stop is None else stop)


def _keyed(partitioning: Literal["source", "key"] = "key") -> Dispatcher:
    return _dispatcher(replace(ROUTING, partitioning=partitioning))


# ---- scored records --------------------------------------------------------------------------------------------


def test_under_source_a_run_is_one_parcel_in_the_same_partition() -> None:
    """Keys and timestamps are the input's, in order; the slice itself is the origin."""
    rows = _slice(make_span(("in", 3), [10, 11, 15, 16]), 1, 3)
    (parcel,) = _dispatcher().scored(rows, [b"a", b"b"])
    assert parcel.tp == TopicPartition("out", 3)
    assert parcel.keys == [b"k11", b"k15"]
    assert parcel.values == [b"a", b"b"]
    assert list(parcel.timestamps) == [1011, 1015]
    assert parcel.origin == [rows]
    assert parcel.dead_letter is None


def test_scored_records_name_their_source_and_model() -> None:
    """Without input headers a record carries exactly the two of ours."""
    (parcel,) = _dispatcher().scored(_slice(make_span(("in", 3), [10, 11, 15]), 1), [b"a", b"b"])
    assert list(parcel.headers) == [
        [("headrace-source", b"in/3/11"), ("headrace-model", b"0123456789ab")],
        [("headrace-source", b"in/3/15"), ("headrace-model", b"0123456789ab")],
    ]


def test_headers_are_made_for_the_rows_that_are_asked_for() -> None:
    """By place from either end, or a run of them; none beyond the last row."""
    (parcel,) = _dispatcher().scored(_slice(make_span(("in", 3), [10, 11, 15, 16]), 1), [b"a", b"b", b"c"])
    sources = [headers[0][1] for headers in parcel.headers]
    assert sources == [b"in/3/11", b"in/3/15", b"in/3/16"]
    assert [headers[0][1] for headers in parcel.headers[1:9]] == sources[1:]
    assert [parcel.headers[at][0][1] for at in (0, -1)] == [sources[0], sources[-1]]
    assert parcel.headers[3:] == []
    with pytest.raises(IndexError):
        parcel.headers[3]


def test_trace_and_named_headers_are_passed_on() -> None:
    """Trace headers always, configured ones as named, in their order and with repeats; all others stay behind."""
    span = make_span(("in", 0), [0, 1])
    passed: tuple[Header, ...] = (("tracestate", b"s"), ("tenant", b"t"), ("traceparent", b"p"), ("tenant", None))
    span.headers[1] = (("secret", b"x"), *passed)
    (parcel,) = _dispatcher().scored(_slice(span), [b"a", b"b"])
    assert parcel.headers[0] == [("headrace-source", b"in/0/0"), ("headrace-model", b"0123456789ab")]
    assert parcel.headers[1] == [("headrace-source", b"in/0/1"), ("headrace-model", b"0123456789ab"), *passed]


def test_under_key_rows_go_where_their_key_hashes() -> None:
    """One parcel per output partition, in order of first use; order within each is that of the input."""
    span = make_span(("in", 9), [1, 2, 3, 4, 5])
    span.keys[:] = [b"a", b"b", b"a", b"e", b"b"]
    rows = _slice(span, 1)
    parcels = list(_keyed().scored(rows, [b"v2", b"v3", b"v4", b"v5"]))
    assert [parcel.tp for parcel in parcels] == [TopicPartition("out", 2), TopicPartition("out", 1)]
    assert [parcel.keys for parcel in parcels] == [[b"b", b"b"], [b"a", b"e"]]
    assert [parcel.values for parcel in parcels] == [[b"v2", b"v5"], [b"v3", b"v4"]]
    assert [list(parcel.timestamps) for parcel in parcels] == [[1002, 1005], [1003, 1004]]
    assert [[piece[1:] for piece in parcel.origin] for parcel in parcels] == [[(1, 2), (4, 5)], [(2, 3), (3, 4)]]
    assert [[headers[0][1] for headers in parcel.headers] for parcel in parcels] == [
        [b"in/9/2", b"in/9/5"],
        [b"in/9/3", b"in/9/4"],
    ]
    assert parcels[0].row(1) == Slice(rows.block, 4, 5)


def test_under_key_a_null_key_goes_by_the_source_partition() -> None:
    """Source partition modulo the count; an empty key is a key."""
    span = make_span(("in", 7), [0, 1])
    span.keys[:] = [None, b"\x02"]
    assert [parcel.tp.partition for parcel in _keyed().scored(_slice(span), [b"", b""])] == [3, 2]


# ---- size of scored records ------------------------------------------------------------------------------------

FIXED = RECORD_OVERHEAD_BYTES + SOURCE_HEADER_BYTES + len("headrace-model") + 12 + 4


def test_room_is_kept_for_the_longest_identity() -> None:
    """A topic name of 249 letters and the longest numbers fit in the room for the source header."""
    assert len("headrace-source") + 249 + len("/2147483647/9223372036854775807") + 4 <= SOURCE_HEADER_BYTES
    assert RECORD_OVERHEAD_BYTES == 96


@pytest.mark.parametrize("headers", [(), (("other", b"x" * 9000),)])
def test_a_value_at_the_limit_passes_and_one_above_does_not(headers: tuple[Header, ...]) -> None:
    """The limit holds value, key and what we add; headers that are not passed on weigh nothing."""
    span = make_span(("in", 0), [0, 1, 2])
    span.keys[:] = [b"kk", b"kk", None]
    span.headers[2] = headers
    limit = ROUTING.output_max_bytes - FIXED
    values = [b"v" * (limit - 2), b"v" * (limit - 1), b"v" * limit]
    found = _dispatcher().oversize(_slice(span), values)
    error = f"the output record of {ROUTING.output_max_bytes + 1} bytes exceeds the topic's limit of 10000 bytes"
    assert found == {1: Refusal("produce", "output_oversize", error)}


def test_small_values_are_weighed_at_once() -> None:
    """Without headers, the longest value and key decide for all rows of the run, and for no others."""
    span = make_span(("in", 0), [0, 1, 2, 3])
    span.keys[:] = [b"k" * 20_000, b"k" * 10, None, b"k" * 20_000]
    limit = ROUTING.output_max_bytes - FIXED
    assert _dispatcher().oversize(_slice(span, 1, 3), [b"v", b"v" * (limit - 10)]) == {}
    assert list(_dispatcher().oversize(_slice(span, 2, 4), [b"v", b"v"])) == [1]


def test_headers_that_are_passed_on_count() -> None:
    """Name, value and four bytes each; a null value weighs nothing."""
    span = make_span(("in", 0), [0, 1])
    span.keys[:] = [None, None]
    span.headers[:] = [(("tenant", None), ("traceparent", b"ppp"))] * 2
    limit = ROUTING.output_max_bytes - FIXED - (6 + 4) - (11 + 3 + 4)
    assert list(_dispatcher().oversize(_slice(span), [b"v" * limit, b"v" * (limit + 1)])) == [1]


def test_rows_are_named_by_their_place_in_the_slice() -> None:
    """Indices count from the slice's first row, keys and headers are looked up at the right rows."""
    span = make_span(("in", 0), [0, 1, 2])
    span.headers[1] = (("tenant", b"x" * 10_000),)
    assert list(_dispatcher().oversize(_slice(span, 1), [b"v", b"v"])) == [0]


# ---- dead letters ----------------------------------------------------------------------------------------------


def _letter(span: Span, refusal: Refusal = REFUSAL, routing: Routing = ROUTING, at: int = 0) -> Parcel:
    return _dispatcher(routing).dead_letter(_slice(span, at, at + 1), refusal)


def _added(parcel: Parcel) -> dict[str, str]:
    headers = [(name, value or b"") for name, value in parcel.headers[0]]
    return {name: value.decode() for name, value in headers if name.startswith("headrace-dlq-")}


def test_a_dead_letter_is_the_record_byte_for_byte() -> None:
    """Key, value, timestamp and headers are those of the refused row, whatever their bytes."""
    span = make_span(("in", 3), [40, 41], [b"fine", b"\xff\x00{"])
    span.keys[1] = b"\xfe"
    span.headers[1] = (("a", b"\x00\xff"), ("a", None))
    parcel = _letter(span, at=1)
    assert parcel.tp == TopicPartition("dlq", 1)
    assert (parcel.keys, parcel.values, list(parcel.timestamps)) == ([b"\xfe"], [b"\xff\x00{"], [1041])
    assert parcel.headers[0][:2] == [("a", b"\x00\xff"), ("a", None)]
    assert [piece[1:] for piece in parcel.origin] == [(1, 2)]
    assert parcel.dead_letter == REFUSAL
    assert span.headers[1] == (("a", b"\x00\xff"), ("a", None))


def test_a_dead_letter_says_where_why_and_by_whom() -> None:
    """Ten headers, in this order, after the originals."""
    parcel = _letter(make_span(("in", 3), [40, 41]), at=1)
    assert parcel.headers[0] == [
        ("headrace-dlq-topic", b"in"),
        ("headrace-dlq-partition", b"3"),
        ("headrace-dlq-offset", b"41"),
        ("headrace-dlq-timestamp", b"1041"),
        ("headrace-dlq-stage", b"decode"),
        ("headrace-dlq-reason", b"invalid_json"),
        ("headrace-dlq-error", b"no JSON at byte 3"),
        ("headrace-dlq-attempts", b"1"),
        ("headrace-dlq-group", b"group-1"),
        ("headrace-dlq-model", b"fraud@1.0.0 0123456789ab"),
    ]


def test_attempts_are_counted_by_the_caller() -> None:
    """More than one attempt is written down."""
    rows = _slice(make_span(("in", 0), [0]))
    assert ("headrace-dlq-attempts", b"3") in _dispatcher().dead_letter(rows, REFUSAL, attempts=3).headers[0]
    small = replace(ROUTING, dead_letter_max_bytes=10)
    assert ("headrace-dlq-attempts", b"3") in _dispatcher(small).dead_letter(rows, REFUSAL, attempts=3).headers[0]


def test_a_null_value_stays_null() -> None:
    """A tombstone arrives in the dead letters as one, with no key if it had none."""
    span = make_span(("in", 0), [0], [None])
    span.keys[0] = None
    parcel = _letter(span)
    assert (parcel.keys, parcel.values) == ([None], [None])


def test_a_long_error_is_cut_and_any_text_encodes() -> None:
    """1024 characters are kept; what is no Unicode becomes a question mark."""
    error = _added(_letter(make_span(("in", 0), [0]), Refusal("decode", "invalid_json", "\ud800" + "é" * 2000)))[
        "headrace-dlq-error"
    ]
    assert error == "?" + "é" * 1023


@pytest.mark.parametrize(("timestamp", "sent"), [(-1, None), (0, 0), (5, 5)])
def test_a_record_without_timestamp_gets_none(timestamp: int, sent: int | None) -> None:
    """The header tells the original timestamp, -1 where there is none."""
    span = make_span(("in", 0), [0])
    span.timestamps[0] = timestamp
    parcel = _letter(span)
    assert list(parcel.timestamps) == [sent]
    assert _added(parcel)["headrace-dlq-timestamp"] == str(timestamp)


@pytest.mark.parametrize(("source", "partition"), [(0, 0), (1, 1), (2, 0), (5, 1)])
def test_dead_letters_keep_to_a_partition_of_their_source(source: int, partition: int) -> None:
    """Source partition modulo the count of the dead-letter topic."""
    assert _letter(make_span(("in", source), [0])).tp == TopicPartition("dlq", partition)


def _weight(parcel: Parcel) -> int:
    headers = parcel.headers[0]
    size = len(parcel.keys[0] or b"") + len(parcel.values[0] or b"")
    return size + sum(len(name) + len(value or b"") + 4 for name, value in headers) + 96


@pytest.mark.parametrize(("spare", "reason"), [(0, "invalid_json"), (1, "invalid_json"), (-1, "oversize")])
def test_a_record_too_large_for_the_dead_letters_leaves_its_value_behind(spare: int, reason: str) -> None:
    """At the limit it still goes whole; one byte above, coordinates, hash and size go instead of the value."""
    value = b"x" * 5000
    span = make_span(("in", 0), [7], [value])
    span.headers[0] = (("a", b"b"), ("c", None))
    limit = _weight(_letter(span)) + spare
    parcel = _letter(span, routing=replace(ROUTING, dead_letter_max_bytes=limit))
    assert _added(parcel)["headrace-dlq-reason"] == reason
    assert parcel.dead_letter is not None
    assert parcel.dead_letter.reason == reason
    assert parcel.values == [value if reason == "invalid_json" else None]


def test_an_oversize_dead_letter_carries_hash_and_size() -> None:
    """Key and headers stay, the first reason moves into the error, and the value can be told by its hash."""
    value = b"x" * 20_000
    span = make_span(("in", 0), [7], [value])
    span.headers[0] = (("a", b"b"),)
    parcel = _letter(span)
    error = "invalid_json: no JSON at byte 3; too large for the dead-letter topic"
    assert parcel.keys == [b"k7"]
    assert parcel.headers[0][0] == ("a", b"b")
    assert parcel.dead_letter == Refusal("decode", "oversize", error)
    added = _added(parcel)
    assert list(added)[-2:] == ["headrace-dlq-sha256", "headrace-dlq-size"]
    assert len(added) == 12
    assert added["headrace-dlq-sha256"] == hashlib.sha256(value).hexdigest()
    assert added["headrace-dlq-size"] == "20000"
    assert (added["headrace-dlq-stage"], added["headrace-dlq-reason"]) == ("decode", "oversize")
    assert added["headrace-dlq-error"] == error
    assert added["headrace-dlq-offset"] == "7"


@pytest.mark.parametrize(("header", "kept"), [(4986, True), (4987, False)])
def test_an_oversize_key_or_headers_are_left_behind_too(header: int, kept: bool) -> None:
    """Beyond half the limit, key and headers go the way of the value: coordinates always fit."""
    span = make_span(("in", 0), [1], [b"x" * 20_000])
    span.keys[0] = b"12345678"
    span.headers[0] = (("aa", b"h" * header),)
    parcel = _letter(span)
    assert parcel.keys == [b"12345678" if kept else None]
    assert (parcel.headers[0][0][0] == "aa") is kept
    assert len(_added(parcel)) == 12


def test_a_huge_key_alone_is_oversize() -> None:
    """A null value with a key that does not fit is told by the hash of nothing."""
    span = make_span(("in", 0), [1], [None])
    span.keys[0] = b"k" * 20_000
    parcel = _letter(span)
    assert (parcel.keys, parcel.values) == ([None], [None])
    added = _added(parcel)
    assert added["headrace-dlq-size"] == "0"
    assert added["headrace-dlq-sha256"] == hashlib.sha256(b"").hexdigest()
