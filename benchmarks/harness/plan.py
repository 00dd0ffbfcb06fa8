"""What a run measures: the forms, and what the command line makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.systems import (
    ECHO,
    EXACTLY,
    LEAST,
    SAFE,
    SYSTEMS,
    TWO,
    UNSAFE,
    Entry,
    Kind,
    entries,
    entry,
    every_entry,
)
from benchmarks.workloads import WORKLOADS

MEASUREMENTS = {
    "throughput": "drains of a backlog, interleaved, by workload",
    "crash": "kill -9 in mid drain",
    "standby": "starting, and what it costs to wait for events",
    "latency": "latency at fixed rates",
    "idle": "latency of batches of one, beside the echo's",
    "capacity": "own capacity, latency in shares of it, and a burst above it",
    "long": "latency over minutes at 70 % of own capacity",
}
FRAUD = "fraud"
IDLE = "idle"
IDLE_RATE = 100
# Windows of these are repeated, for targets compare them.
COMPARED = (ECHO, LEAST, EXACTLY)
# Drains of all systems are repeated so often, further ones are of those that the closest targets compare.
LEAST_REPETITIONS = 3
CLOSELY_COMPARED = (*COMPARED, TWO, UNSAFE, SAFE)
IDLERS = (ECHO, LEAST)
STARTED = (LEAST, EXACTLY, TWO)
# So long the broker lets a new group wait for more members.
REBALANCE_DELAY_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cases, and for how long.

    ``rows`` are pairs of entry and workload for the throughput. Of the other measurements, which are made on the
    first workload of each entry, ``loaded`` are those whose own capacity is searched.
    """

    form: str
    rows: tuple[tuple[Entry, str], ...]
    measurements: tuple[str, ...]
    loaded: tuple[str, ...] = ()
    repetitions: int = 5
    drain_s: float = 8.0
    latency_repetitions: int = 3
    latency_s: float = 20.0
    hold_s: float = 60.0
    warm_up_s: float = 30.0
    rates: tuple[int, ...] = (2000, 10_000)
    shares: tuple[int, ...] = (10, 40, 70, 90)
    minutes: float = 10.0
    most_events: int | None = None

    @property
    def loads(self) -> tuple[tuple[Entry, str], ...]:
        """One row per entry, on its first workload."""
        first: dict[str, tuple[Entry, str]] = {}
        for row in self.rows:
            first.setdefault(row[0].name, row)
        return tuple(first.values())

    @property
    def parts(self) -> tuple[str, ...]:
        """What is measured together: ``throughput:WORKLOAD``, and every other measurement."""
        drained = [f"throughput:{workload}" for workload in dict.fromkeys(row[1] for row in self.rows)]
        return tuple(
            part
            for name in MEASUREMENTS
            if name in self.measurements
            for part in (drained if name == "throughput" else [name])
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the result says of it, in types of JSON."""
        return {
            "repetitions": self.repetitions,
            "drain_s": self.drain_s,
            "latency_repetitions": self.latency_repetitions,
            "latency_s": self.latency_s,
            "hold_s": self.hold_s,
            "warm_up_s": self.warm_up_s,
            "rates": list(self.rates),
            "shares": list(self.shares),
            "minutes": self.minutes,
            "most_events": self.most_events,
        }


def quick() -> Plan:
    """Five minutes: Headrace between its limit and the hand-written loop, on the fraud events."""
    names = (ECHO, LEAST, EXACTLY, UNSAFE, SAFE)
    return Plan(
        form="quick",
        rows=tuple((entry(name), FRAUD) for name in names),
        measurements=("throughput", "latency"),
        repetitions=2,
        drain_s=4.0,
        latency_repetitions=1,
        latency_s=10.0,
        hold_s=10.0,
        warm_up_s=10.0,
        rates=(2000,),
    )


def full() -> Plan:
    """All but the long run: everything on the fraud events, limits and Headrace on all, the safe loop on trees."""
    rows = [(one, FRAUD) for one in every_entry()]
    rows += [
        (one, workload)
        for workload in WORKLOADS
        for one in every_entry()
        if workload != FRAUD
        and one.name != TWO
        and (one.system.kind is not Kind.ALTERNATIVE or _is_loop_on_trees(one, workload))
    ]
    return Plan(
        form="full",
        rows=tuple(rows),
        measurements=("throughput", "crash", "standby", "latency", "idle", "capacity"),
        loaded=(ECHO, LEAST, EXACTLY, SAFE, "kafka_streams:at_least_once"),
    )


def long() -> Plan:
    """Ten minutes of Headrace at 70 % of its capacity, and of the echo at the same rate."""
    return Plan(
        form="long",
        rows=((entry(LEAST), FRAUD), (entry(ECHO), FRAUD)),
        measurements=("long",),
    )


def _is_loop_on_trees(one: Entry, workload: str) -> bool:
    return one.system.name == "confluent_loop" and workload == "trees"


FORMS = {"quick": quick, "full": full, "long": long}


def chosen_rows(systems: Sequence[str], workloads: Sequence[str], form: Plan) -> tuple[tuple[Entry, str], ...]:
    """The rows that the command line chooses; what it leaves open is as in the form.

    ``systems`` are ``system`` or ``system:variant``. Raises LookupError for a name or a pair that does not exist.
    """
    if not systems and not workloads:
        return form.rows
    known = list(dict.fromkeys(row[0].name for row in form.rows))
    wanted = [entry(name) for name in known] if not systems else _entries(systems)
    kept = workloads or list(dict.fromkeys(row[1] for row in form.rows))
    rows = tuple((one, workload) for workload in kept for one in wanted if workload in one.system.workloads)
    if not rows:
        raise LookupError(f"none of {', '.join(systems or known)} can do {', '.join(kept)}")
    return rows


def chosen_parts(names: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """Of ``parts`` those that are named; ``throughput`` names every workload's. Raises LookupError for a wrong name."""
    for name in names:
        if not any(_names(name, part) for part in parts):
            raise LookupError(f"there is no part {name!r}; there are {', '.join(parts)}")
    return tuple(part for part in parts if not names or any(_names(name, part) for name in names))


def _names(name: str, part: str) -> bool:
    return part == name or part.startswith(f"{name}:")


def _entries(names: Sequence[str]) -> list[Entry]:
    found: list[Entry] = []
    for name in names:
        system, colon, _ = name.partition(":")
        found += [entry(name)] if colon or system not in SYSTEMS else entries(SYSTEMS[system])
    return found
