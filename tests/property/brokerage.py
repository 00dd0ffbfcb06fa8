"""A transactional broker and a consumer group in memory, with the parts of Kafka's promises that exactly_once uses.

Producers are fenced by the epoch of their transactional id, offsets by the stamp of a group member, and offsets that
a transaction holds are not stable until it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.core.records import TopicPartition


class StampRefusedError(Exception):
    """Codes 22 and 25: the group has moved on."""


class ProducerFencedError(Exception):
    """A newer producer has the transactional id."""


class RecordsRefusedError(Exception):
    """The broker refuses the data of a batch."""


class MemberStamp(NamedTuple):
    """Generation and member id of an assignment."""

    generation: int
    member: str


class Output(NamedTuple):
    """One record of an output topic: which input it came from."""

    topic: str
    source: TopicPartition
    offset: int
    value: bytes | None


@dataclass(eq=False)
class Transaction:
    """What an open or ended transaction holds."""

    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    state: str = "open"


@dataclass(eq=False)
class _Id:
    """A transactional id."""

    epoch: int = -1
    open: Transaction = field(default_factory=Transaction)


class Brokers:
    """Output log, transaction coordinator and group coordinator; ``check`` runs after every commit."""

    def __init__(self, inputs: Mapping[TopicPartition, Sequence[bytes | None]]) -> None:
        self.inputs = inputs
        self.log: list[tuple[Output, Transaction]] = []
        self.committed: dict[TopicPartition, int] = {}
        self.generation = 0
        self.members: dict[str, list[TopicPartition]] = {}
        self.commits = 0
        self._ids: dict[str, _Id] = {}

    # ---- transactions --------------------------------------------------------------------------------------

    def init_producer(self, name: str) -> int:
        """Fence the producers before, abort what they left open; returns the new epoch."""
        state = self._ids.setdefault(name, _Id())
        self._end(state, commit=False)
        state.epoch = self._next_epoch(state.epoch)
        return state.epoch

    def _next_epoch(self, epoch: int) -> int:
        return epoch + 1

    def produce(self, name: str, epoch: int, outputs: Sequence[Output]) -> None:
        """Append to the id's open transaction, all or nothing."""
        transaction = self._current(name, epoch).open
        if any(_is_refused(output) for output in outputs):
            raise RecordsRefusedError
        self.log += [(output, transaction) for output in outputs]

    def offset_commit(self, name: str, epoch: int, stamp: MemberStamp, offsets: Mapping[TopicPartition, int]) -> None:
        """Hold offsets in the id's open transaction, if the stamp is that of a member now."""
        state = self._current(name, epoch)
        if not self._stamp_holds(stamp):
            raise StampRefusedError
        state.open.offsets.update(offsets)

    def _stamp_holds(self, stamp: MemberStamp) -> bool:
        return stamp.generation == self.generation and stamp.member in self.members

    def commit(self, name: str, epoch: int) -> None:
        """End the transaction: outputs become visible, offsets count."""
        self._end(self._current(name, epoch), commit=True)

    def expire(self, name: str) -> None:
        """The transaction timeout: as if a newer producer had come."""
        if name in self._ids:
            self.init_producer(name)

    def _current(self, name: str, epoch: int) -> _Id:
        state = self._ids[name]
        if state.epoch != epoch:
            raise ProducerFencedError
        return state

    def _end(self, state: _Id, *, commit: bool) -> None:
        ended, state.open = state.open, Transaction()
        ended.state = "committed" if commit else "aborted"
        if commit:
            self.committed.update(ended.offsets)
            self.commits += 1
            self.check()

    def stable_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int] | None:
        """Committed offsets, or None while a transaction holds some of them."""
        held = {tp for state in self._ids.values() for tp in state.open.offsets}
        return None if held & set(tps) else {tp: self.committed.get(tp, 0) for tp in tps}

    # ---- the group -----------------------------------------------------------------------------------------

    def complete_rebalance(self, members: Sequence[str]) -> None:
        """A new generation with these members, who share the partitions."""
        self.generation += 1
        tps = sorted(self.inputs)
        self.members = {member: tps[at :: len(members)] for at, member in enumerate(members)}

    # ---- the invariant -------------------------------------------------------------------------------------

    def visible(self) -> list[Output]:
        """What a read_committed consumer sees."""
        return [output for output, transaction in self.log if transaction.state == "committed"]

    def check(self) -> None:
        """One fate for each record before the committed offsets, none for any other, in order per partition."""
        seen: dict[TopicPartition, list[int]] = {tp: [] for tp in self.inputs}
        lanes: dict[tuple[str, TopicPartition], int] = {}
        for output in self.visible():
            value = self.inputs[output.source][output.offset]
            seen[output.source].append(output.offset)
            lane = output.topic, output.source
            assert output.offset > lanes.get(lane, -1), f"disorder or repeat of {output}"
            lanes[lane] = output.offset
            assert output.topic == ("dlq" if _fate_is_letter(value) else "out"), f"wrong fate: {output}"
        for tp, offsets in seen.items():
            due = [at for at, value in enumerate(self.inputs[tp][: self.committed.get(tp, 0)]) if value is not None]
            assert sorted(offsets) == due, f"{tp}: offsets {self.committed.get(tp, 0)}, outputs {sorted(offsets)}"


POISON = b"333"
"""The engine refuses this value."""

UNWANTED = b"777"
"""The brokers refuse the output of this value."""


def _is_refused(output: Output) -> bool:
    return output.topic == "out" and (output.value or b"").startswith(UNWANTED)


def _fate_is_letter(value: bytes | None) -> bool:
    return value in (POISON, UNWANTED) or not (value or b"").isdigit()
