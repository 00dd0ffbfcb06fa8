"""Rows that the model cannot score cost only themselves, however the batches fall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import logarithm_bundle, raising_bundle, wide_bundle
from tests.integration.readings import encoded, features, letter_of, meter, reading, reference, scores
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import KafkaClient, Outgoing, Record
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

MAGIC = 555.0
ROWS = 200
SMALL_OUTPUT_BYTES = 4096
WIDTH = 400
"""As zeros the vector of so many numbers fits ``SMALL_OUTPUT_BYTES``, as thirds it does not."""


def scored_by(worker: WorkerProcess, broker: KafkaBroker, count: int) -> list[Record]:
    """The worker's output, once it holds so many records."""
    return broker.client.read(worker.config["kafka"]["output_topic"], count=count)


def letters_by(worker: WorkerProcess, broker: KafkaBroker, count: int) -> dict[int, Record]:
    """The worker's dead letters by the offset of their record, once there are so many."""
    letters = broker.client.read(worker.config["kafka"]["dead_letter_topic"], count=count)
    return {letter_of(letter)[1]: letter for letter in letters}


def wait_committed(worker: WorkerProcess, client: KafkaClient) -> None:
    """Wait until the committed offset is the end of the input."""
    kafka = worker.config["kafka"]
    topic = kafka["input_topics"][0]
    wait_until(
        lambda: client.committed(kafka["group_id"], topic) == client.end_offsets(topic),
        timeout_s=10,
        what=lambda: f"committed {client.committed(kafka['group_id'], topic)} of {client.end_offsets(topic)}",
    )


def with_backlog(topics: Topics, client: KafkaClient, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings for an input topic that holds the events already, so that they come in large batches."""
    source = topics.create("in")
    client.produce(source, [Outgoing(encoded(event), b"key") for event in events])
    return {"kafka": {"input_topics": [source]}}


def test_rows_that_make_the_model_raise_are_found(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A row on which the model raises is dead-lettered; the others score as they do without it; all is committed."""
    culprits = (0, 57, 58, ROWS - 1)
    events = [reading(number, **({"a": MAGIC} if number in culprits else {})) for number in range(ROWS)]
    bundle = raising_bundle(tmp_path / "raising", "a", MAGIC)
    worker = worker_process(meter(tmp_path, with_backlog(topics, kafka.client, events), bundle=bundle))
    letters = letters_by(worker, kafka, len(culprits))
    others = [event for number, event in enumerate(events) if number not in culprits]
    expected = reference(bundle, {"features": features(others, ["a"])})[:, 0]

    assert list(scores(scored_by(worker, kafka, len(others))).values()) == pytest.approx(expected.tolist(), rel=1e-6)
    assert tuple(sorted(letters)) == culprits
    for at, letter in letters.items():
        assert letter.value == encoded(events[at])
        assert letter.header("headrace-dlq-stage") == "infer"
        assert letter.header("headrace-dlq-reason") == "model_error"
    wait_committed(worker, kafka.client)
    samples = worker.metrics()
    assert samples['headrace_inference_failures_total{reason="model_error"}'] == len(culprits)
    # At most two calls a row more than a healthy run: the rest was scored in company.
    calls = sum(value for name, value in samples.items() if name.startswith("headrace_batch_size_records_count"))
    assert calls < ROWS / 4


def test_rows_scored_as_nan_or_infinity_are_refused(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A row that the model scores as NaN or infinity is dead-lettered as ``output_not_finite``, its neighbours not."""
    spoiled = {3: -1.0, 4: 0.0, 100: -7.5}
    events = [reading(number, a=spoiled.get(number, 1.0 + number)) for number in range(ROWS)]
    bundle = logarithm_bundle(tmp_path / "logarithm", "a")
    worker = worker_process(meter(tmp_path, with_backlog(topics, kafka.client, events), bundle=bundle))
    letters = letters_by(worker, kafka, len(spoiled))
    others = [event for number, event in enumerate(events) if number not in spoiled]
    expected = reference(bundle, {"features": features(others, ["a"])})[:, 0]

    assert list(scores(scored_by(worker, kafka, len(others))).values()) == pytest.approx(
        expected.tolist(), rel=1e-6, abs=1e-6
    )
    assert {at: letter.header("headrace-dlq-reason") for at, letter in letters.items()} == dict.fromkeys(
        spoiled, "output_not_finite"
    )
    assert {letter.header("headrace-dlq-stage") for letter in letters.values()} == {"infer"}
    wait_committed(worker, kafka.client)


def test_outputs_too_large_for_the_topic_are_refused(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """An output larger than its topic takes is dead-lettered; its neighbours and later records are scored, in order."""
    output = topics.create("out", config={"max.message.bytes": str(SMALL_OUTPUT_BYTES)})
    long = (0, 5, 6, 77)
    events = [reading(number, a=1.0 if number in long else 0.0) for number in range(ROWS)]
    settings = with_backlog(topics, kafka.client, events)
    settings["kafka"]["output_topic"] = output
    worker = worker_process(meter(tmp_path, settings, bundle=wide_bundle(tmp_path / "wide", "a", WIDTH)))
    letters = letters_by(worker, kafka, len(long))
    short = [event["id"] for number, event in enumerate(events) if number not in long]

    scored = scores(scored_by(worker, kafka, len(short)))
    assert list(scored) == short
    assert all(vector == [0.0] * WIDTH for vector in scored.values())
    assert tuple(sorted(letters)) == long
    for letter in letters.values():
        assert (letter.header("headrace-dlq-stage"), letter.header("headrace-dlq-reason")) == (
            "produce",
            "output_oversize",
        )
    wait_committed(worker, kafka.client)
    kafka.client.produce(settings["kafka"]["input_topics"][0], [encoded(reading(ROWS, a=0.0))])
    assert f"r{ROWS}" in scores(scored_by(worker, kafka, len(short) + 1))


def test_outputs_that_only_the_broker_finds_too_large_are_refused(
    tmp_path: Path, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """When the output topic's limit shrinks under a running worker, its refusals cost the large records only."""
    long = (2, 9, 10, 31)
    events = [reading(number, a=1.0 if number in long else 0.0) for number in range(40)]
    worker = worker_process(meter(tmp_path, bundle=wide_bundle(tmp_path / "wide", "a", WIDTH)))
    names = worker.config["kafka"]
    kafka.client.set_topic_config(names["output_topic"], {"max.message.bytes": str(SMALL_OUTPUT_BYTES)})
    kafka.client.produce(names["input_topics"][0], [encoded(event) for event in events])
    letters = letters_by(worker, kafka, len(long))

    assert list(scores(scored_by(worker, kafka, len(events) - len(long)))) == [
        event["id"] for number, event in enumerate(events) if number not in long
    ]
    assert tuple(sorted(letters)) == long
    assert {letter.header("headrace-dlq-reason") for letter in letters.values()} == {"output_oversize"}
    assert all(json.loads(letter.value or b"") == events[at] for at, letter in letters.items())
    wait_committed(worker, kafka.client)
    wait_until(
        lambda: worker.metrics()["headrace_producer_rebuilds_total"] >= 1,
        timeout_s=5,
        what=lambda: "no producer was replaced, so that the broker refused nothing",
    )
