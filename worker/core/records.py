"""Value types of the core. Everything is a column: one object per span or batch, never one per record."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

Header = tuple[str, bytes | None]


class TopicPartition(NamedTuple):
    """Address of a partition; equal to any other (topic, partition) tuple."""

    topic: str
    partition: int


class Refusal(NamedTuple):
    """Why one record gets no score: the pipeline ``stage`` that refused it, a stable ``reason``, a sentence."""

    stage: str
    reason: str
    error: str


@dataclass(slots=True, eq=False)
class Span:
    """Records of one partition as one poll returned them, in offset order (gaps allowed), as columns.

    ``timestamps`` are Kafka's, in milliseconds; ``epoch`` numbers the assignment the records were received
    under, so that late results of a lost assignment can be told apart.
    """

    tp: TopicPartition
    epoch: int
    offsets: list[int]
    timestamps: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[tuple[Header, ...]]
    received_at: float = 0.0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(len(value) if value else 0 for value in self.values))

    def __len__(self) -> int:
        return len(self.offsets)

    def size_bytes(self, start: int, stop: int) -> int:
        """Bytes of the values in ``[start, stop)``."""
        if stop <= start:
            return 0
        return self.ends[stop - 1] - (self.ends[start - 1] if start else 0)


@dataclass(slots=True, eq=False)
class Decoded:
    """A span's values, decoded: ``tensors`` in the order of the model's inputs, each ``[len(span), ...]``.

    Rows named in ``refusals`` hold no meaning in ``tensors`` and None in ``rows``; every other entry of ``rows``
    carries the event fields that the output needs, in a form that only the encoder reads.
    """

    tensors: tuple[np.ndarray, ...]
    rows: list[object]
    refusals: dict[int, Refusal]
