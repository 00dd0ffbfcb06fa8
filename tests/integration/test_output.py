"""What a scored record carries, and which partition it goes to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.bundles import linear_bundle
from tests.integration.ledger import Ledger
from tests.integration.readings import (
    FIELDS,
    WEIGHTS,
    encoded,
    features,
    letter_of,
    meter,
    reading,
    readings,
    reference,
    source_of,
)
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import KafkaClient, Outgoing, Record
from tests.kafka.fixtures import Topics, worker_config
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

PARTITIONS = 3
RECORDS = 90
TIMESTAMP_MS = 1_700_000_000_000
TOMBSTONES = (10, 11, 50)
KEYLESS = range(0, RECORDS, 9)
KEYS = ("", "k", "card-1", "card-22", "a-little-bit-longer-string", "größe", "\x00\x01", "x" * 400)
TRACE = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"vendor=1"))
HEADERS = (*TRACE, ("tenant", b"\xff\x00"), ("secret", b"stays"), ("tenant", None))


@dataclass(frozen=True)
class Run:
    """Records sent, and what one worker made of them."""

    sent: dict[tuple[int, int], Outgoing]
    worker: WorkerProcess
    client: KafkaClient
    bundle: Path
    scored: list[Record]

    @property
    def names(self) -> dict[str, Any]:
        """The section ``kafka`` of the worker's configuration."""
        section: dict[str, Any] = self.worker.config["kafka"]
        return section


def outgoing(number: int) -> Outgoing:
    """A reading, keyless now and then, with headers now and then; or a tombstone."""
    value = None if number in TOMBSTONES else encoded(reading(number, room={"floor": number % 5}))
    key = None if number in KEYLESS else KEYS[number % len(KEYS)].encode()
    return Outgoing(value, key, HEADERS if number % 2 else (), TIMESTAMP_MS + number, number % PARTITIONS)


def run(folder: Path, broker: KafkaBroker, output_partitions: int, overrides: dict[str, Any]) -> Iterator[Run]:
    """Score a stream with one worker, which ends with the fixture."""
    topics = Topics(broker.client)
    source = topics.create("in", partitions=PARTITIONS)
    output = topics.create("out", partitions=output_partitions)
    sent = [outgoing(number) for number in range(RECORDS)]
    at = broker.client.produce(source, sent)
    schema = {"properties": {"room": {"type": "object", "properties": {"floor": {"type": "integer"}}}}}
    bundle = linear_bundle(
        folder / "meter", FIELDS, WEIGHTS, decision={"output": "score", "threshold": 0.5, "field": "alarm"}
    )
    settings = meter(folder, {"kafka": {"input_topics": [source], "output_topic": output}}, overrides, bundle=bundle)
    path = Path(settings["event"]["schema"])
    document = json.loads(path.read_text())
    document["properties"] |= schema["properties"]
    path.write_text(json.dumps(document))
    worker = WorkerProcess(folder, worker_config(broker, settings, PARTITIONS))
    worker.start()
    try:
        worker.wait_ready()
        scored = broker.client.read(output, count=RECORDS - len(TOMBSTONES))
        yield Run(dict(zip(at, sent, strict=True)), worker, broker.client, bundle, scored)
    finally:
        worker.discard()


@pytest.fixture(scope="module")
def by_source(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker) -> Iterator[Run]:
    """A run under ``partitioning: source``, into a topic with a partition to spare."""
    output = {"headers": ["tenant"], "include": ["room.floor", "b"], "partitioning": "source"}
    yield from run(tmp_path_factory.mktemp("source"), kafka, PARTITIONS + 1, {"output": output})


@pytest.fixture(scope="module")
def by_key(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker) -> Iterator[Run]:
    """A run under ``partitioning: key``, into fewer partitions than the input has, that skips tombstones."""
    overrides = {"output": {"partitioning": "key"}, "event": {"on_tombstone": "skip"}}
    yield from run(tmp_path_factory.mktemp("key"), kafka, PARTITIONS - 1, overrides)


