"""The short form of the crash kit: every kind of worker crash, a zombie and a restart, for each guarantee."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import schedule
from tests.chaos.campaign import Campaign, Outcome
from tests.chaos.cluster import Cluster
from tests.chaos.report import broken_promises

OUTAGE_SLACK = 4.0
"""The test shares its machine with others; the full run judges the times as they are promised."""

pytestmark = pytest.mark.timeout(400)


def run(guarantee: str, folder: Path) -> Outcome:
    """The short campaign on one node."""
    plan = schedule.short(guarantee)
    cluster = Cluster(folder, plan.nodes)
    try:
        cluster.start()
        return Campaign(plan, folder, cluster, say=print).run()
    finally:
        cluster.stop()


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_every_promise_holds_under_faults(guarantee: str, tmp_path: Path) -> None:
    """Nothing is lost, reordered or wrong, repeats stay within their bound, and every fault hit open work."""
    outcome = run(guarantee, tmp_path)
    assert broken_promises(outcome, OUTAGE_SLACK) == []
    assert len(outcome.counted) == len(outcome.results) == len(outcome.plan.faults)
    assert outcome.counts.dead_lettered > 0
    assert (outcome.counts.repeats > 0) == (guarantee == "at_least_once")
