"""Throughput, latency and cost of Headrace, of its limits and of the alternatives, side by side in one run.

examples:
  python -m benchmarks                               the quick form, about 5 minutes
  python -m benchmarks --form full                   everything, about 2 hours
  python -m benchmarks --list                        what can be chosen
  python -m benchmarks --system headrace --system quix --workload fraud --repetitions 3
  python -m benchmarks --system headrace:at_least_once --measure latency --rate 2000 --rate 10000
  python -m benchmarks --system headrace:at_least_once --measure long --minutes 60
  python -m benchmarks --page                        write docs/performance.md from the newest full result
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import document, machine, terminal
from benchmarks.harness.bench import Bench
from benchmarks.harness.campaign import Campaign
from benchmarks.harness.cluster import Cluster
from benchmarks.harness.places import PAGE, PLOTS, PROJECT, RESULTS
from benchmarks.harness.plan import FORMS, MEASUREMENTS, Plan, chosen_rows
from benchmarks.harness.results import Result, save
from benchmarks.workloads import WORKLOADS
from tests.kafka.jars import MissingToolError

CUSTOM = "custom"


def main(given: Sequence[str] | None = None) -> int:
    """Run what the arguments say: 0 measured, 1 a page is out of date, 2 it could not be run, 130 stopped."""
    arguments = list(sys.argv[1:] if given is None else given)
    options = _parser().parse_args(arguments)
    if options.list:
        print(terminal.listing())
        return 0
    if options.page or options.check_page:
        return _page(check=options.check_page)
    # Ended in order, a run takes its broker and its scratch folder with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan = _plan(options)
        path = measure(plan, arguments, options.out)
    except (LookupError, MissingToolError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks: stopped; what was measured until then is in {_shown(options.out)}", file=sys.stderr)
        return 130
    print(f"\nall figures: {_shown(path)}")
    if plan.form == "full":
        print(f"written: {', '.join(_shown(one) for one in document.write(PAGE, PLOTS, RESULTS))}")
    return 0


def measure(plan: Plan, arguments: Sequence[str], folder: Path) -> Path:
    """Carry out a plan, print its tables, and return the file with the figures; it grows during the run."""
    begun = time.monotonic()
    result = _empty_result(plan, arguments)

    def keep() -> Path:
        result.minutes = round((time.monotonic() - begun) / 60, 1)
        return save(result, folder)

    load = float(result.machine["load before"])
    if load > 1:
        print(f"warning: the machine is busy (load {load:.1f}); the figures will not be worth much", file=sys.stderr)
    with Bench(plan.most_events) as bench:
        Campaign(plan, bench, result, keep).run()
    print(f"\n{terminal.tables(result)}")
    return keep()


def _empty_result(plan: Plan, arguments: Sequence[str]) -> Result:
    return Result(
        form=plan.form,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks", *arguments]),
        minutes=0.0,
        machine=machine.machine(),
        versions=machine.versions(),
        broker=Cluster.description(),
        settings={
            "repetitions": plan.repetitions,
            "drain_s": plan.drain_s,
            "latency_s": plan.latency_s,
            "hold_s": plan.hold_s,
            "most_events": plan.most_events,
        },
        workloads={},
    )


def _plan(options: argparse.Namespace) -> Plan:
    """The form, changed by what was chosen; a changed form is called ``custom``."""
    form = FORMS[options.form]()
    rows = chosen_rows(options.system, options.workload, form)
    changes = {
        "measurements": tuple(options.measure) or None,
        "repetitions": options.repetitions,
        "drain_s": options.drain_seconds,
        "latency_s": options.seconds,
        "hold_s": options.hold_seconds,
        "rates": tuple(options.rate) or None,
        "shares": tuple(options.share) or None,
        "minutes": options.minutes,
        "most_events": options.events,
    }
    known = {name: value for name, value in changes.items() if value is not None}
    if not known and rows == form.rows:
        return form
    if options.share or "long" in options.measure or "burst" in options.measure:
        known["loaded"] = tuple(row[0].name for row in rows)
    return replace(form, form=CUSTOM, rows=rows, **known)


def _page(*, check: bool) -> int:
    """Write the page and its plots, or say whether they are what the newest full result gives."""
    if not check:
        print(f"written: {', '.join(_shown(one) for one in document.write(PAGE, PLOTS, RESULTS))}")
        return 0
    stale = document.stale(PAGE, PLOTS, RESULTS)
    for path in stale:
        print(f"{_shown(path)} is not what the newest full result gives: python -m benchmarks --page", file=sys.stderr)
    return 1 if stale else 0


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--form", choices=list(FORMS), default="quick", help="start from this selection (quick)")
    what.add_argument(
        "--system", action="append", default=[], metavar="NAME[:VARIANT]", help="only these systems (repeatable)"
    )
    what.add_argument(
        "--workload", action="append", default=[], choices=list(WORKLOADS), help="only these (repeatable)"
    )
    what.add_argument("--measure", action="append", default=[], choices=MEASUREMENTS, help="only these (repeatable)")
    how = parser.add_argument_group("how much of it")
    how.add_argument("--repetitions", type=int, metavar="N", help="drains per system and workload")
    how.add_argument("--drain-seconds", type=float, metavar="S", help="about how long a drain should take")
    how.add_argument("--events", type=int, metavar="N", help="no backlog larger than this, for a try")
    how.add_argument("--rate", type=int, action="append", default=[], metavar="N", help="latency at N events/s")
    how.add_argument("--share", type=int, action="append", default=[], metavar="P", help="latency at P %% of capacity")
    how.add_argument("--seconds", type=float, metavar="S", help="length of a latency window")
    how.add_argument("--hold-seconds", type=float, metavar="S", help="how long a rate must hold to count as capacity")
    how.add_argument("--minutes", type=float, metavar="M", help="length of the long run")
    where = parser.add_argument_group("other")
    where.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the figures go")
    where.add_argument("--list", action="store_true", help="print systems, variants and workloads, and stop")
    where.add_argument("--page", action="store_true", help="write docs/performance.md and its plots, and stop")
    where.add_argument("--check-page", action="store_true", help="fail where they are out of date, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
