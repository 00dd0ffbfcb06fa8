"""What aiokafka lacks for fenced exactly-once (KIP-447) and for safe positions, and every private name that we touch.

A transaction's offsets must carry the member id and generation that the partitions were assigned under, so that the
broker refuses a worker that was replaced. aiokafka 0.14 speaks the first version of that request, which carries
neither. Here are the versions that do: TxnOffsetCommit 3 and OffsetFetch 7. Only these versions are offered, so an
older broker is an error and never an unfenced commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer import sender as kafka_sender
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from worker.adapters.kafka_fencing_wire import FencedOffsetCommit, StableOffsetFetch, TxnOffsetCommitResponse
from worker.adapters.kafka_frames import INT32, Layout
from worker.adapters.kafka_produce_wire import Produce
from worker.adapters.kafka_receiver import Receiver
from worker.core.records import TopicPartition
from worker.errors import BrokerError, EnvironmentFault, Problem

log = structlog.get_logger("headrace.fencing")

_RETRIABLE = frozenset({3, 7, 13, 14, 15, 16})
"""Codes to ask again for: topic or coordinator not known yet, timed out, network, loading."""

_FENCED = {22: "illegal generation", 25: "unknown member", 27: "rebalance in progress", 82: "fenced instance id"}
_PRODUCER_FENCED = frozenset({47, 90})
_UNSTABLE_OFFSET = 88
_BACKOFF_S = 0.1


class MemberFencedError(kafka.KafkaError):  # type: ignore[misc] # aiokafka ships no types
    """The group has moved on: offsets of this member and generation are refused."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.by_group = code in _FENCED
        super().__init__(f"offset commit refused with code {code} ({_FENCED.get(code, 'unexpected')})")


class UnstableOffsetsError(kafka.KafkaError):  # type: ignore[misc] # aiokafka ships no types
    """A transaction that has not ended yet holds the committed offsets."""

    retriable = True


class Stamp(NamedTuple):
    """Who the partitions were assigned to; taken at the assignment, sent with every commit of it."""

    generation: int
    member_id: str
    instance_id: str | None


class _FencedCommitHandler(kafka_sender.TxnOffsetCommitHandler):  # type: ignore[misc]
    """Sends stamped offsets; a refusal of the member becomes an error that aborting cures."""

    def __init__(
        self, sender: Any, offsets: dict[ClientPartition, OffsetAndMetadata], group: str, stamp: Stamp
    ) -> None:
        super().__init__(sender, offsets, group)
        self._stamp = stamp

    def create_request(self) -> FencedOffsetCommit:
        """The request of aiokafka's handler, with the stamp."""
        transaction = self._sender._txn_manager
        topics: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = {}
        for tp, offset in sorted(self._offsets.items()):
            topics.setdefault(tp.topic, []).append((tp.partition, offset.offset, -1, offset.metadata, {}))
        return FencedOffsetCommit(
            transaction.transactional_id,
            self._group_id,
            transaction.producer_id,
            transaction.producer_epoch,
            *self._stamp,
            [(topic, partitions, {}) for topic, partitions in topics.items()],
            {},
        )

    def handle_response(self, response: TxnOffsetCommitResponse) -> float | None:
        """Account for each partition's code; a number is how long to wait before asking again."""
        transaction = self._sender._txn_manager
        codes = {
            ClientPartition(topic, partition): code
            for topic, partitions, _ in response.topics
            for partition, code, _ in partitions
        }
        bad = {code for code in codes.values() if code}
        if bad & _PRODUCER_FENCED:
            raise kafka.ProducerFenced
        if bad - _RETRIABLE:
            code = min(bad - _RETRIABLE)
            log.warning("offsets_refused", code=code, meaning=_FENCED.get(code, "unexpected"), stamp=self._stamp[:2])
            transaction.error_transaction(MemberFencedError(code))
            # Its waiter carries the error to nobody when the caller already learned it from the commit itself.
            transaction.wait_for_transaction_end().exception()
            return None
        for tp, code in codes.items():
            if code == 0:
                transaction.offset_committed(tp, self._offsets[tp].offset, self._group_id)
        if not bad:
            return None
        if bad & {14, 15, 16}:
            self._sender._coordinator_dead(kafka_sender.CoordinationType.GROUP)
        return float(self._default_backoff)


def fence(producer: AIOKafkaProducer, stamp_holder: list[Stamp]) -> None:
    """Make the producer's transactions commit offsets with the stamp in ``stamp_holder[0]``."""
    sender = producer._sender

    async def commit(offsets: dict[ClientPartition, OffsetAndMetadata], group: str) -> None:
        if not offsets:
            return
        try:
            node = await sender._find_coordinator(kafka_sender.CoordinationType.GROUP, group)
        except kafka.GroupAuthorizationFailedError as error:
            sender._txn_manager.error_transaction(error)
            return
        await _FencedCommitHandler(sender, offsets, group, stamp_holder[0]).do(node)

    sender._do_txn_offset_commit = commit


