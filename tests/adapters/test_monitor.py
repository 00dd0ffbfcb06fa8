"""The monitor's judgements: liveness by progress, readiness by part in the group, gauges of every second."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import structlog

from tests.adapters.conftest import Rig, StartRig
from worker import monitor as monitor_module
from worker.adapters import engine as engine_module
from worker.core.lifecycle import Lifecycle, State
from worker.core.records import TopicPartition
from worker.monitor import Monitor
from worker.telemetry import M
from worker.testing import FakeModel, ManualClock

PATH = (State.CONNECTING, State.JOINING, State.RUNNING)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of monitor and engine; the loop keeps its own."""
    clock = ManualClock()
    monkeypatch.setattr(monitor_module, "time", clock)
    monkeypatch.setattr(engine_module, "time", clock)
    return clock


class Watched:
    """A rig with a monitor, whose clock and heartbeat the test moves."""

    def __init__(self, rig: Rig, clock: ManualClock) -> None:
        self.rig, self.clock = rig, clock
        self.lifecycle = Lifecycle()
        self.monitor = Monitor(rig.settings, rig.metrics, self.lifecycle)
        self.monitor.watch(rig.pipeline, rig.driver, rig.driver._recorder, {"name": "fraud"})
        rig.driver.polled_at = clock.now

    def run(self) -> None:
        """All the way to running."""
        for state in PATH:
            self.lifecycle.move(state)

    def later(self, seconds: float, *, beat: bool = True, polled: bool = True, reached: bool = True) -> None:
        """Time passes; what happened meanwhile."""
        now = self.clock.advance(seconds)
        if beat:
            self.monitor._beat_at = now
        if polled:
            self.rig.driver.polled_at = now
        if reached:
            self.monitor._reached_at = now

    def publish(self) -> None:
        """What the beat does every second."""
        assert self.monitor._parts is not None
        self.monitor._publish(*self.monitor._parts)


@pytest.fixture
async def watched(rig: StartRig, clock: ManualClock) -> Watched:
    """A watched rig that is not started."""
    return Watched(await rig(started=False), clock)


async def test_a_worker_that_loads_lives_and_is_not_ready(rig: StartRig, clock: ManualClock) -> None:
    """Before there is a pipeline, only the loop counts."""
    lifecycle = Lifecycle()
    one = await rig(started=False)
    monitor = Monitor(one.settings, one.metrics, lifecycle)
    assert monitor.live() == (True, "")
    assert monitor.ready() == (False, "the worker is loading")
    assert monitor.started() == (False, "the worker is loading")
    clock.advance(10.0)
    assert monitor.live() == (True, "")
    clock.advance(1.0)
    assert monitor.live() == (False, "the event loop has not turned for 11 s")


async def test_readiness_follows_the_state(watched: Watched) -> None:
    """Only a running worker is ready; started is said from connecting on."""
    watched.rig.driver.assigned_once = True
    seen = []
    for state in (*PATH, State.DRAINING, State.STOPPED):
        watched.lifecycle.move(state)
        seen.append((watched.monitor.started()[0], watched.monitor.ready()))
    assert seen == [
        (True, (False, "the worker is connecting")),
        (True, (False, "the worker is joining")),
        (True, (True, "")),
        (True, (False, "the worker is draining")),
        (False, (False, "the worker is stopped")),
    ]


async def test_readiness_waits_for_the_first_assignment(watched: Watched) -> None:
    """A worker that still joins its group is not ready; one that stands by with no partition is."""
    watched.run()
    assert watched.monitor.ready() == (False, "the group has not assigned anything yet")
    watched.rig.driver.assigned([])
    assert watched.monitor.ready() == (True, "")


async def test_readiness_waits_for_start_positions(watched: Watched) -> None:
    """Until it is known where reading starts, a record produced now might be read or not."""
    watched.run()
    watched.rig.driver.assigned([])
    watched.rig.source.resolving = True
    assert watched.monitor.ready() == (False, "the start positions of assigned partitions are not known yet")
    watched.rig.source.resolving = False
    assert watched.monitor.ready() == (True, "")


async def test_a_worker_without_a_first_assignment_is_not_ready(watched: Watched) -> None:
    """It takes part once the group has assigned something, if only nothing."""
    watched.run()
    assert watched.monitor.ready() == (False, "the group has not assigned anything yet")
    watched.rig.driver.assigned([])
    assert watched.monitor.ready() == (True, "")


async def test_a_silent_broker_costs_readiness_and_never_liveness(watched: Watched) -> None:
    """An outage must not become a restart storm."""
    watched.run()
    watched.rig.driver.assigned_once = True
    watched.rig.driver.assigned_once = True
    watched.later(6.9, reached=False)
    assert watched.monitor.ready() == (True, "")
    watched.later(0.1, reached=False)
    assert watched.monitor.ready() == (False, "no broker has answered for 7 s")
    watched.later(1000.0, reached=False, polled=False)
    assert watched.monitor.live() == (True, "")


