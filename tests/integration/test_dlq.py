"""``headrace dlq``: what it shows is what was refused, and what it redrives comes back byte for byte, once."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.readings import SCHEMA, encoded, meter, reading, scores, write_schema
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import KafkaClient, Outgoing
from tests.kafka.fixtures import StartWorker, Topics, worker_config
from tests.kafka.worker_process import merged
from worker.__main__ import main

HEADERS = (("trace", b"\x00\xff"), ("trace", b"again"), ("empty", None), ("headrace-dlq-reason", b"old"))
NO_BRAKES = {"brakes": {"max_share": None, "max_in_a_row": None}}
STRICT: dict[str, Any] = merged(SCHEMA, {"properties": {"b": {"type": "number", "maximum": 3}}})
Run = Callable[..., tuple[int, Any]]


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture
def dlq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``headrace dlq`` on a configuration: exit code and JSON, or with ``text`` standard output and error."""

    def run(config: dict[str, Any], *arguments: str, text: bool = False) -> tuple[int, Any]:
        path = tmp_path / "dlq.yaml"
        path.write_text(yaml.safe_dump(config))
        code = main(["dlq", *arguments, "--config", str(path), *([] if text else ["--json"])])
        said = capsys.readouterr()
        return code, said.out + said.err if text else json.loads(said.out)

    return run


def letter_headers(topic: str, partition: int, offset: int, reason: str, *more: tuple[str, bytes]) -> Any:
    """What the worker appends to a refused record."""
    told = {"topic": topic, "partition": partition, "offset": offset, "timestamp": 5, "stage": "decode"}
    told |= {"reason": reason, "error": "because", "attempts": 1, "group": "g", "model": "m"}
    return (*((f"headrace-dlq-{name}", str(value).encode()) for name, value in told.items()), *more)


@pytest.fixture
def filled(kafka: KafkaBroker, topics: Topics) -> dict[str, Any]:
    """A configuration whose dead-letter topic holds one of each kind; the input has two partitions."""
    config = worker_config(kafka, {}, 2)
    source, name = config["kafka"]["input_topics"][0], config["kafka"]["dead_letter_topic"]
    lost = (("headrace-dlq-sha256", b"00"), ("headrace-dlq-size", b"9"))
    kafka.client.produce(
        name,
        [
            Outgoing(b"{", b"k\xff", (*HEADERS, *letter_headers(source, 1, 10, "invalid_json")), 1_000_000),
            Outgoing(b"\xff\x00", None, letter_headers(source, 7, 11, "invalid_utf8"), 2_000_000),
            Outgoing(None, None, letter_headers(source, 0, 12, "tombstone"), 3_000_000),
            Outgoing(None, b"k", letter_headers(source, 0, 13, "oversize", *lost), 4_000_000),
            Outgoing(b"{", b"k", letter_headers(topics.create("in"), 0, 14, "invalid_json"), 5_000_000),
            Outgoing(
                b'{"a": "\x1b[31m"}',
                b"k",
                (("headrace-redriven", b"3"), *letter_headers(source, 0, 15, "missing_field")),
                6_000_000,
            ),
            Outgoing(b"{", b"k", (("who", b"else"),), 7_000_000),
        ],
    )
    return config


def test_list_counts_by_reason_and_shows_the_newest(dlq: Run, filled: dict[str, Any]) -> None:
    """All reasons are counted; the table holds the newest first."""
    code, found = dlq(filled, "list", "--limit", "2")
    assert (code, found["matched"], found["foreign"]) == (0, 6, 1)
    assert found["reasons"] == {
        "invalid_json": 2, "invalid_utf8": 1, "tombstone": 1, "oversize": 1, "missing_field": 1
    }  # fmt: skip
    assert [letter["offset"] for letter in found["letters"]] == [5, 4]
    assert found["letters"][0]["redriven"] == 3
    assert found["letters"][0]["time"] == "1970-01-01T01:40:00.000Z"
    assert found["letters"][0]["source"]["offset"] == 15
    _, text = dlq(filled, "list", text=True)
    assert "6 dead letters" in text
    assert "0/5" in text


