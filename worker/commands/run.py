"""``headrace run``: start the worker and stay until it has drained."""

from __future__ import annotations

import os

from worker.commands.options import DEFAULT_CONFIG, ConfigOption


def run(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Score events until SIGTERM or SIGINT, then drain."""
    import asyncio

    from worker.config_file import load

    settings = load(config, os.environ)
    from worker.app import run as run_worker

    return asyncio.run(run_worker(settings))
