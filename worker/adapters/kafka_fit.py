"""Whether topics, group and limits fit the configuration: judgements on facts that the broker has told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from worker.adapters.kafka_admin import TOPIC_DENIED, GroupState, TopicState
from worker.adapters.kafka_topics import (
    DEFAULT_MAX_MESSAGE_BYTES,
    TopicFacts,
    missing_permissions,
    missing_topics,
    too_few_partitions,
    topic_denied,
)
from worker.errors import Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection, Settings

HEADER_ROOM_BYTES = 65_536
"""Room that a dead letter needs beyond its record: our headers take below 3 KiB, a margin covers batch overhead."""

MIN_OUTPUT_BYTES = 1_024
"""An output topic that takes less refuses even a small scored record: our headers alone take about 450 bytes."""

TOPIC_CONFIG_KEYS = (
    "max.message.bytes",
    "cleanup.policy",
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
)
SESSION_LIMIT_KEYS = ("group.min.session.timeout.ms", "group.max.session.timeout.ms")

OUR_PROTOCOLS = ("sticky", "roundrobin")
_UNLIMITED_MS = 2**63 - 1
_INPUT, _OUTPUT, _DEAD_LETTER = "kafka.input_topics", "kafka.output_topic", "kafka.dead_letter_topic"


@dataclass(slots=True)
class Verdict:
    """What must change, and what is only worth knowing."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def roles(section: KafkaSection) -> dict[str, str]:
    """Configuration key of each topic, by name."""
    inputs = dict.fromkeys(section.input_topics, _INPUT)
    return {**inputs, section.output_topic: _OUTPUT, section.dead_letter_topic: _DEAD_LETTER}


def judge_topics(settings: Settings, states: Mapping[str, TopicState]) -> Verdict:
    """Everything that can be wrong with the topics themselves."""
    section, verdict = settings.kafka, Verdict()
    facts = facts_of(states)
    denied = [name for name, state in states.items() if state.error_code == TOPIC_DENIED]
    verdict.problems += [topic_denied(section, name, "describe") for name in denied]
    verdict.problems += missing_permissions(section, facts)
    for name, key in roles(section).items():
        if name not in denied:
            verdict.problems += [replace(problem, key=key) for problem in missing_topics([name], facts)]
    if settings.output.partitioning == "source":
        verdict.problems += too_few_partitions(section, facts)
    untold = [name for name, state in states.items() if state.exists and state.config is None]
    if untold:
        verdict.notes.append(f"limits of {', '.join(untold)}: the broker does not tell (DESCRIBE_CONFIGS)")
    _judge_sizes(section, states, verdict)
    _judge_policies(section, states, verdict)
    _judge_timestamps(section, states, verdict)
    return verdict


def facts_of(states: Mapping[str, TopicState]) -> dict[str, TopicFacts]:
    """The existing topics, with Kafka's defaults where the broker does not tell."""
    return {
        name: TopicFacts(name, state.partitions, _max_bytes(state) or DEFAULT_MAX_MESSAGE_BYTES, state.operations)
        for name, state in states.items()
        if state.exists
    }


def judge_group(section: KafkaSection, group: GroupState) -> list[Problem]:
    """Whether we may join the group and would understand its members."""
    problems = []
    if group.operations is not None and "READ" not in group.operations:
        problems.append(group_denied(section.group_id))
    foreign_type = group.protocol_type not in ("", "consumer")
    if foreign_type or (group.protocol and group.protocol not in OUR_PROTOCOLS):
        members = ", ".join(group.client_ids) or "unknown"
        problems.append(
            Problem(
                f"another program uses consumer group {section.group_id}: its members ({members}) share out "
                f"partitions by {group.protocol!r}, Headrace by {' or '.join(OUR_PROTOCOLS)}",
                "choose a group_id of its own for this worker, or stop the other program",
                key="kafka.group_id",
                code="group_in_use",
            )
        )
    return problems


def group_denied(group_id: str) -> Problem:
    """The problem of a group that we may not use."""
    return Problem(
        f"the broker does not allow us to read with consumer group {group_id}",
        f"grant READ on group {group_id}",
        key="kafka.group_id",
        code="group_denied",
    )


def judge_session(section: KafkaSection, limits: Mapping[str, str]) -> list[Problem]:
    """Whether the broker accepts the session timeout; no problem where it does not tell its limits."""
    lowest, highest = (limits.get(key) for key in SESSION_LIMIT_KEYS)
    wanted_ms = round(section.session_timeout_s * 1000)
    if lowest is not None and wanted_ms < int(lowest):
        advice = f"set it to {int(lowest) / 1000:g} or more, or lower the broker's group.min.session.timeout.ms"
    elif highest is not None and wanted_ms > int(highest):
        advice = f"set it to {int(highest) / 1000:g} or less, or raise the broker's group.max.session.timeout.ms"
    else:
        return []
    message = f"the broker refuses a session timeout of {section.session_timeout_s:g} s"
    return [Problem(message, advice, key="kafka.session_timeout_s", code="session_timeout")]


