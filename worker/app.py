"""The composition root: builds every part, owns every task, and ends them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, TypeVar

import structlog
from aiokafka.partitioner import murmur2

from worker import __version__, logs
from worker.adapters.bundle import Bundle, load_bundle
from worker.adapters.kafka_topics import (
    TopicFacts,
    connect,
    describe,
    missing_permissions,
    missing_topics,
    too_few_partitions,
)
from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_race import Lap
from worker.adapters.probes import ProbeServer
from worker.adapters.schema_file import load_schema
from worker.codec import build_codec, open_models
from worker.core.actions import Policy
from worker.core.brakes import BrakeLimits
from worker.core.decoder import Decoder
from worker.core.lifecycle import Lifecycle, State
from worker.core.outgoing import Dispatcher, Routing
from worker.core.output import OutputEncoder
from worker.core.pipeline import Pipeline
from worker.driver import Driver
from worker.errors import BrokerError, Problem
from worker.limits import batch_limits, flow_limits
from worker.memory import keep_memory, spare_collector
from worker.monitor import Monitor
from worker.recorder import Recorder
from worker.settings import Settings
from worker.telemetry import M, Metrics

log = structlog.get_logger("headrace.app")

DIGEST_LENGTH = 12
SECOND_SIGNAL_EXIT = 1


@dataclass(frozen=True, slots=True)
class Scorer:
    """A bundle ready to score: model, decoder and encoder fit each other. ``race`` is what chose the provider."""

    bundle: Bundle
    model: OnnxModel
    decoder: Decoder
    encoder: OutputEncoder
    race: tuple[Lap, ...] = ()


def load_scorer(settings: Settings) -> Scorer:
    """Load, check and warm up everything that needs no broker; blocking.

    Raises ConfigError, BundleError or EnvironmentFault; not one record has been read then.
    """
    schema = load_schema(settings.event.schema_path)
    bundle = load_bundle(settings.model.path)
    candidates = open_models(settings, bundle)
    decoder, encoder = build_codec(settings, schema, bundle, candidates.outputs)
    ready = candidates.ready(decoder)
    return Scorer(bundle, ready.model, decoder, encoder, ready.race)


async def run(settings: Settings, listener: socket.socket | None = None) -> int:
    """Run the worker until a signal or a failure; returns 0 after a clean drain, else raises HeadraceError.

    Its probes answer on ``listener``, where one is given, instead of ``settings.probes``.
    """
    logs.configure(settings.log.level, settings.log.format)
    metrics, lifecycle = Metrics(), Lifecycle()
    monitor = Monitor(settings, metrics, lifecycle)
    probes = ProbeServer(settings.probes.host, settings.probes.port, metrics.registry, monitor)
    probes.start(listener)
    log.info("starting", version=__version__, pid=os.getpid(), probes_port=probes.port)
    worker = Worker(settings, metrics, lifecycle, monitor)
    stop = asyncio.Event()
    try:
        with _signals(stop, worker.release_brakes):
            return await worker.run(stop)
    finally:
        lifecycle.move(State.STOPPED)
        probes.stop()


@contextmanager
def _signals(stop: asyncio.Event, release_brakes: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT asks for a drain, the second ends the process at once with nothing committed.

    SIGUSR1 releases the brakes; before there are any it does nothing.
    """
    loop = asyncio.get_running_loop()

    def received(name: str) -> None:
        if stop.is_set():
            log.error("second_signal", signal=name, effect="exit now, what is in flight is not committed")
            os._exit(SECOND_SIGNAL_EXIT)
        log.info("signal", signal=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)
    loop.add_signal_handler(signal.SIGUSR1, release_brakes)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.remove_signal_handler(number)


_T = TypeVar("_T")


async def on_daemon_thread(work: Callable[[], _T], name: str) -> _T:
    """The result of ``work`` from a thread of its own, which ends with the process however long it takes.

    ``asyncio.to_thread`` would keep the loop from closing until it is through.
    """
    done: Future[_T] = Future()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 # raised where the result is awaited
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(done)


