"""Bad records in a stream of good ones: each goes to the dead letters byte for byte, all others are scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import IR_VERSION, OPSET, write_bundle
from tests.integration.readings import SCHEMA, configured, encoded, letter_of, reading, reference, scores
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing, Record
from tests.kafka.fixtures import Topics, worker_config
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess, merged

LARGE_TOPIC = {"max.message.bytes": "8388608"}
SMALL_TOPIC = {"max.message.bytes": "65536"}
VECTOR_WIDTH = 4
PARTITIONS = 2
TIMESTAMP_MS = 1_700_000_000_000
VALID_LARGE_BYTES = 2_000_000

VECTOR_SCHEMA: dict[str, Any] = merged(
    SCHEMA,
    {
        "required": ["id", "a", "b", "items", "text"],
        "properties": {
            "items": {"type": "array", "items": {"type": "number", "minimum": -9}, "minItems": 1},
            "text": {"type": "string"},
        },
    },
)


@dataclass(frozen=True)
class Bad:
    """One unusable value, and the verdict on it."""

    name: str
    value: bytes | None = field(repr=False)
    stage: str
    reason: str


def good(number: int, **fields: object) -> dict[str, Any]:
    """A reading with all that the model of this module reads."""
    return reading(number, **{"items": [number, 1, 2, 3], "text": f"0.5,{number}", **fields})


def spoiled(old: bytes, new: bytes) -> bytes:
    """A good event in which ``old`` is replaced."""
    value = encoded(good(7))
    assert value.count(old) == 1
    return value.replace(old, new)


def changed(**fields: object) -> bytes:
    """A good event with other fields."""
    return encoded(good(7, **fields))


BAD = (
    Bad("empty value", b"", "decode", "empty_value"),
    Bad("null value", None, "decode", "tombstone"),
    Bad("invalid UTF-8", spoiled(b'"r7"', b'"\xff\xfe"'), "decode", "invalid_utf8"),
    Bad("truncated JSON", encoded(good(7))[:-9], "decode", "invalid_json"),
    Bad("array", b"[1, 2]", "decode", "not_an_object"),
    Bad("number", b"17", "decode", "not_an_object"),
    Bad(
        "deep nesting", spoiled(b'{"id"', b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "id"'), "decode", "too_deep"
    ),
    Bad("5 MB that do not end", b'{"id": "' + b"x" * 5_000_000, "decode", "invalid_json"),
    Bad("huge float", spoiled(b'"a": 0.875', b'"a": 1e400'), "validate", "out_of_range"),
    Bad("huge integer", spoiled(b'"b": 1', b'"b": 1' + b"0" * 400), "validate", "out_of_range"),
    Bad("huge number in an array", spoiled(b"[7,", b"[1e400,"), "validate", "out_of_range"),
    Bad("beyond float32", changed(b=1e39), "validate", "out_of_range"),
    Bad("NaN as a number", spoiled(b'"a": 0.875', b'"a": NaN'), "decode", "invalid_json"),
    Bad("NaN as a text", changed(a="NaN"), "validate", "wrong_type"),
    Bad("NaN among numbers in a text", changed(text="0.5,nan"), "validate", "not_finite"),
    Bad("wrong type", changed(a="seven"), "validate", "wrong_type"),
    Bad("null where none may be", changed(b=None), "validate", "wrong_type"),
    Bad(
        "missing field",
        encoded({"id": "r7", "a": 1, "items": [1, 2, 3, 4], "text": "1,2"}),
        "validate",
        "missing_field",
    ),
    Bad("out of range", changed(a=1000.5), "validate", "out_of_range"),
    Bad("item out of range", changed(items=[1, 2, 3, -10]), "validate", "out_of_range"),
    Bad("vector too short", changed(items=[1, 2, 3]), "validate", "wrong_length"),
    Bad("vector too long", changed(items=[1, 2, 3, 4, 5]), "validate", "wrong_length"),
    Bad("too few numbers in a text", changed(text="1"), "validate", "wrong_length"),
)
EACH_BAD = pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)


@dataclass(frozen=True)
class Run:
    """What one worker made of good records with every bad one among them."""

    sent: list[Outgoing]
    at: list[tuple[int, int]]
    good: dict[tuple[int, int], dict[str, Any]]
    bad: dict[str, tuple[int, int]]
    scored: list[Record]
    letters: dict[tuple[int, int], Record]
    bundle: Path
    worker: WorkerProcess
    broker: KafkaBroker

    def outgoing(self, bad: Bad) -> Outgoing:
        """The record as it was sent."""
        return self.sent[self.at.index(self.bad[bad.name])]

    def letter(self, bad: Bad) -> Record:
        """Its dead letter."""
        return self.letters[self.bad[bad.name]]


def vector_bundle(folder: Path) -> Path:
    """``score``: the sum of two scalars, of a vector, and of two numbers in a text."""
    names = {"features": 2, "items": VECTOR_WIDTH, "pair": 2}
    nodes = [helper.make_node("ReduceSum", [name, "axes"], [f"{name}_sum"], keepdims=1) for name in names]
    nodes.append(helper.make_node("Sum", [f"{name}_sum" for name in names], ["score"]))
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in names.items()],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    inputs = [
        {"name": "features", "dtype": "float32", "shape": ["batch", 2], "fields": ["a", "b"]},
        {"name": "items", "dtype": "float32", "shape": ["batch", VECTOR_WIDTH], "fields": ["items"]},
        {"name": "pair", "dtype": "float32", "shape": ["batch", 2], "fields": ["text"], "encoding": "csv"},
    ]
    return write_bundle(folder, model, inputs=inputs, outputs={"score": {"output": "score"}})


def stream() -> list[tuple[Bad | None, Outgoing]]:
    """Three good records before each bad one, in turn on both partitions, and a large good one at the end."""
    records: list[tuple[Bad | None, Outgoing]] = []

    def add(bad: Bad | None, value: bytes | None) -> None:
        number = len(records)
        headers = (("trace", b"\x00\xff"), ("trace", b"again"), ("empty", None), ("headrace-dlq-reason", b"old"))
        record = Outgoing(value, f"k{number}".encode(), headers, TIMESTAMP_MS + number, number % PARTITIONS)
        records.append((bad, record))

    for bad in BAD:
        for _ in range(3):
            add(None, encoded(good(len(records))))
        add(bad, bad.value)
        add(None, encoded(good(len(records))))
    add(None, encoded(good(len(records), padding="x" * VALID_LARGE_BYTES)))
    return records


def run(folder: Path, broker: KafkaBroker, dead_letter_config: dict[str, str]) -> Iterator[Run]:
    """Produce the stream, let one worker score it, and read the result; the worker ends with the fixture."""
    topics = Topics(broker.client)
    source = topics.create("in", partitions=PARTITIONS, config=LARGE_TOPIC)
    records = stream()
    sent = [record for _, record in records]
    at = broker.client.produce(source, sent)
    letters = topics.create("dlq", config=dead_letter_config)
    bundle = vector_bundle(folder / "sums")
    kafka = {"kafka": {"input_topics": [source], "dead_letter_topic": letters}}
    worker = WorkerProcess(folder, worker_config(broker, configured(folder, bundle, VECTOR_SCHEMA, kafka), PARTITIONS))
    worker.start()
    try:
        worker.wait_ready()
        good_at = {
            where: json.loads(record.value or b"") for where, (bad, record) in zip(at, records, strict=True) if not bad
        }
        bad_at = {bad.name: where for where, (bad, _) in zip(at, records, strict=True) if bad}
        scored = broker.client.read(worker.config["kafka"]["output_topic"], count=len(good_at))
        found = broker.client.read(letters, count=len(bad_at))
        yield Run(sent, at, good_at, bad_at, scored, {letter_of(one): one for one in found}, bundle, worker, broker)
    finally:
        worker.discard()


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker) -> Iterator[Run]:
    """A run whose dead-letter topic takes every record."""
    yield from run(tmp_path_factory.mktemp("roomy"), kafka, LARGE_TOPIC)


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker) -> Iterator[Run]:
    """A run whose dead-letter topic takes 64 KiB a record."""
    yield from run(tmp_path_factory.mktemp("tight"), kafka, SMALL_TOPIC)


def check_neighbours(outcome: Run) -> None:
    """Every good record was scored once, in order, as ONNX Runtime scores it."""
    events = list(outcome.good.values())
    tensors = {
        "features": np.array([[event["a"], event["b"]] for event in events], np.float32),
        "items": np.array([event["items"] for event in events], np.float32),
        "pair": np.array([[float(part) for part in event["text"].split(",")] for event in events], np.float32),
    }
    expected = reference(outcome.bundle, tensors)[:, 0]
    found = scores(outcome.scored)
    assert [found.pop(event["id"]) for event in events] == pytest.approx(expected.tolist(), rel=1e-6)
    assert not found
    for partition in range(PARTITIONS):
        ids = [json.loads(one.value or b"")["id"] for one in outcome.scored if one.partition == partition]
        assert ids == [event["id"] for where, event in outcome.good.items() if where[0] == partition]


@EACH_BAD
def test_a_bad_record_names_stage_and_reason(roomy: Run, bad: Bad) -> None:
    """The dead letter says where the record came from, which step refused it, and why."""
    letter = roomy.letter(bad)
    added = {name: (value or b"").decode() for name, value in letter.headers[len(roomy.outgoing(bad).headers) :]}
    partition, offset = roomy.bad[bad.name]
    config = roomy.worker.config["kafka"]
    assert (added["headrace-dlq-stage"], added["headrace-dlq-reason"]) == (bad.stage, bad.reason)
    assert added["headrace-dlq-error"]
    assert added["headrace-dlq-topic"] == config["input_topics"][0]
    assert (added["headrace-dlq-partition"], added["headrace-dlq-offset"]) == (str(partition), str(offset))
    assert added["headrace-dlq-timestamp"] == str(roomy.outgoing(bad).timestamp_ms)
    assert added["headrace-dlq-attempts"] == "1"
    assert added["headrace-dlq-group"] == config["group_id"]
    assert added["headrace-dlq-model"].startswith("sums@1.0.0 ")
    assert len(added) == 10


@EACH_BAD
def test_a_bad_record_is_kept_byte_for_byte(roomy: Run, bad: Bad) -> None:
    """Key, value, timestamp and headers of a dead letter are the record's own, the original headers first."""
    letter, sent = roomy.letter(bad), roomy.outgoing(bad)
    assert letter.value == sent.value
    assert (letter.key, letter.timestamp_ms) == (sent.key, sent.timestamp_ms)
    assert letter.headers[: len(sent.headers)] == sent.headers