@pytest.mark.parametrize(("silent", "cause"), [("reading", "reading"), ("writing", "writing")])
async def test_a_client_that_is_stuck_costs_liveness(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, silent: str, cause: str
) -> None:
    """Only when a new client gets the answers that ours does not; it is asked again now and then."""
    answer, asked = False, 0

    async def answers(*_: object) -> bool:
        nonlocal asked
        asked += 1
        return answer

    async def looked_after(seconds: float) -> tuple[bool, str]:
        watched.later(seconds, reached=silent != "writing")
        await watched.monitor._look_for_stuck_client(watched.rig.pipeline, watched.rig.driver)
        return watched.monitor.live()

    monkeypatch.setattr(monitor_module, "answers", answers)
    began = watched.clock.now
    if silent == "reading":
        monkeypatch.setattr(watched.rig.driver, "silent_s", lambda: watched.clock.now - began)
    assert (await looked_after(119.0), asked) == ((True, ""), 0)
    assert (await looked_after(2.0), asked) == ((True, ""), 1)
    answer = True
    assert (await looked_after(5.0), asked) == ((True, ""), 1)
    with structlog.testing.capture_logs() as logs:
        text = f"the Kafka client for {cause} has heard nothing for 136 s, and a new one gets answers"
        assert (await looked_after(10.0), asked) == ((False, text), 2)
    assert [(line["event"], line["cause"]) for line in logs] == [("not_live", text)]
    watched.monitor._reached_at = watched.clock.now
    monkeypatch.setattr(watched.rig.driver, "silent_s", lambda: 0.0)
    assert await looked_after(1.0) == (True, "")


async def test_records_that_do_not_move_cost_liveness(rig: StartRig, clock: ManualClock) -> None:
    """As long as the broker answers, but not to the producer: what it refuses a restart would not cure."""
    watched = Watched(await rig(), clock)
    one = watched.rig
    one.broker.withhold_acks(TopicPartition("out", 0))
    one.feed([b"1", b"2"])
    await one.until(lambda: one.pipeline.in_flight_records == 2 and not one.pipeline.running_batches)
    one.driver.moved_at = clock.now
    watched.later(180.0)
    assert watched.monitor.live() == (True, "")
    cause = "2 records are in flight and none has moved for 181 s"
    with structlog.testing.capture_logs() as logs:
        watched.later(1.0)
        assert watched.monitor.live() == (False, cause)
        assert watched.monitor.live() == (False, cause)
        one.driver.sink.heard_at = clock.now
        assert watched.monitor.live() == (True, "")
    assert [(line["event"], line.get("cause")) for line in logs] == [("not_live", cause), ("live_again", None)]
    watched.later(181.0, reached=False)
    assert watched.monitor.live() == (True, "")
    watched.later(0.0)
    one.broker.release_acks()
    await one.until(lambda: one.pipeline.in_flight_records == 0)
    assert watched.monitor.live() == (True, "")


