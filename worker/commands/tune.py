"""``headrace tune``: search for better values of the keys that trade processor time for latency."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json
from worker.errors import EnvironmentFault, Problem

_FAILED = 1
_INTERRUPTED = 130

LimitOption = Annotated[
    float, typer.Option("--latency-p99", min=0.001, help="Most p99 latency in seconds that a candidate may have.")
]
RateOption = Annotated[
    float, typer.Option("--rate", min=10, max=200_000, help="Events per second of the steady stream.")
]
SampleOption = Annotated[
    Path | None, typer.Option("--sample", help="Events to replay, one JSON object a line [default: the demo's]")
]
BootstrapOption = Annotated[
    str | None,
    typer.Option(
        "--bootstrap", metavar="HOST:PORT", help="Test cluster to make temporary topics on [default: a mock in memory]"
    ),
]
ObjectiveOption = Annotated[
    Literal["cpu", "cpu-at-rate", "throughput"],
    typer.Option("--objective", help="Processor time per drained event or per event at the rate, or time to drain."),
]
TrialsOption = Annotated[int, typer.Option("--trials", min=1, max=1000, help="Candidates to measure.")]
RepeatsOption = Annotated[
    int, typer.Option("--repeats", min=2, max=50, help="Rounds in which the best are compared with the defaults.")
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=1, max=3600, help="How long a trial measures the steady stream.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Makes the search and the demo's events.")]
OutputOption = Annotated[
    Path, typer.Option("--output", help="Configuration to write; all figures and the plot go beside it.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the files of an earlier study.")]


def tune(  # noqa: PLR0913, PLR0917 # a parameter is an option of the command line
    latency_p99: LimitOption,
    config: ConfigOption = DEFAULT_CONFIG,
    rate: RateOption = 2000,
    sample: SampleOption = None,
    bootstrap: BootstrapOption = None,
    objective: ObjectiveOption = "cpu",
    trials: TrialsOption = 30,
    repeats: RepeatsOption = 5,
    seconds: SecondsOption = 10,
    seed: SeedOption = 42,
    output: OutputOption = Path("tuned.yaml"),
    force: ForceOption = False,
    json_output: JsonOption = False,
) -> int:
    """Search for better values of some keys by runs of the real worker, and compare them with the defaults."""
    require_tune_extra()
    from worker.config_file import load_with_origins
    from worker.tuning.files import Files
    from worker.tuning.report import lines
    from worker.tuning.session import Load, prepare, run
    from worker.tuning.trial import Objective, Plan

    variables = {} if bootstrap is None else {"HEADRACE__KAFKA__BOOTSTRAP_SERVERS": f"['{bootstrap}']"}
    loaded = load_with_origins(config, {**os.environ, **variables})
    files = Files(config, output, loaded)
    files.check(force=force)
    plan = Plan(latency_p99, Objective(objective), trials, repeats, seed)
    study, rig = prepare(loaded.settings, plan, Load(sample, rate, seconds, bootstrap))
    _prepare_process()
    try:
        run(study, rig, files, _tell)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: nothing is left running; what was measured is in {files.figures}\n")
        return _INTERRUPTED
    if not json_output:
        _write(lines(study))
    notes = files.finish(study)
    if json_output:
        emit_json(study.as_json())
    else:
        _write(notes)
    return 0 if study.keeps_limit else _FAILED


def require_tune_extra() -> None:
    """Raise EnvironmentFault, with the command to type, unless the packages of the extra are there."""
    try:
        import confluent_kafka  # noqa: F401 - only demo and tune need it
        import matplotlib as mpl  # noqa: F401 - only tune needs it
        import optuna  # noqa: F401 - only tune needs it
    except ImportError as error:
        problem = Problem(
            f"tune needs the package {error.name}, which is not installed",
            remedy="pip install 'headrace[tune]'  (in a checkout: make setup)",
            code="missing_extra",
        )
        raise EnvironmentFault(problem) from error


def _prepare_process() -> None:
    """Let every usual signal end the study in order, so that no worker and no topic stays."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    # The threads that send and read back measure latency and must not wait for each other.
    sys.setswitchinterval(0.001)


def _write(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