def test_the_rest_of_the_stream_is_scored(roomy: Run) -> None:
    """Good records between bad ones are scored once each, in order, a large one among them, as ONNX Runtime does."""
    assert [len(encoded(event)) > VALID_LARGE_BYTES for event in roomy.good.values()].count(True) == 1
    check_neighbours(roomy)


def test_bad_records_move_the_offsets(roomy: Run) -> None:
    """The committed offsets reach the end of the input, past every bad record."""
    config = roomy.worker.config["kafka"]
    topic, group = config["input_topics"][0], config["group_id"]
    ends = roomy.broker.client.end_offsets(topic)
    wait_until(
        lambda: roomy.broker.client.committed(group, topic) == ends,
        timeout_s=10,
        what=lambda: f"committed {roomy.broker.client.committed(group, topic)} of {ends}",
    )
    assert sum(ends.values()) == len(roomy.sent)


def test_dead_letters_are_counted_by_reason(roomy: Run) -> None:
    """``/metrics`` counts each dead letter under its reason, and ends at the number of bad records."""
    topic = roomy.worker.config["kafka"]["input_topics"][0]
    samples = roomy.worker.metrics()
    for reason in {bad.reason for bad in BAD}:
        counted = samples[f'headrace_records_dead_lettered_total{{reason="{reason}",topic="{topic}"}}']
        assert counted == sum(bad.reason == reason for bad in BAD)


