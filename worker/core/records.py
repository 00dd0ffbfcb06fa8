"""Value types of the core. Everything is a column: one object per span or batch, never one per record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    headers: list[Sequence[Header]]
    received_at: float = 0.0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.ends = list(accumulate(map(len, self.values)))  # type: ignore[arg-type]
        except TypeError:
            # Some value is null.
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
    """Values of a span, or of several, decoded: ``tensors`` in the order of the model's inputs, each ``[rows, ...]``.

    Rows named in ``refusals`` hold no meaning in ``tensors`` and None in ``rows``; every other entry of ``rows``
    carries the event fields that the output needs, in a form that only the encoder reads.
    """

    tensors: tuple[np.ndarray, ...]
    rows: list[object]
    refusals: dict[int, Refusal]

    def part(self, start: int, stop: int) -> Decoded:
        """Rows ``[start, stop)``, counted from 0; the tensors are views."""
        refusals = {row - start: refusal for row, refusal in self.refusals.items() if start <= row < stop}
        return Decoded(tuple(tensor[start:stop] for tensor in self.tensors), self.rows[start:stop], refusals)


def joined(parts: Sequence[Decoded]) -> Decoded:
    """One part or more, in order."""
    if len(parts) == 1:
        return parts[0]
    rows: list[object] = []
    refusals: dict[int, Refusal] = {}
    for part in parts:
        refusals |= {len(rows) + row: refusal for row, refusal in part.refusals.items()}
        rows += part.rows
    tensors = zip(*(part.tensors for part in parts), strict=True)
    return Decoded(tuple(np.concatenate(pieces) for pieces in tensors), rows, refusals)


@dataclass(slots=True, eq=False)
class Block:
    """A span with its decoded columns; batches refer to it by slices."""

    span: Span
    decoded: Decoded


class Slice(NamedTuple):
    """Rows ``[start, stop)`` of a block."""

    block: Block
    start: int
    stop: int

    @property
    def span(self) -> Span:
        """The span that the rows were received in."""
        return self.block.span

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows' values."""
        return self.block.span.size_bytes(self.start, self.stop)

    def parted(self, refused: Iterable[int]) -> Iterator[tuple[Slice, int | None]]:
        """The rows in order, cut at those ``refused``, which are ascending and count from the slice's first row.

        Runs of the others come with None, a refused row alone and with its number.
        """
        begin = self.start
        for index in refused:
            at = self.start + index
            if at > begin:
                yield Slice(self.block, begin, at), None
            yield Slice(self.block, at, at + 1), index
            begin = at + 1
        if begin < self.stop:
            yield Slice(self.block, begin, self.stop), None


@dataclass(slots=True, eq=False)
class Parcel:
    """Records for one output partition, acknowledged together, with the input rows that they settle.

    ``origin`` covers the records in order: its slices hold as many rows as the parcel has records.
    """

    tp: TopicPartition
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: Sequence[list[Header]]
    timestamps: Sequence[int | None]
    origin: list[Slice]
    dead_letter: Refusal | None = None
    sent_at: float = 0.0

    def __len__(self) -> int:
        return len(self.values)

    def row(self, index: int) -> Slice:
        """The input row behind record ``index``, as a slice of one."""
        for piece in self.origin:
            rows = piece.stop - piece.start
            if index < rows:
                at = piece.start + index
                return Slice(piece.block, at, at + 1)
            index -= rows
        raise IndexError(index)
