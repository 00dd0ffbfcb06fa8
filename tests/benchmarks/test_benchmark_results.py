"""Files of results: written, read, found again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.results import load, newest, save
from benchmarks.harness.scrape import batches_between, parse
from tests.benchmarks.samples import result


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    """Every figure is read as it was written."""
    made = result()
    assert load(save(made, tmp_path)) == made


def test_a_run_overwrites_its_own_file(tmp_path: Path) -> None:
    """Saved again while it grows, a run keeps its file; a second run of the day gets another one."""
    first, second = result(), result()
    second.started = "2026-11-22T21:30:00+00:00"
    assert [save(one, tmp_path).name for one in (first, first, second)] == [
        "full-2026-11-22.json",
        "full-2026-11-22.json",
        "full-2026-11-22-2130.json",
    ]


def test_the_newest_is_found_by_its_time(tmp_path: Path) -> None:
    """File names do not decide, and other forms do not count."""
    second, other = result(), result("quick")
    second.started = "2026-11-22T21:30:00+00:00"
    other.started = "2026-12-01T00:00:00+00:00"
    paths = [save(one, tmp_path) for one in (second, result(), other)]
    assert newest("full", tmp_path) == paths[0]


def test_no_result_is_none(tmp_path: Path) -> None:
    """An empty folder has no newest file."""
    assert newest("full", tmp_path) is None


PAGE = """# TYPE headrace_batches_total counter
headrace_batches_total{reason="idle"} %d
headrace_batches_total{reason="size"} 2
# TYPE headrace_batch_size_records histogram
headrace_batch_size_records_bucket{le="1.0"} %d
headrace_batch_size_records_bucket{le="8.0"} %d
headrace_batch_size_records_bucket{le="+Inf"} %d
headrace_batch_size_records_sum %d
headrace_batch_size_records_count %d
"""


def test_batches_of_a_window_are_differences() -> None:
    """Counters are subtracted, cumulative buckets taken apart, bounds in order."""
    before, after = parse(PAGE % (1, 1, 1, 3, 40, 3)), parse(PAGE % (6, 4, 6, 8, 100, 8))
    found = batches_between(before, after)
    assert found.by_reason == {"idle": 5, "size": 0}
    assert found.by_size == [("1.0", 3), ("8.0", 2), ("+Inf", 0)]
    assert found.records == 60
