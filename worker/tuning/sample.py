"""The events that a trial replays: lines of a file, or the demo's transactions where the schema is the demo's."""

from __future__ import annotations

from pathlib import Path

from worker import resources
from worker.errors import ConfigError, Problem

DEMO_SCHEMA = "schemas/transaction.schema.json"
_DEMO_EVENTS = 5_000
# A sample is held in memory; more than this does not make it more typical.
_MAX_BYTES = 256 << 20


def read_sample(path: Path) -> list[bytes]:
    """The lines of ``path``, one event each, blank ones left out; raises ConfigError where there is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unusable(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise _unusable(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
    events = [line for line in content.split(b"\n") if line.strip()]
    if not events:
        raise _unusable(f"{path} holds no event")
    return events


def demo_sample(schema: Path, seed: int) -> list[bytes]:
    """Simulated transactions of the world that ``seed`` makes; raises ConfigError where ``schema`` is another."""
    from worker.demo import events, simulator

    if schema.read_bytes() != resources.path(DEMO_SCHEMA).read_bytes():
        raise _unusable(f"there is no sample of events for {schema}")
    return events.encode(simulator.after_warm_up(seed, _DEMO_EVENTS))


def _unusable(message: str) -> ConfigError:
    remedy = "name a file with one JSON event a line, such as some thousands of your own: --sample events.jsonl"
    return ConfigError(Problem(message, remedy, key="--sample", code="sample"))