@pytest.fixture(scope="module", autouse=True)
def outgrown(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker) -> Iterator[WorkerProcess]:
    """A worker whose input topic grew beyond its output topic while it ran.

    Begun with the first test of this module, because the worker looks for new partitions every 30 s only.
    """
    folder = tmp_path_factory.mktemp("outgrown")
    worker = WorkerProcess(folder, worker_config(kafka, meter(folder), partitions=1))
    worker.start()
    try:
        worker.wait_ready()
        source = worker.config["kafka"]["input_topics"][0]
        kafka.client.add_partitions(source, 2)
        kafka.client.produce(source, readings(20, partitions=2))
        yield worker
    finally:
        worker.discard()


def value_of(record: Record) -> dict[str, Any]:
    """The JSON object of an output record."""
    found: dict[str, Any] = json.loads(record.value or b"")
    return found


def wait_committed(run: Run) -> None:
    """Wait until all input offsets are committed."""
    topic, group = run.names["input_topics"][0], run.names["group_id"]
    wait_until(
        lambda: run.client.committed(group, topic) == run.client.end_offsets(topic),
        timeout_s=10,
        what=lambda: f"committed {run.client.committed(group, topic)} of {run.client.end_offsets(topic)}",
    )


def test_a_scored_record_keeps_key_and_timestamp(by_source: Run) -> None:
    """Key and timestamp of a scored record are those of its input record, also where the key is empty or null."""
    kept = {source_of(one): (one.key, one.timestamp_ms) for one in by_source.scored}

    assert kept == {at: (one.key, one.timestamp_ms) for at, one in by_source.sent.items() if one.value is not None}


def test_a_scored_record_names_its_source_and_model(by_source: Run) -> None:
    """``headrace-source`` is topic, partition and offset; ``headrace-model`` are 12 digits of the model's hash."""
    digest = hashlib.sha256((by_source.bundle / "model.onnx").read_bytes()).hexdigest()[:12]
    topic = by_source.names["input_topics"][0]

    assert {one.header("headrace-model") for one in by_source.scored} == {digest}
    assert all(re.fullmatch(rf"{topic}/\d+/\d+", str(one.header("headrace-source"))) for one in by_source.scored)
    assert len({source_of(one) for one in by_source.scored}) == RECORDS - len(TOMBSTONES)


def test_trace_headers_and_named_ones_are_passed_on(by_source: Run) -> None:
    """``traceparent``, ``tracestate`` and those in ``output.headers`` follow ours byte for byte; others stay behind."""
    for record in by_source.scored:
        sent = by_source.sent[source_of(record)]
        assert [name for name, _ in record.headers[:2]] == ["headrace-source", "headrace-model"]
        assert record.headers[2:] == tuple(header for header in sent.headers if header[0] != "secret")
    assert any(len(record.headers) > 2 for record in by_source.scored)


def test_a_scored_value_holds_fields_outputs_decision_and_model(by_source: Run) -> None:
    """The value is id, included fields, score, decision and model, the score as ONNX Runtime computes it."""
    events = [json.loads(by_source.sent[source_of(one)].value or b"") for one in by_source.scored]
    expected = reference(by_source.bundle, {"features": features(events)})[:, 0]

    for record, event, score in zip(by_source.scored, events, expected.tolist(), strict=True):
        value = value_of(record)
        assert value == {
            "id": event["id"],
            "room.floor": event["room"]["floor"],
            "b": event["b"],
            "score": pytest.approx(score, rel=1e-6),
            "alarm": score >= 0.5,
            "model": "meter@1.0.0",
        }
    assert {value_of(record)["alarm"] for record in by_source.scored} == {True, False}


def test_source_partitioning_keeps_partition_and_order(by_source: Run) -> None:
    """Under ``source`` each record stays in the partition of its number, in the order of the input."""
    ledger = Ledger(by_source.scored)

    assert (ledger.moved, ledger.repeated) == ([], [])
    for partition, offsets in ledger.offsets.items():
        wanted = [at[1] for at, one in by_source.sent.items() if at[0] == partition and one.value is not None]
        assert offsets == wanted