@pytest.mark.parametrize(
    ("filters", "offsets"),
    [
        (("--reason", "invalid_json"), [4, 0]),
        (("--reason", "tombstone", "--reason", "oversize"), [3, 2]),
        (("--partition", "7"), [1]),
        (("--since", "1970-01-01T00:50:00Z"), [5, 4, 3, 2]),
        (("--since", "1970-01-01T00:50:00Z", "--until", "1970-01-01T01:06:40+00:00"), [2]),
        (("--until", "36500d"), []),
        (("--since", "1h"), []),
    ],
)
def test_filters_narrow(dlq: Run, filled: dict[str, Any], filters: tuple[str, ...], offsets: list[int]) -> None:
    """Reason, source partition and time narrow what is listed; the end of a time range is exclusive."""
    _, found = dlq(filled, "list", *filters)
    assert [letter["offset"] for letter in found["letters"]] == offsets


def test_show_tells_all_of_one_record(dlq: Run, filled: dict[str, Any]) -> None:
    """Own headers, key and value come whole; bytes that are no text as base64 or hex, control characters escaped."""
    _, found = dlq(filled, "show", "0/0")
    assert (found["reason"], found["source"]["partition"], found["value"]) == ("invalid_json", 1, "{")
    assert found["key_base64"] == base64.b64encode(b"k\xff").decode()
    assert [header["name"] for header in found["headers"]] == ["trace", "trace", "empty", "headrace-dlq-reason"]
    _, text = dlq(filled, "show", "0/1", text=True)
    assert "ff 00" in text
    _, text = dlq(filled, "show", "0/5", text=True)
    assert "\\x1b[31m" in text.replace("\\u001b", "\\x1b")
    assert "\x1b" not in text
    assert "value:    null" in dlq(filled, "show", "0/2", text=True)[1]
    assert "not written by a worker" in dlq(filled, "show", "0/6", text=True)[1]


@pytest.mark.parametrize("place", ["0/7", "9/0"])
def test_show_of_nothing_is_an_error(dlq: Run, filled: dict[str, Any], place: str) -> None:
    """A place without a record exits 4 and says so."""
    code, found = dlq(filled, "show", place)
    assert (code, found["problems"][0]["code"]) == (4, "no_record")


@pytest.mark.parametrize(
    "arguments",
    [
        ("redrive",),
        ("list", "--since", "yesterday"),
        ("list", "--until", "2026-13-01T00:00:00Z"),
        ("list", "--reason", "bad_luck"),
        ("show", "0-1"),
    ],
)
def test_mistakes_are_usage_errors(dlq: Run, filled: dict[str, Any], arguments: tuple[str, ...]) -> None:
    """A mistyped filter or place, and a redrive that nobody confirms, exit 2 and touch nothing."""
    code, found = dlq(filled, *arguments)
    assert (code, found["problems"][0]["code"]) == (2, "usage")


def test_a_missing_topic_is_named(dlq: Run, filled: dict[str, Any]) -> None:
    """A dead-letter topic that does not exist exits 4."""
    code, found = dlq(filled, "list", "--topic", "nowhere")
    assert (code, found["problems"][0]["code"]) == (4, "missing_topic")


def test_redrive_restores_key_value_and_headers(dlq: Run, client: KafkaClient, filled: dict[str, Any]) -> None:
    """What may go goes back byte for byte with a count, to its partition where there is one; the rest is held back."""
    source = filled["kafka"]["input_topics"][0]
    held_back = {"value_not_kept": 1, "other_topic": 1, "redriven_too_often": 1, "foreign": 1}
    code, found = dlq(filled, "redrive", "--dry-run")
    assert (code, found["redrivable"], found["held_back"], found["redriven"]) == (0, {source: 3}, held_back, 0)
    assert client.read_all(source) == []

    code, found = dlq(filled, "redrive", "--yes")
    assert (code, found["held_back"], found["redriven"]) == (0, held_back, 3)
    count = ("headrace-redriven", b"1")
    assert [(one.partition, one.key, one.value, one.headers) for one in client.read(source, count=3)] == [
        (0, None, None, (count,)),
        (1, b"k\xff", b"{", (*HEADERS, count)),
        (1, None, b"\xff\x00", (count,)),
    ]
    assert len(client.read_all(filled["kafka"]["dead_letter_topic"])) == 7


