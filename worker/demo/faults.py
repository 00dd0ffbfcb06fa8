"""Records that are wrong on purpose, each with the reason that its dead letter must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

# Names the fault in the record's own headers, which a dead letter must keep.
FAULT_HEADER = "demo-fault"


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad record: sent right before the good event number ``before``, expected back as a dead letter."""

    before: int
    reason: str
    key: bytes
    value: bytes | None


def _changed(value: bytes, **fields: object) -> bytes:
    return orjson.dumps(orjson.loads(value) | fields)


def _without(value: bytes, field: str) -> bytes:
    return orjson.dumps({name: content for name, content in orjson.loads(value).items() if name != field})


# From a good event to one that must be refused for this reason.
KINDS: dict[str, Callable[[bytes], bytes | None]] = {
    "out_of_range": lambda value: _changed(value, amount=-12.5),
    "missing_field": lambda value: _without(value, "amount"),
    "wrong_type": lambda value: _changed(value, amount="12.50"),
    "invalid_json": lambda value: value[: len(value) // 2],
    "invalid_utf8": lambda value: value.replace(b"customer-", b"custom\xff\xfe-", 1),
    "not_an_object": lambda value: b"[" + value + b"]",
    "empty_value": lambda _: b"",
    "tombstone": lambda _: None,
}


def plan(sample: bytes, key: bytes, events: int, count: int) -> list[Fault]:
    """``count`` bad records made from ``sample``, all kinds in turn, spread evenly over ``events`` good ones."""
    kinds = list(KINDS.items())
    return [
        Fault((2 * number + 1) * events // (2 * count), reason, key, spoil(sample))
        for number, (reason, spoil) in ((number, kinds[number % len(kinds)]) for number in range(count))
    ]
