"""How a campaign goes through its parts; drains and loads are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.harness import campaign, environments, loads
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.campaign import Campaign
from benchmarks.harness.places import SYSTEMS as FOLDER
from benchmarks.harness.plan import LEAST_REPETITIONS, Plan, full, quick
from benchmarks.harness.results import Drain, Latency, Result, Standby
from benchmarks.systems import ECHO, EXACTLY, LEAST, SYSTEMS, Entry, System, entry
from benchmarks.workloads import Pool, Workload
from tests.benchmarks import samples

POOL = Pool(Path(), [b"key"], [b'"x":1}'], np.zeros(1, np.float32), "score")
ANCHOR = 0


class Stage:
    """Stands in for broker and systems, and notes what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drained: list[tuple[str, int]] = []
        self.sizes: list[tuple[str, int]] = []
        self.loaded: list[tuple[str, str, int]] = []
        self.forgotten: list[str] = []
        self.warmed_up: list[float] = []
        self.cannot_drain: set[str] = set()
        self.cannot_install: set[str] = set()
        self.before_drain: Callable[[], None] = lambda: None
        bench = Bench()
        monkeypatch.setattr(Bench, "case", lambda _, one, workload: self.case(one, workload))
        monkeypatch.setattr(Bench, "forget", lambda _, workload: self.forgotten.append(workload))
        monkeypatch.setattr(Pool, "model_sha256", property(lambda _: "0" * 64))
        monkeypatch.setattr(campaign, "drain", self.drain)
        monkeypatch.setattr(loads, "latency", self.latency)
        monkeypatch.setattr(loads, "warm_up", self.warm_up)
        monkeypatch.setattr(environments, "command", self.command)
        self.bench = bench
        self.kept = 0

    def keep(self) -> None:
        """Count what was written to the disk."""
        self.kept += 1

    @staticmethod
    def case(one: Entry, workload: Workload) -> Case:
        """The case, with next to no events."""
        return Case(one, workload, POOL)

    def command(self, system: System) -> list[str]:
        """Installed, or not."""
        if system.name in self.cannot_install:
            raise environments.EnvironmentFailedError(f"{system.name}: no wheel")
        return []

    def drain(self, _bench: Bench, case: Case, size: int, repetition: int) -> Drain:
        """A drain at 10,000 events/s, unless it fails."""
        self.before_drain()
        self.drained.append((case.entry.name, repetition))
        self.sizes.append((case.entry.name, size))
        if case.entry.name in self.cannot_drain:
            raise RuntimeError(f"{case.entry.name} ended with exit code 1 after {size} events")
        made = samples.drain(case.entry.name, repetition, 10_000.0, 5.0)
        return msgspec.structs.replace(made, workload=case.workload.name)

    def latency(self, _: Bench, case: Case, load: str, repetition: int, rate: float, seconds: float) -> Latency:
        """A window."""
        self.loaded.append((case.entry.name, load, repetition))
        return samples.latency(case.entry.name, load, 1.0, repetition=repetition, rate=rate, seconds=seconds)

    def warm_up(self, _: Bench, seconds: float) -> None:
        """The load before anything is measured."""
        assert not self.drained
        self.warmed_up.append(seconds)

    def run(self, plan: Plan, made: Result, *parts: str) -> None:
        """Carry out parts of the plan."""
        Campaign(plan, self.bench, made, self.keep).run(parts)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Nothing is started."""
    return Stage(monkeypatch)


def plan_of(*names: str, **more: Any) -> Plan:
    """The quick plan with these systems."""
    return replace(quick(), rows=tuple((entry(name), "fraud") for name in names), **more)


def new_result(plan: Plan) -> Result:
    """A result without figures."""
    made = samples.result(plan.form)
    made.parts, made.wanted = [], list(plan.parts)
    return made


def test_repetitions_go_forwards_and_backwards(stage: Stage) -> None:
    """ABC CBA ABC: no system always comes after the same one, and each ratio has a pair in each repetition."""
    plan = plan_of(ECHO, LEAST, EXACTLY, repetitions=3)
    made = new_result(plan)
    stage.run(plan, made, "throughput:fraud")
    counted = [one for one in stage.drained if one[1] != ANCHOR]
    forwards = [ECHO, LEAST, EXACTLY]
    assert [name for name, _ in counted] == forwards + forwards[::-1] + forwards
    assert [one.repetition for one in made.drains] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_broker_is_warm_before_the_first_measurement(stage: Stage) -> None:
    """Once per run, before anything is drained, however many parts follow."""
    plan = plan_of(ECHO, LEAST, warm_up_s=30.0)
    stage.run(plan, new_result(plan), "throughput:fraud", "latency")
    assert stage.warmed_up == [30.0]


def test_a_compiler_gets_time_before_the_size_is_chosen(stage: Stage) -> None:
    """Two seconds tell the speed of a Python program; a Java program is still slow then."""
    java = "kafka_streams:at_least_once"
    plan = plan_of(LEAST, java, repetitions=1)
    stage.run(plan, new_result(plan), "throughput:fraud")
    trials = [one for one, (_, repetition) in zip(stage.sizes, stage.drained, strict=True) if repetition == ANCHOR]
    assert [size for name, size in trials if name == LEAST] == [20_000]
    assert [size for name, size in trials if name == java] == [20_000, 60_000]


def test_what_close_targets_compare_is_drained_more_often(stage: Stage) -> None:
    """Five drains of Headrace and its echo, three of what is far from them, in the order of turns."""
    plan = plan_of(ECHO, "quix:batch", LEAST, repetitions=5)
    stage.run(plan, new_result(plan), "throughput:fraud")
    counted = [name for name, repetition in stage.drained if repetition > LEAST_REPETITIONS]
    assert counted == [LEAST, ECHO, ECHO, LEAST]
    assert sum(name == "quix:batch" for name, repetition in stage.drained if repetition != ANCHOR) == LEAST_REPETITIONS


def test_starts_are_those_of_headrace(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns, thrice each; others have no probes."""
    started: list[str] = []

    def standby(_: Bench, case: Case, repetition: int, _seconds: float) -> Standby:
        started.append(case.entry.name)
        figures: dict[str, Any] = {"imports_s": 0.4, "started_s": 0.7, "ready_s": 2.0, "cores": 0.01, "rss_mib": 100.0}
        return Standby(**samples.named(case.entry.name), repetition=repetition, **figures)

    monkeypatch.setattr(campaign, "standby", standby)
    plan = replace(plan_of(ECHO, LEAST, EXACTLY), measurements=("standby",))
    made = new_result(plan)
    stage.run(plan, made, "standby")
    assert started == [LEAST, EXACTLY, EXACTLY, LEAST, LEAST, EXACTLY]
    assert len(made.standbys) == 6