async def test_a_source_without_room_is_not_called_silent(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is polled for want of room, nothing is fetched either."""
    driver = watched.rig.driver
    monkeypatch.setattr(watched.rig.source, "silent_s", lambda: 1e6)
    driver._roomless_at = driver._loop.time() - 5.0
    assert 5.0 <= driver.silent_s() < 1000.0
    monkeypatch.setattr(watched.rig.source, "silent_s", lambda: None)
    assert driver.silent_s() == 0.0


async def test_a_model_call_that_hangs_costs_liveness(rig: StartRig, clock: ManualClock) -> None:
    """At the limit it may still end; beyond, only a restart helps."""
    model = FakeModel()
    model.gate.clear()
    watched = Watched(await rig(model), clock)
    watched.rig.feed([b"1"])
    await watched.rig.until(model.entered.is_set)
    watched.later(60.0)
    assert watched.monitor.live() == (True, "")
    watched.later(1.0)
    assert watched.monitor.live() == (False, "a model call has run for 61 s")
    model.gate.set()
    await watched.rig.until(lambda: watched.rig.committed() == 1)
    assert watched.monitor.live() == (True, "")


async def test_a_poll_loop_that_hangs_costs_liveness(watched: Watched) -> None:
    """Once partitions were assigned, and while the broker answers; the first join may take its time."""
    watched.later(91.0, polled=False)
    assert watched.monitor.live() == (True, "")
    watched.rig.driver.assigned_once = True
    assert watched.monitor.live() == (
        False,
        "the poll loop has not polled for 91 s although the broker answers",
    )
    watched.later(0.0)
    watched.later(90.0, polled=False)
    assert watched.monitor.live() == (True, "")


async def test_a_long_drain_stays_alive(watched: Watched) -> None:
    """A draining worker polls no more, and must not be killed for it."""
    watched.rig.driver.assigned_once = True
    watched.rig.driver.draining = True
    watched.later(500.0, polled=False)
    assert watched.monitor.live() == (True, "")


async def test_partitions_without_an_output_cost_readiness(watched: Watched) -> None:
    """They are held and named until the output topic has grown; no answer changes nothing."""
    watched.run()
    await watched.rig.driver.source.start()
    watched.monitor._hold(set())
    assert watched.monitor.ready() == (True, "")
    with structlog.testing.capture_logs() as logs:
        watched.monitor._hold({0})
        watched.monitor._hold({0})
    assert [line["event"] for line in logs] == ["partitions_held"]
    assert watched.monitor.ready() == (False, "in/1, in/2 held: out has only 1 partitions")
    watched.monitor._hold({0, 1, 2})
    assert watched.monitor.ready() == (True, "")


async def test_gauges_and_status_tell_where_the_worker_stands(rig: StartRig, clock: ManualClock) -> None:
    """In flight, offsets, lag, what is settled ahead, and partitions per topic."""
    watched = Watched(await rig(started=False), clock)
    one, metrics = watched.rig, watched.rig.metrics
    one.broker.withhold_acks(TopicPartition("dlq", 0))
    one.feed([b"1", b"bad", b"3", b"4"])
    await one.start()
    await one.until(lambda: one.pipeline.in_flight_records == 1 and one.committed() == 1)
    watched.publish()
    gauges = (M.INFLIGHT_RECORDS, M.INFLIGHT_BYTES, M.INFLIGHT_BATCHES, M.QUEUE_RECORDS)
    assert [metrics.value(gauge) for gauge in gauges] == [1, 3, 0, 0]
    offsets = (M.OFFSET_COMMITTABLE, M.OFFSET_RECEIVED, M.SETTLED_AHEAD, M.CONSUMER_LAG_RECORDS)
    assert [metrics.value(gauge, topic="in", partition=0) for gauge in offsets] == [1, 4, 2, 3]
    assert ("in", "1") not in metrics.series(M.OFFSET_COMMITTABLE)
    assert ("in", "1") not in metrics.series(M.OFFSET_RECEIVED)
    assert metrics.value(M.CONSUMER_ASSIGNED_PARTITIONS, topic="in") == 3
    status = watched.monitor.status()
    assert status["partitions"] == {
        "in/0": {"next_offset": 1, "lag": 3},
        "in/1": {"next_offset": -1, "lag": 0},
        "in/2": {"next_offset": -1, "lag": 0},
    }
    assert (status["lag"], status["in_flight"], status["uncommitted"]) == (3, {"records": 1, "bytes": 3}, 3)
    assert (status["group"], status["model"], status["rebalances"]) == ("g", {"name": "fraud"}, 1)
    one.broker.release_acks()
    await one.until(lambda: one.committed() == 4)
    watched.publish()
    assert [metrics.value(gauge, topic="in", partition=0) for gauge in offsets] == [4, 4, 0, 0]


async def test_the_pipelines_counts_become_counters(watched: Watched) -> None:
    """Totals are taken over as they grow, never twice."""
    tally = watched.rig.pipeline.tally
    tally.skipped, tally.stale_rows = 3, 5
    watched.publish()
    tally.skipped = 4
    watched.publish()
    watched.publish()
    metrics = watched.rig.metrics
    assert (metrics.value(M.RECORDS_SKIPPED, reason="tombstone"), metrics.value(M.STALE_RECORDS)) == (4, 5)


async def test_the_beat_keeps_the_loop_alive(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beat moves the heartbeat and measures how late it came; every second it publishes, and judges itself."""
    beats = 0

    async def sleep(seconds: float) -> None:
        nonlocal beats
        beats += 1
        if beats > 8:
            raise asyncio.CancelledError
        watched.clock.advance(seconds + 0.125)

    published: list[float] = []
    monkeypatch.setattr(monitor_module, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(watched.monitor, "_publish", lambda *_: published.append(watched.clock.now))
    monkeypatch.setattr(watched.monitor, "_stuck", "the client hears nothing")
    with structlog.testing.capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await watched.monitor.beat_forever()
    assert [line["event"] for line in logs] == ["not_live"]
    assert watched.monitor._beat_at == 1003.0
    assert published == [1001.125, 1002.25]
    lag = watched.rig.metrics.snapshot(M.EVENT_LOOP_LAG)
    assert (lag.count, lag.mean) == (8, 0.125)


async def test_learned_costs_are_published(watched: Watched) -> None:
    """The lines of call, handling and decoding; and the batcher hears how the wall clock stands to the loop's."""
    parts = watched.rig.pipeline.batcher.calls, watched.rig.pipeline.batcher.handling
    recorder = watched.rig.driver._recorder
    for number, costs in enumerate((*parts, recorder.decoding), 1):
        for rows in (1, 8):
            for _ in range(12):
                costs.observe(rows, number * (0.5 + 0.25 * rows))
    watched.rig.pipeline.batcher.wall_offset_s = 5.0
    watched.publish()
    metrics = watched.rig.metrics
    for number, stage in enumerate(("call", "handle", "decode"), 1):
        assert metrics.value(M.COST_FIXED, stage=stage) == pytest.approx(number * 0.5)
        assert metrics.value(M.COST_RECORD, stage=stage) == pytest.approx(number * 0.25)
    assert watched.rig.pipeline.batcher.wall_offset_s == 0.0
