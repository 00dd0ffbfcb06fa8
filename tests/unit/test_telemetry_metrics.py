"""Metrics accumulate exactly and are exposed as Prometheus reads them."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from worker.telemetry import M, Metrics, Snapshot
from worker.telemetry.catalogue import CATALOGUE, DEAD_LETTER_REASONS, FLUSH_REASONS, Counter, Gauge


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counter_adds_per_label_set() -> None:
    """Counts add up per label set, whatever the order in which labels are written; a number equals its text."""
    metrics = Metrics()
    metrics.count(M.INFERENCE_RECORDS, 3, model="fraud", version="1", provider="cpu")
    metrics.count(M.INFERENCE_RECORDS, 4, provider="cpu", version="1", model="fraud")
    metrics.count(M.INFERENCE_RECORDS, provider="cpu", version=1, model="fraud")
    metrics.count(M.INFERENCE_RECORDS, 5, model="fraud", version="2", provider="cpu")
    assert metrics.series(M.INFERENCE_RECORDS) == {("fraud", "1", "cpu"): 8, ("fraud", "2", "cpu"): 5}
    assert metrics.value(M.INFERENCE_RECORDS, version=1) == 8
    assert metrics.value(M.INFERENCE_RECORDS) == 13
    assert metrics.value(M.INFERENCE_RECORDS, model="other") == 0


def test_gauge_keeps_the_last_value() -> None:
    """A gauge shows what was set last."""
    metrics = Metrics()
    metrics.gauge(M.INFLIGHT_RECORDS, 7)
    metrics.gauge(M.INFLIGHT_RECORDS, 2)
    assert metrics.value(M.INFLIGHT_RECORDS) == 2


def test_series_with_closed_labels_start_at_zero() -> None:
    """Every reason of a batch is exposed before the first batch; series with open labels are not."""
    samples = _samples(Metrics())
    for reason in FLUSH_REASONS:
        assert samples["headrace_batches_total", (("reason", reason),)] == 0
    assert samples["headrace_inflight_records", ()] == 0
    assert samples["headrace_end_to_end_latency_seconds_count", ()] == 0
    assert not [key for key in samples if key[0] == "headrace_records_consumed_total"]


def test_gauges_without_a_meaningful_zero_are_absent_until_set() -> None:
    """A time that was never recorded is not exposed as 1970."""
    metrics = Metrics()
    assert ("headrace_last_progress_timestamp_seconds", ()) not in _samples(metrics)
    metrics.gauge(M.LAST_PROGRESS, 1.8e9)
    assert _samples(metrics)["headrace_last_progress_timestamp_seconds", ()] == 1.8e9


def test_declare_starts_open_labels_at_zero() -> None:
    """Once a topic is known, each of its dead-letter reasons is exposed with 0, and nothing counted is lost."""
    metrics = Metrics()
    metrics.count(M.RECORDS_DEAD_LETTERED, 2, topic="t", reason="tombstone")
    metrics.declare(M.RECORDS_DEAD_LETTERED, topic="t")
    expected = {("t", reason): 0.0 for reason in DEAD_LETTER_REASONS} | {("t", "tombstone"): 2.0}
    assert metrics.series(M.RECORDS_DEAD_LETTERED) == expected


def test_drop_removes_the_series_and_lets_them_return() -> None:
    """A partition taken away leaves the exposition; set again, it is exposed again."""
    metrics = Metrics()
    for partition in (0, 1):
        metrics.gauge(M.CONSUMER_LAG_RECORDS, 5, topic="t", partition=partition)
    metrics.drop(M.CONSUMER_LAG_RECORDS, topic="t", partition=0)
    assert metrics.series(M.CONSUMER_LAG_RECORDS) == {("t", "1"): 5}
    metrics.gauge(M.CONSUMER_LAG_RECORDS, 9, topic="t", partition=0)
    assert metrics.series(M.CONSUMER_LAG_RECORDS) == {("t", "1"): 5, ("t", "0"): 9}
    metrics.drop(M.CONSUMER_LAG_RECORDS)
    assert metrics.series(M.CONSUMER_LAG_RECORDS) == {}


def test_drop_of_a_histogram() -> None:
    """Histograms can be dropped too."""
    metrics = Metrics()
    metrics.observe(M.INFERENCE_DURATION, 0.1, model="a", version="1")
    metrics.drop(M.INFERENCE_DURATION, model="a")
    assert metrics.snapshot(M.INFERENCE_DURATION).count == 0


@pytest.mark.parametrize(
    "labels",
    [{}, {"reson": "size"}, {"reason": "size", "more": "x"}, {"reason": "never"}],
    ids=["missing", "mistyped", "surplus", "unknown value"],
)
def test_wrong_labels_are_refused(labels: dict[str, str]) -> None:
    """A label that the metric does not declare, or a value outside its closed set, raises and changes nothing."""
    metrics = Metrics()
    before = metrics.render()
    with pytest.raises(ValueError, match="headrace_batches_total"):
        metrics.count(M.BATCHES, 1, **labels)
    families = [line for line in before.splitlines() if line.startswith(b"headrace_")]
    assert [line for line in metrics.render().splitlines() if line.startswith(b"headrace_")] == families


def test_wrong_labels_are_refused_by_readers() -> None:
    """Reading by a mistyped label raises instead of returning 0."""
    with pytest.raises(ValueError, match="headrace_batches_total"):
        Metrics().value(M.BATCHES, reson="size")


def test_a_bound_belongs_to_its_bucket() -> None:
    """Buckets include their upper bound, and what exceeds all bounds goes to the last one."""
    metrics = Metrics()
    for size in (1, 2, 3, 8192, 8193):
        metrics.observe(M.BATCH_SIZE, size, reason="size")
    assert metrics.snapshot(M.BATCH_SIZE).counts == (1, 1, 1, *([0] * 10), 1, 1)


@given(st.lists(st.floats(0, 100, width=32), max_size=60), st.sampled_from([np.float32, np.float64]))
def test_observe_many_equals_one_by_one(values: list[float], dtype: type[np.floating]) -> None:
    """An array observed at once, and each of its values observed alone, give the same histogram."""
    array = np.array(values, dtype=dtype)
    bulk, single = Metrics(), Metrics()
    bulk.observe_many(M.STAGE_DURATION, array, stage="infer")
    for value in array:
        single.observe(M.STAGE_DURATION, float(value), stage="infer")
    at_once, one_by_one = bulk.snapshot(M.STAGE_DURATION), single.snapshot(M.STAGE_DURATION)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)


def test_observe_many_creates_its_series() -> None:
    """The first observation of a label set may come as an array."""
    metrics = Metrics()
    metrics.observe_many(M.INFERENCE_DURATION, np.array([0.1, 0.3]), model="a", version="1")
    assert metrics.snapshot(M.INFERENCE_DURATION, model="a").mean == pytest.approx(0.2)


def test_observe_with_a_weight_counts_as_often() -> None:
    """Many observations of one value weigh as often."""
    metrics = Metrics()
    metrics.observe(M.END_TO_END_LATENCY, 0.25, n=4)
    shot = metrics.snapshot(M.END_TO_END_LATENCY)
    assert (shot.count, shot.total) == (4, 1.0)


def test_snapshot_sums_over_the_labels_left_out() -> None:
    """A snapshot without labels joins all series of the metric."""
    metrics = Metrics()
    metrics.observe(M.STAGE_DURATION, 0.5, stage="infer")
    metrics.observe(M.STAGE_DURATION, 1.5, stage="decode")
    assert metrics.snapshot(M.STAGE_DURATION).total == 2.0
    assert metrics.snapshot(M.STAGE_DURATION, stage="infer").total == 0.5


def test_snapshot_since_an_earlier_one() -> None:
    """The difference of two snapshots holds what came between them."""
    metrics = Metrics()
    metrics.observe(M.BATCH_SIZE, 512, reason="size")
    earlier = metrics.snapshot(M.BATCH_SIZE)
    metrics.observe(M.BATCH_SIZE, 4, reason="idle")
    between = metrics.snapshot(M.BATCH_SIZE).since(earlier)
    assert (between.count, between.mean, between.quantile(1.0)) == (1, 4.0, 4.0)


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    """Quantiles lie where an even spread within the bucket puts them, at most at the highest bound."""
    shot = Snapshot(bounds=(1.0, 2.0, 4.0), counts=(2, 0, 2, 1), total=20.0)
    assert [shot.quantile(share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)] == [0.5, 1.0, 3.0, 4.0, 4.0]
    assert shot.mean == 4.0
    empty = Snapshot((1.0,), (0, 0), 0.0)
    assert (empty.quantile(0.5), empty.mean) == (0.0, 0.0)


def test_exposition_reads_back_what_was_written() -> None:
    """Prometheus' parser finds each value, bucket by cumulative bucket, with label texts escaped and restored."""
    metrics = Metrics()
    odd = 'a"b\\c\nd'
    metrics.count(M.RECORDS_CONSUMED, 12, topic=odd)
    metrics.gauge(M.CONSUMER_LAG_RECORDS, 3.5, topic="t", partition=11)
    for size in (1, 32, 32, 10_000):
        metrics.observe(M.BATCH_SIZE, size, reason="size")
    samples = _samples(metrics)
    assert samples["headrace_records_consumed_total", (("topic", odd),)] == 12
    assert samples["headrace_consumer_lag_records", (("partition", "11"), ("topic", "t"))] == 3.5
    bucket = "headrace_batch_size_records_bucket"
    wanted = {"1.0": 1, "16.0": 1, "32.0": 3, "8192.0": 3, "+Inf": 4}
    assert {bound: samples[bucket, (("le", bound), ("reason", "size"))] for bound in wanted} == wanted
    assert samples["headrace_batch_size_records_sum", (("reason", "size"),)] == 10_065
    assert samples["headrace_batch_size_records_count", (("reason", "size"),)] == 4


