"""Throughput, latency and cost of Headrace, of its limits and of the alternatives, side by side.

examples:
  python -m benchmarks                               the quick form, about 5 minutes
  python -m benchmarks --form full                   everything but the long run, two to three hours
  python -m benchmarks --form full --part throughput one part of it, or several
  python -m benchmarks --resume FILE                 the parts that FILE still lacks
  python -m benchmarks --resume FILE --part latency  this part anew
  python -m benchmarks --form long                   ten minutes at 70 % of capacity, Headrace and the echo
  python -m benchmarks --list                        what can be chosen
  python -m benchmarks --system headrace --system quix --workload fraud --repetitions 3
  python -m benchmarks --system headrace:at_least_once --part latency --rate 2000 --rate 10000
  python -m benchmarks --show FILE                   print the tables of a file
  python -m benchmarks --page                        write what the pages quote from the newest results
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from benchmarks.harness import document, excerpt, machine, results, terminal
from benchmarks.harness.bench import Bench
from benchmarks.harness.campaign import Campaign
from benchmarks.harness.cluster import Cluster
from benchmarks.harness.places import PAGE, PLOTS, PROJECT, README, RESULTS
from benchmarks.harness.plan import FORMS, MEASUREMENTS, Plan, chosen_parts, chosen_rows
from benchmarks.harness.results import Result
from benchmarks.harness.scratch import Place, choose
from benchmarks.workloads import WORKLOADS
from tests.kafka.jars import MissingToolError

CUSTOM = "custom"
BUSY = 1.0


def main(given: Sequence[str] | None = None) -> int:
    """Run what the arguments say: 0 done, 1 a page is out of date, 2 it could not be run, 130 stopped."""
    arguments = list(sys.argv[1:] if given is None else given)
    options = _parser().parse_args(arguments)
    if options.list:
        print(terminal.listing())
        return 0
    if options.show:
        print(terminal.tables(results.load(options.show)))
        return 0
    if options.page or options.check_page:
        return _page(check=options.check_page)
    # Ended in order, a run takes its broker and its scratch folder with it.
    signal.signal(signal.SIGTERM, _stop)
    try:
        place = choose()
        plan, parts, result = _prepared(options, arguments, place)
    except (LookupError, OSError, msgspec.ValidationError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return _measure(plan, parts, result, options.resume or results.new_path(result, options.out), place)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Stop once, and in order: who sends one SIGTERM may send several."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _prepared(
    options: argparse.Namespace, arguments: Sequence[str], place: Place
) -> tuple[Plan, tuple[str, ...], Result]:
    """The plan, the parts of it to measure, and the result that they go to: a new one, or that of a file."""
    old = results.load(options.resume) if options.resume else None
    plan = _plan(options, old.form if old is not None else options.form)
    if old is not None and plan.form == CUSTOM:
        raise LookupError("a file is resumed as it was begun: only --part may be chosen")
    parts = chosen_parts(options.part, plan.parts)
    new = _new_result(plan, parts, shlex.join(["python", "-m", "benchmarks", *arguments]), place)
    if old is None:
        return plan, parts, new
    if differences := results.differences(old, new):
        raise LookupError("what would be added does not belong to that file:\n  " + "\n  ".join(differences))
    if not options.part:
        parts = tuple(old.missing)
    if not parts:
        raise LookupError("nothing is missing in that file; --part measures a part anew")
    old.commands += new.commands
    return plan, parts, old


def _measure(plan: Plan, parts: Sequence[str], result: Result, path: Path, place: Place) -> int:
    """Measure the parts, print the tables and write the file, which grows meanwhile; returns the exit code."""
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"warning: the machine is busy (load {load:.1f}); the figures will not be worth much", file=sys.stderr)
    try:
        with Bench(plan.most_events, place) as bench:
            Campaign(plan, bench, result, lambda: results.save(result, path)).run(parts)
    except MissingToolError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks: stopped; {_shown(path)} holds what was measured until then", file=sys.stderr)
        if result.form != CUSTOM:
            print(f"the rest: python -m benchmarks --resume {_shown(path)}", file=sys.stderr)
        _renew_page(result)
        return 130
    print(f"\n{terminal.tables(result)}\n\nall figures: {_shown(path)}")
    if result.missing and result.form != CUSTOM:
        print(f"still missing: {', '.join(result.missing)}: python -m benchmarks --resume {_shown(path)}")
    _renew_page(result)
    return 0


def _renew_page(result: Result) -> None:
    """Renew the page after a run whose figures it may show."""
    if result.form in document.HEADS:
        _write_page()


def _new_result(plan: Plan, parts: Sequence[str], command: str, place: Place) -> Result:
    return Result(
        form=plan.form,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commands=[command],
        machine=machine.machine(),
        versions=machine.versions(),
        broker=Cluster.description(place),
        settings=plan.settings,
        wanted=list(parts if plan.form == CUSTOM else plan.parts),
    )


def _plan(options: argparse.Namespace, name: str) -> Plan:
    """The form of that name, changed by what was chosen; a changed form is called ``custom``."""
    if name not in FORMS:
        raise LookupError(f"a run of form {name!r} cannot be resumed: its command says what it measured")
    form = FORMS[name]()
    rows = chosen_rows(options.system, options.workload, form)
    changes = {
        "repetitions": options.repetitions,
        "latency_repetitions": options.repetitions,
        "drain_s": options.drain_seconds,
        "latency_s": options.seconds,
        "hold_s": options.hold_seconds,
        "rates": tuple(options.rate) or None,
        "shares": tuple(options.share) or None,
        "minutes": options.minutes,
        "most_events": options.events,
    }
    known = {name: value for name, value in changes.items() if value is not None}
    kinds = {part.partition(":")[0] for part in options.part}
    if unknown := kinds - set(MEASUREMENTS):
        raise LookupError(f"there is no part {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    if not known and rows == form.rows and kinds <= set(form.measurements):
        return form
    loaded = tuple(row[0].name for row in rows)
    return replace(form, form=CUSTOM, rows=rows, loaded=loaded, measurements=tuple(kinds) or form.measurements, **known)


def _page(*, check: bool) -> int:
    """Write the page, its plots and the README's table, or say whether they are what the newest results give."""
    if not check:
        _write_page()
        return 0
    stale = document.stale(PAGE, PLOTS, RESULTS) + excerpt.stale(README, RESULTS)
    for path in stale:
        print(f"{_shown(path)} is not what the newest results give: python -m benchmarks --page", file=sys.stderr)
    return 1 if stale else 0


