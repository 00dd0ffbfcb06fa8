"""Fuzz by coverage: ``python -m tests.fuzz [--target NAME] [--seconds N] [--keep] [--report] [--replay FILE ...]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz import campaign, report
from tests.fuzz.keeping import keep
from tests.fuzz.target import NAMES, load


def main() -> int:
    """0 where every oracle held, 1 where one did not, 3 where the machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Coverage-guided fuzzing.")
    parser.add_argument("--target", choices=NAMES, action="append", help="only this one; may be given more than once")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs [default: 60]")
    parser.add_argument("--keep", action="store_true", help="add the inputs that reach something new to the corpus")
    parser.add_argument("--report", action="store_true", help="write docs/fuzzing.md and docs/fuzzing.json")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="check these inputs, and nothing else")
    arguments = parser.parse_args()
    names: list[str] = arguments.target or list(NAMES)
    if arguments.replay:
        return replay(names, arguments.replay)
    lacking = campaign.missing()
    if lacking:
        sys.stderr.write(f"fuzz: {lacking}\n")
        return 3
    results = [fuzz(name, arguments.seconds, and_keep=arguments.keep) for name in names]
    if arguments.report:
        docs = campaign.PROJECT / "docs"
        command = f"make fuzz FUZZ_SECONDS={arguments.seconds}"
        report.write(results, command, docs / "fuzzing.md", docs / "fuzzing.json")
    return 1 if any(result.failed for result in results) else 0


def fuzz(name: str, seconds: int, *, and_keep: bool) -> campaign.Result:
    """One target, with its result on the terminal."""
    target = load(name)
    result = campaign.run(target, seconds)
    say(f"{name}: {result.executions:,} executions, {result.edges:,} edges, {len(result.crashes)} crashes")
    for crash in result.crashes:
        say(f"  replay: {Path(sys.executable).name} -m tests.fuzz --target {name} --replay {crash}")
    if result.failed:
        say(f"  exit code {result.exit_code}; the log is {result.log}")
    elif and_keep:
        say(f"  {len(keep(target))} inputs added to the corpus")
    return result


def replay(names: list[str], paths: list[Path]) -> int:
    """Check the inputs; the first that breaks its oracle ends with the traceback."""
    for name in names:
        target = load(name)
        for path in paths:
            target.check(path.read_bytes())
            say(f"{name}: {path} holds")
    return 0


def say(line: str) -> None:
    """A line on the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
