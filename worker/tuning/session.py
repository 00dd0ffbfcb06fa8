"""A study from its parts to the last measurement, every one of them told and saved as it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.settings import Settings
from worker.tuning.brokers import ClusterPlace, MockPlace, Place
from worker.tuning.files import Files
from worker.tuning.report import Study, progress
from worker.tuning.rig import Rig
from worker.tuning.sample import demo_sample, read_sample
from worker.tuning.space import space_around
from worker.tuning.study import compare, search
from worker.tuning.trial import Plan, Trial


@dataclass(frozen=True, slots=True)
class Load:
    """What the worker is measured with: events of ``sample`` (None: the demo's) at ``rate`` a second for ``seconds``.

    ``bootstrap`` is the address of the test cluster; None: a mock cluster in this process.
    """

    sample: Path | None
    rate: float
    seconds: float
    bootstrap: str | None


def prepare(settings: Settings, plan: Plan, load: Load) -> tuple[Study, Rig]:
    """The study to fill and the rig to fill it with; ``settings`` name the brokers of ``load.bootstrap`` already.

    Raises ConfigError for a sample that is none, and for settings that the mock cluster cannot serve.
    """
    on_cluster = load.bootstrap is not None
    place: Place = ClusterPlace(settings.kafka) if on_cluster else MockPlace(settings)
    events = demo_sample(settings.event.schema_path, plan.seed) if load.sample is None else read_sample(load.sample)
    space = space_around(settings, os.cpu_count() or 1, fetch=on_cluster)
    setup = {
        "rate": load.rate,
        "seconds": load.seconds,
        "sample": str(load.sample or "demo"),
        "broker": load.bootstrap or "mock",
    }
    return Study(space, plan, setup), Rig(settings, place, events, load.rate, load.seconds)


def run(study: Study, rig: Rig, files: Files, tell: Callable[[str], None]) -> None:
    """Search, then compare the best with the defaults; fills ``study``. Raises HeadraceError as ``search`` does."""

    def note(trial: Trial) -> None:
        study.trials.append(trial)
        tell(progress(trial, study.plan.limit_s))
        files.save(study)

    def note_again(number: int, trial: Trial) -> None:
        study.repeats.append((number, trial))
        tell(f"round {number + 1}: {progress(trial, study.plan.limit_s)}")
        files.save(study)

    search(study.space, study.plan, rig.measure, note)
    study.finals = compare(study.space, study.trials, study.plan, rig.measure, note_again)