def test_every_part_lies_between_two_drains_of_the_echo(stage: Stage) -> None:
    """The one after a part is the one before the next; both parts are complete and written."""
    plan = plan_of(LEAST)
    made = new_result(plan)
    stage.run(plan, made, "throughput:fraud", "latency")
    first, second = made.parts
    assert [len(part.echo) for part in (first, second)] == [2, 2]
    assert first.echo[1] is second.echo[0]
    assert made.missing == []
    assert stage.kept > 0


def test_a_cut_run_keeps_what_it_measured(stage: Stage) -> None:
    """Stopped in its second part, the first is complete and the second holds the drains until then."""
    plan = replace(plan_of(ECHO, LEAST), rows=((entry(ECHO), "fraud"), (entry(ECHO), "tiny"), (entry(LEAST), "tiny")))
    made = new_result(plan)

    def stop() -> None:
        if len(made.parts) == 2 and made.parts[1].drains:
            raise KeyboardInterrupt

    stage.before_drain = stop
    with pytest.raises(KeyboardInterrupt):
        stage.run(plan, made, *plan.parts)
    assert made.missing == ["throughput:tiny", "latency"]
    assert [(one.workload, one.entry) for one in made.drains] == [("fraud", ECHO)] * 2 + [("tiny", ECHO)]