def stamp_of(consumer: AIOKafkaConsumer) -> Stamp:
    """The consumer's membership now; call it synchronously when partitions are assigned."""
    member = consumer._coordinator
    return Stamp(member.generation, member.member_id, member._group_instance_id)


async def committed_offsets(
    consumer: AIOKafkaConsumer, group: str, tps: Iterable[TopicPartition], within_s: float, *, stable: bool
) -> dict[TopicPartition, int | None]:
    """Committed offsets, None where there are none; ``stable``: after the transactions that hold them have ended.

    aiokafka's own question takes a coordinator that has just moved, and answers with an error for the whole group,
    for one without offsets: the group would begin anew. Raises what aiokafka raises, also when the coordinator has
    no answer within ``within_s``; UnstableOffsetsError when a transaction holds the offsets longer than that.
    """
    topics: dict[str, list[int]] = {}
    for tp in tps:
        topics.setdefault(tp.topic, []).append(tp.partition)
    request: Request = OffsetFetchRequest(group, list(topics.items()))
    if stable:
        request = StableOffsetFetch(group, [(topic, partitions, {}) for topic, partitions in topics.items()], True, {})
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        await consumer._coordinator.ensure_coordinator_known()
        offsets, codes = _offsets_and_codes(await consumer._coordinator._send_req(request), stable=stable)
        if codes == {0}:
            return offsets
        final = codes - _RETRIABLE - {0, _UNSTABLE_OFFSET}
        if final:
            raise kafka.for_code(min(final))
        if codes & {14, 15, 16}:
            consumer._coordinator.coordinator_dead()
        if asyncio.get_running_loop().time() > deadline:
            raise UnstableOffsetsError if _UNSTABLE_OFFSET in codes else kafka.for_code(min(codes - {0}))
        await asyncio.sleep(_BACKOFF_S)


def _offsets_and_codes(response: Any, *, stable: bool) -> tuple[dict[TopicPartition, int | None], set[int]]:
    """What an OffsetFetch response says by partition, and every error code in it, the group's own among them."""
    offsets: dict[TopicPartition, int | None] = {}
    codes = {getattr(response, "error_code", 0)}
    for topic, partitions, *_ in response.topics:
        for partition, offset, *rest in partitions:
            offsets[TopicPartition(topic, partition)] = offset if offset >= 0 else None
            codes.add(rest[-2] if stable else rest[-1])
    return offsets, codes


def in_doubt(group: str, waited_s: float) -> BrokerError:
    """The error of offsets that a transaction has held too long."""
    return BrokerError(
        Problem(
            f"the committed offsets of group {group} stayed in doubt for {waited_s:.0f} s",
            "an open transaction holds them; see Kafka's transactions tool, or wait for its timeout",
            code="unstable_offsets",
        )
    )


def client_of(consumer: AIOKafkaConsumer) -> AIOKafkaClient:
    """The consumer's connections and metadata."""
    return consumer._client


def receive_directly(client: AIOKafkaClient, node: int) -> None:
    """Have what the node sends received without a stream, from a moment on at which nothing is awaited from it."""
    connection = client._conns.get((node, ConnectionGroup.DEFAULT))
    if connection is None or connection._requests or connection._reader is None or connection._reader._buffer:
        return
    transport = connection._writer.transport
    before = transport.get_protocol()
    if isinstance(before, Receiver):
        return

    def take(message: bytes | memoryview) -> None:
        if connection._writer is None:
            return  # it was closed over an earlier message
        request = connection._requests[0][1] if connection._requests else None
        try:
            if isinstance(request, Layout):
                request.answer = message
                connection._handle_frame(bytes(message[: INT32.size]))
                request.answer = None
            else:
                connection._handle_frame(message)
        except Exception as error:  # as aiokafka's own reader does
            log.exception("answer_unreadable", node=node)
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    transport.set_protocol(Receiver(before, take))


def silence_fetcher(consumer: AIOKafkaConsumer) -> None:
    """aiokafka's own fetcher fetches nothing any more; what else it answers, such as end offsets, it still does."""
    consumer._fetcher._fetch_task.cancel()


def note_poll(consumer: AIOKafkaConsumer) -> None:
    """Tell the group that records are asked for; raises what ended the membership."""
    consumer._coordinator.check_errors()
    with consumer._subscription.fetch_context():
        pass


def compiled_append(builder: BatchBuilder) -> Any:
    """What ``append`` of an empty batch calls in the end: takes index, timestamp, key, value and headers by place.

    None says that the batch is full. Half of ``append``'s time is spent before it gets there.
    """
    return builder._builder.append


def queue_batch(producer: AIOKafkaProducer, builder: BatchBuilder, tp: TopicPartition) -> asyncio.Future[Any] | None:
    """What ``send_batch`` does with a closed batch that it takes at once; None where it would wait, or refuse.

    The future ends with the brokers' answer.
    """
    partitions = producer.client.cluster.partitions_for_topic(tp.topic)
    if partitions is None or tp.partition not in partitions:
        return None
    accumulator, transaction = producer._message_accumulator, producer._txn_manager
    if accumulator._closed or accumulator._exception is not None:
        return None
    if transaction.transactional_id is not None and not transaction.is_in_transaction():
        return None
    future: asyncio.Future[Any] = accumulator._append_batch(builder, ClientPartition(*tp)).future
    return future


