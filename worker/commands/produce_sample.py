"""``headrace produce-sample``: synthetic card transactions for a trial on one's own Kafka."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from worker.commands.demo import SeedOption, refuse_training_seed
from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json

_INTERRUPTED = 130

CountOption = Annotated[int, typer.Option("--count", "-n", min=1, max=10_000_000, help="How many transactions.")]
RateOption = Annotated[
    float | None, typer.Option("--rate", min=0.1, help="Transactions per second [default: as fast as possible]")
]


def produce_sample(
    config: ConfigOption = DEFAULT_CONFIG,
    count: CountOption = 1000,
    rate: RateOption = None,
    seed: SeedOption = 42,
    json_output: JsonOption = False,
) -> int:
    """Send synthetic card transactions to the first input topic; the same seed sends the same ones."""
    refuse_training_seed(seed)
    import asyncio

    from worker.config_file import load

    section = load(config, os.environ).kafka
    from worker.demo.sample import Progress, send_sample

    topic, progress, code = section.input_topics[0], Progress(), 0
    try:
        asyncio.run(send_sample(section, topic, count, rate, seed, progress))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if json_output:
        emit_json(
            {
                "topic": topic,
                "sent": progress.sent,
                "acknowledged": progress.acknowledged,
                "seconds": round(progress.seconds, 3),
            }
        )
    else:
        sys.stdout.write(
            f"{topic}: {progress.acknowledged:,} transactions sent and acknowledged in {progress.seconds:.1f} s\n"
        )
    return code
