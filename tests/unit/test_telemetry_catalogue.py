"""The catalogue of metrics keeps its own rules, and the reference page follows it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from worker.telemetry import M, reference
from worker.telemetry.catalogue import CATALOGUE, PREFIX, Counter, Gauge, Histogram, Metric

_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_EACH = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


@_EACH
def test_name_is_a_prefixed_prometheus_name(metric: Metric) -> None:
    """Names are lower case and start with the prefix; only counters end in _total."""
    assert re.fullmatch(PREFIX + r"[a-z][a-z0-9_]*[a-z0-9]", metric.name)
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_created"))


@_EACH
def test_unit_agrees_with_the_name(metric: Metric) -> None:
    """A measured quantity carries its unit as the last word of its name."""
    stem = metric.name.removesuffix("_total")
    unit = metric.unit.split()[0]
    if unit in {"seconds", "bytes", "ratio", "info"} or isinstance(metric, Histogram):
        assert stem.endswith(f"_{unit}")
    assert not re.search(r"_(ms|millis|us|kb|percent)(_|$)", metric.name)


@_EACH
def test_help_is_one_plain_sentence(metric: Metric) -> None:
    """Help stands in a table cell and in the exposition: one line, closed by a full stop, no pipe."""
    assert metric.help.endswith(".")
    assert not set(metric.help) & set("\n|\\")


@_EACH
def test_labels_are_safe(metric: Metric) -> None:
    """Labels are no arguments of the writers, no reserved names; a partition labels gauges only."""
    assert not {"self", "metric", "value", "values", "n", "le", "quantile"} & metric.labels.keys()
    assert all(re.fullmatch(r"[a-z][a-z0-9]*", name) for name in metric.label_names)
    assert "partition" not in metric.labels or isinstance(metric, Gauge)
    assert all(len(set(values)) == len(values) for values in metric.labels.values())


@pytest.mark.parametrize("metric", [item for item in CATALOGUE if isinstance(item, Histogram)], ids=lambda m: m.name)
def test_buckets_rise(metric: Histogram) -> None:
    """Bucket bounds are finite and strictly rising; infinity is implied."""
    assert all(low < high for low, high in pairwise(metric.buckets))
    assert metric.buckets[-1] < float("inf")


def test_names_are_unique() -> None:
    """No two metrics share a name."""
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_bucket_ranges() -> None:
    """Latency runs from 0.5 ms to 10 s, work from 10 us, sizes in powers of two, all decimal bounds exact."""
    assert M.END_TO_END_LATENCY.buckets == (
        *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
        *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    )
    assert (M.STAGE_DURATION.buckets[0], M.STAGE_DURATION.buckets[-1]) == (0.00001, 10.0)
    assert M.INFERENCE_DURATION.buckets == M.STAGE_DURATION.buckets
    assert {1.0, 8.0, 32.0, 128.0, 512.0} < set(M.BATCH_SIZE.buckets)


def test_reference_page_is_current() -> None:
    """The committed page is what the catalogue generates."""
    assert reference.main([str(_PAGE), "--check"]) == 0


def test_reference_page_check_tells_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing or edited page fails the check with the command that repairs it, and that command does."""
    page = tmp_path / "metrics.md"
    assert reference.main([str(page), "--check"]) == 1
    assert "run: python -m worker.telemetry.reference" in capsys.readouterr().err
    assert reference.main([str(page)]) == 0
    assert reference.main([str(page), "--check"]) == 0
    page.write_text(page.read_text() + "edited")
    assert reference.main([str(page), "--check"]) == 1
    assert all(metric.name in page.read_text() for metric in CATALOGUE)


def test_reference_page_needs_one_path(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a path there is nothing to write: usage and exit code 2."""
    assert reference.main(["--check"]) == 2
    assert "usage" in capsys.readouterr().err
