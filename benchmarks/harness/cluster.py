"""The broker of a run, its topics, and the backlogs, which are produced once and read by every system."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from benchmarks.harness.pauses import Pause, broker_pauses
from benchmarks.harness.plan import REBALANCE_DELAY_S
from benchmarks.harness.scratch import Place
from benchmarks.workloads import Pool, Workload
from tests.kafka.broker import KafkaBroker
from tests.kafka.jars import kafka_version

PARTITIONS = 8
# A producer under moderate load: batches of up to 64 KiB, about a hundred of the fraud events.
PRODUCER = {"linger.ms": 5, "batch.size": 65_536, "queue.buffering.max.kbytes": 262_144, "acks": "all"}
APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
# The session is Kafka's default: on a busy machine a short one costs an election in mid run.
BROKER_PROPERTIES = {
    # What is no longer needed leaves the disk, or the memory, at once.
    "log.segment.delete.delay.ms": "1000",
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "log.retention.check.interval.ms": "5000",
    "num.io.threads": "4",
    "num.network.threads": "3",
    # So that the members of one pod join together, as with Kafka's default of 3000.
    "group.initial.rebalance.delay.ms": f"{REBALANCE_DELAY_S * 1000:.0f}",
}
# Those of Kafka's own start script.
BROKER_JAVA_OPTIONS = (
    "-Xms1g",
    "-Xmx1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)
REQUEST_TIMEOUT_S = 20.0
POLL_S = 0.25
# A fresh topic's leader may be elected and not know it yet.
LEADER_COMES = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class Cluster:
    """One broker with topics of ``PARTITIONS`` partitions that carry append times. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self._pauses = folder / "pauses.log"
        pauses = f"-Xlog:gc:file={self._pauses}:time:filecount=0"
        self.broker = KafkaBroker(folder, BROKER_PROPERTIES, (*BROKER_JAVA_OPTIONS, pauses))
        self._backlogs: dict[tuple[str, int], str] = {}
        self._admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return self.broker.bootstrap

    @property
    def broker_pid(self) -> int:
        """The broker's process, while it runs."""
        if self.broker.pid is None:
            raise RuntimeError("the broker has ended")
        return self.broker.pid

    def start(self) -> None:
        """Start the broker; it notes the pauses for its garbage."""
        self.broker.start()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def stop(self) -> None:
        """End the broker; the caller removes its folder."""
        self.broker.stop()

    def pauses(self) -> list[Pause]:
        """When the broker stood still for its garbage, until now."""
        return broker_pauses(self._pauses.read_text())

    def create_topic(self, hint: str, config: Mapping[str, str] | None = None) -> str:
        """A fresh topic, and one beside it for dead letters, as Headrace wants it; returns its name."""
        name = f"{hint}-{uuid.uuid4().hex[:8]}"
        self.broker.client.create_topic(name, partitions=PARTITIONS, config=APPEND_TIME | dict(config or {}))
        return name

    def create_input(self, hint: str, config: Mapping[str, str] | None = None) -> str:
        """A fresh topic with one beside it for dead letters, without which Headrace would stop at a bad record."""
        name = self.create_topic(hint, config)
        self.broker.client.create_topic(f"{name}.dlq")
        return name

    def delete_topic(self, *names: str) -> None:
        """Delete topics, so that the disk holds only what is in use."""
        for name in names:
            self.broker.client.delete_topic(name)

    def backlog(self, workload: Workload, pool: Pool, size: int) -> str:
        """The input topic with the first ``size`` events of the workload, produced at the first call."""
        known = self._backlogs.get((workload.name, size))
        if known is None:
            known = self.create_input(f"{workload.name}-{size}")
            self.produce(known, pool, range(size))
            self._backlogs[workload.name, size] = known
        return known

    def delete_backlogs(self, workload: str) -> None:
        """Delete every backlog of a workload."""
        for key in [key for key in self._backlogs if key[0] == workload]:
            self.delete_topic(self._backlogs.pop(key))

    def produce(self, topic: str, pool: Pool, numbers: range) -> None:
        """Write events, in turns over the partitions, and wait until all are acknowledged."""
        refused: list[str] = []

        def note(error: KafkaError, _: object) -> None:
            refused.append(str(error))

        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "log_level": 3}
            | {"delivery.report.only.error": True, "on_delivery": note}
            | PRODUCER
        )
        for number in numbers:
            while True:
                try:
                    producer.produce(topic, pool.value(number), pool.key(number), number % PARTITIONS)
                except BufferError:
                    producer.poll(0.05)
                else:
                    break
        producer.flush(120)
        written = self.written(topic)
        if refused or written != len(numbers):
            raise RuntimeError(f"{topic} holds {written} of {len(numbers)} events; {refused[:1]}")

    def written(self, topic: str, *, committed: bool = False) -> int:
        """Sum of the end offsets: records and transaction markers. ``committed``: up to the first open transaction."""
        if self._admin is None:
            raise RuntimeError("the broker is not started")
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # confluent-kafka does not annotate it
        asked = {TopicPartition(topic, index): latest for index in range(PARTITIONS)}
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            found = self._admin.list_offsets(asked, isolation_level=level)
            try:
                return sum(future.result(REQUEST_TIMEOUT_S).offset for future in found.values())
            except KafkaException as error:
                if error.args[0].code() not in LEADER_COMES or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def await_outputs(
        self, topic: str, events: int, check: Callable[[], None], *, quiet_s: float, stall_s: float
    ) -> None:
        """Wait until the topic holds at least ``events`` and nothing came for ``quiet_s``, or nothing for ``stall_s``.

        ``check`` is called on each look and may raise. Fewer outputs are no error here: they are counted later.
        """
        seen, since = -1, time.monotonic()
        while True:
            check()
            now, written = time.monotonic(), self.written(topic)
            if written != seen:
                seen, since = written, now
            if now - since > (quiet_s if written >= events else stall_s):
                return
            time.sleep(POLL_S)

    def await_settled(self, topic: str, timeout_s: float = 90.0) -> None:
        """Wait until no transaction is open on the topic; raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while self.written(topic, committed=True) != self.written(topic):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} has an open transaction after {timeout_s:g} s")
            time.sleep(POLL_S)

    @staticmethod
    def description(place: Place) -> dict[str, str]:
        """What the result says of the broker whose log is at that place."""
        return {
            "version": f"Apache Kafka {kafka_version()}, one node, KRaft",
            "java options": " ".join(BROKER_JAVA_OPTIONS),
            "log": place.description,
            "partitions": str(PARTITIONS),
            "timestamps": "LogAppendTime",
            "backlog producer": ", ".join(f"{key}={value}" for key, value in PRODUCER.items()),
        }
