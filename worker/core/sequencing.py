"""Releases parcels so that, at every moment, those released cover a contiguous run of each input partition.

A transaction commits outputs and offsets together. If an output went out before that of an earlier record, and the
transaction ended between the two, the committed offset could not cover it, and a restart would repeat it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.core.records import Parcel, Slice, Span, TopicPartition


@dataclass(slots=True, eq=False)
class _Pending:
    """A span, which of its rows have their parcel, and the parcels that wait (with the last row they cover)."""

    span: Span
    ready: bytearray
    cursor: int = 0
    held: list[tuple[int, Parcel]] = field(default_factory=list)


class Sequencer:
    """Holds parcels back until everything before them in their input partition has its parcel too."""

    def __init__(self) -> None:
        self._queues: dict[TopicPartition, deque[_Pending]] = {}
        self._pending: dict[int, _Pending] = {}

    def received(self, span: Span) -> None:
        """A span came in; those of a partition come in offset order."""
        pending = _Pending(span, bytearray(len(span)))
        self._queues.setdefault(span.tp, deque()).append(pending)
        self._pending[id(span)] = pending

    def forget(self, tp: TopicPartition) -> None:
        """The partition's assignment is over: what is held of it is dropped."""
        for pending in self._queues.pop(tp, ()):
            self._pending.pop(id(pending.span), None)

    def offer(self, parcels: Iterable[Parcel]) -> list[Parcel]:
        """Take parcels; returns those (of now or of before) that may go, in order. Unknown spans' are dropped."""
        touched: dict[TopicPartition, None] = {}
        for parcel in parcels:
            last = parcel.origin[-1]
            pending = self._pending.get(id(last.span))
            if pending is None:
                continue
            for rows in parcel.origin:
                pending.ready[rows.start : rows.stop] = b"\x01" * (rows.stop - rows.start)
            pending.held.append((last.stop, parcel))
            touched[last.span.tp] = None
        return [parcel for tp in touched for parcel in self._release(tp)]

    def passed(self, rows: Slice) -> list[Parcel]:
        """These rows need no parcel; returns the parcels that may go because of it."""
        pending = self._pending.get(id(rows.span))
        if pending is None:
            return []
        pending.ready[rows.start : rows.stop] = b"\x01" * (rows.stop - rows.start)
        return self._release(rows.span.tp)

    def _release(self, tp: TopicPartition) -> list[Parcel]:
        """Advance the partition's contiguous run and hand out what it covers."""
        queue = self._queues[tp]
        released: list[Parcel] = []
        while queue:
            head = queue[0]
            found = head.ready.find(0, head.cursor)
            head.cursor = len(head.ready) if found < 0 else found
            due = sorted((entry for entry in head.held if entry[0] <= head.cursor), key=lambda entry: entry[0])
            head.held = [entry for entry in head.held if entry[0] > head.cursor]
            released += [parcel for _, parcel in due]
            if found >= 0:
                break
            queue.popleft()
            del self._pending[id(head.span)]
        return released
