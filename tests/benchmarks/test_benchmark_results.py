"""Files of results: written, read, found again, and put together from parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.results import Result, differences, load, new_path, newest, save
from benchmarks.harness.scrape import batches_between, parse
from tests.benchmarks.samples import drain, part, result


def saved(made: Result, folder: Path) -> Path:
    """The file of a new result."""
    path = new_path(made, folder)
    save(made, path)
    return path


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    """Every figure is read as it was written."""
    made = result()
    assert load(saved(made, tmp_path)) == made


def test_a_second_run_of_a_day_has_its_time_in_the_name(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    first, second = result(), result()
    second.started = "2026-11-22T21:30:05+00:00"
    assert [saved(one, tmp_path).name for one in (first, second)] == [
        "full-2026-11-22.json",
        "full-2026-11-22-213005.json",
    ]


def test_the_newest_is_found_by_its_time(tmp_path: Path) -> None:
    """File names do not decide, and other forms do not count."""
    second, other = result(), result("quick")
    second.started = "2026-11-22T21:30:00+00:00"
    other.started = "2026-12-01T00:00:00+00:00"
    paths = [saved(one, tmp_path) for one in (second, result(), other)]
    assert newest("full", tmp_path) == paths[0]


def test_a_result_that_lacks_a_part_is_not_the_newest(tmp_path: Path) -> None:
    """The page is made from whole results, as long as there is one."""
    whole, cut = result(), result()
    cut.started = "2026-11-22T21:30:00+00:00"
    cut.parts[0].is_complete = False
    path = saved(cut, tmp_path)
    assert newest("full", tmp_path) == path
    path = saved(whole, tmp_path)
    assert newest("full", tmp_path) == path


def test_no_result_is_none(tmp_path: Path) -> None:
    """An empty folder has no newest file."""
    assert newest("full", tmp_path) is None


def empty(*wanted: str) -> Result:
    """A result that waits for these parts."""
    made = result()
    made.wanted, made.parts = list(wanted), []
    return made


def test_what_is_not_complete_is_missing() -> None:
    """A part that was cut short is still to be measured; its figures count until then."""
    made = empty("crash", "latency", "idle")
    cut = part("latency", is_complete=False, drains=[drain("quix:batch", 1, 1.0, 1.0)])
    made.parts = [part("crash"), cut]
    assert made.missing == ["latency", "idle"]
    assert [one.events_per_s for one in made.drains] == [1.0]


def test_a_complete_part_takes_the_place_of_all_others_of_its_name() -> None:
    """Old figures go only when the new ones are whole, and other parts stay."""
    made = empty("throughput:fraud", "crash")
    old, crash = part("throughput:fraud", drains=[drain("quix:batch", 1, 1.0, 1.0)]), part("crash")
    new = part("throughput:fraud", is_complete=False, drains=[drain("quix:batch", 1, 2.0, 1.0)])
    made.parts = [old, crash, new]
    assert [one.events_per_s for one in made.drains] == [1.0]
    made.complete(new)
    assert made.parts == [crash, new]
    assert [one.events_per_s for one in made.drains] == [2.0]


def test_of_two_cut_parts_the_newer_one_counts() -> None:
    """Their figures are never mixed."""
    made = empty("throughput:fraud")
    for rate in (1.0, 2.0):
        cut = part("throughput:fraud", is_complete=False, drains=[drain("quix:batch", 1, rate, 1.0)])
        made.parts.append(cut)
    assert [one.events_per_s for one in made.drains] == [2.0]


def test_parts_are_in_the_order_of_the_form() -> None:
    """Whatever was measured first; the minutes are those of the parts in use."""
    made = empty("crash", "latency")
    made.parts = [
        part("latency", minutes=2.0),
        part("crash", minutes=1.5),
        part("latency", minutes=9.0, is_complete=False),
    ]
    assert [one.name for one in made.used] == ["crash", "latency"]
    assert made.minutes == 3.5


def test_drains_around_the_parts_are_no_figures() -> None:
    """The echo that says how fast the machine was is not in the table."""
    made = empty("crash")
    made.parts = [part("crash")]
    assert made.parts[0].echo
    assert made.drains == []


def test_the_same_failure_is_named_once() -> None:
    """A system that could not be installed fails in every part."""
    made = result()
    made.parts[1].failures = made.parts[0].failures
    assert len(made.failures) == 1


@pytest.mark.parametrize("name", ["machine", "versions", "broker", "settings"])
def test_parts_of_unlike_runs_do_not_belong_together(name: str) -> None:
    """Another machine, version, broker or setting is named."""
    one, other = result(), result()
    setattr(other, name, {**getattr(other, name), "headrace": "0.1.0 (def)"})
    (difference,) = differences(one, other)
    assert difference.startswith(f"{name}, headrace: ")
    assert difference.endswith("and 0.1.0 (def)")


def test_parts_of_other_times_belong_together() -> None:
    """Time and command may differ, and what was measured."""
    one, other = result(), result()
    other.started, other.commands, other.parts, other.workloads = "2026-12-01T00:00:00+00:00", ["x"], [], {}
    assert differences(one, other) == []


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


def test_processes_of_one_pod_are_added() -> None:
    """With several processes each sample has their number; batches are those of all."""
    page = """# TYPE headrace_batches_total counter
headrace_batches_total{process="0",reason="idle"} 3
headrace_batches_total{process="1",reason="idle"} 4
# TYPE headrace_event_loop_lag_seconds histogram
headrace_event_loop_lag_seconds_bucket{process="0",le="0.001"} 5
headrace_event_loop_lag_seconds_bucket{process="1",le="0.001"} 6
"""
    assert parse(page) == {"reason|idle": 7, "loop|0.001": 11}
