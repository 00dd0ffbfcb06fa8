"""``python -m tests.chaos``: run campaigns and write the report."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import schedule
from tests.chaos.campaign import Campaign, Outcome
from tests.chaos.cluster import Cluster
from tests.chaos.schedule import Plan


def _campaign(plan: Plan, folder: Path) -> Outcome:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:7.1f}] {text}", flush=True)

    cluster = Cluster(folder, plan.nodes)
    try:
        cluster.start()
        say(f"{plan.guarantee}: {plan.nodes} nodes, {plan.workers} workers, {len(plan.faults)} faults")
        return Campaign(plan, folder, cluster, say).run()
    finally:
        cluster.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say; 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--guarantee", action="append", choices=["at_least_once", "exactly_once"])
    parser.add_argument("--form", choices=["short", "full"], default="short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="strike with this fault only (repeatable)")
    parser.add_argument("--nodes", type=int)
    given = parser.parse_args(arguments)
    for guarantee in given.guarantee or ["at_least_once", "exactly_once"]:
        plan = schedule.short(guarantee, given.seed) if given.form == "short" else schedule.full(guarantee, given.seed)
        if given.only:
            plan = schedule.replaced(plan, tuple(given.only), given.nodes or plan.nodes)
        with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as folder:
            outcome = _campaign(plan, Path(folder))
        print(outcome.counts, outcome.exit_codes, outcome.uncommitted, len(outcome.unexpected), outcome.took_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
