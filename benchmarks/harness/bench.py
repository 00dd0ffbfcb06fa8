"""What every measurement needs: the broker, the prepared workloads, programs, and the reading of their outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.harness import outputs
from benchmarks.harness.cluster import Cluster
from benchmarks.harness.figures import tally
from benchmarks.harness.outputs import Outputs
from benchmarks.harness.programs import Program
from benchmarks.harness.results import Tally
from benchmarks.harness.scratch import Place, choose, new_folder
from benchmarks.systems import Entry, Kind
from benchmarks.workloads import Pool, Workload, prepare

QUIET_S = 2.0
FIRST_OUTPUT_S = 90.0
STALL_S = 20.0
# A killed member keeps its partitions until its session ends, 45 s by default in librdkafka and Java.
RESTART_STALL_S = 75.0
LARGEST_BACKLOG_BYTES = 1_600_000_000
SIZES = (20_000, 60_000, 180_000, 600_000, 1_800_000)


@dataclass(frozen=True, slots=True)
class Case:
    """One variant of a system on one prepared workload."""

    entry: Entry
    workload: Workload
    pool: Pool

    @property
    def names(self) -> dict[str, str]:
        """The fields by which results name it."""
        return {"system": self.entry.system.name, "variant": self.entry.variant, "workload": self.workload.name}

    @property
    def is_echo(self) -> bool:
        """True where outputs are the inputs and carry no score."""
        return self.entry.system.kind is Kind.LIMIT

    def count(self, found: Outputs, events: int) -> Tally:
        """Tally of the outputs."""
        return tally(found.numbers, found.scores, events, None if self.is_echo else self.pool.expected)


@dataclass(slots=True)
class Bench:
    """The broker and a scratch folder, for the length of a ``with`` block; nothing of them stays."""

    most_events: int | None = None
    place: Place = field(default_factory=choose)
    folder: Path = field(init=False)
    cluster: Cluster = field(init=False)
    _pools: dict[str, Pool] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.folder = new_folder(self.place.root)
        self.cluster = Cluster(self.folder / "kafka")
        self.cluster.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cluster.stop()
        shutil.rmtree(self.folder)

    def case(self, entry: Entry, workload: Workload) -> Case:
        """The case, with the workload prepared."""
        if workload.name not in self._pools:
            self._pools[workload.name] = prepare(workload)
        return Case(entry, workload, self._pools[workload.name])

    def sizes(self, pool: Pool) -> tuple[int, ...]:
        """The backlogs to choose from: bounded by the disk and by what the command line allows."""
        most = LARGEST_BACKLOG_BYTES / pool.event_bytes
        if self.most_events is not None:
            most = min(most, self.most_events)
        return tuple(size for size in SIZES if size <= most) or (self.most_events or SIZES[0],)

    def forget(self, workload: str) -> None:
        """No more drains of this workload: its backlogs need not stay on the disk."""
        self.cluster.delete_backlogs(workload)

    @contextmanager
    def program(self, case: Case, source: str, target: str) -> Iterator[Program]:
        """The system on two topics, not yet started; whatever still runs at the end is killed."""
        program = Program(case.entry, case.workload, case.pool, self.cluster, (source, target), self.folder)
        try:
            yield program
        finally:
            program.discard()

    def await_outputs(self, program: Program, topic: str, events: int, stall_s: float = STALL_S) -> None:
        """Wait for the first output, then until all are there and it is quiet, or nothing came for ``stall_s``."""
        wait = self.cluster.await_outputs
        wait(topic, 1, program.check, quiet_s=0.0, stall_s=FIRST_OUTPUT_S)
        wait(topic, events, program.check, quiet_s=QUIET_S, stall_s=stall_s)

    def read(self, case: Case, topic: str) -> Outputs:
        """Everything that the case wrote to the topic, as its readers see it."""
        committed = case.entry.is_transactional
        if committed:
            self.cluster.await_settled(topic)
        expected = case.pool.expected
        return outputs.read(
            self.cluster.bootstrap,
            topic,
            committed=committed,
            field=None if case.is_echo else case.pool.output,
            width=1 if expected.ndim == 1 else int(np.shape(expected)[1]),
        )
