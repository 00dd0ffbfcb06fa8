"""One exposition for several worker processes: each sample keeps its labels and gains the number of its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from worker.telemetry import catalogue

LABEL = "process"


class MergedMetrics(Collector):
    """Asks for the expositions of all processes at every scrape; ``restarts`` counts by process.

    Both are called from the scraping thread.
    """

    def __init__(self, texts: Callable[[], Mapping[int, str]], restarts: Callable[[], Mapping[int, int]]) -> None:
        self._texts = texts
        self._restarts = restarts
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Family]:
        """Nothing: a scrape must not be needed to register."""
        return []

    def collect(self) -> Iterator[Family]:
        """Every family once, with the samples of all processes."""
        families = merge(self._texts())
        name = catalogue.PROCESS_RESTARTS.name.removesuffix("_total")
        restarts = families.setdefault(name, Family(name, catalogue.PROCESS_RESTARTS.help, "counter"))
        restarts.samples.clear()
        for process, count in self._restarts().items():
            restarts.add_sample(catalogue.PROCESS_RESTARTS.name, {LABEL: str(process)}, count)
        yield from families.values()


def merge(texts: Mapping[int, str]) -> dict[str, Family]:
    """Families by name, from the text of each process."""
    families: dict[str, Family] = {}
    for process, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.setdefault(found.name, Family(found.name, found.documentation, found.type))
            for sample in found.samples:
                labels = {**sample.labels, LABEL: str(process)}
                family.add_sample(sample.name, labels, sample.value, sample.timestamp)
    return families
