"""The systems that are compared. Each is a folder here with the program and, in its docstring, what its variants are.

The harness starts a system as a process of its own and tells it by environment variables what to do:

| Variable | Meaning |
|---|---|
| ``BENCH_BOOTSTRAP`` | the broker, host:port |
| ``BENCH_INPUT``, ``BENCH_OUTPUT`` | topics with the same number of partitions |
| ``BENCH_GROUP`` | consumer group; it begins at the earliest offset |
| ``BENCH_MODEL`` | the model, an ONNX file |
| ``BENCH_FIELDS`` | event fields, all numbers, that form the input ``features`` in this order |
| ``BENCH_ID`` | the field that identifies an event |
| ``BENCH_DELIVERY`` | the variant |
| ``BENCH_STATE`` | a folder of its own, empty at the first start |
| ``BENCH_METRICS_PORT`` | a free port, for a system that wants to serve its metrics |

For each event it writes ``{ID: ..., "score": ...}`` under the event's key (an echo writes the event), commits as
its variant says, and runs until SIGTERM.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.workloads import WORKLOADS

# Those by which Headrace is judged.
LEAST, EXACTLY, TWO = "headrace:at_least_once", "headrace:exactly_once", "headrace:two_processes"
ECHO, UNSAFE, SAFE = "echo_aiokafka:pipelined", "confluent_loop:unsafe", "confluent_loop:safe"
NUMERIC = tuple(workload.name for workload in WORKLOADS.values() if workload.is_numeric)


class Kind(StrEnum):
    """What a system is in the comparison."""

    LIMIT = "limit"
    ALTERNATIVE = "alternative"
    OURS = "ours"


class Runtime(StrEnum):
    """What runs it."""

    PROJECT = "the project's own environment"
    PYTHON = "Python, an environment of its own"
    JAVA = "Java"


@dataclass(frozen=True, slots=True)
class System:
    """A system: its title in tables, its variants with theirs, and the workloads that it can do.

    ``transactional`` names the variants whose outputs count once they are committed.
    """

    name: str
    title: str
    kind: Kind
    runtime: Runtime
    variants: dict[str, str]
    workloads: tuple[str, ...] = NUMERIC
    transactional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """One variant of a system: what a row of the tables is."""

    system: System
    variant: str

    @property
    def name(self) -> str:
        """As it is chosen on the command line."""
        return f"{self.system.name}:{self.variant}"

    @property
    def title(self) -> str:
        """As it stands in tables."""
        variant = self.system.variants[self.variant]
        return f"{self.system.title}, {variant}" if variant else self.system.title

    @property
    def is_transactional(self) -> bool:
        """True where readers must be read_committed."""
        return self.variant in self.system.transactional


_ALL = tuple(WORKLOADS)
_ONCE = {"at_least_once": "at least once", "exactly_once": "exactly once"}
SYSTEMS = {
    system.name: system
    for system in (
        System(
            "echo_aiokafka",
            "echo, aiokafka",
            Kind.LIMIT,
            Runtime.PROJECT,
            {"pipelined": "pipelined", "step": "step by step"},
            _ALL,
        ),
        System("echo_confluent", "echo, confluent-kafka", Kind.LIMIT, Runtime.PROJECT, {"background_commit": ""}, _ALL),
        System(
            "headrace",
            "**Headrace**",
            Kind.OURS,
            Runtime.PROJECT,
            _ONCE | {"two_processes": "two processes"},
            _ALL,
            frozenset({"exactly_once"}),
        ),
        System(
            "confluent_loop",
            "hand-written loop",
            Kind.ALTERNATIVE,
            Runtime.PYTHON,
            {"unsafe": "unsafe", "safe": "safe"},
        ),
        System(
            "tutorial_loop",
            "tutorial loop",
            Kind.ALTERNATIVE,
            Runtime.PYTHON,
            {"auto_commit": "automatic commit", "commit_each": "commit each"},
        ),
        System(
            "quix",
            "Quix Streams",
            Kind.ALTERNATIVE,
            Runtime.PYTHON,
            {"message": "per message", "batch": "batch sink"},
        ),
        System("faststream", "FastStream", Kind.ALTERNATIVE, Runtime.PYTHON, {"at_least_once": "at least once"}),
        System("bytewax", "Bytewax", Kind.ALTERNATIVE, Runtime.PYTHON, {"batch": "batches", "collect": "collect"}),
        System("faust", "Faust", Kind.ALTERNATIVE, Runtime.PYTHON, {"at_least_once": "at least once"}),
        System(
            "kafka_streams",
            "Kafka Streams (Java)",
            Kind.ALTERNATIVE,
            Runtime.JAVA,
            _ONCE | {"one_by_one": "batches of one"},
            transactional=frozenset({"exactly_once"}),
        ),
        System(
            "java_loop",
            "hand-tuned loop (Java)",
            Kind.ALTERNATIVE,
            Runtime.JAVA,
            _ONCE,
            transactional=frozenset({"exactly_once"}),
        ),
    )
}


def every_entry() -> list[Entry]:
    """Every variant of every system."""
    return [one for system in SYSTEMS.values() for one in entries(system)]


def entries(system: System) -> list[Entry]:
    """Every variant of a system."""
    return [Entry(system, variant) for variant in system.variants]


def entry(name: str) -> Entry:
    """The entry of ``system:variant``; raises LookupError that names what there is."""
    system, _, variant = name.partition(":")
    if system not in SYSTEMS:
        raise LookupError(f"there is no system {system!r}; there are {', '.join(SYSTEMS)}")
    if variant not in SYSTEMS[system].variants:
        raise LookupError(f"{system} has no variant {variant!r}; it has {', '.join(SYSTEMS[system].variants)}")
    return Entry(SYSTEMS[system], variant)