def test_a_record_too_large_for_the_dead_letters_leaves_its_hash(tight: Run) -> None:
    """Where the dead-letter topic cannot take a value, coordinates, hash, size and key go there without it."""
    too_large = [bad for bad in BAD if len(bad.value or b"") > int(SMALL_TOPIC["max.message.bytes"])]
    assert [bad.name for bad in too_large] == ["deep nesting", "5 MB that do not end"]
    for bad in too_large:
        letter, sent = tight.letter(bad), tight.outgoing(bad)
        assert (letter.value, letter.key, letter.timestamp_ms) == (None, sent.key, sent.timestamp_ms)
        assert letter.headers[: len(sent.headers)] == sent.headers
        assert letter.header("headrace-dlq-reason") == "oversize"
        assert letter.header("headrace-dlq-stage") == bad.stage
        assert bad.reason in str(letter.header("headrace-dlq-error"))
        assert letter.header("headrace-dlq-size") == str(len(bad.value or b""))
        assert letter.header("headrace-dlq-sha256") == hashlib.sha256(bad.value or b"").hexdigest()


def test_the_neighbours_of_oversize_records_are_unharmed(tight: Run) -> None:
    """With a small dead-letter topic the other dead letters stay byte for byte, and all good records are scored."""
    check_neighbours(tight)
    for bad in BAD:
        if len(bad.value or b"") < int(SMALL_TOPIC["max.message.bytes"]):
            assert tight.letter(bad).value == bad.value
            assert tight.letter(bad).header("headrace-dlq-reason") == bad.reason