def test_backlogs_of_other_workloads_do_not_stay(stage: Stage) -> None:
    """The fraud events are drained again and again, by the echo around each part; the others are not."""
    plan = replace(quick(), rows=((entry(ECHO), "fraud"), (entry(ECHO), "tiny")))
    stage.run(plan, new_result(plan), "throughput:fraud", "throughput:tiny")
    assert stage.forgotten == ["tiny"]


def test_a_resumed_run_needs_no_trials(stage: Stage) -> None:
    """What was drained before tells the speeds that choose sizes and loads."""
    plan = plan_of(ECHO, LEAST)
    made = new_result(plan)
    stage.run(plan, made, "throughput:fraud")
    stage.drained.clear()
    stage.run(plan, made, "latency")
    assert stage.drained == [(ECHO, ANCHOR)] * 2
    assert made.missing == []


def test_a_system_that_does_not_install_is_named_in_every_part(stage: Stage) -> None:
    """It is not started, and the others are measured."""
    stage.cannot_install.add("faust")
    plan = plan_of(ECHO, "faust:at_least_once")
    made = new_result(plan)
    stage.run(plan, made, "throughput:fraud", "latency")
    found = [(part.name, one.entry, one.measurement, one.reason) for part in made.parts for one in part.failures]
    reason = ("faust:at_least_once", "installation", "faust: no wheel")
    assert found == [("throughput:fraud", *reason), ("latency", *reason)]
    assert {name for name, _ in stage.drained} == {ECHO}


def test_a_system_that_does_not_run_is_named_in_every_part(stage: Stage) -> None:
    """One trial shows it; it is not tried again."""
    stage.cannot_drain.add("quix:batch")
    plan = plan_of(ECHO, "quix:batch")
    made = new_result(plan)
    stage.run(plan, made, "throughput:fraud", "latency")
    found = [(part.name, one.entry, one.measurement) for part in made.parts for one in part.failures]
    assert found == [("throughput:fraud", "quix:batch", "trial drain"), ("latency", "quix:batch", "trial drain")]
    assert [name for name, _ in stage.drained].count("quix:batch") == 1


def test_what_targets_compare_is_repeated(stage: Stage) -> None:
    """The echo and Headrace have three windows per rate, in turns; others have one."""
    plan = plan_of(ECHO, LEAST, "quix:batch", latency_repetitions=3, rates=(2000,))
    stage.run(plan, new_result(plan), "latency")
    expected = [(ECHO, 1), (LEAST, 1), ("quix:batch", 1), (LEAST, 2), (ECHO, 2), (ECHO, 3), (LEAST, 3)]
    assert [(name, repetition) for name, _, repetition in stage.loaded] == expected


def test_idle_windows_are_neighbours(stage: Stage) -> None:
    """The echo and Headrace, at least once, in turns."""
    plan = replace(plan_of(ECHO, LEAST, EXACTLY, repetitions=2), measurements=("idle",))
    stage.run(plan, new_result(plan), "idle")
    assert stage.loaded == [(ECHO, "idle", 1), (LEAST, "idle", 1), (LEAST, "idle", 2), (ECHO, "idle", 2)]


def test_a_rate_above_the_drain_is_not_tried(stage: Stage) -> None:
    """At 10,000 events/s a drain of 10,000 has no room; the reason is named."""
    plan = plan_of(LEAST, rates=(10_000,))
    made = new_result(plan)
    stage.run(plan, made, "latency")
    assert stage.loaded == []
    assert [(one.measurement, one.reason) for one in made.failures] == [
        ("latency, 10,000/s", "its drain gives 10,000 events/s")
    ]


def test_every_system_of_the_full_form_has_a_program() -> None:
    """None is left out because its folder is empty."""
    programs = {name: [(FOLDER / name / one).is_file() for one in ("main.py", "pom.xml")] for name in SYSTEMS}
    assert all(any(found) for found in programs.values())
    assert {one.system.name for one, _ in full().rows} == set(SYSTEMS)
