"""Dead letters read back: where a record came from, why it was refused, and what may be produced again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.core.records import Header

REDRIVEN_HEADER = "headrace-redriven"
"""How often a record was produced again; the worker keeps it among the original headers of a dead letter."""

_PREFIX = "headrace-dlq-"
_WRITTEN = ("topic", "partition", "offset", "timestamp", "stage", "reason", "error", "attempts", "group", "model")
_WRITTEN_WITH_HASH = (*_WRITTEN, "sha256", "size")
_NO_TIMESTAMP = "-1"
_MAX_DIGITS = 19
_VALUE_NOT_KEPT = frozenset(("oversize", "corrupt_record"))

Hindrance = Literal["value_not_kept", "redriven_too_often", "other_topic"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What the headers of a dead letter say. ``originals`` are the record's own headers, in order."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    stage: str
    reason: str
    error: str
    attempts: str
    group: str
    model: str
    sha256: str
    size: str
    originals: tuple[Header, ...]

    @property
    def redriven(self) -> int:
        """How often the record was redriven before it was refused this time; 0 where the header is not a number."""
        for name, value in reversed(self.originals):
            if name == REDRIVEN_HEADER:
                text = (value or b"").decode("ascii", "replace")
                return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        return 0

    def headers_to_redrive(self) -> list[Header]:
        """The original headers in order, and last the count with this time included."""
        kept = [header for header in self.originals if header[0] != REDRIVEN_HEADER]
        return [*kept, (REDRIVEN_HEADER, str(self.redriven + 1).encode())]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; an empty set or None asks for nothing. ``until_ms`` is exclusive."""

    reasons: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    def admits_time(self, timestamp_ms: int) -> bool:
        """Whether a record with this timestamp is meant."""
        after = self.since_ms is None or timestamp_ms >= self.since_ms
        return after and (self.until_ms is None or timestamp_ms < self.until_ms)

    def admits(self, letter: DeadLetter | None) -> bool:
        """Whether a dead letter is meant, by reason and source partition; None is a record that has neither."""
        if letter is None:
            return not self.reasons and not self.partitions
        by_reason = not self.reasons or letter.reason in self.reasons
        return by_reason and (not self.partitions or letter.partition in self.partitions)


def read_letter(headers: Sequence[Header]) -> DeadLetter | None:
    """Read the headers that the worker appended, and tell them from original ones of the same names.

    None where the last headers are not those of a dead letter of ours.
    """
    for written in (_WRITTEN, _WRITTEN_WITH_HASH):
        cut = len(headers) - len(written)
        names = tuple(name for name, _ in headers[max(cut, 0) :])
        if names == tuple(_PREFIX + name for name in written):
            texts = [(value or b"").decode("utf-8", "replace") for _, value in headers[cut:]]
            return _letter(texts + [""] * (len(_WRITTEN_WITH_HASH) - len(written)), tuple(headers[:cut]))
    return None


def _letter(texts: list[str], originals: tuple[Header, ...]) -> DeadLetter | None:
    """The letter of these texts, in the order in which they are written; None for a number that Kafka has not."""
    topic, partition, offset, timestamp, stage, reason, error, attempts, group, model, sha256, size = texts
    number, at = _number(partition, 31), _number(offset, 63)
    when = -1 if timestamp == _NO_TIMESTAMP else _number(timestamp, 63)
    if number is None or at is None or when is None:
        return None
    return DeadLetter(topic, number, at, when, stage, reason, error, attempts, group, model, sha256, size, originals)


def _number(text: str, bits: int) -> int | None:
    """A number from 0 as the worker writes it: ASCII digits only, and no more of them than Kafka has bits."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    number = int(text)
    return number if number < 1 << bits else None


def hindrance(letter: DeadLetter, input_topics: Collection[str], max_redrives: int) -> Hindrance | None:
    """Why a dead letter must not be produced again; None where it may."""
    if letter.reason in _VALUE_NOT_KEPT:
        return "value_not_kept"
    if letter.topic not in input_topics:
        return "other_topic"
    return "redriven_too_often" if letter.redriven >= max_redrives else None
