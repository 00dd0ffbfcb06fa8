"""Batches become columns, and a record that cannot be read costs itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from aiokafka import codec as codecs
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.batches import ABORT, ATTRIBUTES_AT, COMMIT, Record, batch, broken, marker, plain, sealed
from worker.adapters.kafka_batches import Columns, CorruptBatchError, FetchedRecords, Piece, Unread

PACK = {1: codecs.gzip_encode, 2: codecs.snappy_encode, 3: codecs.lz4_encode, 4: codecs.zstd_encode}
CODECS = (0, *PACK)
HEADER_BYTES = 61
APPEND_TIME = 0x08

headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)
rows = st.tuples(st.integers(0, 2**42), st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=20), headers)


@st.composite
def logs(draw: st.DrawFn) -> list[list[Record]]:
    """Batches of a partition, with gaps as compaction leaves them."""
    offset = draw(st.integers(0, 2**40))
    found: list[list[Record]] = []
    for _ in range(draw(st.integers(1, 4))):
        records: list[Record] = []
        for row in draw(st.lists(rows, min_size=1, max_size=6)):
            offset += draw(st.integers(1, 3))
            records.append((offset, *row))
        found.append(records)
    return found


def _records(pieces: Sequence[Piece]) -> list[Record]:
    assert all(isinstance(piece, Columns) for piece in pieces), pieces
    return [
        row
        for piece in pieces
        if isinstance(piece, Columns)
        for row in zip(piece.offsets, piece.timestamps, piece.keys, piece.values, map(list, piece.headers), strict=True)
    ]


def _drained(fetched: FetchedRecords, limit: int = 1000) -> list[Piece]:
    pieces: list[Piece] = []
    while not fetched.done:
        found = fetched.take(limit)
        assert sum(map(len, found)) <= limit
        pieces += found
    return pieces


@given(logs(), st.integers(1, 7), st.sampled_from(CODECS), st.data())
@settings(max_examples=60)
def test_records_come_out_as_they_were_written(
    log: list[list[Record]], limit: int, codec: int, data: st.DataObject
) -> None:
    """In order, each once, from the position on, however many are taken at a time and however they are packed."""
    everything = [record for records in log for record in records]
    position = data.draw(st.integers(everything[0][0] - 1, everything[-1][0]))
    raw = b"".join(batch(records, codec=codec) for records in log)
    fetched = FetchedRecords(raw, position, None)
    assert _records(_drained(fetched, limit)) == [record for record in everything if record[0] >= position]
    assert fetched.next_offset == fetched.end_offset == everything[-1][0] + 1


@given(st.lists(rows, min_size=2, max_size=8), st.sampled_from(CODECS), st.booleans(), st.data())
@settings(max_examples=60)
def test_a_record_with_a_name_that_is_no_text_costs_itself(
    written: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    codec: int,
    append_time: bool,
    data: st.DataObject,
) -> None:
    """Its neighbours come out as the quick way gives them; it is named by its offset."""
    bad = data.draw(st.integers(0, len(written) - 1))
    attributes = APPEND_TIME if append_time else 0
    records: list[Record] = [(100 + at, *row) for at, row in enumerate(written)]
    good = _records(_drained(FetchedRecords(batch(records, codec=codec, attributes=attributes), 100, None)))
    offset, timestamp, key, value, _ = records[bad]
    records[bad] = (offset, timestamp, key, value, [("name", b"v")])
    spoilt = batch(records, attributes=attributes).replace(b"\x08name", b"\x08\xff\xfeme")
    pieces = _drained(FetchedRecords(_packed(spoilt, codec), 100, None), 3)
    (unread,) = [piece for piece in pieces if isinstance(piece, Unread)]
    assert unread.offset == offset
    assert "no UTF-8" in unread.error
    rest = [piece for piece in pieces if isinstance(piece, Columns)]
    assert _records(rest) == [record for record in good if record[0] != offset]


def _packed(raw: bytes, codec: int) -> bytes:
    """An uncompressed batch, compressed."""
    head, body = bytearray(raw[:HEADER_BYTES]), raw[HEADER_BYTES:]
    if codec:
        body = bytes(PACK[codec](body))
        head[22] |= codec
    whole = head + body
    whole[8:12] = (len(whole) - 12).to_bytes(4, "big")
    return sealed(whole)


def test_a_batch_whose_structure_is_lost_costs_what_is_left_of_it() -> None:
    """Records before the fault are read; those behind it are named one by one; the next batch is whole."""
    spoilt = bytearray(batch(plain(5, 4)))
    spoilt[spoilt.index(b"v7") - 1] = 0x7E  # the value of offset 7 claims 63 bytes
    pieces = _drained(FetchedRecords(sealed(spoilt) + batch(plain(9, 1)), 5, None))
    assert _records([piece for piece in pieces if isinstance(piece, Columns)]) == [*plain(5, 2), *plain(9, 1)]
    assert [piece.offset for piece in pieces if isinstance(piece, Unread)] == [7, 8]


def test_a_position_inside_a_batch_that_needs_care_skips_what_was_read() -> None:
    """Nothing before the position comes again, readable or not."""
    spoilt = bytearray(batch([*plain(5, 2), (7, 1, b"k", b"v", [("name", b"")]), *plain(8, 1)]))
    raw = sealed(bytearray(bytes(spoilt).replace(b"\x08name", b"\x08\xff\xfeme")))
    pieces = _drained(FetchedRecords(raw, 6, None))
    assert [piece.offset if isinstance(piece, Unread) else piece.offsets for piece in pieces] == [[6], 7, [8]]


def test_a_corrupt_batch_is_told_before_anything_behind_it() -> None:
    """What was before it is handed out first; given up, it costs its own offsets, and reading goes on behind it."""
    fetched = FetchedRecords(batch(plain(0, 2)) + broken(batch(plain(2, 3))) + batch(plain(5, 1)), 0, None)
    assert _records(fetched.take(10)) == plain(0, 2)
    with pytest.raises(CorruptBatchError):
        fetched.take(10)
    lost = fetched.give_up(100)
    assert [piece.offset for piece in lost if isinstance(piece, Unread)] == [2, 3, 4]
    assert _records(_drained(fetched)) == plain(5, 1)
    assert fetched.next_offset == 6


@pytest.mark.parametrize("implementation", ["c", "python"])
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_changed_byte_is_noticed(monkeypatch: pytest.MonkeyPatch, implementation: str, data: st.DataObject) -> None:
    """Anywhere behind the checksum, with or without the processor's instruction for it."""
    monkeypatch.setattr("google_crc32c.implementation", implementation)
    raw = bytearray(batch(plain(0, 3)))
    assert _records(_drained(FetchedRecords(bytes(raw), 0, None))) == plain(0, 3)
    raw[data.draw(st.integers(ATTRIBUTES_AT, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptBatchError):
        FetchedRecords(bytes(raw), 0, None).take(10)


def test_a_batch_of_an_older_format_has_a_checksum_of_its_own() -> None:
    """Format 1, which brokers keep from before Kafka 0.11."""
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 16)
    builder.append(0, 1000, b"k0", b"v0")
    raw = bytes(builder.build())
    assert _records(_drained(FetchedRecords(raw, 0, None))) == plain(0, 1)
    with pytest.raises(CorruptBatchError):
        FetchedRecords(raw[:-1] + b"x", 0, None).take(10)


@pytest.mark.parametrize(("reach", "given_up"), [(4, [2, 3]), (2, [2]), (0, [2])])
def test_a_corrupt_batch_reaches_no_further_than_the_log(reach: int, given_up: list[int]) -> None:
    """A corrupt header may claim billions of offsets; at least one is given up, so that reading goes on."""
    fetched = FetchedRecords(broken(batch([(2, 0, None, None, ()), (2**31, 0, None, b"x", ())])), 2, None)
    with pytest.raises(CorruptBatchError):
        fetched.take(1)
    assert [piece.offset for piece in fetched.give_up(reach) if isinstance(piece, Unread)] == given_up
    assert fetched.end_offset >= fetched.next_offset == given_up[-1] + 1
    assert fetched.take(1) == []


def test_a_corrupt_batch_reaches_no_further_than_the_next_one() -> None:
    """A header that claims too much costs no records of others."""
    corrupt = broken(batch([(2, 0, None, None, ()), (2**31, 0, None, b"x", ())]))
    fetched = FetchedRecords(corrupt + batch(plain(5, 2)), 2, None)
    with pytest.raises(CorruptBatchError):
        fetched.take(1)
    assert [piece.offset for piece in fetched.give_up(10_000) if isinstance(piece, Unread)] == [2, 3, 4]
    assert _records(_drained(fetched)) == plain(5, 2)


@pytest.mark.parametrize("raw", [batch(plain(3, 1))[:-1], b"\x00" * 40, b"x"])
def test_an_answer_without_a_whole_batch_is_corrupt(raw: bytes) -> None:
    """Brokers send at least one whole batch; asking again for ever would stand still."""
    fetched = FetchedRecords(raw, 3, None)
    with pytest.raises(CorruptBatchError):
        fetched.take(1)
    assert [piece.offset for piece in fetched.give_up(9) if isinstance(piece, Unread)] == [3]
    assert fetched.done
    assert fetched.next_offset == 4


def test_a_batch_that_is_cut_short_waits_for_the_next_fetch() -> None:
    """The next fetch begins with it."""
    fetched = FetchedRecords(batch(plain(0, 2)) + batch(plain(2, 2))[:-5], 0, None)
    assert _records(_drained(fetched)) == plain(0, 2)
    assert fetched.end_offset == 2


def test_markers_move_the_position_and_nothing_else() -> None:
    """Every reader skips them, and goes on behind them."""
    fetched = FetchedRecords(batch(plain(0, 1), producer=7, transactional=True) + marker(1, 7, COMMIT), 0, None)
    assert _records(_drained(fetched)) == plain(0, 1)
    assert fetched.next_offset == 2


def test_aborted_records_are_skipped_by_who_reads_committed_ones() -> None:
    """From the transaction's first offset to its marker, and only those of its producer."""
    raw = b"".join(
        [
            batch(plain(0, 1), producer=7, transactional=True),
            marker(1, 7, COMMIT),
            batch(plain(2, 2), producer=7, transactional=True),
            batch(plain(4, 1), producer=8, transactional=True),
            batch(plain(5, 1)),
            marker(6, 7, ABORT),
            batch(plain(7, 1), producer=7, transactional=True),
            marker(8, 8, COMMIT),
        ]
    )
    committed = FetchedRecords(raw, 0, [(7, 2)])
    assert [record[0] for record in _records(_drained(committed))] == [0, 4, 5, 7]
    assert committed.next_offset == 9
    assert [record[0] for record in _records(_drained(FetchedRecords(raw, 0, None)))] == [0, 2, 3, 4, 5, 7]


def test_a_fetch_of_nothing_is_done() -> None:
    """Its position stays."""
    fetched = FetchedRecords(b"", 5, None)
    assert fetched.done
    assert (fetched.take(1), fetched.next_offset, fetched.unread_bytes) == ([], 5, 0)
