"""Judgements on topics, group and limits, from facts alone; and the plan for missing topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.adapters.kafka_admin import TOPIC_DENIED, GroupState, TopicState
from worker.adapters.kafka_ensure import plan
from worker.adapters.kafka_fit import judge_group, judge_session, judge_topics
from worker.adapters.kafka_wire import UNKNOWN_OPERATIONS, operation_names
from worker.settings import Settings

DEFAULTS = {
    "max.message.bytes": "1048588",
    "cleanup.policy": "delete",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": "3600000",
}
ROOMY = DEFAULTS | {"max.message.bytes": "1114124"}
READ_ONLY = frozenset({"READ", "DESCRIBE"})
UNTOLD = GroupState("Empty", "", "", (), None)


def settings(**sections: Mapping[str, Any]) -> Settings:
    """Settings of one input, one output and one dead-letter topic."""
    kafka = {"group_id": "g", "input_topics": ("in",), "output_topic": "out", "dead_letter_topic": "dlq"}
    return Settings.model_validate(
        {
            "kafka": kafka,
            "event": {"schema": Path("schema.json"), "id_field": "id"},
            "model": {"path": Path("model")},
            **sections,
        }
    )


def fitting() -> dict[str, TopicState]:
    """Topics without fault."""
    return {
        "in": TopicState("in", 0, 2, has_leaders=True, config=DEFAULTS),
        "out": TopicState("out", 0, 2, has_leaders=True, config=DEFAULTS),
        "dlq": TopicState("dlq", 0, 1, has_leaders=True, config=ROOMY),
    }


def test_fitting_topics_pass_without_a_word() -> None:
    """Nothing to report, nothing to note."""
    verdict = judge_topics(settings(), fitting())
    assert (verdict.problems, verdict.notes) == ([], [])


def test_what_the_broker_does_not_tell_is_noted_once() -> None:
    """Settings that a broker keeps to itself are no fault of anyone."""
    states = {name: replace(state, config=None, operations=None) for name, state in fitting().items()}
    verdict = judge_topics(settings(), states)
    assert verdict.problems == []
    assert len(verdict.notes) == 1
    assert all(name in verdict.notes[0] for name in ("in", "out", "dlq"))


def test_dead_letters_without_room_for_headers_are_noted() -> None:
    """With the input's own limit only records at that limit lose their value: worth knowing, no obstacle."""
    verdict = judge_topics(settings(), fitting() | {"dlq": TopicState("dlq", 0, 1, config=DEFAULTS)})
    assert verdict.problems == []
    assert "dlq" in verdict.notes[0]


@pytest.mark.parametrize("name", ["in", "out", "dlq"])
def test_topic_that_we_may_not_see_is_denied_not_missing(name: str) -> None:
    """The broker answers alike for a hidden and an absent topic; creating it is no advice then."""
    verdict = judge_topics(settings(), fitting() | {name: TopicState(name, TOPIC_DENIED)})
    assert [problem.code for problem in verdict.problems] == ["topic_denied"]
    assert name in verdict.problems[0].message


def test_output_that_we_may_only_read_is_denied() -> None:
    """READ is enough for inputs alone."""
    states = {name: replace(state, operations=READ_ONLY) for name, state in fitting().items()}
    problems = judge_topics(settings(), states).problems
    assert [(problem.key, problem.code) for problem in problems] == [
        ("kafka.output_topic", "topic_denied"),
        ("kafka.dead_letter_topic", "topic_denied"),
    ]


def test_output_with_narrower_times_than_the_input_is_noted() -> None:
    """Such scores become dead letters, so the worker runs; for the dead letters themselves it is a problem."""
    narrow = {**ROOMY, "message.timestamp.before.max.ms": "1000"}
    noted = judge_topics(settings(), fitting() | {"out": TopicState("out", 0, 2, config=narrow)})
    assert noted.problems == []
    assert "broker_refused" in noted.notes[0]
    refused = judge_topics(settings(), fitting() | {"dlq": TopicState("dlq", 0, 1, config=narrow)})
    assert [problem.code for problem in refused.problems] == ["timestamp_limit"]


def test_input_that_sets_its_own_times_needs_no_wider_limits() -> None:
    """Times of arrival are never in the future, so the usual limit of one hour fits."""
    config = DEFAULTS | {"message.timestamp.type": "LogAppendTime"}
    verdict = judge_topics(settings(), fitting() | {"in": TopicState("in", 0, 2, config=config)})
    assert (verdict.problems, verdict.notes) == ([], [])


@pytest.mark.parametrize(
    ("group", "codes"),
    [
        (UNTOLD, []),
        (GroupState("Stable", "consumer", "sticky", ("headrace",), READ_ONLY), []),
        (GroupState("Stable", "consumer", "range", ("other",), READ_ONLY), ["group_in_use"]),
        (GroupState("Stable", "connect", "", ("other",), None), ["group_in_use"]),
        (GroupState("Empty", "", "", (), frozenset({"DESCRIBE"})), ["group_denied"]),
    ],
)
def test_group_is_judged_by_members_and_rights(group: GroupState, codes: list[str]) -> None:
    """Our own members are welcome, another program's are not, and DESCRIBE is not enough to read."""
    assert [problem.code for problem in judge_group(settings().kafka, group)] == codes


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({}, False),
        ({"group.min.session.timeout.ms": "15000", "group.max.session.timeout.ms": "15000"}, False),
        ({"group.min.session.timeout.ms": "15001"}, True),
        ({"group.max.session.timeout.ms": "14999"}, True),
    ],
)
def test_session_timeout_must_lie_within_the_brokers_limits(limits: dict[str, str], refused: bool) -> None:
    """Both limits belong to the range; an unknown limit refuses nothing."""
    assert bool(judge_session(settings().kafka, limits)) is refused


def test_operations_are_bits_unless_the_broker_is_silent() -> None:
    """Kafka sets one bit per granted operation, and a number of its own where it does not tell."""
    assert operation_names(1 << 3 | 1 << 8) == READ_ONLY
    assert operation_names(0) == frozenset()
    assert operation_names(UNKNOWN_OPERATIONS) is None
    assert operation_names(None) is None


def test_plan_leaves_existing_and_hidden_topics_alone() -> None:
    """Only what is known to be absent is created."""
    states = fitting() | {"out": TopicState("out", 3), "dlq": TopicState("dlq", TOPIC_DENIED)}
    (spec,) = plan(settings(), states, 1, 3)
    assert (spec.name, spec.partitions, spec.replication_factor, dict(spec.config)) == ("out", 2, 3, {})
