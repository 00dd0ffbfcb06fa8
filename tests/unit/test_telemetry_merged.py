"""The metrics of several processes become one exposition that Prometheus can read."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from worker.telemetry import M, Metrics
from worker.telemetry.merged import MergedMetrics, merge


def _exposition(records: int) -> str:
    metrics = Metrics()
    metrics.count(M.RECORDS_CONSUMED, records, topic="in")
    metrics.observe(M.BATCH_SIZE, records, reason="size")
    return metrics.render().decode()


def test_samples_of_all_processes_stand_in_one_family() -> None:
    """Each keeps its labels and value, and gains the number of its process."""
    consumed = merge({0: _exposition(3), 1: _exposition(5)})["headrace_records_consumed"]
    found = {(one.labels["topic"], one.labels["process"]): one.value for one in consumed.samples}
    assert found == {("in", "0"): 3.0, ("in", "1"): 5.0}
    assert consumed.type == "counter"


def test_every_family_is_written_once() -> None:
    """A second HELP line for the same name would make the whole page invalid."""
    texts = {0: _exposition(3), 1: _exposition(5)}
    page = generate_latest(MergedMetrics(lambda: texts, lambda: {0: 0, 1: 2}).registry).decode()
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    families = {family.name: family for family in text_string_to_metric_families(page)}
    restarts = families["headrace_process_restarts"].samples
    assert {one.labels["process"]: one.value for one in restarts} == {"0": 0.0, "1": 2.0}
    sizes = [one for one in families["headrace_batch_size_records"].samples if one.name.endswith("_sum")]
    found = {one.labels["process"]: one.value for one in sizes if one.labels["reason"] == "size"}
    assert found == {"0": 3.0, "1": 5.0}


def test_without_any_answer_restarts_are_still_told() -> None:
    """A pod whose processes are all down says so."""
    page = generate_latest(MergedMetrics(dict, lambda: {0: 7}).registry).decode()
    assert 'headrace_process_restarts_total{process="0"} 7.0' in page
