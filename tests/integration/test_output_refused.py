"""Topics that are missing or unfit, and records that the broker refuses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.readings import encoded, letter_of, meter, reading, readings, scores
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until

HOUR_MS = 3_600_000


@pytest.mark.parametrize("role", ["input_topics", "output_topic", "dead_letter_topic"])
def test_a_missing_topic_ends_the_worker(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker, role: str
) -> None:
    """A topic that does not exist ends the worker with exit 4 and names ``topics ensure``; nothing is committed."""
    source, missing = topics.create("in"), topics.name("missing")
    kafka.client.produce(source, readings(3))
    names = {"input_topics": [source], role: [source, missing] if role == "input_topics" else missing}
    worker = worker_process(meter(tmp_path, {"kafka": names}), ready=False)

    assert worker.wait_exit() == 4
    said = worker.log.read_text()
    assert f"topic {missing} does not exist" in said
    assert "headrace topics ensure" in said
    assert kafka.client.committed(worker.config["kafka"]["group_id"], source) == {}
    with pytest.raises(LookupError):
        kafka.client.partition_count(missing)


def test_an_output_topic_with_fewer_partitions_is_refused(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Under ``source`` an output topic with fewer partitions than the input ends the worker with exit 4 and advice."""
    source, output = topics.create("in", partitions=3), topics.create("out", partitions=2)
    kafka.client.produce(source, readings(3, partitions=3))
    names = {"kafka": {"input_topics": [source], "output_topic": output}}
    worker = worker_process(meter(tmp_path, names), ready=False)

    assert worker.wait_exit() == 4
    said = worker.log.read_text()
    assert f"output topic {output} has 2 partitions" in said
    assert "partitioning: key" in said
    assert kafka.client.committed(worker.config["kafka"]["group_id"], source) == {}


def test_an_input_that_is_the_output_is_refused(tmp_path: Path, topics: Topics, worker_process: StartWorker) -> None:
    """Input equal to output is a configuration error: exit 2, with the reason."""
    source = topics.create("in")
    names = {"kafka": {"input_topics": [source], "output_topic": source}}
    worker = worker_process(meter(tmp_path, names), ready=False)

    assert worker.wait_exit() == 2
    said = worker.log.read_text()
    assert "kafka.output_topic" in said
    assert "read its own output" in said


def test_records_that_the_broker_refuses_are_dead_lettered(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Null keys for a compacted topic and timestamps out of its range are refused one by one; the order is kept."""
    now_ms = int(time.time() * 1000)
    keyless, too_old, too_new = (3, 4, 20, 59), (0, 30), (31, 45)
    forever = {"message.timestamp.after.max.ms": str(2**62)}
    output = topics.create(
        "out", config={"cleanup.policy": "compact", "message.timestamp.before.max.ms": str(24 * HOUR_MS)}
    )
    source, letters = topics.create("in", config=forever), topics.create("dlq", config=forever)
    moved_h = dict.fromkeys(too_old, -100) | dict.fromkeys(too_new, 100)
    records = [
        Outgoing(
            encoded(reading(number)),
            None if number in keyless else f"k{number}".encode(),
            timestamp_ms=now_ms + moved_h.get(number, 0) * HOUR_MS,
        )
        for number in range(60)
    ]
    kafka.client.produce(source, records)
    names = {"input_topics": [source], "output_topic": output, "dead_letter_topic": letters}
    worker = worker_process(meter(tmp_path, {"kafka": names}))
    refused = {*keyless, *too_old, *too_new}

    found = {letter_of(one)[1]: one for one in kafka.client.read(letters, count=len(refused))}
    assert set(found) == refused
    for at, letter in found.items():
        assert (letter.value, letter.key, letter.timestamp_ms) == (
            records[at].value,
            records[at].key,
            records[at].timestamp_ms,
        )
        assert letter.header("headrace-dlq-stage") == "produce"
        assert letter.header("headrace-dlq-reason") == "broker_refused"
    scored = scores(kafka.client.read(output, count=60 - len(refused)))
    assert list(scored) == [f"r{number}" for number in range(60) if number not in refused]
    group = worker.config["kafka"]["group_id"]
    wait_until(
        lambda: kafka.client.committed(group, source) == {0: 60},
        timeout_s=10,
        what=lambda: f"committed {kafka.client.committed(group, source)}",
    )


def test_dead_letters_that_are_refused_stop_the_worker(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A dead-letter topic that refuses a record ends the worker with exit 4; the record is not committed."""
    source, letters = topics.create("in"), topics.create("dlq", config={"cleanup.policy": "compact"})
    bad_at = 5
    records = [Outgoing(b"bad" if number == bad_at else encoded(reading(number))) for number in range(12)]
    kafka.client.produce(source, records)
    names = {"kafka": {"input_topics": [source], "dead_letter_topic": letters}}
    worker = worker_process(meter(tmp_path, names), ready=False)

    assert worker.wait_exit() == 4
    said = worker.log.read_text()
    assert f"the dead-letter topic {letters} refuses the record of {source}/0 at offset {bad_at}" in said
    assert "cleanup.policy=delete" in said
    assert "Traceback" not in said
    assert kafka.client.committed(worker.config["kafka"]["group_id"], source).get(0, 0) <= bad_at

    kafka.client.set_topic_config(letters, {"cleanup.policy": "delete"})
    worker.start()
    assert [letter_of(one) for one in kafka.client.read(letters, count=1)] == [(0, bad_at)]
    wait_until(
        lambda: kafka.client.committed(worker.config["kafka"]["group_id"], source) == {0: 12},
        timeout_s=20,
        what=lambda: "the worker does not go on after the topic was mended",
    )