def pack_batches(producer: AIOKafkaProducer, heard: Callable[[], None]) -> None:
    """Make the producer send its batches in requests that we pack; each answer, also a refusal, is ``heard``."""
    sender = producer._sender

    async def send(node: int, batches: dict[ClientPartition, Any]) -> None:
        receive_directly(sender.client, node)
        await _PackedProduceHandler(sender, batches, heard).do(node)
        sender._in_flight.remove(node)
        sender._muted_partitions.difference_update(batches)

    sender._send_produce_req = send


class _PackedProduceHandler(kafka_sender.SendProduceReqHandler):  # type: ignore[misc]
    """aiokafka's handler of one request and its answer, but for the packing."""

    def __init__(self, sender: Any, batches: dict[ClientPartition, Any], heard: Callable[[], None]) -> None:
        super().__init__(sender, batches)
        self._heard = heard

    def create_request(self) -> Produce:
        """The batches by topic."""
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for tp, batch in self._batches.items():
            topics.setdefault(tp.topic, []).append((tp.partition, batch.get_data_buffer()))
        return Produce(self._sender._txn_manager.transactional_id, self._sender._request_timeout_ms, topics)

    def handle_response(self, response: Any) -> None:
        """Resolve the batches, or have those sent again that a fault of the brokers concerns."""
        self._heard()
        super().handle_response(response)


def close_filled(builder: BatchBuilder, records: int) -> None:
    """Close a batch that ``compiled_append`` has filled with so many records."""
    builder._relative_offset = records
    builder.close()


async def discard(producer: AIOKafkaProducer) -> None:
    """Close a producer without sending what it still holds, or waiting for what it has sent.

    Its own ``stop`` waits for all of it, which an idempotent producer sends again without end.
    """
    producer._closed = True
    sending = None if producer._sender is None else producer._sender.sender_task
    if sending is not None:
        sending.cancel()
    # The sender waits for its requests before it ends: they fail with their connections.
    await producer.client.close()
    if sending is not None:
        await asyncio.wait([sending])
        await producer.client.close()


async def require_fencing(producer: AIOKafkaProducer) -> None:
    """Raise BrokerError unless the broker takes fenced commits (Kafka 2.5 or newer).

    Raises KafkaConnectionError while no broker can be asked.
    """
    client = producer.client
    node = client.get_random_node()
    if node is None or not await client.ready(node):
        raise kafka.KafkaConnectionError("the cluster names no broker that answers")
    connection = next(iter(client._conns.values()), None)
    if connection is None:
        raise kafka.KafkaConnectionError("the connection to the broker has just ended")
    versions: Mapping[int, tuple[int, int]] = connection._versions
    for key, version, name in ((28, 3, "TxnOffsetCommit"), (9, 7, "OffsetFetch")):
        lowest, highest = versions.get(key, (0, 0))
        if not lowest <= version <= highest:
            raise BrokerError(
                Problem(
                    f"the broker offers {name} versions {lowest} to {highest}, exactly_once needs {version}",
                    "use Kafka 2.5 or newer, or set delivery.guarantee: at_least_once",
                    key="delivery.guarantee",
                    code="broker_too_old",
                )
            )


_PRIVATE_NAMES = (
    (kafka_sender.Sender, "_do_txn_offset_commit"),
    (kafka_sender.Sender, "_find_coordinator"),
    (kafka_sender.Sender, "_coordinator_dead"),
    (kafka_sender.Sender, "_send_produce_req"),
    (kafka_sender.Sender, "sender_task"),
    (kafka_sender.SendProduceReqHandler, "create_request"),
    (kafka_sender.SendProduceReqHandler, "handle_response"),
    (MessageAccumulator, "_append_batch"),
    (AIOKafkaConnection, "_handle_frame"),
    (kafka_sender.TxnOffsetCommitHandler, "create_request"),
    (kafka_sender.TxnOffsetCommitHandler, "handle_response"),
    (Fetcher, "_fetch_requests_routine"),
    (SubscriptionState, "fetch_context"),
    (GroupCoordinator, "check_errors"),
    (GroupCoordinator, "ensure_coordinator_known"),
    (GroupCoordinator, "coordinator_dead"),
    (GroupCoordinator, "_send_req"),
)


def check_client() -> None:
    """Raise EnvironmentFault unless the installed aiokafka has the private parts that we build on."""
    missing = [f"{owner.__name__}.{name}" for owner, name in _PRIVATE_NAMES if not hasattr(owner, name)]
    if missing:
        raise EnvironmentFault(
            Problem(
                f"the installed aiokafka lacks {', '.join(missing)}, which the worker builds on",
                "install the version that headrace pins: aiokafka 0.14",
                code="client_unfit",
            )
        )
