"""``headrace demo``: the real worker on simulated card transactions, nothing else needed."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import JsonOption
from worker.commands.report import emit_json
from worker.errors import ConfigError, Problem

if TYPE_CHECKING:
    from worker.demo.session import Plan, Result

_FAILED = 1
_INTERRUPTED = 130

SecondsOption = Annotated[float, typer.Option("--seconds", min=1, max=3600, help="How long to send events.")]
RateOption = Annotated[float, typer.Option("--rate", min=1, max=200_000, help="Events per second.")]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, help="Makes the customers, terminals and frauds."),
]


def demo(
    seconds: SecondsOption = 20,
    rate: RateOption = 2000,
    seed: SeedOption = 42,
    json_output: JsonOption = False,
) -> int:
    """Run the worker on simulated card transactions and account for every record; stops by itself."""
    from worker.demo.cluster import require_demo_extra
    from worker.demo.session import Plan

    require_demo_extra()
    refuse_training_seed(seed)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    sys.setswitchinterval(0.001)  # the threads that send and read back measure latency and must not wait for drawing
    try:
        return _show(Plan(seconds, rate, seed), json_output=json_output)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing is left running\n")
        return _INTERRUPTED


def refuse_training_seed(seed: int) -> None:
    """Raise ConfigError for the one seed whose world the shipped model has seen."""
    from worker.demo.simulator import TRAINING_SEED

    if seed == TRAINING_SEED:
        problem = Problem(
            f"seed {seed} is the world that the demo's model was trained on, so its scores would flatter the model",
            remedy="choose any other seed",
            key="--seed",
            code="training_seed",
        )
        raise ConfigError(problem)


def _show(plan: Plan, *, json_output: bool) -> int:
    """Run and report: with ``json_output`` the result alone goes to standard output."""
    from worker.demo.view import summary

    result = _run(plan, json_output=json_output)
    if json_output:
        emit_json(result.report)
        for problem in result.problems:
            sys.stderr.write(f"{problem}\n")
    else:
        sys.stdout.write(summary(result))
    if result.problems:
        sys.stderr.write(f"the worker's last log lines:\n{result.log_tail}\n")
        return _FAILED
    return 0


def _run(plan: Plan, *, json_output: bool) -> Result:
    from rich.console import Console

    from worker.demo.session import run
    from worker.demo.view import LiveDisplay, PlainDisplay

    if json_output:
        return run(plan, PlainDisplay(sys.stderr))
    if not sys.stdout.isatty():
        return run(plan, PlainDisplay(sys.stdout))
    with LiveDisplay(Console()) as display:
        return run(plan, display)
