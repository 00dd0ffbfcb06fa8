"""Facts about topics: do they exist, how many partitions, how large may a record be. Nothing is ever created here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from worker.adapters.kafka_options import connection_options
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.topics")

DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default, assumed where the broker does not tell."""

BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)

_FINAL_REFUSALS: Mapping[str, tuple[str, str]] = {
    "SaslAuthenticationFailed": (
        "the broker refuses the login",
        "check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
    ),
    "UnsupportedSaslMechanism": (
        "the broker does not offer this SASL mechanism",
        "set kafka.sasl_mechanism to one that the listener enables",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "the broker's certificate is not trusted",
        "point kafka.ssl_ca_file at the authority that signed it, and use the host name that it is made out for",
    ),
}

_Client = TypeVar("_Client")


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One existing topic; ``max_message_bytes`` bounds a batch, so also a record with its overhead."""

    name: str
    partitions: int
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    cleanup_policy: str = "delete"


async def connect(section: KafkaSection, start: Callable[[], Awaitable[_Client]]) -> _Client:
    """Call ``start`` until a broker answers, waiting up to 5 s in between; every wait is logged.

    Raises BrokerError at once where waiting cannot help: a refused login, an untrusted certificate.
    """
    attempt = 0
    while True:
        with _heard() as lines:
            try:
                return await start()
            except kafka.KafkaConnectionError as error:
                _raise_if_final(lines, section)
                wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                attempt += 1
                log.error(
                    "broker_unreachable",
                    bootstrap_servers=list(section.bootstrap_servers),
                    detail=lines[-1] if lines else str(error),
                    attempt=attempt,
                    next_attempt_s=wait_s,
                )
        await asyncio.sleep(wait_s)


async def describe(section: KafkaSection, names: Iterable[str]) -> dict[str, TopicFacts]:
    """Facts of those of the named topics that exist; raises aiokafka's errors when no broker answers."""
    client = AIOKafkaAdminClient(**connection_options(section))
    try:
        await client.start()
        existing = set(await client.list_topics())
        wanted = [name for name in dict.fromkeys(names) if name in existing]
        if not wanted:
            return {}
        partitions = {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics(wanted)}
        configs = await _configs(client, wanted)
    finally:
        await client.close()
    facts = {}
    for name in wanted:
        config = configs.get(name, {})
        size = int(config.get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))
        facts[name] = TopicFacts(name, partitions[name], size, config.get("cleanup.policy", "delete"))
    return facts


async def _configs(client: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Each topic's configuration; empty where the broker does not tell, which is logged."""
    keys = dict.fromkeys(("max.message.bytes", "cleanup.policy"))
    try:
        answers = await client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs=dict(keys)) for name in names]
        )
    except kafka.KafkaError as error:
        log.warning("topic_configs_unknown", error=type(error).__name__, assumed_max_bytes=DEFAULT_MAX_MESSAGE_BYTES)
        return {}
    configs: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, message, _, name, entries, *_ in answer.resources:
            if code:
                log.warning("topic_config_unknown", topic=name, code=code, detail=message)
            else:
                configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


def missing_topics(names: Iterable[str], facts: Mapping[str, TopicFacts]) -> list[Problem]:
    """A problem for each topic that does not exist."""
    return [
        Problem(
            f"topic {name} does not exist",
            "create it with: headrace topics ensure --config FILE",
            key="kafka",
            code="missing_topic",
        )
        for name in dict.fromkeys(names)
        if name not in facts
    ]


def too_few_partitions(section: KafkaSection, facts: Mapping[str, TopicFacts]) -> list[Problem]:
    """A problem where ``output.partitioning: source`` cannot keep the partition number of an input."""
    output = facts.get(section.output_topic)
    if output is None:
        return []
    return [
        Problem(
            f"output topic {output.name} has {output.partitions} partitions, input topic {name} has "
            f"{facts[name].partitions}: records of the others would have nowhere to go under partitioning: source",
            f"give {output.name} at least {facts[name].partitions} partitions, or set output.partitioning: key",
            key="output.partitioning",
            code="too_few_partitions",
        )
        for name in section.input_topics
        if name in facts and facts[name].partitions > output.partitions
    ]


class _Heard(logging.Handler):
    """Keeps what aiokafka logs: its exceptions say only that bootstrapping failed, the log says why."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self._lines.append(record.getMessage())


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What aiokafka logs meanwhile."""
    lines: list[str] = []
    handler, logger = _Heard(lines), logging.getLogger("aiokafka")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _raise_if_final(lines: list[str], section: KafkaSection) -> None:
    """Raise where another attempt would be refused in the same way."""
    for line in lines:
        for mark, (message, remedy) in _FINAL_REFUSALS.items():
            if mark in line:
                servers = ", ".join(section.bootstrap_servers)
                raise BrokerError(Problem(f"{message} ({servers}): {line}", remedy, key="kafka", code="refused"))