def _write_page() -> None:
    written = document.write(PAGE, PLOTS, RESULTS) + excerpt.write(README, RESULTS)
    print(f"written: {', '.join(_shown(one) for one in written)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to measure")
    form = what.add_mutually_exclusive_group()
    form.add_argument("--form", choices=list(FORMS), default="quick", help="start from this selection (quick)")
    form.add_argument("--resume", type=Path, metavar="FILE", help="add to this file what it still lacks")
    what.add_argument("--part", action="append", default=[], metavar="NAME", help="only these parts (repeatable)")
    what.add_argument(
        "--system", action="append", default=[], metavar="NAME[:VARIANT]", help="only these systems (repeatable)"
    )
    what.add_argument(
        "--workload", action="append", default=[], choices=list(WORKLOADS), help="only these (repeatable)"
    )
    how = parser.add_argument_group("how much of it")
    how.add_argument("--repetitions", type=int, metavar="N", help="drains, or windows, of what is repeated")
    how.add_argument("--drain-seconds", type=float, metavar="S", help="about how long a drain should take")
    how.add_argument("--events", type=int, metavar="N", help="no backlog larger than this, for a try")
    how.add_argument("--rate", type=int, action="append", default=[], metavar="N", help="latency at N events/s")
    how.add_argument("--share", type=int, action="append", default=[], metavar="P", help="latency at P %% of capacity")
    how.add_argument("--seconds", type=float, metavar="S", help="length of a latency window")
    how.add_argument("--hold-seconds", type=float, metavar="S", help="how long a rate must hold to count as capacity")
    how.add_argument("--minutes", type=float, metavar="M", help="length of the long run")
    where = parser.add_argument_group("other")
    where.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the figures go")
    where.add_argument("--list", action="store_true", help="print systems, workloads and parts, and stop")
    where.add_argument("--show", type=Path, metavar="FILE", help="print the tables of a file, and stop")
    where.add_argument(
        "--page", action="store_true", help="write docs/performance.md, its plots, README's table, and stop"
    )
    where.add_argument("--check-page", action="store_true", help="fail where they are out of date, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
