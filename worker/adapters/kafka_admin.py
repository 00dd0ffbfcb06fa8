"""Questions to a cluster and the creation of topics, over one connection; every question has a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiokafka import errors as kafka
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from worker.adapters.kafka_diagnosis import heard, unreachable
from worker.adapters.kafka_options import broker_error, connection_options
from worker.adapters.kafka_wire import GroupRequest, TopicsRequest, operation_names
from worker.errors import BrokerError

if TYPE_CHECKING:
    from worker.settings import KafkaSection

REQUEST_TIMEOUT_MS = 5_000
POLL_INTERVAL_S = 0.1

GROUP_COORDINATOR, TRANSACTION_COORDINATOR = 0, 1

TOPIC_DENIED = 29
"""Kafka's code of a topic that we may not describe; also of one that does not exist."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as the broker shows it. ``config`` and ``operations`` are None where it does not tell."""

    name: str
    error_code: int = 0
    partitions: int = 0
    has_leaders: bool = False
    operations: frozenset[str] | None = None
    config: Mapping[str, str] | None = None

    @property
    def exists(self) -> bool:
        """Whether the topic is there and we may know it."""
        return self.partitions > 0


@dataclass(frozen=True, slots=True)
class GroupState:
    """A consumer group: its protocol while it has members, and what we may do with it."""

    state: str
    protocol_type: str
    protocol: str
    client_ids: tuple[str, ...]
    operations: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class NewTopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


class Admin:
    """A connected client. Methods raise aiokafka's errors where the broker does not answer or denies."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def _ask(self, request: object, node_id: int | None = None) -> Any:
        node = self._client.get_random_node() if node_id is None else node_id
        if node is None:
            raise kafka.KafkaConnectionError("the cluster names no broker")
        return await self._client.send(node, request)

    async def topics(self, names: Iterable[str]) -> dict[str, TopicState]:
        """State of each named topic without its configuration; creates none."""
        answer = (await self._ask(TopicsRequest(list(dict.fromkeys(names))))).to_object()
        return {
            topic["topic"]: TopicState(
                topic["topic"],
                topic["error_code"],
                len(topic["partitions"]),
                bool(topic["partitions"]) and all(one["leader"] >= 0 for one in topic["partitions"]),
                operation_names(topic.get("authorized_operations")),
            )
            for topic in answer["topics"]
        }

    async def topic_configs(self, names: Iterable[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
        """The named settings of each topic; a topic of which the broker does not tell is left out."""
        return await self._configs([(int(ConfigResourceType.TOPIC), name, list(keys)) for name in names], None)

    async def broker_config(self, keys: Sequence[str]) -> dict[str, str]:
        """The named settings of one broker; empty where it does not tell."""
        node = self._client.get_random_node()
        answers = await self._configs([(int(ConfigResourceType.BROKER), str(node), list(keys))], node)
        return answers.get(str(node), {})

    async def _configs(
        self, resources: list[tuple[int, str, list[str]]], node: int | None
    ) -> dict[str, dict[str, str]]:
        if not resources:
            return {}
        try:
            answer = await self._ask(DescribeConfigsRequest(resources), node)
        except (kafka.IncompatibleBrokerVersion, NotImplementedError):  # the mock cluster of librdkafka
            return {}
        return {
            name: {entry[0]: entry[1] for entry in entries if entry[1] is not None}
            for code, _, _, name, entries, *_ in answer.resources
            if not code
        }

    async def group(self, group_id: str) -> GroupState:
        """State of a consumer group; also of one that nobody has used yet."""
        coordinator = await self._ask(FindCoordinatorRequest(group_id, GROUP_COORDINATOR))
        _raise_for(coordinator.error_code, group_id)
        answer = (await self._ask(GroupRequest(group_id), coordinator.coordinator_id)).to_object()["groups"][0]
        _raise_for(answer["error_code"], group_id)
        return GroupState(
            answer["state"],
            answer["protocol_type"],
            answer["protocol"],
            tuple(sorted({member["client_id"] for member in answer["members"]})),
            operation_names(answer.get("authorized_operations")),
        )

    async def producer_id(self) -> None:
        """Have the broker hand out an idempotent producer's id, as every producer of ours does; writes nothing."""
        answer = await self._ask(InitProducerIdRequest(None, 0))
        _raise_for(answer.error_code, "")

    async def transactions(self, transactional_id: str) -> None:
        """Have the broker name the coordinator of these transactions, which asks for the right to; writes nothing."""
        answer = await self._ask(FindCoordinatorRequest(transactional_id, TRANSACTION_COORDINATOR))
        _raise_for(answer.error_code, transactional_id)

    async def create(self, specs: Sequence[NewTopicSpec], *, dry_run: bool) -> dict[str, tuple[int, str]]:
        """Create topics, or only have the broker judge whether it would; error code (0: none) and text by name."""
        topics: list[tuple[Any, ...]] = [
            (spec.name, spec.partitions, spec.replication_factor, [], list(spec.config.items())) for spec in specs
        ]
        request = CreateTopicsRequest(topics, timeout=REQUEST_TIMEOUT_MS, validate_only=dry_run)
        controller = self._client.cluster.controller
        answer = await self._ask(request, None if controller is None else controller.nodeId)
        return {name: (code, "".join(text or "" for text in rest)) for name, code, *rest in answer.topic_errors}

    async def await_topics(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait until every named topic has a leader for each partition; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            # A broker notifies nobody, so there is only asking again.
            while not all(topic.has_leaders for topic in (await self.topics(names)).values()):  # noqa: ASYNC110
                await asyncio.sleep(POLL_INTERVAL_S)

    @property
    def broker_count(self) -> int:
        """Number of brokers in the cluster."""
        return len(self._client.cluster.brokers())


@asynccontextmanager
async def connected(section: KafkaSection, request_timeout_ms: int = REQUEST_TIMEOUT_MS) -> AsyncIterator[Admin]:
    """One attempt to connect, then an ``Admin``; raises aiokafka's KafkaConnectionError when no broker answers."""
    client = AIOKafkaClient(**connection_options(section), request_timeout_ms=request_timeout_ms)
    try:
        await client.bootstrap()
        yield Admin(client)
    finally:
        await asyncio.shield(client.close())


@asynccontextmanager
async def admin_session(section: KafkaSection, timeout_s: float) -> AsyncIterator[Admin]:
    """An ``Admin`` for a command; within ``timeout_s`` all is asked, or BrokerError says why the cluster is silent."""
    with heard() as lines:
        try:
            async with asyncio.timeout(timeout_s), connected(section) as admin:
                yield admin
        except (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.RequestTimedOutError, TimeoutError) as error:
            raise BrokerError(unreachable(lines, section)) from error
        except kafka.KafkaError as error:
            raise broker_error(error, "asking the brokers") from error


def _raise_for(code: int, detail: str) -> None:
    """Raise aiokafka's error of a code other than 0."""
    if code:
        raise kafka.for_code(code)(detail)
