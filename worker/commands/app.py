"""The command ``headrace``: its sub-commands, and the one place where failures become words and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from worker.commands import check, config, demo, dlq, model, produce_sample, run, simulate, topics, tune, version
from worker.commands.report import emit_json, emit_problems_json, print_problems
from worker.errors import HeadraceError, Problem

USAGE_EXIT_CODE = 2
BUG_EXIT_CODE = 1

app = typer.Typer(
    name="headrace",
    help="Streaming inference worker: Kafka in, micro-batches through ONNX Runtime, scored events out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("check")(check.check)
app.command("demo")(demo.demo)
app.add_typer(model.app, name="model")
app.add_typer(config.app, name="config")
app.add_typer(simulate.app, name="simulate")
app.add_typer(topics.app, name="topics")
app.add_typer(dlq.app, name="dlq")
app.command("produce-sample")(produce_sample.produce_sample)
app.command("tune")(tune.tune)
app.command("version")(version.version)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a command returns its own code, or None for 0."""
    as_json = "--json" in arguments
    try:
        result = get_command(app).main(args=list(arguments), prog_name="headrace", standalone_mode=False)
    except HeadraceError as error:
        _report(error.problems, as_json=as_json)
        return error.exit_code
    except TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a command group without a command: the message is its help
            sys.stderr.write(message + "\n")
        else:
            _report([Problem(message, "headrace --help lists what there is", code="usage")], as_json=as_json)
        return USAGE_EXIT_CODE
    except Exception as error:  # noqa: BLE001 - the last resort: whatever arrives here is a bug, and says so
        traceback.print_exc()
        sys.stderr.write("This is a bug in headrace: please report it with the lines above.\n")
        if as_json:
            problem = {"file": "", "line": 0, "key": "", "code": "bug", "message": repr(error), "remedy": ""}
            emit_json({"ok": False, "problems": [problem]})
        return BUG_EXIT_CODE
    return result if isinstance(result, int) else 0


def _report(problems: Sequence[Problem], *, as_json: bool) -> None:
    if as_json:
        emit_problems_json(problems)
    else:
        print_problems(problems)
