"""The state of the demo at one moment, as plain values for the live view, the plain lines and the summary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from worker.demo.ledger import Ledger, percentiles_ms
from worker.demo.worker_process import Samples

_RECENT_S = 3.0
# Fits beside the rate in half a terminal of 80 columns.
_HISTORY = 18


@dataclass(frozen=True, slots=True)
class Batches:
    """What the worker's metrics say about its batches since it started.

    ``sizes`` counts batches by the range of their size, such as ``3-4``; ``reasons`` by why they closed.
    """

    mean_size: float | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    provider: str = ""


def batches(samples: Samples) -> Batches:
    """Read ``Batches`` off the worker's metrics; empty ranges and reasons are left out."""
    name = "headrace_batch_size_records"
    count = sum(value for (sample, _), value in samples.items() if sample == f"{name}_count")
    total = sum(value for (sample, _), value in samples.items() if sample == f"{name}_sum")
    buckets = sorted((float(bound), value) for (sample, bound), value in samples.items() if sample == f"{name}_bucket")
    sizes: dict[str, int] = {}
    for (below, before), (bound, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto > before:
            low = int(below) + 1
            high = "" if bound == float("inf") else str(int(bound))
            sizes[str(low) if high == str(low) else f"{low}-{high}"] = int(upto - before)
    chosen = {
        label: int(value)
        for (sample, label), value in samples.items()
        if sample == "headrace_batches_total" and value > 0
    }
    provider = next((label for (sample, label) in samples if sample == "headrace_model_info"), "")
    return Batches(total / count if count else None, sizes, chosen, provider)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the demo; rates and ``recent_ms`` cover the last few seconds."""

    phase: str
    elapsed_s: float
    seconds: float
    rate: float
    produced: int
    scored: int
    dead_lettered: int
    flagged: int
    fraud: int
    true_fraud_flagged: int
    recent_ms: dict[str, float | None]
    reasons: dict[str, int]
    batches: Batches
    model: str
    history: tuple[float, ...] = ()

    @property
    def in_flight(self) -> int:
        """Records sent that have not come back."""
        return self.produced - self.scored - self.dead_lettered


class Observer:
    """Takes snapshots of a ledger; keeps what rates need from one to the next."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._points: list[tuple[float, int]] = []
        self._history: list[float] = []

    def take(self, phase: str, elapsed_s: float, worker: Batches) -> Snapshot:
        """The state now; ``elapsed_s`` since the first record was sent."""
        ledger = self._ledger
        outcome = ledger.outcome()
        self._points.append((elapsed_s, ledger.events_back))
        while len(self._points[:-2]) and self._points[0][0] < elapsed_s - _RECENT_S:
            self._points.pop(0)
        (start, before), (end, now) = self._points[0], self._points[-1]
        rate = (now - before) / (end - start) if end > start else 0.0
        self._history.append(rate)
        return Snapshot(
            phase=phase,
            elapsed_s=elapsed_s,
            seconds=self._seconds,
            rate=rate,
            produced=ledger.produced,
            scored=outcome["scored"],
            dead_lettered=ledger.reasons.total(),
            flagged=outcome["flagged"],
            fraud=outcome["fraud"],
            true_fraud_flagged=outcome["true_fraud_flagged"],
            recent_ms=percentiles_ms(ledger.latencies_s[before:now]),
            reasons=dict(Counter(ledger.reasons).most_common()),
            batches=worker,
            model=ledger.model,
            history=tuple(self._history[-_HISTORY:]),
        )


def report(ledger: Ledger, worker: Batches) -> dict[str, Any]:
    """The result of the demo: the keys of ``headrace demo --json``. Ratios of nothing are None."""
    outcome = ledger.outcome()
    sent = ledger.sent_at[: ledger.events_sent]
    seconds = float(ledger.last_received_at - sent[0]) if ledger.events_back else 0.0

    def ratio(part: int, whole: int) -> float | None:
        return round(part / whole, 4) if whole else None

    return {
        "produced": ledger.produced,
        "scored": ledger.events_back,
        "dead_lettered": ledger.faults_back,
        "missing": ledger.missing,
        "duplicates": ledger.duplicates,
        "seconds": round(seconds, 3),
        "events_per_second": round(ledger.events_back / seconds, 1) if seconds else None,
        "latency_ms": percentiles_ms(ledger.latencies_s),
        "mean_batch_size": None if worker.mean_size is None else round(worker.mean_size, 2),
        "flagged": outcome["flagged"],
        "true_fraud_flagged": outcome["true_fraud_flagged"],
        "precision": ratio(outcome["true_fraud_flagged"], outcome["flagged"]),
        "recall": ratio(outcome["true_fraud_flagged"], outcome["fraud"]),
        "model": ledger.model or None,
        "provider": worker.provider or None,
    }
