"""How long the broker and the worker stood still, by their own account. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

PAUSE = re.compile(r"^\[(\S+?)\].* Pause .* (\d+\.\d+)ms$", re.MULTILINE)
LOOP_BUCKET = "loop|"
"""Begins the names of the samples that count heartbeats by their delay: ``loop|BOUND``, bounds in seconds."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of ``took_ms`` that ended at ``end_ms`` since 1970."""

    end_ms: float
    took_ms: float


def broker_pauses(text: str) -> list[Pause]:
    """The pauses in a log that Java wrote with ``-Xlog:gc:file=...:time``."""
    return [Pause(datetime.fromisoformat(at).timestamp() * 1000, float(took)) for at, took in PAUSE.findall(text)]


def longest_ms(pauses: Sequence[Pause], start_ms: float, stop_ms: float) -> float:
    """The longest pause that lay at least partly between two times; 0 without one."""
    inside = (one.took_ms for one in pauses if one.end_ms > start_ms and one.end_ms - one.took_ms < stop_ms)
    return max(inside, default=0.0)


def loop_pause_ms(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """An upper bound of the longest delay of a heartbeat from one look at the metrics to the next.

    It is the bound of the highest bucket that grew; delays above the last bound count as that. None where no
    heartbeat was counted.
    """
    bounds = sorted((float(name.removeprefix(LOOP_BUCKET)), name) for name in after if name.startswith(LOOP_BUCKET))
    added = [after[name] - before.get(name, 0.0) for _, name in bounds]
    if not added or not added[-1]:
        return None
    finite = [bound for bound, _ in bounds[:-1]]
    return 1000 * next((bound for bound, count in zip(finite, added, strict=False) if count == added[-1]), finite[-1])
