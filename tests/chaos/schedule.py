"""Which faults, how often, in which order: fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.chaos import faults
from tests.chaos.faults import Fault

GUARANTEES = ("at_least_once", "exactly_once")

KILLS: Mapping[str, Fault] = {
    "worker kill -9, random moment": faults.kill_worker,
    "worker kill -9, outputs under way": faults.kill_while_producing,
    "worker kill -9, after produce, before the offset commit": faults.kill_before_commit,
    "worker kill -9, after the commit, before the answer": faults.kill_unheard_commit,
    "worker kill -9, during drain": faults.kill_in_drain,
}
KILLS_IN_TRANSACTION: Mapping[str, Fault] = {
    "worker kill -9, between offset commit and EndTxn": faults.kill_before_end,
}
FREEZES: Mapping[str, Fault] = {
    "SIGSTOP beyond the session, SIGCONT": faults.zombie,
    "SIGSTOP with the offset commit under way, SIGCONT": faults.zombie_commits,
}
MODEL: Mapping[str, Fault] = {"model hangs through a rebalance": faults.model_hangs}
RESTARTS: Mapping[str, Fault] = {
    "rolling restart by SIGTERM": faults.rolling_restart,
    "scale out and in": faults.scale_out_and_in,
    "scale 1 to 4 to 1": faults.scale_one_four_one,
}
BROKERS: Mapping[str, Fault] = {
    "broker kill -9, any": faults.kill_any_broker,
    "broker kill -9, controller": faults.kill_controller,
    "broker kill -9, group coordinator": faults.kill_coordinator,
    "broker kill -9, partition leader": faults.kill_leader,
}
NETWORK: Mapping[str, Fault] = {
    "network: 500 ms latency": faults.latency,
    "network: cut shorter than the session": faults.cut_short,
    "network: cut longer than the session": faults.cut_long,
    "network: half-open connections": faults.half_open,
    "slow broker": faults.slow_broker,
}
ANSWERS: Mapping[str, Fault] = {
    "storage errors on produce": faults.storage_errors,
    "garbled answers": faults.garbled_answers,
}
TOPICS: Mapping[str, Fault] = {
    "dead-letter topic refusing": faults.dead_letters_refused,
    "partitions added while running": faults.partitions_added,
    "output topic deleted and created again": faults.output_recreated,
}
FAULTS: Mapping[str, Fault] = {
    **KILLS,
    **KILLS_IN_TRANSACTION,
    **FREEZES,
    **MODEL,
    **RESTARTS,
    **BROKERS,
    **NETWORK,
    **ANSWERS,
    **TOPICS,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign: what it strikes with, on how many nodes and workers, under which load."""

    seed: int
    guarantee: str
    faults: tuple[str, ...]
    nodes: int = 1
    workers: int = 2
    rate: int = 800
    partitions: int = 8
    records: int = 0


def short(guarantee: str, seed: int = 1) -> Plan:
    """About a minute: every kind of crash and a zombie, one node."""
    exactly_once = guarantee == "exactly_once"
    kills = [*KILLS, *(KILLS_IN_TRANSACTION if exactly_once else ())]
    return Plan(seed, guarantee, (*kills, *FREEZES, *list(RESTARTS)[:1], *ANSWERS), rate=500)


def full(guarantee: str, seed: int = 1, *, nodes: int = 3) -> Plan:
    """The whole table, mixed by the seed."""
    rng = random.Random(seed)
    kills = [*KILLS, *(KILLS_IN_TRANSACTION if guarantee == "exactly_once" else ())]
    chosen = [
        *_spread(rng, kills, 44),
        *_spread(rng, list(FREEZES), 12),
        *_spread(rng, list(MODEL), 3),
        *_spread(rng, list(RESTARTS), 22),
        *_spread(rng, list(BROKERS), 12),
        *_spread(rng, list(NETWORK), 12),
        *_spread(rng, list(ANSWERS), 6),
        *TOPICS,
    ]
    rng.shuffle(chosen)
    return Plan(seed, guarantee, tuple(chosen), nodes=nodes, workers=3, rate=900, records=1_000_000)


def _spread(rng: random.Random, names: list[str], times: int) -> list[str]:
    """``times`` names, each about equally often."""
    return [*(names * (times // len(names))), *rng.sample(names, times % len(names))]


def changed(plan: Plan, names: list[str] | None, nodes: int | None, records: int | None) -> Plan:
    """The plan with what is given instead of its own."""
    if names:
        plan = replace(plan, faults=tuple(names), records=0)
    return replace(
        plan,
        nodes=plan.nodes if nodes is None else nodes,
        records=plan.records if records is None else records,
    )
