"""What passes the pipeline's border: the parts it is given, the facts' payloads, and the actions it decides on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from worker.core.batching import Batch, BatchLimits
from worker.core.brakes import NO_BRAKES, BrakeLimits
from worker.core.flow import FlowLimits
from worker.core.offsets import Commit
from worker.core.records import Decoded, Parcel, Refusal


class RowDecoder(Protocol):
    """Turns values into tensors and rows."""

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode; never raises on any bytes."""
        ...


class RowEncoder(Protocol):
    """Turns rows and model outputs into output values."""

    def encode(self, rows: Sequence[object], outputs: Mapping[str, np.ndarray]) -> list[bytes]:
        """Encode one value per row, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose."""

    batch: BatchLimits
    flow: FlowLimits
    commit_interval_s: float
    commit_max_records: int
    skip_tombstones: bool = False
    transactional: bool = False
    """The sink commits offsets with the outputs: parcels leave in input order, commits are asked for in need only."""
    brakes: BrakeLimits = NO_BRAKES


@dataclass(slots=True)
class Outcome:
    """What the engine made of a batch: outputs by name, refused rows, and where the time went."""

    outputs: dict[str, np.ndarray]
    refusals: dict[int, Refusal]
    assemble_s: float = 0.0
    infer_s: float = 0.0


@dataclass(slots=True)
class RunBatch:
    """Action: give this batch to the engine, after those given before."""

    batch: Batch


@dataclass(slots=True)
class Produce:
    """Action: send these parcels, in order within each output partition."""

    parcels: list[Parcel]


@dataclass(slots=True)
class CommitOffsets:
    """Action: commit, at most one at a time; in transactions, end the open one before its interval is over."""

    commit: Commit


Action = RunBatch | Produce | CommitOffsets


@dataclass(slots=True)
class Tally:
    """Plain counts since the start; the shell turns them into metrics."""

    skipped: int = 0
    stale_rows: int = 0
    abandoned: int = 0
    dead_lettered: dict[str, int] = field(default_factory=dict)
