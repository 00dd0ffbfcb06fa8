"""Judges progress: liveness, readiness, status, and the gauges and log line of every interval.

Liveness means progress and never depends on whether Kafka answers: an outage must not become a restart storm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog

from worker import __version__
from worker.adapters.kafka_probe import answers
from worker.core.brakes import Stop
from worker.core.lifecycle import Lifecycle, State
from worker.core.offsets import Standing
from worker.core.pipeline import Pipeline
from worker.core.records import TopicPartition
from worker.driver import Driver
from worker.recorder import Recorder
from worker.settings import Settings
from worker.telemetry import M, Metrics

log = structlog.get_logger("headrace.monitor")

BEAT_S = 0.25
LOOP_LIMIT_S = 10.0
ENGINE_LIMIT_S = 60.0
POLL_LIMIT_S = 90.0

PROGRESS_LIMIT_S = 180.0
"""Nothing that ends by itself takes so long: time-outs of requests and transactions are shorter."""

REACH_INTERVAL_S = 2.0
REACH_LIMIT_S = 7.0
REPORT_INTERVAL_S = 10.0

CLIENT_LIMIT_S = 120.0
"""Longer than any time-out of the client: by then it has connected anew, or never will."""

PROBE_INTERVAL_S = 15.0
PROBE_TIMEOUT_S = 10.0


class Monitor:
    """The worker's own watch; its answers are plain reads, safe from the probes' threads."""

    def __init__(self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._parts: tuple[Pipeline, Driver, Recorder] | None = None
        self._model: dict[str, object] = {}
        self._beat_at = time.monotonic()
        self._reached_at = self._reached_first_at = time.monotonic()
        self._probed_at = -PROBE_INTERVAL_S
        self._stuck = ""
        self._still = False
        self._held: tuple[str, ...] = ()
        self._stopped: dict[str, Stop] = {}
        # The same keys from the start as after the first publication: who reads them need not ask whether they exist.
        self._status: dict[str, Any] = {
            "partitions": {},
            "lag": 0,
            "in_flight": {"records": 0, "bytes": 0},
            "uncommitted": 0,
            "brakes": {},
            "rebalances": 0,
            "batches": {"count": 0, "mean_size": 0.0},
            "tasks": 0,
        }
        self._started_at = time.time()

    def watch(self, pipeline: Pipeline, driver: Driver, recorder: Recorder, model: Mapping[str, object]) -> None:
        """Begin to watch a running pipeline."""
        self._parts = (pipeline, driver, recorder)
        self._model = dict(model)
        self._reached_at = self._reached_first_at = time.monotonic()

    # ---- answers (any thread) ----------------------------------------------------------------------------

    def live(self) -> tuple[bool, str]:
        """Whether the worker makes progress, or cannot for want of a broker.

        A change is logged, also where only a probe's thread still turns; two that ask at once may both log it.
        """
        cause = self._standstill()
        if bool(cause) != self._still:
            self._still = bool(cause)
            if cause:
                log.error("not_live", cause=cause)
            else:
                log.info("live_again")
        return not cause, cause

    def _standstill(self) -> str:
        """Why there is no progress: loop, engine, poll loop, records, or a stuck client; empty while there is."""
        beat_age = time.monotonic() - self._beat_at
        if beat_age > LOOP_LIMIT_S:
            busy_s = 0.0 if self._parts is None else self._parts[1].engine.busy_s()
            what = f", held by a model call for {busy_s:.0f} s" if busy_s > LOOP_LIMIT_S else ""
            return f"the event loop has not turned for {beat_age:.0f} s{what}"
        if self._parts is not None:
            pipeline, driver, _ = self._parts
            busy_s = driver.engine.busy_s()
            if busy_s > ENGINE_LIMIT_S:
                return f"a model call has run for {busy_s:.0f} s"
            poll_age = self._poll_age(driver)
            if poll_age > POLL_LIMIT_S and self.reachable and driver.assigned_once and not driver.draining:
                return f"the poll loop has not polled for {poll_age:.0f} s although the broker answers"
            idle_s = time.monotonic() - max(driver.moved_at, driver.sink.heard_at, self._reached_first_at)
            if idle_s > PROGRESS_LIMIT_S and pipeline.in_flight_records and self.reachable and not driver.draining:
                count = pipeline.in_flight_records
                return f"{count} records are in flight and none has moved for {idle_s:.0f} s"
        return self._stuck

    def ready(self) -> tuple[bool, str]:
        """Whether the worker takes part in the group with a ready model and a broker that answers."""
        state = self._lifecycle.state
        if state is not State.RUNNING:
            return False, f"the worker is {state}"
        if self._parts is not None and not self._parts[1].assigned_once:
            return False, "the group has not assigned anything yet"
        if self._parts is not None and self._parts[1].source.resolving:
            return False, "the start positions of assigned partitions are not known yet"
        if not self.reachable:
            age = time.monotonic() - self._reached_at
            return False, f"no broker has answered for {age:.0f} s"
        reasons = self._held + tuple(f"{name} stopped: {stop.cause}" for name, stop in self._stopped.items())
        if reasons:
            return False, "; ".join(reasons)
        return True, ""

    def started(self) -> tuple[bool, str]:
        """Whether the model is loaded, checked and warm."""
        return self._lifecycle.started, "" if self._lifecycle.started else f"the worker is {self._lifecycle.state}"

    def status(self) -> dict[str, object]:
        """What the worker does, as of the last beat."""
        live, ready, started = self.live(), self.ready(), self.started()
        return {
            "state": str(self._lifecycle.state),
            "started": {"ok": started[0], "cause": started[1]},
            "live": {"ok": live[0], "cause": live[1]},
            "ready": {"ok": ready[0], "cause": ready[1]},
            "version": __version__,
            "uptime_s": round(time.time() - self._started_at, 1),
            "group": self._settings.kafka.group_id,
            "model": self._model,
            **self._status,
        }

    @property
    def reachable(self) -> bool:
        """Whether a broker answered lately."""
        return time.monotonic() - self._reached_at < REACH_LIMIT_S

    @staticmethod
    def _poll_age(driver: Driver) -> float:
        """Seconds since a poll returned; the loop's clock is the monotonic one."""
        return time.monotonic() - driver.polled_at

    # ---- the beat (event loop) ---------------------------------------------------------------------------

    async def beat_forever(self) -> None:
        """Keep the heartbeat, publish once a second, report once an interval."""
        published_at = reported_at = time.monotonic()
        before = self._counts()
        while True:
            planned = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            now = time.monotonic()
            self._beat_at = now
            self._metrics.observe(M.EVENT_LOOP_LAG, max(0.0, now - planned))
            if now - published_at >= 1.0 and self._parts is not None:
                published_at = now
                self._publish(*self._parts)
                self.live()
            if now - reported_at >= REPORT_INTERVAL_S and self._parts is not None:
                after = self._counts()
                self._report(before, after, now - reported_at)
                before, reported_at = after, now

    async def reach_forever(self) -> None:
        """Ask the cluster for metadata now and then: the only honest sign that a broker answers."""
        was_reachable = True
        while True:
            await asyncio.sleep(REACH_INTERVAL_S)
            if self._parts is None:
                continue
            client = self._parts[1].sink.producer.client
            try:
                updated = await asyncio.wait_for(client.force_metadata_update(), REACH_INTERVAL_S)
            except TimeoutError:
                updated = False
            if updated:
                now = time.monotonic()
                if not self.reachable:
                    self._reached_first_at = now
                self._reached_at = now
                self._hold(client.cluster.partitions_for_topic(self._settings.kafka.output_topic))
            if self.reachable != was_reachable:
                was_reachable = self.reachable
                log.log(20 if was_reachable else 40, "broker_answers" if was_reachable else "broker_silent")
            await self._parts[1].source.renew_ends(REACH_INTERVAL_S)
            await self._look_for_stuck_client(*self._parts[:2])

    async def _look_for_stuck_client(self, pipeline: Pipeline, driver: Driver) -> None:
        """A client that hears nothing for minutes is stuck if a new one gets answers for the same partitions."""
        now = time.monotonic()
        silences = {"reading": driver.silent_s(), "writing": now - self._reached_at}
        where, silent_s = max(silences.items(), key=lambda item: item[1])
        if silent_s < CLIENT_LIMIT_S:
            self._stuck = ""
        elif now - self._probed_at >= PROBE_INTERVAL_S:
            self._probed_at = now
            another = await answers(self._settings.kafka, pipeline.partitions(), PROBE_TIMEOUT_S)
            heard = f"the Kafka client for {where} has heard nothing for {silent_s:.0f} s, and a new one gets answers"
            self._stuck = heard if another else ""

    def _hold(self, output_partitions: set[int] | None) -> None:
        """Under ``source`` partitioning: hold input partitions that have no output partition, and say so."""
        if self._parts is None or not output_partitions or self._settings.output.partitioning != "source":
            return
        driver = self._parts[1]
        driver.output_grew(len(output_partitions))
        held = sorted(driver.source.held())
        reasons: tuple[str, ...] = ()
        if held:
            names = ", ".join(f"{tp.topic}/{tp.partition}" for tp in held)
            output = self._settings.kafka.output_topic
            reasons = (f"{names} held: {output} has only {len(output_partitions)} partitions",)
        if reasons != self._held:
            self._held = reasons
            log.log(40 if held else 20, "partitions_held" if held else "partitions_released", held=len(held))

    def _publish(self, pipeline: Pipeline, driver: Driver, recorder: Recorder) -> None:
        """Gauges and the status snapshot."""
        metrics = self._metrics
        recorder.observe_latencies()
        in_flight = pipeline.in_flight_records
        if not in_flight:
            recorder.last_progress_s = time.time()
        metrics.gauge(M.INFLIGHT_RECORDS, in_flight)
        metrics.gauge(M.INFLIGHT_BYTES, pipeline.in_flight_bytes)
        metrics.gauge(M.INFLIGHT_BATCHES, pipeline.running_batches)
        metrics.gauge(M.QUEUE_RECORDS, pipeline.queued_records)
        metrics.gauge(M.LAST_PROGRESS, recorder.last_progress_s)
        metrics.gauge(M.OLDEST_IN_FLIGHT, driver.oldest_in_flight_s())
        offsets = pipeline.next_offsets()
        lag = driver.source.lag(offsets)
        partitions: dict[str, dict[str, int]] = {}
        assigned: dict[str, int] = dict.fromkeys(self._settings.kafka.input_topics, 0)
        now_ms = time.time() * 1000
        metrics.gauge(M.CONSUMER_PAUSED_PARTITIONS, len(driver.source.held().union(driver.source.stopped())))
        for tp, standing in pipeline.standings().items():
            assigned[tp.topic] = assigned.get(tp.topic, 0) + 1
            self._publish_partition(tp, standing, lag.get(tp, 0))
            behind_s = (now_ms - standing.newest_ms) / 1000 if lag.get(tp) and standing.newest_ms >= 0 else 0.0
            metrics.gauge(M.CONSUMER_LAG_SECONDS, max(0.0, behind_s), topic=tp.topic, partition=tp.partition)
            partitions[f"{tp.topic}/{tp.partition}"] = {"next_offset": standing.next_offset, "lag": lag.get(tp, 0)}
        for topic, count in assigned.items():
            metrics.gauge(M.CONSUMER_ASSIGNED_PARTITIONS, count, topic=topic)
        self._count_tally(pipeline, driver)
        self._publish_costs(pipeline, recorder)
        self._watch_brakes(pipeline)
        sizes = metrics.snapshot(M.BATCH_SIZE)
        self._status = {
            "partitions": partitions,
            "lag": sum(lag.values()),
            "in_flight": {"records": in_flight, "bytes": pipeline.in_flight_bytes},
            "uncommitted": pipeline.uncommitted_records,
            "brakes": {name: asdict(stop) for name, stop in self._stopped.items()},
            "rebalances": recorder.rebalances,
            "batches": {"count": sizes.count, "mean_size": round(sizes.mean, 1) if sizes.count else 0.0},
            "tasks": len(asyncio.all_tasks()),
        }

    def _publish_partition(self, tp: TopicPartition, standing: Standing, lag: int) -> None:
        """The gauges of one partition."""
        where: dict[str, Any] = {"topic": tp.topic, "partition": tp.partition}
        self._metrics.gauge(M.CONSUMER_LAG_RECORDS, lag, **where)
        self._metrics.gauge(M.SETTLED_AHEAD, standing.settled_ahead, **where)
        if standing.next_offset >= 0:
            self._metrics.gauge(M.OFFSET_COMMITTABLE, standing.next_offset, **where)
        if standing.received_offset >= 0:
            self._metrics.gauge(M.OFFSET_RECEIVED, standing.received_offset, **where)

    def _publish_costs(self, pipeline: Pipeline, recorder: Recorder) -> None:
        """What was learned of costs; and the batcher hears how the clock of timestamps stands to the loop's."""
        batcher = pipeline.batcher
        batcher.wall_offset_s = time.time() - time.monotonic()
        for stage, costs in (("call", batcher.calls), ("handle", batcher.handling), ("decode", recorder.decoding)):
            self._metrics.gauge(M.COST_FIXED, costs.fixed_s, stage=stage)
            self._metrics.gauge(M.COST_RECORD, costs.per_row_s, stage=stage)

    def _watch_brakes(self, pipeline: Pipeline) -> None:
        """One error line for each partition that stops, one of information where it goes on, gauge and counters."""
        brakes, metrics = pipeline.brakes, self._metrics
        stopped = {f"{tp.topic}/{tp.partition}": stop for tp, stop in brakes.stopped().items()}
        for name in stopped.keys() - self._stopped.keys():
            log.error("brakes_stopped", partition=name, limit=stopped[name].limit, cause=stopped[name].cause)
        ours = {f"{tp.topic}/{tp.partition}" for tp in pipeline.partitions()}
        for name in (self._stopped.keys() - stopped.keys()) & ours:
            log.info("brakes_resumed", partition=name)
        self._stopped = stopped
        metrics.gauge(M.BRAKES_STOPPED, len(stopped))
        for limit, trips in brakes.trips.items():
            metrics.count(M.BRAKES_TRIPS, trips - metrics.value(M.BRAKES_TRIPS, limit=limit), limit=limit)

    def _count_tally(self, pipeline: Pipeline, driver: Driver) -> None:
        """The pipeline's own counts, as counters."""
        tally, metrics = pipeline.tally, self._metrics
        for metric, total, labels in (
            (M.RECORDS_SKIPPED, tally.skipped, {"reason": "tombstone"}),
            (M.STALE_RECORDS, tally.stale_rows, {}),
            (M.PRODUCER_REBUILDS, driver.sink.rebuilds, {}),
        ):
            metrics.count(metric, total - metrics.value(metric, **labels), **labels)

    def _counts(self) -> tuple[float, float, int]:
        """Totals that the report shows the growth of: consumed, dead-lettered, batches."""
        metrics = self._metrics
        consumed = sum(metrics.series(M.RECORDS_CONSUMED).values())
        dead = sum(metrics.series(M.RECORDS_DEAD_LETTERED).values())
        return consumed, dead, metrics.snapshot(M.BATCH_SIZE).count

    def _report(self, before: tuple[float, float, int], after: tuple[float, float, int], took_s: float) -> None:
        """One wide line per interval; silent while nothing happens."""
        consumed, dead, batches = (new - old for new, old in zip(after, before, strict=True))
        if not consumed and not self._status.get("lag"):
            return
        latency = self._metrics.snapshot(M.END_TO_END_LATENCY)
        log.info(
            "progress",
            records=int(consumed),
            per_second=round(consumed / took_s),
            dead_lettered=int(dead),
            batches=batches,
            mean_batch=round(consumed / batches, 1) if batches else 0.0,
            p50_ms=round(latency.quantile(0.5) * 1000, 1) if latency.count else None,
            p99_ms=round(latency.quantile(0.99) * 1000, 1) if latency.count else None,
            **{name: self._status.get(name) for name in ("lag", "in_flight", "uncommitted")},
        )
