"""exactly_once on a real broker: kill -9, zombies, drains and refusals leave one visible fate for each record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.integration.readings import encoded, letter_of, meter, reading, readings, source_of
from tests.integration.traffic import Traffic
from tests.kafka.broker import KafkaBroker
from tests.kafka.client import Outgoing
from tests.kafka.fixtures import StartWorker, Topics
from tests.kafka.processes import wait_until
from tests.kafka.worker_process import WorkerProcess

PARTITIONS = 2
RECORDS = 12_000
BAD_EVERY = 97
SESSION_S = 6
EXACTLY_ONCE = {"delivery": {"guarantee": "exactly_once", "transaction_timeout_s": 3}}
SLOW = {"batching": {"max_batch_size": 8}, "flow": {"max_in_flight_records": 64}}
"""Small batches, so that a signal finds the worker in the middle of its work."""

PROMPT = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}
"""Brokers look for expired transactions every 10 s; these tests do not wait for that."""


class View:
    """What a read_committed consumer sees of a worker's topics: the input records behind it, in order."""

    def __init__(self, worker: WorkerProcess, kafka: KafkaBroker, *, committed_only: bool = True) -> None:
        names = worker.config["kafka"]
        scored = kafka.client.read(names["output_topic"], count=0, committed_only=committed_only)
        letters = kafka.client.read(names["dead_letter_topic"], count=0, committed_only=committed_only)
        self.scored = [source_of(record) for record in scored]
        self.letters = [letter_of(record) for record in letters]
        self.fates = Counter(self.scored + self.letters)

    @property
    def repeated(self) -> list[tuple[int, int]]:
        """Input records with more than one fate."""
        return [source for source, times in self.fates.items() if times > 1]

    @property
    def disorder(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Neighbours of one input partition in the wrong order; outputs stay in the partition they came from."""
        return [(one, two) for one, two in pairwise(self.scored) if one[0] == two[0] and two[1] <= one[1]]

    def missing(self, ends: Mapping[int, int]) -> set[tuple[int, int]]:
        """Input records below ``ends`` without a fate."""
        return {(partition, at) for partition, end in ends.items() for at in range(end)} - self.fates.keys()

    def verdict(self, ends: Mapping[int, int]) -> tuple[object, ...]:
        """Missing, repeated, out of order: all empty where the guarantee holds."""
        return self.missing(ends), self.repeated, self.disorder


def _backlog(kafka: KafkaBroker, topics: Topics, records: int = RECORDS) -> tuple[str, dict[int, int]]:
    """An input topic full of readings, some of them bad, and its ends."""
    source = topics.create("in", partitions=PARTITIONS)
    good = readings(records, partitions=PARTITIONS)
    kafka.client.produce(
        source,
        [
            Outgoing(b"bad", one.key, partition=one.partition) if at % BAD_EVERY == 5 else one
            for at, one in enumerate(good)
        ],
    )
    return source, kafka.client.end_offsets(source)


def _committed(worker: WorkerProcess, kafka: KafkaBroker) -> dict[int, int]:
    names = worker.config["kafka"]
    return kafka.client.committed(names["group_id"], names["input_topics"][0])


def _wait_committed(worker: WorkerProcess, kafka: KafkaBroker, reached: Callable[[int], bool], what: str) -> None:
    """Wait until the sum of the group's offsets is as wanted."""
    wait_until(
        lambda: reached(sum(_committed(worker, kafka).values())),
        timeout_s=60,
        what=lambda: f"{what}: committed {_committed(worker, kafka)}",
    )


def _settings(source: str, **more: Any) -> dict[str, Any]:
    return {"kafka": {"input_topics": [source], "session_timeout_s": SESSION_S, "heartbeat_interval_s": 1} | more}


def test_every_record_has_one_visible_fate(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """Scores and dead letters arrive once, in order; offsets are at the end; a drain leaves nothing in doubt."""
    source, ends = _backlog(kafka, topics, 3000)
    worker = worker_process(meter(tmp_path, EXACTLY_ONCE, _settings(source)), partitions=PARTITIONS)
    _wait_committed(worker, kafka, lambda count: count == sum(ends.values()), "not at the end")
    assert worker.stop() == 0
    view, raw = View(worker, kafka), View(worker, kafka, committed_only=False)
    assert view.verdict(ends) == (set(), [], [])
    assert len(view.letters) == sum(at % BAD_EVERY == 5 for at in range(3000))
    assert view.fates == raw.fates
    assert _committed(worker, kafka) == ends
    assert worker.events("transaction_aborted") == []


def test_a_drain_under_load_commits_what_is_visible(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """SIGTERM ends with 0; offsets and outputs, also uncommitted ones, agree; the next worker goes on from there."""
    source, ends = _backlog(kafka, topics)
    worker = worker_process(meter(tmp_path, EXACTLY_ONCE, SLOW, _settings(source)), partitions=PARTITIONS)
    _wait_committed(worker, kafka, lambda count: count > 500, "does not start")
    assert worker.stop() == 0
    reached, view, raw = _committed(worker, kafka), View(worker, kafka), View(worker, kafka, committed_only=False)
    assert 500 < sum(reached.values()) < RECORDS
    assert view.verdict(reached) == (set(), [], [])
    assert sum(view.fates.values()) == sum(reached.values())
    assert view.fates == raw.fates

    worker.start()
    _wait_committed(worker, kafka, lambda count: count == sum(ends.values()), "does not finish")
    assert worker.stop() == 0
    assert View(worker, kafka).verdict(ends) == (set(), [], [])


def test_kill_9_twice_loses_and_repeats_nothing(
    tmp_path: Path, own_kafka: Callable[..., KafkaBroker], worker_process: StartWorker
) -> None:
    """Each time the open transaction is aborted, and the next worker begins where the last commit was."""
    kafka = own_kafka(PROMPT)
    source, ends = _backlog(kafka, Topics(kafka.client))
    settings = meter(tmp_path, EXACTLY_ONCE, SLOW, _settings(source))
    worker = worker_process(settings, partitions=PARTITIONS, broker=kafka)
    for least in (500, 2500):
        _wait_committed(worker, kafka, lambda count, least=least: count > least, "does not go on")  # type: ignore[misc]
        worker.kill9()
        assert sum(_committed(worker, kafka).values()) < RECORDS
        worker.start()
    _wait_committed(worker, kafka, lambda count: count == sum(ends.values()), "does not finish")
    assert worker.stop() == 0
    assert View(worker, kafka).verdict(ends) == (set(), [], [])
    assert _committed(worker, kafka) == ends


def test_a_zombie_is_fenced(tmp_path: Path, own_kafka: Callable[..., KafkaBroker], worker_process: StartWorker) -> None:
    """A worker that froze with a transaction in hand is refused by the broker when it wakes up after its session."""
    kafka = own_kafka(PROMPT)
    patient = {"delivery": {"transaction_interval_s": 2, "transaction_timeout_s": 30}}
    with Traffic(kafka.client, Topics(kafka.client).create("in", partitions=PARTITIONS)) as traffic:
        settings: list[dict[str, Any]] = [EXACTLY_ONCE, patient, _settings(traffic.topic)]
        zombie = worker_process(meter(tmp_path / "zombie", *settings), partitions=PARTITIONS, broker=kafka)
        _wait_committed(zombie, kafka, lambda count: count > 100, "does not start")
        names = {key: zombie.config["kafka"][key] for key in ("group_id", "output_topic", "dead_letter_topic")}
        heir = worker_process(meter(tmp_path / "heir", *settings, {"kafka": names}), broker=kafka)
        for worker in (zombie, heir):
            wait_until(
                lambda worker=worker: len(worker.status()["partitions"]) == PARTITIONS // 2,  # type: ignore[misc]
                timeout_s=30,
                what=lambda: "the partitions are not shared",
            )
        before = sum(_committed(zombie, kafka).values())
        _wait_committed(zombie, kafka, lambda count: count > before, "does not go on")
        _wait_open_work(zombie, kafka)
        zombie.pause()
        wait_until(
            lambda: len(heir.status()["partitions"]) == PARTITIONS,
            timeout_s=30,
            what=lambda: "the heir does not get the partitions",
        )
        zombie.resume()
        refused = zombie.wait_event("offsets_refused", timeout_s=20)
        wait_until(
            lambda: len(zombie.status()["partitions"]) == PARTITIONS // 2,
            timeout_s=30,
            what=lambda: "the zombie does not rejoin",
        )
    ends = kafka.client.end_offsets(traffic.topic)
    _wait_committed(heir, kafka, lambda count: count == sum(ends.values()), "does not finish")
    assert [zombie.stop(), heir.stop()] == [0, 0]
    assert refused["code"] in (22, 25)
    assert zombie.events("transaction_aborted")
    assert View(heir, kafka).verdict(ends) == (set(), [], [])


def _wait_open_work(worker: WorkerProcess, kafka: KafkaBroker) -> None:
    """Wait until the worker's partitions hold outputs whose offsets are not committed."""
    name = worker.config["kafka"]["output_topic"]

    def open_work() -> bool:
        return sum(View(worker, kafka, committed_only=False).fates.values()) > sum(_committed(worker, kafka).values())

    wait_until(open_work, timeout_s=20, what=lambda: f"no transaction is open on {name}")


def test_records_that_the_broker_refuses_are_dead_lettered(
    tmp_path: Path, topics: Topics, kafka: KafkaBroker, worker_process: StartWorker
) -> None:
    """A refused output spoils its transaction, but in the end only itself: a dead letter, and the rest flows."""
    now_ms, refused = int(time.time() * 1000), {3, 20}
    output = topics.create("out", config={"cleanup.policy": "compact"})
    source = topics.create("in")
    records = [
        Outgoing(encoded(reading(at)), None if at in refused else b"k%d" % at, timestamp_ms=now_ms) for at in range(40)
    ]
    kafka.client.produce(source, records)
    worker = worker_process(meter(tmp_path, EXACTLY_ONCE, _settings(source, output_topic=output)))
    _wait_committed(worker, kafka, lambda count: count == 40, "does not finish")
    assert worker.stop() == 0
    view = View(worker, kafka)
    assert view.verdict({0: 40}) == (set(), [], [])
    assert view.letters == [(0, at) for at in sorted(refused)]
    (letter, _) = kafka.client.read(worker.config["kafka"]["dead_letter_topic"], count=2, committed_only=True)
    assert (letter.header("headrace-dlq-stage"), letter.header("headrace-dlq-reason")) == ("produce", "broker_refused")
    assert letter.value == records[3].value
