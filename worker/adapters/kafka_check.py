"""``check --online``: ask the brokers all that ``run`` will need of them, and write nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from aiokafka import errors as kafka

from worker.adapters.kafka_admin import POLL_INTERVAL_S, Admin, TopicState, admin_session
from worker.adapters.kafka_fit import (
    SESSION_LIMIT_KEYS,
    TOPIC_CONFIG_KEYS,
    group_denied,
    judge_group,
    judge_session,
    judge_topics,
    roles,
)
from worker.adapters.kafka_options import broker_error, transactional_prefix
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection, Settings

CHECK_TIMEOUT_S = 25.0
COORDINATOR_TIMEOUT_S = 5.0

_NOT_YET = (
    kafka.GroupCoordinatorNotAvailableError,
    kafka.NotCoordinatorForGroupError,
    kafka.GroupLoadInProgressError,
)
_UNANSWERED = (kafka.IncompatibleBrokerVersion, kafka.BrokerResponseError, NotImplementedError, TimeoutError)
_Answer = TypeVar("_Answer")


def check_online(settings: Settings, note: Callable[[str], None] = lambda _: None) -> list[Problem]:
    """Every problem that the brokers let us see; empty where ``run`` can start.

    Takes at most ``CHECK_TIMEOUT_S``. ``note`` receives what could not be checked and what is worth knowing.
    Raises ConfigError where the TLS files cannot be used.
    """
    try:
        return asyncio.run(_check(settings, note))
    except BrokerError as error:
        return list(error.problems)


async def _check(settings: Settings, note: Callable[[str], None]) -> list[Problem]:
    section = settings.kafka
    async with admin_session(section, CHECK_TIMEOUT_S) as admin:
        verdict = judge_topics(settings, await topic_states(admin, list(roles(section))))
        for line in verdict.notes:
            note(line)
        problems = verdict.problems
        problems += await _check_group(admin, section, note)
        limits = await admin.broker_config(SESSION_LIMIT_KEYS)
        if not limits:
            note("limits of kafka.session_timeout_s: the broker does not tell (DESCRIBE_CONFIGS on the cluster)")
        problems += judge_session(section, limits)
        if not any(problem.code == "topic_denied" for problem in problems):
            problems += await _check_right(admin.producer_id, "an idempotent producer's id", "kafka.output_topic", note)
        if settings.delivery.guarantee == "exactly_once":
            prefix = transactional_prefix(section.group_id)
            problems += await _check_right(
                lambda: admin.transactions(prefix), "transactions", "delivery.guarantee", note
            )
    return problems


async def topic_states(admin: Admin, names: list[str]) -> dict[str, TopicState]:
    """Every named topic with as much of its configuration as the broker tells."""
    states = await admin.topics(names)
    existing = [name for name, state in states.items() if state.exists]
    configs: Mapping[str, Mapping[str, str]] = await admin.topic_configs(existing, TOPIC_CONFIG_KEYS)
    return {name: replace(state, config=configs.get(name)) for name, state in states.items()}


async def _check_group(admin: Admin, section: KafkaSection, note: Callable[[str], None]) -> list[Problem]:
    try:
        group = await _patiently(lambda: admin.group(section.group_id))
    except kafka.GroupAuthorizationFailedError:
        return [group_denied(section.group_id)]
    except _UNANSWERED as error:
        note(f"consumer group {section.group_id}: the broker does not tell ({type(error).__name__})")
        return []
    return judge_group(section, group)


async def _check_right(
    ask: Callable[[], Awaitable[None]], what: str, key: str, note: Callable[[str], None]
) -> list[Problem]:
    """Whether the broker lets us have ``what``; a refusal is a problem at ``key``."""
    try:
        await _patiently(ask)
    except (kafka.ClusterAuthorizationFailedError, kafka.TransactionalIdAuthorizationFailed) as error:
        return [replace(problem, key=key) for problem in broker_error(error, f"asking for {what}").problems]
    except _UNANSWERED as error:
        note(f"{what}: the broker does not tell ({type(error).__name__})")
    return []


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Ask until the broker's coordinator is there, which on a new cluster takes a moment; then raises TimeoutError."""
    async with asyncio.timeout(COORDINATOR_TIMEOUT_S):
        while True:
            try:
                return await ask()
            except _NOT_YET:
                await asyncio.sleep(POLL_INTERVAL_S)
