"""Headrace's own account of its batches, from ``/metrics``."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.results import Batches

TIMEOUT_S = 5.0
REASONS, SIZES = "headrace_batches_total", "headrace_batch_size_records"


def samples(port: int) -> dict[str, float]:
    """The samples of the batches as ``name|label``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as response:
        return parse(response.read().decode())


def parse(text: str) -> dict[str, float]:
    """The samples of the batches in a page of metrics."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == REASONS:
                found[f"reason|{sample.labels['reason']}"] = sample.value
            elif sample.name == f"{SIZES}_bucket":
                found[f"size|{sample.labels['le']}"] = sample.value
            elif sample.name == f"{SIZES}_sum":
                found["records"] = sample.value
    return found


def batches_between(before: Mapping[str, float], after: Mapping[str, float]) -> Batches:
    """What was added from one look to the next; the cumulative buckets are taken apart."""
    added = {name: value - before.get(name, 0.0) for name, value in after.items()}
    bounds = sorted((name.partition("|")[2] for name in added if name.startswith("size|")), key=float)
    by_size, below = [], 0.0
    for bound in bounds:
        count = added[f"size|{bound}"]
        by_size.append((bound, int(count - below)))
        below = count
    reasons = {name.partition("|")[2]: int(value) for name, value in added.items() if name.startswith("reason|")}
    return Batches(reasons, by_size, added["records"])
