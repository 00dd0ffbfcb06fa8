"""``python -m tests.soak``: half an hour at half of capacity, a rebalance every 20 s; memory and counts are watched."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.report import versions
from tests.kafka.broker import KafkaBroker
from tests.kafka.processes import free_ports, wait_until
from tests.kafka.worker_process import LOOPBACK, WorkerProcess
from tests.soak.steadiness import COUNTED, MEBIBYTE, Sample, broken_promises, growth, reading, rss_slope_mib
from tests.soak.traffic import Reader, Writer
from worker import resources

PARTITIONS = 8
BACKLOG = 300_000
SHARE = 0.5
REBALANCE_S = 20.0
SAMPLE_S = 5.0
WARM_UP_SHARE = 1 / 6
RETENTION = {"retention.bytes": "134217728", "segment.bytes": "16777216"}
"""Half an hour at full size would fill tens of gigabytes; this keeps some 20 s of load per partition."""

BROKER = {"log.retention.check.interval.ms": "2000", "log.segment.delete.delay.ms": "1000"}
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """A soak and what came of it."""

    guarantee: str
    capacity: float
    rate: float
    written: int
    read: int
    rebalances: int
    took_s: float
    exit_codes: list[int]
    samples: list[Sample]

    @property
    def judged(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [one for one in self.samples if one.at_s >= self.took_s * WARM_UP_SHARE]

    @property
    def broken(self) -> list[str]:
        """What should not have happened."""
        broken = broken_promises(self.judged)
        lost = self.read < self.written
        if lost or (self.guarantee == "exactly_once" and self.read != self.written):
            broken.append(f"{self.written} records written, {self.read} read")
        return broken + [f"a worker ended with exit code {code}" for code in self.exit_codes if code]


class Soak:
    """One run on a broker of its own."""

    def __init__(self, folder: Path, guarantee: str) -> None:
        self._folder, self._guarantee = folder, guarantee
        self._broker = KafkaBroker(folder / "broker", BROKER)
        self._tag = uuid.uuid4().hex[:8]
        self._started = 0
        self._exit_codes: list[int] = []

    def run(self, minutes: float) -> Result:
        """Measure the capacity, then the half of it for so long."""
        with self._broker as broker:
            for topic in ("in", "out", "dlq"):
                broker.client.create_topic(topic, partitions=PARTITIONS, config=RETENTION)
            writer, reader = Writer(broker.bootstrap, "in", PARTITIONS), Reader(broker.bootstrap, "out", PARTITIONS)
            writer.write(BACKLOG)
            writer.flush()
            steady = self._worker()
            try:
                return self._measured(steady, writer, reader, minutes)
            finally:
                steady.discard()
                reader.close()

    def _measured(self, steady: WorkerProcess, writer: Writer, reader: Reader, minutes: float) -> Result:
        capacity = self._capacity(reader)
        rate = capacity * SHARE
        say(f"{self._guarantee}: capacity {capacity:,.0f} events/s, load {rate:,.0f}")
        going = threading.Event()
        load = threading.Thread(target=writer.write_steadily, args=(rate, lambda: not going.is_set()), daemon=True)
        load.start()
        begun, samples = time.monotonic(), []
        guest: WorkerProcess | None = None
        changed_at = begun
        while (now := time.monotonic()) - begun < minutes * 60:
            if now - changed_at >= REBALANCE_S:
                changed_at = now
                guest = self._changed(guest)
            samples.append(reading(steady._started().pid, now - begun, int(steady.status()["tasks"])))
            if len(samples) % 12 == 0:
                self._say(samples[-1], writer, reader)
            time.sleep(SAMPLE_S)
        going.set()
        load.join(120)
        wait_until(
            lambda: reader.count >= writer.written,
            timeout_s=120,
            what=lambda: f"{writer.written} records written, {reader.count} read",
        )
        rebalances = int(steady.status()["rebalances"])
        self._exit_codes += [one.stop() for one in (guest, steady) if one is not None]
        took_s = time.monotonic() - begun
        time.sleep(1.0)  # a repeat that comes late is in the log by now
        return Result(
            self._guarantee, capacity, rate, writer.written, reader.count, rebalances, took_s, self._exit_codes, samples
        )

    @staticmethod
    def _capacity(reader: Reader) -> float:
        """Events per second of one worker with a backlog."""
        wait_until(lambda: reader.count > BACKLOG * 0.1, timeout_s=120, what=lambda: "nothing comes out")
        begun, before = time.monotonic(), reader.count
        wait_until(lambda: reader.count >= BACKLOG, timeout_s=300, what=lambda: f"only {reader.count} came out")
        return (BACKLOG - before) / (time.monotonic() - begun)

    def _changed(self, guest: WorkerProcess | None) -> WorkerProcess | None:
        """A second worker comes, or goes again: a rebalance either way."""
        if guest is None:
            return self._worker()
        self._exit_codes.append(guest.stop())
        return None

    def _worker(self) -> WorkerProcess:
        """A worker on the fraud model, ready."""
        self._started += 1
        config: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": [self._broker.bootstrap],
                "group_id": f"soak-{self._tag}",
                "input_topics": ["in"],
                "output_topic": "out",
                "dead_letter_topic": "dlq",
                "session_timeout_s": 6,
            },
            "event": {"schema": str(resources.path("schemas/transaction.schema.json")), "id_field": "transaction_id"},
            "model": {"path": str(resources.path("models/fraud")), "providers": ["cpu"]},
            "delivery": {"guarantee": self._guarantee},
            "probes": {"host": LOOPBACK, "port": free_ports(1)[0]},
            "log": {"level": "warning", "format": "json"},
        }
        worker = WorkerProcess(self._folder / f"worker-{self._started}", config)
        worker.start()
        worker.wait_ready()
        return worker

    @staticmethod
    def _say(sample: Sample, writer: Writer, reader: Reader) -> None:
        counts = ", ".join(f"{getattr(sample, name)} {name}" for name in COUNTED)
        behind = writer.written - reader.count
        say(f"{sample.at_s:6.0f} s: {sample.rss_bytes / MEBIBYTE:.1f} MiB, {counts}, {behind:,} records behind")


def say(text: str) -> None:
    """One line for the terminal."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def page(results: Sequence[Result], command: str) -> str:
    """The report as Markdown."""
    rows: list[tuple[str, Callable[[Result], object]]] = [
        ("Load", lambda one: f"{one.rate:,.0f} events/s of {one.capacity:,.0f}"),
        ("Duration", lambda one: f"{one.took_s / 60:.0f} min"),
        ("Records written, read", lambda one: f"{one.written:,}, {one.read:,}"),
        ("Rebalances", lambda one: one.rebalances),
        ("RSS, last", lambda one: f"{one.samples[-1].rss_bytes / MEBIBYTE:.0f} MiB"),
        ("**RSS growth in 10 min**", lambda one: f"**{rss_slope_mib(one.judged):.2f} MiB**"),
        *((f"{name}, first and last third", partial(_growth, name=name)) for name in COUNTED),
        ("Broken promises", lambda one: "; ".join(one.broken) or "none"),
    ]
    return "\n".join(
        [
            "# Soak",
            "",
            f"<!-- Generated by `{command}`; do not edit. -->",
            "",
            "One worker at half of the rate at which it drains a backlog, while a second one joins and leaves the",
            "group: a rebalance every 20 s. Memory, tasks, sockets, open files and threads of the first are read every",
            "5 s. The first sixth is warm-up.",
            "",
            f"Command: `{command}`. Versions: {', '.join(f'{name} {at}' for name, at in versions().items())}.",
            "",
            "| | " + " | ".join(one.guarantee for one in results) + " |",
            "| --- |" + " --- |" * len(results),
            *(f"| {name} | " + " | ".join(str(value(one)) for one in results) + " |" for name, value in rows),
            "",
        ]
    )


def _growth(result: Result, name: str) -> str:
    return ", ".join(f"{value:g}" for value in growth(result.judged, name))


def main(given: Sequence[str]) -> int:
    """Run what the arguments say; 0 if nothing grew and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--guarantee", action="append", choices=["at_least_once", "exactly_once"])
    parser.add_argument("--page", type=Path, help="write the report here, with its data as JSON beside it")
    arguments = parser.parse_args(given)
    results = []
    for guarantee in arguments.guarantee or ["exactly_once"]:
        with tempfile.TemporaryDirectory(prefix="headrace-soak-") as folder:
            results.append(Soak(Path(folder), guarantee).run(arguments.minutes))
    if arguments.page is not None:
        arguments.page.write_text(page(results, " ".join(["python -m tests.soak", *given])))
        data = [asdict(one) | {"broken": one.broken} for one in results]
        arguments.page.with_suffix(".json").write_text(json.dumps(data) + "\n")
    broken = [f"{one.guarantee}: {text}" for one in results for text in one.broken]
    say("\n".join(broken or ["nothing grew, nothing was lost"]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
