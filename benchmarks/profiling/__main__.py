"""Flame graphs of Headrace at work, by py-spy.

examples:
  python -m benchmarks.profiling                     a drain and 2,000 events/s, into docs/profiles
  python -m benchmarks.profiling --rate 50000        at another rate
  python -m benchmarks.profiling --system headrace:exactly_once --workload trees --out /tmp

The pictures count samples of threads that run, 200 a second: a call's width is its share of the processor time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import loads
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.loops import observe
from benchmarks.harness.places import PROJECT
from benchmarks.harness.plan import FRAUD
from benchmarks.harness.programs import Program
from benchmarks.systems import LEAST, entry, every_entry
from benchmarks.workloads import WORKLOADS

PICTURES = PROJECT / "docs" / "profiles"
SAMPLES_PER_S = 200
SETTLE_S = 5.0
POLL_S = 0.1
RATE = 2000
DRAIN_S = 5.0


class ProfileFailedError(RuntimeError):
    """There is no picture; the message says why."""


def main(given: Sequence[str] | None = None) -> int:
    """Draw what the arguments say: 0 done, 2 it could not be done."""
    options = _parser().parse_args(given)
    with Bench() as bench:
        case = bench.case(entry(options.system), WORKLOADS[options.workload])
        loads.warm_up(bench)
        try:
            for rate in options.rate or [RATE]:
                _at_rate(bench, case, rate, options.seconds, options.out / f"{_name(case)}-at-{rate}.svg")
            if not options.rate:
                _draining(bench, case, options.out / f"{_name(case)}-draining.svg")
        except ProfileFailedError as error:
            print(f"profiling: {error}", file=sys.stderr)
            return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ours = [one.name for one in every_entry() if one.system.name == "headrace"]
    parser.add_argument("--system", choices=ours, default=LEAST)
    parser.add_argument("--workload", choices=list(WORKLOADS), default=FRAUD)
    parser.add_argument(
        "--rate", type=int, action="append", help="events/s; may be repeated; default: 2000 and a drain"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look at a rate")
    parser.add_argument("--out", type=Path, default=PICTURES)
    return parser


def _at_rate(bench: Bench, case: Case, rate: int, seconds: float, path: Path) -> None:
    """The system under a constant load."""

    def look(program: Program) -> None:
        _record(program, seconds, f"{case.entry.system.name} at {rate:,} events/s", path)

    observe(bench, case, [(rate, SETTLE_S + seconds)], [SETTLE_S], look=look)


def _draining(bench: Bench, case: Case, path: Path) -> None:
    """The system while it drains a backlog."""
    size = bench.sizes(case.pool)[-1]
    source, target = bench.cluster.backlog(case.workload, case.pool, size), bench.cluster.create_topic("out")
    with bench.program(case, source, target) as program:
        program.start()
        while not bench.cluster.written(target):
            program.check()
            time.sleep(POLL_S)
        _record(program, DRAIN_S, f"{case.entry.system.name} draining a backlog", path)
        if bench.cluster.written(target) >= size:
            raise ProfileFailedError("the backlog was drained before the picture was complete")


def _record(program: Program, seconds: float, title: str, path: Path) -> None:
    """Sample the process and write the picture, without paths of this machine."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.is_file():
        raise ProfileFailedError(f"{spy.name} is not installed; `make setup` installs it")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"--duration": f"{seconds:.0f}", "--rate": str(SAMPLES_PER_S), "--format": "flamegraph", "--output": path}
    arguments = [str(part) for option in options.items() for part in option]
    done = subprocess.run(
        [str(spy), "record", "--pid", str(program.pid), *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode != 0 or not path.is_file():
        raise ProfileFailedError(f"py-spy failed; it may need the right to trace processes:\n{done.stderr[-2000:]}")
    path.write_text(_shown(path.read_text(), title))
    print(f"written: {path}")


def _shown(picture: str, title: str) -> str:
    """With a title of ours; a frame names its file below the project, or below its package."""
    # The environment may lie within the project.
    for root in (f"{sys.prefix}/", f"{sys.base_prefix}/", f"{PROJECT}/"):
        picture = picture.replace(root, "")
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, picture)


def _name(case: Case) -> str:
    return f"{case.entry.name.replace(':', '-').replace('_', '-')}-{case.workload.name}"


if __name__ == "__main__":
    sys.exit(main())
