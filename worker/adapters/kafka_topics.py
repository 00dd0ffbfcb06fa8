"""Facts about topics: do they exist, how many partitions, how large may a record be. Nothing is ever created here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiokafka import errors as kafka

from worker.adapters.kafka_admin import TOPIC_DENIED, connected
from worker.adapters.kafka_diagnosis import final_refusal, heard
from worker.adapters.kafka_options import broker_error
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

log = structlog.get_logger("headrace.topics")

DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default, assumed where the broker does not tell."""

REQUEST_TIMEOUT_MS = 40_000
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)

_Client = TypeVar("_Client")


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One existing topic; ``max_message_bytes`` bounds a batch, so also a record with its overhead."""

    name: str
    partitions: int
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    operations: frozenset[str] | None = None
    """What we may do with it, such as READ and WRITE; None where the broker does not tell."""


async def connect(section: KafkaSection, start: Callable[[], Awaitable[_Client]]) -> _Client:
    """Call ``start`` until a broker answers, waiting up to 5 s in between; every wait is logged.

    Raises BrokerError at once where waiting cannot help: a refused login, an untrusted certificate, a permission.
    """
    attempt = 0
    while True:
        with heard() as lines:
            try:
                return await start()
            except kafka.KafkaError as error:
                if not error.retriable and not isinstance(error, kafka.KafkaTimeoutError):
                    raise broker_error(error, "connecting") from error
                refused = final_refusal(lines, section)
                if refused is not None:
                    raise BrokerError(refused) from error
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
    """Facts of those of the named topics that exist.

    Raises aiokafka's errors when no broker answers, and BrokerError for topics that we may not see.
    """
    async with connected(section, REQUEST_TIMEOUT_MS) as admin:
        states = await admin.topics(names)
        denied = [name for name, state in states.items() if state.error_code == TOPIC_DENIED]
        if denied:
            raise BrokerError(*(topic_denied(section, name, "describe") for name in denied))
        existing = [state for state in states.values() if state.exists]
        configs = await admin.topic_configs([state.name for state in existing], ("max.message.bytes",))
    untold = [state.name for state in existing if state.name not in configs]
    if untold:
        log.warning("topic_configs_unknown", topics=untold, assumed_max_bytes=DEFAULT_MAX_MESSAGE_BYTES)
    return {
        state.name: TopicFacts(
            state.name,
            state.partitions,
            int(configs.get(state.name, {}).get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES)),
            state.operations,
        )
        for state in existing
    }


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


def topic_denied(section: KafkaSection, name: str, operation: str) -> Problem:
    """The problem of a topic on which the broker denies us an operation."""
    keys = {section.output_topic: "kafka.output_topic", section.dead_letter_topic: "kafka.dead_letter_topic"}
    key = keys.get(name, "kafka.input_topics")
    return Problem(
        f"the broker does not allow us to {operation} topic {name}",
        f"grant {'READ' if key == 'kafka.input_topics' else 'WRITE'} and DESCRIBE on topic {name}",
        key=key,
        code="topic_denied",
    )


def missing_permissions(section: KafkaSection, facts: Mapping[str, TopicFacts]) -> list[Problem]:
    """A problem for each input that we may not read and each other topic that we may not write, if the broker tells."""
    needs = dict.fromkeys(section.input_topics, "READ") | dict.fromkeys(
        (section.output_topic, section.dead_letter_topic), "WRITE"
    )
    return [
        topic_denied(section, name, operation.lower())
        for name, operation in needs.items()
        if name in facts and (granted := facts[name].operations) is not None and operation not in granted
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
