"""Which input records came out, how often and in which order: the oracle of the tests that stop and kill workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from tests.integration.readings import source_of
from tests.kafka.client import Record


class Ledger:
    """The input offsets behind the output records, per input partition in the order of the output."""

    def __init__(self, outputs: Iterable[Record]) -> None:
        self.offsets: dict[int, list[int]] = defaultdict(list)
        self.moved: list[Record] = []
        """Records that did not stay in the partition they came from."""
        for record in sorted(outputs, key=lambda one: (one.partition, one.offset)):
            partition, offset = source_of(record)
            self.offsets[partition].append(offset)
            if partition != record.partition:
                self.moved.append(record)

    def missing(self, ends: Mapping[int, int]) -> list[tuple[int, int]]:
        """Input records below ``ends`` (an offset per partition) that never came out."""
        wanted = {(partition, offset) for partition, end in ends.items() for offset in range(end)}
        return sorted(
            wanted - {(partition, offset) for partition in self.offsets for offset in self.offsets[partition]}
        )

    @property
    def repeats(self) -> int:
        """How many output records too many there are."""
        return sum(len(offsets) - len(set(offsets)) for offsets in self.offsets.values())

    @property
    def repeated(self) -> list[tuple[int, int]]:
        """The input records that came out more than once."""
        return [
            (partition, offset)
            for partition, offsets in self.offsets.items()
            for offset, times in Counter(offsets).items()
            if times > 1
        ]

    @property
    def disorder(self) -> list[tuple[int, int, int]]:
        """Partition and two input offsets next to each other in the output, at first sight in the wrong order."""
        found: list[tuple[int, int, int]] = []
        for partition, offsets in self.offsets.items():
            first_seen = list(dict.fromkeys(offsets))
            found += [(partition, before, after) for before, after in pairwise(first_seen) if after < before]
        return found

    def reached(self) -> dict[int, int]:
        """The offset behind the last input record that came out, per partition."""
        return {partition: max(offsets) + 1 for partition, offsets in self.offsets.items()}
