"""Fakes for tests of the worker and of what is built on it: they keep Kafka's rules, and they can fail.

``FakeBroker`` holds topics in memory; ``FakeSource`` and ``FakeSink`` take the places of the Kafka adapters.
"""

from __future__ import annotations

from worker.testing.broker import DEFAULT_MAX_BYTES, FakeBroker, FakeSink, FakeSource, StoredRecord
from worker.testing.ledger import DeliveryLedger, source_of
from worker.testing.scoring import FakeDecoder, FakeEncoder, FakeModel, ManualClock, make_span

__all__ = [
    "DEFAULT_MAX_BYTES",
    "DeliveryLedger",
    "FakeBroker",
    "FakeDecoder",
    "FakeEncoder",
    "FakeModel",
    "FakeSink",
    "FakeSource",
    "ManualClock",
    "StoredRecord",
    "make_span",
    "source_of",
]