class Worker:
    """One life: load, connect, join, run, drain."""

    def __init__(self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle, monitor: Monitor) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._monitor = monitor
        self._driver: Driver | None = None

    def release_brakes(self) -> None:
        """Resume the partitions that the brakes stopped."""
        if self._driver is not None:
            self._driver.release_brakes()

    async def run(self, stop: asyncio.Event) -> int:
        """Live until ``stop`` is set or something fails."""
        beat = asyncio.create_task(self._monitor.beat_forever(), name="beat")
        reach = asyncio.create_task(self._monitor.reach_forever(), name="reach")
        serve = asyncio.create_task(self._serve(), name="serve")
        stopping = asyncio.create_task(stop.wait(), name="stopping")
        waited: set[asyncio.Task[Any]] = {beat, reach, serve, stopping}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in (serve, beat, reach):
                if task.done():
                    await task  # raises what ended it
            return await self._drain(serve)
        finally:
            for task in waited:
                task.cancel()
            await asyncio.gather(*waited, return_exceptions=True)
            if self._driver is not None:
                await self._driver.close()

    async def _serve(self) -> None:
        """Everything up to and including the poll loop; ends only by an exception."""
        scorer = await self._load()
        self._lifecycle.move(State.CONNECTING)
        facts = await self._topic_facts()
        pipeline = self._pipeline(scorer, facts)
        recorder = Recorder(self._metrics, scorer.model, scorer.bundle.name, scorer.bundle.version)
        driver = self._driver = Driver(self._settings, pipeline, scorer.model, recorder)
        kafka = self._settings.kafka
        if self._settings.output.partitioning == "source":
            driver.output_grew(facts[kafka.output_topic].partitions)
        smallest = min(facts[name].max_message_bytes for name in (kafka.output_topic, kafka.dead_letter_topic))
        await connect(kafka, lambda: driver.sink.start(smallest))
        self._monitor.watch(pipeline, driver, recorder, self._model_facts(scorer))
        driver.engine.start()
        self._lifecycle.move(State.JOINING)
        await connect(kafka, driver.source.start)
        spare_collector()
        keep_memory()
        self._lifecycle.move(State.RUNNING)
        log.info("ready", group=kafka.group_id, inputs=list(kafka.input_topics), output=kafka.output_topic)
        poll = asyncio.create_task(driver.poll_forever(), name="poll")
        try:
            await asyncio.wait({poll, driver.failed}, return_when=asyncio.FIRST_COMPLETED)
            await (poll if poll.done() else driver.failed)
        finally:
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)

    async def _load(self) -> Scorer:
        """Load in a thread: the probes answer and the loop turns meanwhile, and a stop need not wait for it."""
        begun = time.monotonic()
        scorer = await on_daemon_thread(lambda: load_scorer(self._settings), "load")
        took_s = time.monotonic() - begun
        bundle, model, metrics = scorer.bundle, scorer.model, self._metrics
        self._tell_provider(scorer)
        log.info("model_loaded", model=bundle.label, sha256=bundle.sha256, provider=model.provider, took_s=took_s)
        metrics.gauge(M.MODEL_READY, 1)
        metrics.gauge(M.MODEL_LOAD_DURATION, took_s)
        labels = {"model": bundle.name, "version": bundle.version, "sha256": bundle.sha256}
        metrics.gauge(M.MODEL_INFO, 1, **labels, provider=model.provider)
        metrics.gauge(M.BUILD_INFO, 1, version=__version__, ort=_runtime_version())
        for topic in self._settings.kafka.input_topics:
            metrics.declare(M.RECORDS_CONSUMED, topic=topic)
            metrics.declare(M.RECORDS_DEAD_LETTERED, topic=topic)
        metrics.declare(M.RECORDS_PRODUCED, topic=self._settings.kafka.output_topic)
        return scorer

    def _tell_provider(self, scorer: Scorer) -> None:
        """Log where the model runs and why, and keep the gauges of it."""
        model, metrics = scorer.model, self._metrics
        if model.fallback:
            log.warning("provider_fallback", provider=model.provider, detail=model.fallback)
        if scorer.race:
            log.info("provider_race", chosen=model.provider, race=[lap.facts() for lap in scorer.race])
        for lap in scorer.race:
            for bucket, call_us in lap.call_us.items():
                metrics.gauge(M.MODEL_RACE, call_us / 1e6, provider=lap.provider, bucket=bucket)
        if detail := model.placement.left_behind(model.provider):
            log.warning("nodes_left_on_cpu", provider=model.provider, detail=detail)
        if model.no_graphs:
            log.warning("cuda_graphs_not_used", detail=model.no_graphs)
        if model.ladder is not None:
            log.info("device_calls", provider=model.provider, way=model.way, pinned=model.is_pinned)
            loop = asyncio.get_running_loop()
            metrics.gauge(M.MODEL_BATCH_CEILING, model.ladder.ceiling)
            # The ladder speaks on the engine's thread; the metrics have one writer, the loop.
            model.ladder.changed = lambda ceiling: _note_ceiling(loop, metrics, ceiling)

    async def _topic_facts(self) -> dict[str, TopicFacts]:
        """Facts of all topics; raises BrokerError where one is missing or cannot serve."""
        kafka = self._settings.kafka
        names = (*kafka.input_topics, kafka.output_topic, kafka.dead_letter_topic)
        facts = await connect(kafka, lambda: describe(kafka, names))
        problems = missing_topics(names, facts) + missing_permissions(kafka, facts)
        if self._settings.output.partitioning == "source":
            problems += too_few_partitions(kafka, facts)
        if problems:
            raise BrokerError(*problems)
        return facts

    def _pipeline(self, scorer: Scorer, facts: dict[str, TopicFacts]) -> Pipeline:
        """The pure part, with parameters taken from settings and topics."""
        settings, kafka = self._settings, self._settings.kafka
        output, dead_letter = facts[kafka.output_topic], facts[kafka.dead_letter_topic]
        routing = Routing(
            output_topic=output.name,
            output_partitions=output.partitions,
            output_max_bytes=output.max_message_bytes,
            dead_letter_topic=dead_letter.name,
            dead_letter_partitions=dead_letter.partitions,
            dead_letter_max_bytes=dead_letter.max_message_bytes,
            partitioning=settings.output.partitioning,
            passed_headers=tuple(settings.output.headers),
            group_id=kafka.group_id,
            model_label=scorer.bundle.label,
            model_digest=scorer.bundle.sha256[:DIGEST_LENGTH],
        )
        delivery, brakes = settings.delivery, settings.brakes
        policy = Policy(
            batch_limits(settings, padded=scorer.model.provider != "cpu"),
            flow_limits(settings),
            delivery.commit_interval_s,
            delivery.commit_max_records,
            skip_tombstones=settings.event.on_tombstone == "skip",
            transactional=delivery.guarantee == "exactly_once",
            brakes=BrakeLimits(brakes.max_share, brakes.window_records, brakes.max_in_a_row, brakes.retry_s),
        )
        partitions = output.partitions

        @lru_cache(maxsize=1 << 16)
        def key_partition(key: bytes) -> int:
            return (int(murmur2(key)) & 0x7FFFFFFF) % partitions

        return Pipeline(scorer.decoder, scorer.encoder, Dispatcher(routing, key_partition), policy)

    def _model_facts(self, scorer: Scorer) -> dict[str, object]:
        """The model as ``/status`` shows it."""
        bundle, model = scorer.bundle, scorer.model
        facts: dict[str, object] = {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256}
        facts |= {"provider": model.provider, "fallback": model.fallback, "path": str(Path(bundle.model_path))}
        facts |= {"nodes": model.placement.counts, "calls": model.way, "cuda_graphs": model.no_graphs}
        return facts | {"race": [lap.facts() for lap in scorer.race]}

    async def _drain(self, serve: asyncio.Task[None]) -> int:
        """A signal came: finish what is in flight, commit, leave. Before the worker was ready there is nothing."""
        driver = self._driver
        if driver is None or self._lifecycle.state is not State.RUNNING:
            log.info("stopped_before_ready")
            return 0
        begun = time.monotonic()
        self._lifecycle.move(State.DRAINING)
        serve.cancel()
        timeout_s = self._settings.drain.timeout_s
        uncommitted = await driver.drain(timeout_s)
        took_s = time.monotonic() - begun
        if driver.failed.done():
            driver.failed.result()
        if uncommitted:
            raise BrokerError(
                Problem(
                    f"the drain ended after {took_s:.1f} s with {uncommitted} records uncommitted; the next worker "
                    "reads them again, and nothing is lost",
                    "check why the brokers did not acknowledge; raise drain.timeout_s if they were only slow",
                    key="drain.timeout_s",
                    code="drain_deadline",
                )
            )
        log.info("drained", took_s=round(took_s, 3))
        return 0


def _note_ceiling(loop: asyncio.AbstractEventLoop, metrics: Metrics, ceiling: int) -> None:
    loop.call_soon_threadsafe(metrics.gauge, M.MODEL_BATCH_CEILING, ceiling)


def _runtime_version() -> str:
    """The installed ONNX Runtime's version, whichever distribution it came from."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return distribution_version(name)
        except PackageNotFoundError:
            continue
    return ""