def test_exposition_names_kind_and_help_of_every_metric() -> None:
    """Each metric of the catalogue is announced, with its kind and its help, even without a series."""
    text = Metrics().render().decode()
    for metric in CATALOGUE:
        assert f"# HELP {metric.name} {metric.help}\n" in text
        assert f"# TYPE {metric.name} {metric.kind}\n" in text


def test_process_metrics_are_exposed() -> None:
    """The standard metrics of the process stand beside ours."""
    assert _samples(Metrics())["process_resident_memory_bytes", ()] > 0


def test_two_instances_share_nothing() -> None:
    """Each Metrics has its own registry and its own numbers."""
    one, other = Metrics(), Metrics()
    one.count(M.BATCHES, reason="size")
    assert (one.value(M.BATCHES), other.value(M.BATCHES)) == (1, 0)


def test_scrape_while_writing() -> None:
    """Scrapes from other threads see monotone, parseable numbers while series are written, created and dropped."""
    metrics = Metrics()
    seen: list[float] = []
    faults: list[Exception] = []
    enough = threading.Event()

    def scrape() -> None:
        try:
            while len(seen) < 20:
                seen.append(_samples(metrics)["headrace_end_to_end_latency_seconds_count", ()])
        except Exception as error:  # noqa: BLE001  asserted on below, in the main thread
            faults.append(error)
        finally:
            enough.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=scrape)
        thread.start()
        rounds = 0
        while not enough.is_set():
            metrics.observe_many(M.END_TO_END_LATENCY, np.full(10, 0.01))
            metrics.gauge(M.CONSUMER_LAG_RECORDS, rounds, topic="t", partition=rounds % 50)
            if rounds % 50 == 49:
                metrics.drop(M.CONSUMER_LAG_RECORDS, topic="t")
            rounds += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
    assert seen == sorted(seen)
    assert metrics.snapshot(M.END_TO_END_LATENCY).count == rounds * 10


def test_kinds_are_distinct_types() -> None:
    """Counting a gauge, or setting a counter, is a type error: the kinds share no type but Metric."""
    assert not isinstance(M.BATCHES, Gauge)
    assert not isinstance(M.INFLIGHT_BYTES, Counter)
