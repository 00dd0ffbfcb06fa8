"""A plain, blocking client for the tests, over librdkafka.

The worker speaks to Kafka through aiokafka; looking at the result with another library keeps one client's
mistakes from hiding in both places.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

if TYPE_CHECKING:
    from confluent_kafka import Message

REQUEST_TIMEOUT_S = 20.0
COORDINATOR_COMES = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to produce. Without a partition, the key decides (none: round robin by librdkafka)."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the broker returned it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default=())

    def header(self, name: str) -> str | None:
        """Text of the last header of that name; None where there is none or its value is null."""
        values = [value for key, value in self.headers if key == name]
        return values[-1].decode() if values and values[-1] is not None else None

    @property
    def source(self) -> str:
        """``topic/partition/offset``, as scored records name their source."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class KafkaClient:
    """Everything a test asks of a broker; connects with the first call and finds a restarted broker again."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        # librdkafka tells stderr of every broker that is down; here the callers raise instead.
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def cluster_id(self) -> str:
        """The id of the cluster that answers."""
        described = self._admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result(REQUEST_TIMEOUT_S)
        return str(described.cluster_id)

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait until every partition has a leader."""
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self._admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_S)[name].result(REQUEST_TIMEOUT_S)
        self._await_partitions(name, partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        self._admin.delete_topics([name], request_timeout=REQUEST_TIMEOUT_S)[name].result(REQUEST_TIMEOUT_S)

    def add_partitions(self, name: str, total: int) -> None:
        """Grow a topic to ``total`` partitions."""
        self._admin.create_partitions([NewPartitions(name, total)])[name].result(REQUEST_TIMEOUT_S)
        self._await_partitions(name, total)

    def set_topic_config(self, name: str, config: Mapping[str, str]) -> None:
        """Change settings of an existing topic."""
        resource = ConfigResource(ResourceType.TOPIC, name)
        for key, value in config.items():
            entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            resource.add_incremental_config(entry)
        self._admin.incremental_alter_configs([resource])[resource].result(REQUEST_TIMEOUT_S)

    def produce(self, topic: str, records: Iterable[Outgoing | bytes | None]) -> list[tuple[int, int]]:
        """Write the records in order; returns (partition, offset) of each, once all are acknowledged."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.max.bytes": 50_000_000,
                "log_level": 3,
                "queue.buffering.max.kbytes": 1_048_576,
                "delivery.timeout.ms": 30_000,
            }
        )
        delivered: dict[int, tuple[int, int] | KafkaError] = {}
        for index, record in enumerate(records):
            outgoing = record if isinstance(record, Outgoing) else Outgoing(record)
            self._enqueue(producer, topic, outgoing, index, delivered)
        if producer.flush(60.0):
            raise TimeoutError(f"the broker did not acknowledge every record to {topic} within 60 s")
        return [_position(delivered[index]) for index in sorted(delivered)]

    def read(self, topic: str, *, count: int, timeout_s: float = 60.0, committed_only: bool = False) -> list[Record]:
        """Every record of the topic, once there are at least ``count``; sorted by partition and offset.

        Reads on to the end of the topic, so that a surplus shows. Raises TimeoutError with what there was.
        """
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        consumer = self._consumer(committed_only=committed_only)
        try:
            partitions = range(self.partition_count(topic))
            consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
            while len(records) < count:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic} holds {len(records)} records after {timeout_s:g} s, not {count}")
                records += _records(consumer.consume(10_000, timeout=0.1))
            records += self._rest(consumer, topic, records)
        finally:
            consumer.close()
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def read_all(self, topic: str) -> list[Record]:
        """What the topic holds now."""
        return self.read(topic, count=0)

    def partition_count(self, topic: str) -> int:
        """Number of partitions; LookupError for an unknown topic."""
        metadata = self._admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            raise LookupError(str(metadata.error))
        return len(metadata.partitions)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Offset behind the last record of each partition."""
        asked = {TopicPartition(topic, index): OffsetSpec.latest() for index in range(self.partition_count(topic))}
        found = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        return {at.partition: future.result(REQUEST_TIMEOUT_S).offset for at, future in found.items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Committed next offsets of the group; partitions without one are left out."""
        request = ConsumerGroupTopicPartitions(
            group, [TopicPartition(topic, index) for index in range(self.partition_count(topic))]
        )
        found = _retried(lambda: self._admin.list_consumer_group_offsets([request])[group])
        return {at.partition: at.offset for at in found if at.offset >= 0}

    def commit(self, group: str, topic: str, next_offsets: Mapping[int, int]) -> None:
        """Set committed offsets of a group that has no members now."""
        offsets = [TopicPartition(topic, partition, at) for partition, at in next_offsets.items()]
        request = ConsumerGroupTopicPartitions(group, offsets)
        _retried(lambda: self._admin.alter_consumer_group_offsets([request])[group])

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Remove the records before an offset, so that the offset of the first one moves."""
        cuts = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        for future in self._admin.delete_records(cuts).values():
            future.result(REQUEST_TIMEOUT_S)

    def _consumer(self, *, committed_only: bool) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{uuid.uuid4().hex}",
                "log_level": 3,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed" if committed_only else "read_uncommitted",
                "fetch.max.bytes": 100_000_000,
                "message.max.bytes": 50_000_000,
                "fetch.wait.max.ms": 20,
            }
        )

    def _await_partitions(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            found = self._admin.list_topics(name, timeout=REQUEST_TIMEOUT_S).topics[name]
            if found.error is None and sum(one.leader >= 0 for one in found.partitions.values()) == partitions:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {name} has no leader for every partition after {REQUEST_TIMEOUT_S:g} s")
            time.sleep(0.05)

    def _rest(self, consumer: Consumer, topic: str, seen: list[Record]) -> list[Record]:
        """What lies between the records seen and the end of each partition as it is now."""
        ends = self.end_offsets(topic)
        rest: list[Record] = []
        quiet_since = time.monotonic()
        while True:
            reached = {at.partition: at.offset for at in consumer.position(consumer.assignment())}
            if all(reached[partition] >= end for partition, end in ends.items() if end > 0):
                return rest
            more = _records(consumer.consume(10_000, timeout=0.1))
            rest += more
            if more:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > REQUEST_TIMEOUT_S:
                raise TimeoutError(f"{topic} stops after {len(seen) + len(rest)} records, before its end {ends}")

    @staticmethod
    def _enqueue(
        producer: Producer,
        topic: str,
        outgoing: Outgoing,
        index: int,
        delivered: dict[int, tuple[int, int] | KafkaError],
    ) -> None:
        def settle(error: KafkaError | None, message: Message) -> None:
            delivered[index] = error if error is not None else (message.partition() or 0, message.offset() or 0)

        options: dict[str, Any] = {}
        if outgoing.partition is not None:
            options["partition"] = outgoing.partition
        if outgoing.timestamp_ms is not None:
            options["timestamp"] = outgoing.timestamp_ms
        headers: list[tuple[str, str | bytes | None]] = list(outgoing.headers)
        while True:
            try:
                producer.produce(
                    topic, value=outgoing.value, key=outgoing.key, headers=headers, on_delivery=settle, **options
                )
            except BufferError:
                producer.poll(0.1)
            else:
                producer.poll(0)
                return


def _retried(ask: Callable[[], Future[ConsumerGroupTopicPartitions]]) -> list[TopicPartition]:
    """The answer to a group request; asks again while a fresh broker still loads its coordinator."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        found, errors = _answer(ask())
        if not errors:
            return found
        if errors[0].code() not in COORDINATOR_COMES or time.monotonic() > deadline:
            raise KafkaException(errors[0])
        time.sleep(0.05)


def _answer(asked: Future[ConsumerGroupTopicPartitions]) -> tuple[list[TopicPartition], list[KafkaError]]:
    try:
        found = asked.result(REQUEST_TIMEOUT_S).topic_partitions or []
    except KafkaException as error:
        return [], [error.args[0]]
    return found, [at.error for at in found if at.error is not None]


def _position(outcome: tuple[int, int] | KafkaError) -> tuple[int, int]:
    if isinstance(outcome, KafkaError):
        raise RuntimeError(f"the broker refused a record of the test: {outcome}")  # noqa: TRY004 - not a type fault
    return outcome


def _records(messages: Iterable[Message]) -> list[Record]:
    return [_record(message) for message in messages if _is_record(message)]


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.retriable() or error.code() in (KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN):
        return False
    raise RuntimeError(f"the broker answered a read with an error: {error}")


def _record(message: Message) -> Record:
    kind, timestamp_ms = message.timestamp()
    return Record(
        topic=str(message.topic()),
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        timestamp_ms=timestamp_ms if kind == TIMESTAMP_CREATE_TIME else -1,
        key=message.key(),
        value=message.value(),
        headers=cast("Headers", tuple(message.headers() or ())),
    )
