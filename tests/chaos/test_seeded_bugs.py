"""The kit can fail: bugs put into the worker on purpose are found, and without them the same faults do no harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import altered, schedule
from tests.chaos.campaign import Campaign, Outcome
from tests.chaos.cluster import Cluster
from tests.chaos.schedule import Plan

RATE = 400
ILLEGAL_GENERATION, UNKNOWN_MEMBER = 22, 25

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Bug:
    """A change, and the fault that shows it."""

    alteration: str
    guarantee: str
    fault: str
    overrides: dict[str, Any]


EARLY = Bug(
    altered.COMMITS_EARLY,
    "at_least_once",
    "worker kill -9, outputs under way",
    {"delivery": {"commit_interval_s": 0.2}},
)
UNFENCED = Bug(
    altered.UNFENCED,
    "exactly_once",
    "SIGSTOP with the offset commit under way, SIGCONT",
    {"delivery": {"transaction_timeout_s": 30}},
)
NO_EPOCHS = Bug(altered.NO_EPOCHS, "exactly_once", "model hangs through a rebalance", {})
EACH_BUG = pytest.mark.parametrize("bug", [EARLY, UNFENCED, NO_EPOCHS], ids=lambda bug: bug.alteration)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node behind a relay."""
    cluster = Cluster(tmp_path_factory.mktemp("chaos"), 1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def run(bug: Bug, folder: Path, cluster: Cluster, *, present: bool) -> Outcome:
    """One fault on workers with or without the bug."""
    assert bug.fault in schedule.FAULTS
    plan = Plan(7, bug.guarantee, (bug.fault,), rate=RATE)
    campaign = Campaign(plan, folder, cluster, overrides=bug.overrides)
    campaign.fleet.alterations = (bug.alteration,) if present else ()
    return campaign.run()


@EACH_BUG
def test_without_the_bug_the_fault_does_no_harm(bug: Bug, tmp_path: Path, cluster: Cluster) -> None:
    """Nothing is lost or repeated, and the fault did hit open work."""
    outcome = run(bug, tmp_path, cluster, present=False)
    assert outcome.counts.faultless, outcome.counts
    assert outcome.counts.repeats == 0
    assert len(outcome.counted) == 1
    if bug is UNFENCED:
        assert outcome.refusals.keys() & {ILLEGAL_GENERATION, UNKNOWN_MEMBER}, outcome.refusals


def test_a_commit_before_the_acknowledgement_is_caught(tmp_path: Path, cluster: Cluster) -> None:
    """Offsets that are committed before the outputs are acknowledged show as lost records."""
    assert run(EARLY, tmp_path, cluster, present=True).counts.lost > 0


def test_an_unfenced_commit_is_caught(tmp_path: Path, cluster: Cluster) -> None:
    """A zombie whose offset commit names no member shows as repeated records."""
    assert run(UNFENCED, tmp_path, cluster, present=True).counts.repeats > 0


def test_a_missing_epoch_check_is_caught(tmp_path: Path, cluster: Cluster) -> None:
    """Results that outlive their assignment show as repeated records."""
    assert run(NO_EPOCHS, tmp_path, cluster, present=True).counts.repeats > 0
