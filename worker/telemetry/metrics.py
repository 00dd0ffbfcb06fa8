"""Accumulates metrics in plain numbers and exposes them to Prometheus when asked.

One thread writes (the event loop), any thread reads. A write is a table look-up and an addition, without a
lock: the lock guards only the shape of the tables, which changes when a series is first seen or dropped. A
reader may therefore see one batch counted in one metric and not yet in another, never a torn number.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from worker.telemetry.catalogue import CATALOGUE, Counter, Gauge, Histogram, Metric

LabelValue = str | int
LabelValues = tuple[str, ...]
_S = TypeVar("_S", "_Cell", "_Distribution")


class _Cell:
    __slots__ = ("value",)

    def __init__(self, _metric: Metric) -> None:
        self.value = 0.0


class _Distribution:
    __slots__ = ("bounds", "counts", "edges", "total")

    def __init__(self, metric: Metric) -> None:
        self.bounds = cast("Histogram", metric).buckets
        self.edges = np.array(self.bounds, dtype=np.float64)
        self.counts = np.zeros(len(self.bounds) + 1, dtype=np.int64)
        self.total = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A histogram at one moment: ``counts`` per bucket, one more than ``bounds`` (the last one: above all)."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The exact mean; 0 where nothing was observed."""
        return self.total / self.count if self.count else 0.0

    def since(self, earlier: Snapshot) -> Snapshot:
        """What was observed between ``earlier`` and this snapshot of the same metric."""
        counts = tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True))
        return Snapshot(self.bounds, counts, self.total - earlier.total)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` (0 to 1) of the observations lie, interpolated within its bucket.

        As precise as the buckets are. 0 where nothing was observed; the highest bound where it lies above all.
        """
        rank = share * self.count
        seen = 0
        for index, bound in enumerate(self.bounds):
            here = self.counts[index]
            if here and seen + here >= rank:
                lower = self.bounds[index - 1] if index else 0.0
                return lower + (bound - lower) * (rank - seen) / here
            seen += here
        return self.bounds[-1] if self.count else 0.0


class _Table(Generic[_S]):
    """Series of some metrics, by label values; ``aliases`` finds one from the labels as a caller wrote them."""

    def __init__(self, create: Callable[[Metric], _S]) -> None:
        self.aliases: dict[tuple[Metric, tuple[tuple[str, LabelValue], ...]], _S] = {}
        self._series: dict[Metric, dict[LabelValues, _S]] = {metric: {} for metric in CATALOGUE}
        self._create: Callable[[Metric], _S] = create
        self._lock = threading.Lock()

    def resolve(self, metric: Metric, labels: Mapping[str, LabelValue]) -> _S:
        """Return the series, created if need be; raises ValueError on labels that the metric does not declare."""
        if labels.keys() != metric.labels.keys():
            raise ValueError(f"{metric.name} has the labels {metric.label_names}, not {tuple(labels)}")
        for name, allowed in metric.labels.items():
            if allowed and labels[name] not in allowed:
                raise ValueError(f"{metric.name}: {name}={labels[name]!r} is none of {allowed}")
        values = tuple(str(labels[name]) for name in metric.labels)
        with self._lock:
            series = self._series[metric].get(values)
            if series is None:
                series = self._series[metric][values] = self._create(metric)
            self.aliases[metric, tuple(labels.items())] = series
        return series

    def rows(self, metric: Metric, labels: Mapping[str, LabelValue]) -> list[tuple[LabelValues, _S]]:
        """All series of ``metric`` that carry ``labels``, which may be only some of its labels."""
        unknown = labels.keys() - metric.labels.keys()
        if unknown:
            raise ValueError(f"{metric.name} has the labels {metric.label_names}, not {tuple(labels)}")
        wanted = [(metric.label_names.index(name), str(value)) for name, value in labels.items()]
        with self._lock:
            rows = list(self._series[metric].items())
        return [row for row in rows if all(row[0][index] == value for index, value in wanted)]

    def drop(self, metric: Metric, labels: Mapping[str, LabelValue]) -> None:
        """Remove the series that ``rows`` would list."""
        gone = self.rows(metric, labels)
        cells = {id(series) for _, series in gone}
        with self._lock:
            for values, _ in gone:
                del self._series[metric][values]
            for key in [key for key, series in self.aliases.items() if id(series) in cells]:
                del self.aliases[key]


class Metrics(Collector):
    """The metrics of one process.

    Labels are given by name, all of a metric's labels at each call; label values become text. A label or a
    value that the catalogue does not know raises ValueError: it is a bug of the caller. Observed values must be
    finite and not negative.
    """

    def __init__(self) -> None:
        self._numbers: _Table[_Cell] = _Table(_Cell)
        self._distributions: _Table[_Distribution] = _Table(_Distribution)
        for metric in CATALOGUE:
            if not (isinstance(metric, Gauge) and metric.unset):
                self._create_closed(metric, {})
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    # Writing: one thread.

    def count(self, metric: Counter, value: float = 1, **labels: LabelValue) -> None:
        """Add ``value``, which is not negative."""
        cell = self._numbers.aliases.get((metric, tuple(labels.items())))
        if cell is None:
            cell = self._numbers.resolve(metric, labels)
        cell.value += value

    def gauge(self, metric: Gauge, value: float, **labels: LabelValue) -> None:
        """Set the gauge to ``value``."""
        cell = self._numbers.aliases.get((metric, tuple(labels.items())))
        if cell is None:
            cell = self._numbers.resolve(metric, labels)
        cell.value = value

    def observe(self, metric: Histogram, value: float, n: int = 1, **labels: LabelValue) -> None:
        """Count ``n`` observations of ``value``."""
        series = self._distributions.aliases.get((metric, tuple(labels.items())))
        if series is None:
            series = self._distributions.resolve(metric, labels)
        series.counts[bisect_left(series.bounds, value)] += n
        series.total += value * n

    def observe_many(self, metric: Histogram, values: np.ndarray, **labels: LabelValue) -> None:
        """Count each entry of ``values`` (numbers[n], n may be 0) as one observation."""
        series = self._distributions.aliases.get((metric, tuple(labels.items())))
        if series is None:
            series = self._distributions.resolve(metric, labels)
        places = series.edges.searchsorted(values)
        series.counts += np.bincount(places, minlength=len(series.counts))
        series.total += float(values.sum(dtype=np.float64))

    def declare(self, metric: Metric, **labels: LabelValue) -> None:
        """Start at 0 the series that have these values in their open labels, one per value of the closed ones."""
        self._create_closed(metric, labels)

    def drop(self, metric: Metric, **labels: LabelValue) -> None:
        """Stop exposing the series that carry ``labels`` (some or all): those of a partition taken away."""
        if isinstance(metric, Histogram):
            self._distributions.drop(metric, labels)
        else:
            self._numbers.drop(metric, labels)

    # Reading: any thread.

    def value(self, metric: Counter | Gauge, **labels: LabelValue) -> float:
        """Sum of the series that carry ``labels`` (some, all or none of the metric's); 0 if there is none."""
        return sum((cell.value for _, cell in self._numbers.rows(metric, labels)), 0.0)

    def series(self, metric: Counter | Gauge) -> dict[LabelValues, float]:
        """Every series' value, by its label values in the order of the declaration."""
        return {values: cell.value for values, cell in self._numbers.rows(metric, {})}

    def snapshot(self, metric: Histogram, **labels: LabelValue) -> Snapshot:
        """The histogram over all series that carry ``labels``."""
        counts = np.zeros(len(metric.buckets) + 1, dtype=np.int64)
        total = 0.0
        for _, series in self._distributions.rows(metric, labels):
            counts += series.counts
            total += series.total
        return Snapshot(metric.buckets, tuple(counts.tolist()), total)

    def render(self) -> bytes:
        """Everything in Prometheus' text format, with the standard metrics of the process."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the catalogue; called by prometheus-client at each scrape."""
        for metric in CATALOGUE:
            if isinstance(metric, Histogram):
                yield self._histogram_family(metric)
            else:
                family = CounterMetricFamily if isinstance(metric, Counter) else GaugeMetricFamily
                exposed: Any = family(metric.name, metric.help, labels=metric.label_names)
                for values, cell in self._numbers.rows(metric, {}):
                    exposed.add_metric(values, cell.value)
                yield exposed

    def _histogram_family(self, metric: Histogram) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.label_names)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for values, series in self._distributions.rows(metric, {}):
            cumulative = itertools.accumulate(series.counts.tolist())
            family.add_metric(values, list(zip(bounds, cumulative, strict=True)), series.total)
        return family

    def _create_closed(self, metric: Metric, given: Mapping[str, LabelValue]) -> None:
        choices = [
            [(name, given[name])] if name in given else [(name, value) for value in allowed]
            for name, allowed in metric.labels.items()
        ]
        table = self._distributions if isinstance(metric, Histogram) else self._numbers
        for labels in itertools.product(*choices):
            table.resolve(metric, dict(labels))
