"""``topics ensure``: create what is missing, fit to the configuration; never touch what exists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aiokafka.errors import for_code

from worker.adapters.kafka_admin import TOPIC_DENIED, Admin, NewTopicSpec, TopicState, admin_session
from worker.adapters.kafka_check import topic_states
from worker.adapters.kafka_fit import HEADER_ROOM_BYTES, facts_of, judge_topics, roles
from worker.adapters.kafka_topics import DEFAULT_MAX_MESSAGE_BYTES
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.settings import Settings

ENSURE_TIMEOUT_S = 60.0
VISIBLE_TIMEOUT_S = 20.0
USUAL_REPLICATION = 3
ALREADY_EXISTS = 36

_BROKER_KEYS = ("num.partitions", "default.replication.factor")
_REMEDIES: Mapping[int, str] = {
    TOPIC_DENIED: "grant CREATE on the topic or on the cluster, or have an administrator create it",
    31: "grant CREATE on the topic or on the cluster, or have an administrator create it",
    37: "give --partitions a number that the cluster allows",
    38: "give --replication-factor a number of at most the brokers in the cluster",
    44: "ask the cluster's administrator which rule refuses the topic",
}
Outcome = Literal["exists", "created", "would_create", "failed"]


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """What became of one topic."""

    name: str
    key: str
    outcome: Outcome
    partitions: int
    replication_factor: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ensured:
    """Every topic in the order of the configuration, what is wrong with them, and what is worth knowing."""

    topics: tuple[TopicOutcome, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def ensure_topics(
    settings: Settings, partitions: int | None, replication_factor: int | None, *, dry_run: bool
) -> Ensured:
    """Create the missing topics and wait until they can be used, or with ``dry_run`` only ask whether they could be.

    Numbers not given are the broker's own defaults. The output gets at least the partitions of the largest input
    under ``output.partitioning: source``. Raises BrokerError when no broker answers, ConfigError for TLS files.
    """
    return asyncio.run(_ensure(settings, partitions, replication_factor, dry_run=dry_run))


async def _ensure(settings: Settings, partitions: int | None, replicas: int | None, *, dry_run: bool) -> Ensured:
    names = list(roles(settings.kafka))
    async with admin_session(settings.kafka, ENSURE_TIMEOUT_S) as admin:
        before = await topic_states(admin, names)
        specs = plan(settings, before, *await _defaults(admin, partitions, replicas))
        failures = await _create(admin, roles(settings.kafka), specs, dry_run=dry_run)
        planned = {spec.name: spec for spec in specs if spec.name not in failures}
        if dry_run:
            after = before | {name: TopicState(name, 0, spec.partitions) for name, spec in planned.items()}
        else:
            await _await_visible(admin, list(planned))
            after = await topic_states(admin, names)
    verdict = judge_topics(settings, after)
    problems = (*failures.values(), *(problem for problem in verdict.problems if problem.code != "missing_topic"))
    outcomes = tuple(
        _outcome(key, before[name], after[name], planned.get(name), dry_run=dry_run)
        for name, key in roles(settings.kafka).items()
    )
    notes = [] if dry_run and planned else verdict.notes
    return Ensured(outcomes, problems, tuple(notes))


def plan(
    settings: Settings, states: Mapping[str, TopicState], partitions: int, replication_factor: int
) -> list[NewTopicSpec]:
    """What to create for each topic that is missing, inputs first; a topic that we may not see is left alone."""
    section = settings.kafka
    missing = [name for name, state in states.items() if not state.exists and state.error_code != TOPIC_DENIED]
    facts = facts_of(states)
    sources = [facts[name].partitions if name in facts else partitions for name in section.input_topics]
    largest = max(
        facts[name].max_message_bytes if name in facts else DEFAULT_MAX_MESSAGE_BYTES for name in section.input_topics
    )
    counts = dict.fromkeys(section.input_topics, partitions)
    counts[section.output_topic] = partitions
    if settings.output.partitioning == "source":
        counts[section.output_topic] = max(partitions, *sources)
    counts[section.dead_letter_topic] = 1
    kept = {"cleanup.policy": "delete", "max.message.bytes": str(largest + HEADER_ROOM_BYTES)}
    return [
        NewTopicSpec(name, count, replication_factor, kept if name == section.dead_letter_topic else {})
        for name, count in counts.items()
        if name in missing
    ]


async def _defaults(admin: Admin, partitions: int | None, replication_factor: int | None) -> tuple[int, int]:
    """The numbers asked for, else the broker's, else one partition and up to three replicas."""
    told = {} if partitions and replication_factor else await admin.broker_config(_BROKER_KEYS)
    usual = min(USUAL_REPLICATION, admin.broker_count)
    return (
        partitions or int(told.get("num.partitions", 1)),
        replication_factor or int(told.get("default.replication.factor", usual)),
    )


async def _create(
    admin: Admin, keys: Mapping[str, str], specs: Sequence[NewTopicSpec], *, dry_run: bool
) -> dict[str, Problem]:
    """Create, or have the broker judge; a problem by name for each topic that it refuses."""
    if not specs:
        return {}
    answers = await admin.create(specs, dry_run=dry_run)
    return {
        name: Problem(
            f"the broker refuses to create topic {name}: {text or for_code(code).__name__}",
            _REMEDIES.get(code, "see the broker's log for the reason"),
            key=keys[name],
            code="topic_not_created",
        )
        for name, (code, text) in answers.items()
        if code not in (0, ALREADY_EXISTS)
    }


async def _await_visible(admin: Admin, names: Sequence[str]) -> None:
    """Wait until every broker client can use the new topics; raises BrokerError past the time limit."""
    try:
        await admin.await_topics(names, VISIBLE_TIMEOUT_S)
    except TimeoutError as error:
        message = f"after {VISIBLE_TIMEOUT_S:g} s the new topics {', '.join(names)} still have no leader"
        raise BrokerError(Problem(message, "check that all brokers run", key="kafka", code="no_leader")) from error


def _outcome(
    key: str, before: TopicState, after: TopicState, spec: NewTopicSpec | None, *, dry_run: bool
) -> TopicOutcome:
    if before.exists:
        return TopicOutcome(before.name, key, "exists", before.partitions)
    if spec is None:
        return TopicOutcome(before.name, key, "failed", 0)
    outcome: Outcome = "would_create" if dry_run else "created"
    return TopicOutcome(before.name, key, outcome, after.partitions, spec.replication_factor, spec.config)
