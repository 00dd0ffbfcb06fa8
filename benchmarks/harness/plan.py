"""What a run measures: the two forms, and what the command line makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.systems import SYSTEMS, Entry, Kind, entries, entry
from benchmarks.workloads import WORKLOADS

MEASUREMENTS = ("throughput", "crash", "latency", "burst", "long")
FRAUD = "fraud"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cases, and for how long.

    ``rows`` are pairs of entry and workload for the throughput. Of the other measurements, which are made on the
    first workload of each entry, ``loaded`` are those with loads in shares of their own capacity.
    """

    form: str
    rows: tuple[tuple[Entry, str], ...]
    loaded: tuple[str, ...]
    measurements: tuple[str, ...]
    repetitions: int
    drain_s: float
    latency_s: float
    hold_s: float
    rates: tuple[int, ...]
    shares: tuple[int, ...]
    minutes: float
    most_events: int | None = None
    chosen: dict[str, object] = field(default_factory=dict)

    @property
    def loads(self) -> list[tuple[Entry, str]]:
        """One row per entry, on its first workload."""
        first: dict[str, tuple[Entry, str]] = {}
        for row in self.rows:
            first.setdefault(row[0].name, row)
        return list(first.values())


def present() -> list[Entry]:
    """Every entry whose program is there."""
    return [one for system in SYSTEMS.values() if system.is_present for one in entries(system)]


def quick() -> Plan:
    """Five minutes: Headrace between its limit and the hand-written loop, on the fraud events."""
    names = (
        "echo_aiokafka:pipelined",
        "headrace:at_least_once",
        "headrace:exactly_once",
        "confluent_loop:unsafe",
        "confluent_loop:safe",
    )
    return Plan(
        form="quick",
        rows=tuple((entry(name), FRAUD) for name in names),
        loaded=(),
        measurements=("throughput", "latency"),
        repetitions=2,
        drain_s=4.0,
        latency_s=10.0,
        hold_s=10.0,
        rates=(2000,),
        shares=(),
        minutes=0.0,
    )


def full() -> Plan:
    """About two hours: everything on the fraud events, limits and Headrace on all, the hand-written loop on trees."""
    rows = [(one, FRAUD) for one in present()]
    rows += [
        (one, workload)
        for workload in WORKLOADS
        for one in present()
        if workload != FRAUD and (one.system.kind is not Kind.ALTERNATIVE or _is_loop_on_trees(one, workload))
    ]
    return Plan(
        form="full",
        rows=tuple(rows),
        loaded=(
            "echo_aiokafka:pipelined",
            "headrace:at_least_once",
            "headrace:exactly_once",
            "confluent_loop:safe",
            "kafka_streams:at_least_once",
        ),
        measurements=MEASUREMENTS,
        repetitions=5,
        drain_s=10.0,
        latency_s=30.0,
        hold_s=60.0,
        rates=(2000, 10_000),
        shares=(10, 40, 70, 90),
        minutes=10.0,
    )


def _is_loop_on_trees(one: Entry, workload: str) -> bool:
    return one.system.name == "confluent_loop" and workload == "trees"


FORMS = {"quick": quick, "full": full}


def chosen_rows(systems: list[str], workloads: list[str], form: Plan) -> tuple[tuple[Entry, str], ...]:
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


def _entries(names: list[str]) -> list[Entry]:
    found: list[Entry] = []
    for name in names:
        system, colon, _ = name.partition(":")
        if system in SYSTEMS and not SYSTEMS[system].is_present:
            raise LookupError(f"benchmarks/systems/{system} holds no program")
        found += [entry(name)] if colon or system not in SYSTEMS else entries(SYSTEMS[system])
    return found
