"""``python -m tests.chaos``: run campaigns and write the report."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import report, schedule
from tests.chaos.campaign import Campaign, Outcome
from tests.chaos.cluster import Cluster
from tests.chaos.schedule import FAULTS, GUARANTEES, Plan

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "guarantees.md"
DATA = PAGE.with_suffix(".json")


def _campaign(plan: Plan, folder: Path) -> Outcome:
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - begun:7.1f}] {text}\n")
        sys.stdout.flush()

    cluster = Cluster(folder, plan.nodes)
    try:
        cluster.start()
        say(f"{plan.guarantee}: {plan.nodes} nodes, {plan.workers} workers, {len(plan.faults)} faults")
        outcome = Campaign(plan, folder, cluster, say).run()
    finally:
        cluster.stop()
    counts = outcome.counts
    say(f"{counts.written} records, {counts.lost} lost, {counts.repeats} repeated, {counts.out_of_order} out of order")
    return outcome


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Crash what can crash, and count.")
    parser.add_argument("--form", choices=["short", "full"], default="short")
    parser.add_argument("--guarantee", action="append", choices=GUARANTEES, help="one of them only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--fault", action="append", choices=list(FAULTS), metavar="NAME", help="this fault only (repeatable)"
    )
    parser.add_argument("--nodes", type=int, help="brokers, 1 or 3")
    parser.add_argument("--records", type=int, help="least number of records")
    parser.add_argument("--page", type=Path, help=f"write the report here, for example {PAGE.relative_to(PROJECT)}")
    parser.add_argument("--data", type=Path, default=DATA, help="write the data of the report here, with --page")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    """Run what the arguments say; 0 if every promise held."""
    arguments = _arguments(given)
    outcomes = []
    for guarantee in arguments.guarantee or GUARANTEES:
        form = schedule.short if arguments.form == "short" else schedule.full
        plan = schedule.changed(form(guarantee, arguments.seed), arguments.fault, arguments.nodes, arguments.records)
        with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as folder:
            outcomes.append(_campaign(plan, Path(folder)))
        if arguments.page is not None:
            report.write(outcomes, " ".join(["python -m tests.chaos", *given]), arguments.page, arguments.data)
    broken = [f"{outcome.plan.guarantee}: {text}" for outcome in outcomes for text in report.broken_promises(outcome)]
    sys.stdout.write("\n".join([*(broken or ["every promise held"]), ""]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