def test_tombstones_are_dead_lettered_by_default(by_source: Run) -> None:
    """A null value goes to the dead letters with its key, headers and the reason ``tombstone``."""
    letters = {letter_of(one): one for one in by_source.client.read(by_source.names["dead_letter_topic"], count=3)}

    assert set(letters) == {at for at, one in by_source.sent.items() if one.value is None}
    for at, letter in letters.items():
        sent = by_source.sent[at]
        assert (letter.value, letter.key, letter.timestamp_ms) == (None, sent.key, sent.timestamp_ms)
        assert letter.headers[: len(sent.headers)] == sent.headers
        assert (letter.header("headrace-dlq-stage"), letter.header("headrace-dlq-reason")) == ("decode", "tombstone")
    wait_committed(by_source)


def test_tombstones_are_skipped_where_configured(by_key: Run) -> None:
    """Under ``on_tombstone: skip`` a null value is counted, and its offset moves; nothing is dead-lettered."""
    wait_committed(by_key)

    assert by_key.client.read_all(by_key.names["dead_letter_topic"]) == []
    wait_until(
        lambda: by_key.worker.metrics()['headrace_records_skipped_total{reason="tombstone"}'] == len(TOMBSTONES),
        timeout_s=5,
        what=lambda: "the skipped tombstones are not counted",
    )


def test_key_partitioning_is_that_of_kafka(by_key: Run) -> None:
    """Under ``key`` a record goes where Kafka's default partitioner puts its key; librdkafka's copy of it agrees."""
    keyed = {at: one for at, one in by_key.sent.items() if one.key is not None and one.value is not None}
    witness = Topics(by_key.client).create("witness", partitions=PARTITIONS - 1)
    producer = Producer({"bootstrap.servers": by_key.client.bootstrap, "partitioner": "murmur2_random"})
    for key in KEYS:
        producer.produce(witness, key=key.encode(), value=b"")
    assert producer.flush(20) == 0
    expected = {one.key: one.partition for one in by_key.client.read(witness, count=len(KEYS))}

    found = {source_of(one): one.partition for one in by_key.scored if one.key is not None}
    assert found == {at: expected[one.key] for at, one in keyed.items()}
    assert set(found.values()) == set(range(PARTITIONS - 1))


def test_a_null_key_goes_to_the_source_partition(by_key: Run) -> None:
    """Under ``key`` a record without a key goes to its own partition's number modulo the output's partitions."""
    found = {source_of(one): one.partition for one in by_key.scored if one.key is None}

    keyless = [at for at, one in by_key.sent.items() if one.key is None and one.value is not None]
    assert found == {at: at[0] % (PARTITIONS - 1) for at in keyless}


def test_key_partitioning_keeps_the_order_of_each_key(by_key: Run) -> None:
    """Under ``key`` the records of one key from one partition come out in the order of the input."""
    orders: dict[tuple[bytes | None, int], list[int]] = {}
    for record in by_key.scored:
        partition, offset = source_of(record)
        orders.setdefault((record.key, partition), []).append(offset)

    assert all(offsets == sorted(offsets) for offsets in orders.values())
    assert sum(map(len, orders.values())) == RECORDS - len(TOMBSTONES)


def test_input_partitions_beyond_the_output_are_held(kafka: KafkaBroker, outgrown: WorkerProcess) -> None:
    """An input partition beyond the output's is held and makes the worker unready, until the output grows."""
    worker = outgrown
    source, output = worker.config["kafka"]["input_topics"][0], worker.config["kafka"]["output_topic"]

    def held() -> bool:
        return f"{source}/1" in worker.status()["ready"]["cause"]

    wait_until(held, timeout_s=45, what=lambda: f"ready: {worker.status()['ready']}")

    assert worker.probe("/readyz") == 503
    assert worker.probe("/livez") == 200
    assert worker.events("partitions_held")
    before = kafka.client.read(output, count=10)
    assert {source_of(one)[0] for one in before} == {0}

    kafka.client.add_partitions(output, 2)
    worker.wait_ready()
    ledger = Ledger(kafka.client.read(output, count=20))
    assert (ledger.missing({0: 10, 1: 10}), ledger.repeated, ledger.moved) == ([], [], [])
    assert worker.events("partitions_released")
