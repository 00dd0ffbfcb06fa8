"""Every exception of the worker, sorted by who must act on it.

    HeadraceError
     +-- ConfigError         operator: fix the configuration or the event schema     exit 2
     +-- EnvironmentFault    operator: install or enable what is missing             exit 3
     +-- BrokerError         operator: broker, topics, permissions, offsets          exit 4
     +-- BundleError         model owner: fix the bundle                             exit 5
     +-- ModelError          isolation: split the batch until the culprit is alone
     +-- EngineFault         orchestrator: the engine fails on known good rows       exit 5

Anything else that escapes is a bug of ours and ends the process with exit code 1. A refused record is no
exception: it is a value, ``worker.core.records.Refusal``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it stands, and what to write instead.

    ``file`` is a path, ``environment`` for a variable, or empty where no file is at fault. ``line`` counts from
    1 (0: unknown; a missing key carries its section's line). ``key`` is a dotted path, the variable's name, or a
    schema's JSON pointer. ``code`` is a stable, machine-readable word such as ``unknown_key``.
    """

    message: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    key: str = ""
    code: str = "invalid"


class HeadraceError(Exception):
    """Base of every failure that a person can act on; carries all problems found, not just the first."""

    exit_code = 1

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            problem if isinstance(problem, Problem) else Problem(problem) for problem in problems
        )
        super().__init__(*problems)

    def __str__(self) -> str:
        return "; ".join(problem.message for problem in self.problems)


class ConfigError(HeadraceError):
    """The configuration or the event schema cannot be used as it stands."""

    exit_code = 2


class EnvironmentFault(HeadraceError):
    """The machine lacks something: a package, a device, a provider, a free port."""

    exit_code = 3


class BrokerError(HeadraceError):
    """Kafka refuses, misses a topic, or stayed away past a deadline."""

    exit_code = 4


class BundleError(HeadraceError):
    """The model bundle is damaged, unsafe or does not fit the event schema."""

    exit_code = 5


class EngineFault(HeadraceError):
    """The engine fails even on rows that are known to be good: not the data's fault."""

    exit_code = 5


class ModelError(Exception):
    """A model call raised on a batch; some row of it may be the culprit."""
