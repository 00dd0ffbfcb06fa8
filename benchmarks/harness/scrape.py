"""Headrace's own account of its batches and of its loop, from ``/metrics``."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.pauses import LOOP_BUCKET
from benchmarks.harness.results import Batches

TIMEOUT_S = 5.0


def samples(port: int) -> dict[str, float] | None:
    """The samples in use as ``name|label``, summed over the worker's processes; None without an answer in time."""
    text = page(port)
    return None if text is None else parse(text)


def page(port: int, name: str = "metrics") -> str | None:
    """What ``/metrics``, or another page of that name, shows; None without an answer of 200 in time."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=TIMEOUT_S) as response:
            shown: bytes = response.read()
            return shown.decode()
    except OSError:
        return None


def parse(text: str) -> dict[str, float]:
    """The samples in use in a page of metrics."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            match sample.name:
                case "headrace_batches_total":
                    name = f"reason|{sample.labels['reason']}"
                case "headrace_batch_size_records_bucket":
                    name = f"size|{sample.labels['le']}"
                case "headrace_batch_size_records_sum":
                    name = "records"
                case "headrace_event_loop_lag_seconds_bucket":
                    name = LOOP_BUCKET + sample.labels["le"]
                case _:
                    continue
            found[name] = found.get(name, 0.0) + sample.value
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
