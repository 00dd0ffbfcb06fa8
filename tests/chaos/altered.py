"""Runs the worker with changed code: ``python -m tests.chaos.altered CHANGE ... -- run --config FILE``.

Some changes are faults that only the worker itself can suffer, such as a model that hangs. The others are bugs put
in on purpose, to prove that the ledger would find them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from tests.kafka.processes import spawn
from tests.kafka.worker_process import WorkerProcess

HANGS = "model-hangs"
COMMITS_EARLY = "commits-before-acknowledgement"
UNFENCED = "unfenced-offset-commit"
NO_EPOCHS = "no-epoch-check"
HANG_FILE = "hang"


class AlteredWorker(WorkerProcess):
    """A worker process with changes; its model hangs while the file ``hang`` is in its folder (``model-hangs``)."""

    def __init__(self, folder: Path, config: Mapping[str, Any], alterations: Sequence[str]) -> None:
        super().__init__(folder, config)
        self._alterations = list(alterations)

    def start(self) -> None:
        """Start the process; returns at once."""
        run = ["run", "--config", str(self.config_path)]
        command = [sys.executable, "-m", "tests.chaos.altered", *self._alterations, "--", *run]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}
        self._process = spawn(command, log=self.log, env=inherited | self._environ)

    def hang(self) -> None:
        """The next model call does not return before ``go_on``."""
        (self.folder / HANG_FILE).touch()

    def go_on(self) -> None:
        """Let the model return."""
        (self.folder / HANG_FILE).unlink(missing_ok=True)


def model_hangs(folder: Path) -> None:
    """A model call waits while the folder of the configuration holds the file ``hang``."""
    from worker.adapters.onnx_model import OnnxModel

    run = OnnxModel.run

    def waiting(self: OnnxModel, tensors: Any) -> Any:
        while (folder / HANG_FILE).exists():
            time.sleep(0.02)
        return run(self, tensors)

    OnnxModel.run = waiting  # type: ignore[method-assign]


def commits_early(folder: Path) -> None:
    """Everything received counts as settled when offsets are committed."""
    del folder
    from worker.core.offsets import Commit, OffsetTracker

    def committable(self: OffsetTracker) -> Commit | None:
        offsets = {
            tp: state.spans[-1].span.offsets[-1] + 1 if state.spans else state.next_offset
            for tp, state in self._partitions.items()
            if state.spans or state.next_offset > 0
        }
        covered = {tp: (self._partitions[tp].epoch, self._partitions[tp].prefix_records) for tp in offsets}
        return Commit(offsets, covered) if offsets else None

    OffsetTracker.committable = committable  # type: ignore[method-assign]


def unfenced(folder: Path) -> None:
    """Offsets enter transactions by aiokafka's own request, which names no member."""
    del folder
    mock.patch("worker.adapters.kafka_transactions.fence").start()


def no_epochs(folder: Path) -> None:
    """Results of an assignment that is over count like any others."""
    del folder
    from worker.core.offsets import OffsetTracker
    from worker.core.records import Parcel, Span
    from worker.core.sequencing import Sequencer

    settle, offer = OffsetTracker.settle, Sequencer.offer

    def is_current(self: OffsetTracker, span: Span) -> bool:
        del self, span
        return True

    def settle_any(self: OffsetTracker, span: Span, start: int, stop: int) -> bool:
        return id(span) in self._tracked and settle(self, span, start, stop)

    def offer_any(self: Sequencer, parcels: Iterable[Parcel]) -> list[Parcel]:
        parcels = list(parcels)
        late = [parcel for parcel in parcels if id(parcel.origin[-1].span) not in self._pending]
        return late + offer(self, parcels)

    Sequencer.offer = offer_any  # type: ignore[method-assign]
    OffsetTracker.is_current = is_current  # type: ignore[method-assign]
    OffsetTracker.settle = settle_any  # type: ignore[method-assign]


ALTERATIONS: Mapping[str, Callable[[Path], None]] = {
    HANGS: model_hangs,
    COMMITS_EARLY: commits_early,
    UNFENCED: unfenced,
    NO_EPOCHS: no_epochs,
}


def main(arguments: list[str]) -> int:
    """Change the code, then run the command line."""
    at = arguments.index("--")
    command = arguments[at + 1 :]
    for name in arguments[:at]:
        ALTERATIONS[name](Path(command[command.index("--config") + 1]).parent)
    from worker.commands.app import execute

    return execute(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
