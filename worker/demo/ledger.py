"""What was sent and what came back: every record of the demo, accounted for one by one.

One thread notes what it sends, another what it receives, a third reads the sums; each column has one writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.demo.events import number_of
from worker.demo.faults import FAULT_HEADER, Fault

_MAX_SURPRISES = 20
_REASON_HEADER = "headrace-dlq-reason"

Headers = Sequence[tuple[str, str | bytes | None]]


class Scored(msgspec.Struct, frozen=True, gc=False):
    """The value of a scored record, as ``schemas/scored.schema.json`` says."""

    transaction_id: str
    customer_id: str
    score: float
    flag: bool
    model: str


class Ledger:
    """Accounts for ``fraud.size`` good events, numbered from 0, and for the ``faults`` among them.

    Clock readings are arguments: seconds of one monotonic clock.
    """

    def __init__(self, fraud: NDArray[np.bool_], faults: Sequence[Fault]) -> None:
        self.fraud = fraud
        self.faults = faults
        self.sent_at = np.full(fraud.size, np.nan)
        self.flagged = np.zeros(fraud.size, np.bool_)
        self.events_sent = 0
        self.faults_sent = 0
        self.events_back = 0
        self.faults_back = 0
        self.duplicates = 0
        self.reasons: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.latencies_s: list[float] = []
        self.last_received_at = np.nan
        self.model = ""
        self._scored = np.zeros(fraud.size, np.bool_)
        self._refused: set[int] = set()
        self._decode = msgspec.json.Decoder(Scored).decode

    @property
    def produced(self) -> int:
        """Records sent, good and bad."""
        return self.events_sent + self.faults_sent

    @property
    def missing(self) -> int:
        """Records sent that have not come back as they should."""
        return self.produced - self.events_back - self.faults_back

    def sent_event(self, number: int, now: float) -> None:
        """The good event ``number`` goes to the producer; numbers ascend by one."""
        self.sent_at[number] = now
        self.events_sent = number + 1

    def sent_fault(self) -> None:
        """The next of ``faults`` goes to the producer."""
        self.faults_sent += 1

    def received_score(self, value: bytes | None, now: float) -> None:
        """A record of the output topic arrived; anything but the first score of an event sent is a surprise."""
        try:
            scored = self._decode(value or b"")
            number = number_of(scored.transaction_id)
        except ValueError as error:
            self._surprise(f"the output topic holds a record that is no score: {error}")
            return
        if not 0 <= number < self.events_sent or not 0 <= scored.score <= 1:
            self._surprise(f"the output topic holds an unexpected score: {scored}")
        elif self._scored[number]:
            self.duplicates += 1
        else:
            self._scored[number] = True
            self.flagged[number] = scored.flag
            self.latencies_s.append(now - float(self.sent_at[number]))
            self.last_received_at = now
            self.model = scored.model
            self.events_back += 1

    def received_dead_letter(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """A record of the dead-letter topic arrived; it must be a fault that was sent, unchanged, with its reason."""
        texts = {name: _text(content) for name, content in headers}
        reason = texts.get(_REASON_HEADER, "none")
        self.reasons[reason] += 1
        number = int(texts[FAULT_HEADER]) if texts.get(FAULT_HEADER, "").isdecimal() else -1
        if not 0 <= number < self.faults_sent:
            self._surprise(f"a good record was dead-lettered: {reason}: {texts.get('headrace-dlq-error', '')}")
        elif number in self._refused:
            self.duplicates += 1
        elif (reason, key, value) != (
            self.faults[number].reason,
            self.faults[number].key,
            self.faults[number].value,
        ):
            expected = self.faults[number].reason
            self._surprise(f"a record that is bad by {expected} was dead-lettered as {reason} or not byte-exact")
        else:
            self._refused.add(number)
            self.faults_back += 1

    def _surprise(self, sentence: str) -> None:
        if len(self.surprises) < _MAX_SURPRISES:
            self.surprises.append(sentence)

    def outcome(self) -> dict[str, int]:
        """Counts over the events scored so far: ``scored``, ``fraud``, ``flagged`` and ``true_fraud_flagged``."""
        scored, flagged = self._scored, self.flagged
        return {
            "scored": int(np.count_nonzero(scored)),
            "fraud": int(np.count_nonzero(scored & self.fraud)),
            "flagged": int(np.count_nonzero(flagged)),
            "true_fraud_flagged": int(np.count_nonzero(flagged & self.fraud)),
        }


def _text(content: str | bytes | None) -> str:
    return content.decode(errors="replace") if isinstance(content, bytes) else content or ""


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 in milliseconds, to a hundredth; None where nothing was measured."""
    if not latencies_s:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(np.asarray(latencies_s), [50, 95, 99]) * 1000
    return {name: round(float(value), 2) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
