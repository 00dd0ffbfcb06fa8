"""``headrace run``: start the worker and stay until it has drained."""

from __future__ import annotations

import os

from worker.commands.options import DEFAULT_CONFIG, ConfigOption
from worker.errors import ConfigError


def run(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Score events until SIGTERM or SIGINT, then drain."""
    import asyncio

    from worker.config_file import load_with_origins

    loaded = load_with_origins(config, os.environ)
    from worker.codec import with_lines

    try:
        if loaded.settings.run.processes > 1:
            from worker.supervisor import Supervisor

            return asyncio.run(Supervisor(loaded.settings).run())
        from worker.app import run as run_worker

        return asyncio.run(run_worker(loaded.settings))
    except ConfigError as error:
        raise with_lines(error, loaded.origins) from error
