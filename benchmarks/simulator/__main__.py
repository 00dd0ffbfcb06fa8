"""``python -m benchmarks.simulator``: fit the simulator at 40 % of capacity, and see what it says of other loads.

Each load is run on a real Kafka by the harness's open loop; the simulator gets the times at which the events were
appended, and must say when their outputs will be. Ends with 1 where a prediction is off by more than it may be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.cluster import PARTITIONS
from benchmarks.harness.loads import WARM_UP_S, capacity, warm_up
from benchmarks.harness.loops import Look, Observation, observe
from benchmarks.harness.programs import Program
from benchmarks.harness.scrape import page
from benchmarks.simulator.comparison import Row, load_of, predict, real, table
from benchmarks.systems import LEAST, entry
from benchmarks.workloads import WORKLOADS
from worker.commands.simulate import rules_of
from worker.commands.simulate_inputs import machine_fields, measured, samples
from worker.core.simulation import Load, Machine, Rules
from worker.core.simulation_fit import fit
from worker.settings import Settings

FITTED, UNSEEN = 0.4, (0.1, 0.7, 0.9)
FIT_RECORDS = 100_000


def main(given: Sequence[str]) -> int:
    """Measure, fit, predict, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="fraud")
    parser.add_argument("--capacity", type=float, help="events/s that are held; default: searched")
    parser.add_argument("--drained", type=float, default=120_000, help="where the search begins, events/s of a drain")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each load")
    parser.add_argument("--out", type=Path, help="write figures and machine here, as JSON")
    options = parser.parse_args(given)
    with Bench() as bench:
        warm_up(bench)
        case = bench.case(entry(LEAST), WORKLOADS[options.workload])
        most = options.capacity or capacity(bench, case, options.drained, options.seconds).events_per_s
        if not most:
            raise SystemExit("no rate was held; give a lower --drained")
        print(f"capacity {most:.0f} events/s; fitting at {FITTED:.0%}", flush=True)
        machine, row = _fitted(bench, case, most, options.seconds)
        rows = [row]
        print("\n".join(table(rows)), flush=True)
        for share in UNSEEN:
            rows.append(_compared(bench, case, machine, (share, share * most), options.seconds))
            print(table(rows)[-1], flush=True)
    if options.out is not None:
        figures = [asdict(one) | {"errors": one.errors, "holds": one.holds} for one in rows]
        found = {"capacity": most, "machine": machine_fields(machine), "loads": figures}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(one.holds for one in rows[1:]) else 1


def _fitted(bench: Bench, case: Case, most: float, seconds: float) -> tuple[Machine, Row]:
    """The machine, from a run at the share that it is fitted at; and how well it says that very load."""
    seen = _observed(bench, case, FITTED * most, seconds)
    begin, end = seen.looks
    if begin is None or end is None:
        raise SystemExit("the worker did not show its metrics")
    whole = _load(case, seen)
    some = Load(whole.times_s[:FIT_RECORDS], whole.partitions[:FIT_RECORDS], whole.value_bytes)
    machine = fit(measured(end, begin, seconds), _rules(), some, most)
    return machine, _row(case, machine, FITTED, FITTED * most, seen)


def _compared(bench: Bench, case: Case, machine: Machine, at: tuple[float, float], seconds: float) -> Row:
    """One load, given as share and rate."""
    return _row(case, machine, *at, _observed(bench, case, at[1], seconds))


def _observed(bench: Bench, case: Case, rate: float, seconds: float) -> Observation:
    warm_up_s = WARM_UP_S[case.entry.system.runtime]
    seen = observe(bench, case, [(rate, warm_up_s + seconds)], (warm_up_s, warm_up_s + seconds), look=_look)
    if seen.tally.lost:
        raise SystemExit(f"{seen.tally.lost} events had no output")
    return seen


def _look(program: Program) -> Look:
    text = page(program.metrics_port)
    return None if text is None else samples(text)


def _row(case: Case, machine: Machine, share: float, rate: float, seen: Observation) -> Row:
    warm_up_s = WARM_UP_S[case.entry.system.runtime]
    window = seen.trace.window(seen.start_ms + warm_up_s * 1000, float("inf"))
    return Row(share, rate, real(window), predict(machine, _rules(), _load(case, seen), warm_up_s))


def _load(case: Case, seen: Observation) -> Load:
    return load_of(seen.trace, PARTITIONS, round(case.pool.event_bytes))


def _rules() -> Rules:
    """Of Headrace as the harness configures it: with its defaults."""
    sections: dict[str, dict[str, object]] = {
        "kafka": {"group_id": "g", "input_topics": ["in"], "output_topic": "out"},
        "event": {"schema": "/schema.json", "id_field": "id"},
        "model": {"path": "/model"},
    }
    return rules_of(Settings.model_validate(sections), padded=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
