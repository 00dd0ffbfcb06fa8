"""``headrace topics``: prepare the topics that ``run`` needs."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json, print_problems, problem_fields
from worker.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from worker.adapters.kafka_ensure import Ensured, TopicOutcome

_WORDS = {"exists": "exists", "created": "created", "would_create": "would create", "failed": "failed"}

PartitionsOption = Annotated[
    int | None,
    typer.Option("--partitions", min=1, help="Partitions of a new input or output topic [default: the broker's]"),
]
ReplicationOption = Annotated[
    int | None, typer.Option("--replication-factor", min=1, help="Copies of a new topic [default: the broker's]")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be created; create nothing.")]

app = typer.Typer(help="Prepare topics.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def topics() -> None:
    """Prepare topics."""


@app.command("ensure")
def ensure(
    config: ConfigOption = DEFAULT_CONFIG,
    partitions: PartitionsOption = None,
    replication_factor: ReplicationOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> int:
    """Create the missing input, output and dead-letter topics; change and delete none."""
    from worker.config_file import load_with_origins

    loaded = load_with_origins(config, os.environ)
    from worker.adapters.kafka_ensure import ensure_topics
    from worker.codec import with_lines

    try:
        ensured = ensure_topics(loaded.settings, partitions, replication_factor, dry_run=dry_run)
    except ConfigError as error:
        raise with_lines(error, loaded.origins) from error
    if json_output:
        _emit(ensured)
    else:
        _print(ensured)
    return BrokerError.exit_code if ensured.problems else 0


def _emit(ensured: Ensured) -> None:
    emit_json(
        {
            "ok": not ensured.problems,
            "topics": [asdict(topic) for topic in ensured.topics],
            "problems": [problem_fields(problem) for problem in ensured.problems],
            "notes": list(ensured.notes),
        }
    )


def _print(ensured: Ensured) -> None:
    for topic in ensured.topics:
        sys.stdout.write(_line(topic) + "\n")
    for note in ensured.notes:
        sys.stderr.write(f"note: {note}\n")
    print_problems(ensured.problems)


def _line(topic: TopicOutcome) -> str:
    details = []
    if topic.partitions:
        details.append(f"{topic.partitions} partition{'s' if topic.partitions > 1 else ''}")
    if topic.replication_factor is not None:
        details.append(f"replication factor {topic.replication_factor}")
    details += [f"{name}={value}" for name, value in topic.config.items()]
    return f"{topic.name}: {_WORDS[topic.outcome]}" + (f" ({', '.join(details)})" if details else "")