def _judge_sizes(section: KafkaSection, states: Mapping[str, TopicState], verdict: Verdict) -> None:
    """Whether records fit from input to fetch, output and dead letters."""
    output, dead_letter = states[section.output_topic], states[section.dead_letter_topic]
    inputs = {name: size for name in section.input_topics if (size := _max_bytes(states[name])) is not None}
    for name, size in inputs.items():
        if size > section.max_fetch_bytes:
            message = f"input topic {name} takes records of up to {size} bytes, a fetch only {section.max_fetch_bytes}"
            advice = f"set kafka.max_fetch_bytes to {size} or more"
            verdict.problems.append(Problem(message, advice, key="kafka.max_fetch_bytes", code="fetch_too_small"))
    room = _max_bytes(output)
    if room is not None and room < MIN_OUTPUT_BYTES:
        message = f"output topic {output.name} takes {room} bytes per batch, less than a scored record with its headers"
        advice = f"raise its max.message.bytes to {MIN_OUTPUT_BYTES} or more"
        verdict.problems.append(Problem(message, advice, key=_OUTPUT, code="output_too_small"))
    largest, room = max(inputs.values(), default=0), _max_bytes(dead_letter)
    if room is None or room >= largest + HEADER_ROOM_BYTES:
        return
    if room >= largest:
        verdict.notes.append(
            f"dead-letter topic {dead_letter.name} takes {room} bytes: of a refused record close to the input's "
            f"limit of {largest} bytes only coordinates and hash are kept; {largest + HEADER_ROOM_BYTES} would fit all"
        )
        return
    message = (
        f"dead-letter topic {dead_letter.name} takes {room} bytes, the input {largest}: large records lose their value"
    )
    advice = f"raise its max.message.bytes to {largest + HEADER_ROOM_BYTES}"
    verdict.problems.append(Problem(message, advice, key=_DEAD_LETTER, code="dead_letter_too_small"))


def _judge_policies(section: KafkaSection, states: Mapping[str, TopicState], verdict: Verdict) -> None:
    """Compaction loses dead letters and refuses records without a key."""
    output, dead_letter = states[section.output_topic], states[section.dead_letter_topic]
    if "compact" in _setting(dead_letter, "cleanup.policy"):
        verdict.problems.append(
            Problem(
                f"dead-letter topic {dead_letter.name} is compacted: it keeps one dead letter per key, and a record "
                "without a key stops the worker",
                "set its cleanup.policy to delete",
                key=_DEAD_LETTER,
                code="dead_letter_compacted",
            )
        )
    if "compact" in _setting(output, "cleanup.policy"):
        verdict.notes.append(
            f"output topic {output.name} is compacted: it keeps the last score per key, and the score of a record "
            "without a key is dead-lettered as broker_refused"
        )


def _judge_timestamps(section: KafkaSection, states: Mapping[str, TopicState], verdict: Verdict) -> None:
    """Outputs and dead letters carry the input record's time, which the topics must take and keep."""
    told = [states[name] for name in section.input_topics if states[name].config is not None]
    for name, key in ((section.output_topic, _OUTPUT), (section.dead_letter_topic, _DEAD_LETTER)):
        state = states[name]
        if _setting(state, "message.timestamp.type") == "LogAppendTime":
            message = f"topic {name} replaces the time of each record by that of its arrival (LogAppendTime)"
            if key == _DEAD_LETTER:
                verdict.notes.append(f"{message}; the header headrace-dlq-timestamp keeps the original")
            else:
                advice = "set its message.timestamp.type to CreateTime"
                verdict.problems.append(Problem(message, advice, key=key, code="timestamp_type"))
            continue
        limited = [
            setting
            for setting in ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
            if _limit_ms(state, setting) < max((_limit_ms(source, setting) for source in told), default=0)
        ]
        if limited and key == _DEAD_LETTER:
            message = f"dead-letter topic {name} refuses record times that the input takes, which stops the worker"
            advice = f"raise its {' and '.join(limited)} to the input's"
            verdict.problems.append(Problem(message, advice, key=key, code="timestamp_limit"))
        elif limited:
            verdict.notes.append(
                f"output topic {name} refuses record times that the input takes ({', '.join(limited)}): "
                "such scores are dead-lettered as broker_refused"
            )


def _setting(state: TopicState, key: str) -> str:
    """A topic's setting; empty where the broker does not tell."""
    return "" if state.config is None else state.config.get(key, "")


def _max_bytes(state: TopicState) -> int | None:
    """A topic's max.message.bytes; None where the broker does not tell."""
    return int(text) if (text := _setting(state, "max.message.bytes")) else None


def _limit_ms(state: TopicState, key: str) -> int:
    """How far record times may be off; unlimited where the broker knows no limit. Arrival is never in the future."""
    if _setting(state, "message.timestamp.type") == "LogAppendTime":
        return 0 if "after" in key else _UNLIMITED_MS
    return int(_setting(state, key) or _UNLIMITED_MS)