def test_redrive_in_words(dlq: Run, filled: dict[str, Any]) -> None:
    """The text says what is held back and why, that the topic keeps its records, and how to find what comes next."""
    _, text = dlq(filled, "redrive", "--dry-run", text=True)
    assert "3 to redrive to" in text
    assert "still holds them" not in text
    _, text = dlq(filled, "redrive", "--yes", text=True)
    assert "held back: the value was not kept" in text
    assert "3 redriven" in text
    assert "still holds them" in text
    assert "--since 20" in text
    assert "0 match" in dlq(filled, "redrive", "--yes", "--partition", "99", text=True)[1]


@pytest.mark.parametrize(("answer", "expected"), [("n\n", 1), ("y\n", 0), ("", 1)])
def test_redrive_asks_on_a_terminal(
    dlq: Run, client: KafkaClient, filled: dict[str, Any], monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:  # fmt: skip
    """Only a yes writes; a no and the end of the input do not."""
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, text = dlq(filled, "redrive", text=True)
    assert code == expected
    assert ("nothing written" in text) == bool(expected)
    assert len(client.read_all(filled["kafka"]["input_topics"][0])) == (0 if expected else 3)


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_poison_records_are_scored_once_after_the_schema_is_fixed(
    tmp_path: Path, dlq: Run, kafka: KafkaBroker, worker_process: StartWorker, guarantee: str
) -> None:
    """Refused under a schema that is too strict, redriven under the right one: every record is scored exactly once."""
    count = 600
    events = [reading(number) for number in range(count)]
    refused = {event["id"] for event in events if event["b"] > 3}
    settings = meter(tmp_path, NO_BRAKES, {"delivery": {"guarantee": guarantee}})
    settings["event"]["schema"] = str(write_schema(tmp_path / "strict", STRICT))
    worker = worker_process(settings, partitions=2)
    names = worker.config["kafka"]
    source, output = names["input_topics"][0], names["output_topic"]
    sent = [Outgoing(encoded(event), event["id"].encode(), HEADERS, None, at % 2) for at, event in enumerate(events)]
    kafka.client.produce(source, sent)
    kafka.client.read(names["dead_letter_topic"], count=len(refused), committed_only=True)
    assert len(kafka.client.read(output, count=count - len(refused), committed_only=True)) == count - len(refused)
    assert worker.stop() == 0

    write_schema(tmp_path / "strict", SCHEMA)
    worker.start()
    worker.wait_ready()
    code, found = dlq(worker.config, "redrive", "--yes", "--reason", "out_of_range")
    assert (code, found["redrivable"], found["redriven"], found["held_back"]) == (
        0, {source: len(refused)}, len(refused), {}
    )  # fmt: skip
    scored = kafka.client.read(output, count=count, committed_only=True)
    assert set(scores(scored)) == {event["id"] for event in events}
    assert len(scored) == count
    assert {one.partition for one in scored if (one.key or b"").decode() in refused} == {0, 1}
    assert len(kafka.client.read(names["dead_letter_topic"], count=0, committed_only=True)) == len(refused)
    assert worker.stop() == 0


def test_a_record_that_fails_again_is_redriven_so_often_and_no_more(
    tmp_path: Path, dlq: Run, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """The count survives every round through worker and dead letters, and ends the loop."""
    worker = worker_process(meter(tmp_path, NO_BRAKES))
    names = worker.config["kafka"]
    kafka.client.produce(names["input_topics"][0], [Outgoing(b"{", b"k", HEADERS)])
    for letters in (1, 2, 4):
        kafka.client.read(names["dead_letter_topic"], count=letters)
        code, found = dlq(worker.config, "redrive", "--yes", "--max-redrives", "2")
        assert code == 0
    assert (found["redriven"], found["held_back"]) == (3, {"redriven_too_often": 1})
    newest = kafka.client.read(names["dead_letter_topic"], count=7)
    assert sorted(str(one.header("headrace-redriven")) for one in newest) == ["1", "1", "1", "2", "2", "2", "None"]
    assert all(one.headers[: len(HEADERS)] == HEADERS for one in newest)
