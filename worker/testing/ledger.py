"""Accounts for every input record: it must end exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from worker.core.records import Header, TopicPartition
from worker.testing.broker import FakeBroker


class DeliveryLedger:
    """Which fate each input record met. ``check`` holds when every expected record has exactly one."""

    def __init__(self, expected: Iterable[tuple[TopicPartition, int]]) -> None:
        self.expected = set(expected)
        self.fates: dict[tuple[TopicPartition, int], Counter[str]] = {}

    @classmethod
    def of(cls, broker: FakeBroker, inputs: Iterable[str], output: str, dead_letter: str) -> DeliveryLedger:
        """The ledger of what a broker's topics hold: inputs against the identities in outputs and dead letters."""
        tps = [tp for name in inputs for tp in broker.partitions(name)]
        ledger = cls((tp, record.offset) for tp in tps for record in broker.read(tp))
        for fate, topic in (("delivered", output), ("dead_lettered", dead_letter)):
            for tp in broker.partitions(topic):
                for record in broker.read(tp):
                    ledger.settle(*source_of(record.headers), fate)
        return ledger

    def settle(self, tp: TopicPartition, offset: int, fate: str) -> None:
        """A record met a fate."""
        self.fates.setdefault((tp, offset), Counter())[fate] += 1

    def fate(self, tp: TopicPartition, offset: int) -> str | None:
        """The one fate of a record; None if it has none, ValueError if it has several."""
        fates = self.fates.get((tp, offset), Counter())
        if fates.total() > 1:
            raise ValueError(f"{tp.topic}/{tp.partition}/{offset} has several fates: {dict(fates)}")
        return next(iter(fates), None)

    def faults(self) -> list[str]:
        """Every record that is missing, doubled, or unknown, as a line of text."""
        found = [f"{tp.topic}/{tp.partition}/{at}: missing" for tp, at in sorted(self.expected - self.fates.keys())]
        for (tp, at), fates in sorted(self.fates.items()):
            if (tp, at) not in self.expected:
                found.append(f"{tp.topic}/{tp.partition}/{at}: never expected")
            elif fates.total() > 1:
                found.append(f"{tp.topic}/{tp.partition}/{at}: {dict(fates)}")
        return found

    def check(self) -> None:
        """Raise AssertionError that lists all faults."""
        faults = self.faults()
        if faults:
            raise AssertionError("\n".join(faults))


def source_of(headers: Iterable[Header]) -> tuple[TopicPartition, int]:
    """The input record that a scored record or a dead letter names in its headers; KeyError if it names none."""
    texts = {name: (value or b"").decode() for name, value in headers}
    if "headrace-source" in texts:
        topic, partition, offset = texts["headrace-source"].rsplit("/", 2)
    else:
        topic, partition, offset = (texts[f"headrace-dlq-{name}"] for name in ("topic", "partition", "offset"))
    return TopicPartition(topic, int(partition)), int(offset)
