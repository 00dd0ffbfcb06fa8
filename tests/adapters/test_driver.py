"""The driver on the fakes: every record has one fate, commits follow, and endings are bounded and clean."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.adapters.conftest import StartRig
from worker.adapters.kafka_source import Polled
from worker.core.records import TopicPartition
from worker.errors import BrokerError, EngineFault
from worker.telemetry import M
from worker.testing import FakeModel

A, B, C = (TopicPartition("in", partition) for partition in range(3))


async def test_every_record_is_scored_or_dead_lettered_once(rig: StartRig) -> None:
    """Good, bad, poisonous and not finite: each has its fate, neighbours keep their scores, offsets follow."""
    one = await rig()
    one.feed([b"1", b"bad", b"13", b"3", None, b"7", b"5"])
    one.feed([b"2"] * 50, 1)
    await one.until(lambda: (one.committed(0), one.committed(1)) == (7, 50))
    one.ledger().check()
    assert [record.value for record in one.broker.read(("out", 0))] == [b"1:2", b"3:6", b"5:10"]
    assert len(one.broker.read(("out", 1))) == 50
    assert one.pipeline.in_flight_records == 0
    reasons = {values[1]: count for values, count in one.metrics.series(M.RECORDS_DEAD_LETTERED).items() if count}
    assert reasons == {"invalid_json": 1, "model_error": 1, "tombstone": 1, "output_not_finite": 1}


async def test_nothing_is_committed_before_its_acknowledgement(rig: StartRig) -> None:
    """While the broker withholds acknowledgements, records are in flight and the commit waits for them."""
    one = await rig()
    one.broker.withhold_acks(TopicPartition("out", 0))
    one.feed([b"1", b"2"])
    one.feed([b"3"], 1)
    await one.until(lambda: one.committed(1) == 1)
    assert one.committed(0) is None
    assert one.pipeline.in_flight_records == 2
    one.broker.release_acks()
    await one.until(lambda: one.committed(0) == 2)
    one.ledger().check()


async def test_an_unreadable_record_is_dead_lettered_and_its_age_counts_from_its_receipt(rig: StartRig) -> None:
    """Coordinates only; it is as old as its receipt, not as the clock."""
    one = await rig(started=False)
    one.broker.withhold_acks(TopicPartition("dlq", 0))
    one.feed([b"1", b"2", b"3"])
    one.broker.corrupt(A, 1)
    await one.start()
    await one.until(lambda: one.pipeline.in_flight_records == 1 and len(one.broker.read(("out", 0))) == 2)
    assert one.driver.oldest_in_flight_s() < 15.0
    one.broker.release_acks()
    await one.until(lambda: one.committed() == 3)
    one.ledger().check()
    assert one.driver.oldest_in_flight_s() == 0.0


async def test_back_pressure_bounds_what_is_in_flight(rig: StartRig) -> None:
    """With the engine stuck, no more is read than may be in flight; afterwards everything goes through."""
    model = FakeModel()
    model.gate.clear()
    one = await rig(model, in_flight=20)
    one.feed([b"1"] * 100)
    await one.until(lambda: one.pipeline.in_flight_records == 20)
    polled_at = one.driver.polled_at
    await one.until(lambda: one.driver.polled_at > polled_at)
    assert one.pipeline.in_flight_records == 20
    model.gate.set()
    await one.until(lambda: one.committed() == 100)
    one.ledger().check()
    assert one.metrics.value(M.BACKPRESSURE) > 0


async def test_a_cancelled_poll_loop_ends_even_when_room_appears(rig: StartRig) -> None:
    """Both in one turn of the loop: the cancellation is not lost."""
    model = FakeModel()
    model.gate.clear()
    one = await rig(model, in_flight=1)
    one.feed([b"1"])
    await one.until(lambda: one.pipeline.in_flight_records == 1)
    polled_at = one.driver.polled_at
    await one.until(lambda: one.driver.polled_at > polled_at)
    assert one.poll is not None
    one.driver._moved.set()
    one.poll.cancel()
    await asyncio.wait({one.poll}, timeout=0.5)
    assert one.poll.cancelled()


async def test_a_failed_commit_is_tried_again(rig: StartRig) -> None:
    """Nothing is lost by it, and the failure counts."""
    one = await rig()
    one.broker.accepts_commits = False
    one.feed([b"1"])
    await one.until(lambda: one.metrics.value(M.COMMITS, outcome="failed") > 0)
    assert one.committed() is None
    one.broker.accepts_commits = True
    await one.until(lambda: one.committed() == 1)
    assert one.pipeline.uncommitted_records == 0


async def test_a_record_the_broker_refuses_is_dead_lettered(rig: StartRig) -> None:
    """Its neighbours are delivered."""
    one = await rig(started=False)
    one.broker.refuses = lambda tp, record: "broker_refused" if (tp.topic, record.value) == ("out", b"2:4") else None
    one.feed([b"1", b"2", b"3"])
    await one.start()
    await one.until(lambda: one.committed() == 3)
    one.ledger().check()
    assert one.ledger().fate(A, 1) == "dead_lettered"


async def test_a_refused_dead_letter_ends_the_worker(rig: StartRig) -> None:
    """And nothing at or after the record is committed."""
    one = await rig(started=False)
    one.broker.refuses = lambda tp, _record: "broker_refused" if tp.topic == "dlq" else None
    one.feed([b"1", b"bad", b"3"])
    await one.start()
    with pytest.raises(BrokerError, match="refuses a record"):
        await one.driver.failed
    await one.until(lambda: one.committed() == 1)
    assert await one.driver.drain(6.0) == 2
    assert one.committed() == 1


async def test_a_broken_engine_ends_the_worker(rig: StartRig) -> None:
    """No record is blamed, none is committed."""
    model = FakeModel()
    model.broken = True
    one = await rig(model)
    one.feed([b"1"])
    with pytest.raises(EngineFault):
        await one.driver.failed
    assert one.metrics.value(M.INFERENCE_FAILURES, reason="engine_fault") == 1
    assert (one.committed(), one.broker.read(("dlq", 0))) == (None, [])


async def test_the_first_failure_counts(rig: StartRig) -> None:
    """Later ones are consequences."""
    one = await rig()
    one.driver.fail(KeyError("first"))
    one.driver.fail(KeyError("second"))
    with pytest.raises(KeyError, match="first"):
        await one.driver.failed


async def test_a_drain_delivers_and_commits_what_is_in_flight(rig: StartRig) -> None:
    """Nothing more is read, everything read is delivered and committed at once."""
    model = FakeModel()
    model.gate.clear()
    one = await rig(model)
    one.feed([b"1"] * 30)
    await one.until(lambda: one.pipeline.in_flight_records == 30)
    model.gate.set()
    assert await one.driver.drain(6.0) == 0
    assert one.committed() == 30
    one.ledger().check()
    one.feed([b"1"])
    assert one.pipeline.room() == 0


async def test_a_drain_that_cannot_commit_tells_how_much_is_left(rig: StartRig) -> None:
    """Records without acknowledgement stay uncommitted, those before them are committed."""
    one = await rig()
    one.feed([b"1", b"2"])
    await one.until(lambda: one.committed() == 2)
    one.broker.withhold_acks(TopicPartition("out", 0))
    one.feed([b"3", b"4", b"5"])
    await one.until(lambda: one.pipeline.in_flight_records == 3)
    assert await one.driver.drain(5.05) == 3
    assert one.committed() == 2


async def test_a_short_drain_has_time_for_what_is_in_flight(rig: StartRig) -> None:
    """A part of it is kept for the commit, never all of it."""
    model = FakeModel()
    model.gate.clear()
    one = await rig(model)
    one.feed([b"1"] * 30)
    await one.until(lambda: one.pipeline.in_flight_records == 30)
    drain = asyncio.create_task(one.driver.drain(3.0))
    await one.until(lambda: one.driver.draining)
    model.gate.set()
    assert await drain == 0
    assert one.committed() == 30


async def test_nothing_is_admitted_anew_while_partitions_are_taken_away(rig: StartRig) -> None:
    """A transaction that is aborted meanwhile drops what it held, and leaves the rest to the next owner."""
    one = await rig(guarantee="exactly_once")
    one.broker.withhold_acks(TopicPartition("out", 0))
    one.feed([b"1", b"2", b"3"])
    await one.until(lambda: one.pipeline.in_flight_records == 3)
    revoked = asyncio.create_task(one.driver.revoked([A, B, C]))
    await one.until(lambda: one.driver.revoking)
    one.transactions.transaction_aborted(fenced=False)
    assert (one.pipeline.room(), one.pipeline.partitions()) == (0, [])
    await revoked
    assert one.pipeline.in_flight_records == 0


async def test_a_rebalance_finishes_and_commits_before_it_lets_go(rig: StartRig) -> None:
    """What was in flight is delivered and committed; the next assignment reads on without a repeat."""
    one = await rig()
    one.feed([b"1"] * 20)
    one.feed([b"2"] * 20, 1)
    await one.until(lambda: one.pipeline.in_flight_records > 0 or one.committed(1) == 20)
    await one.source.reassign([A])
    one.feed([b"3"] * 5)
    await one.until(lambda: one.committed() == 25)
    assert one.pipeline.partitions() == [A]
    await one.source.reassign([A, B, C])
    await one.until(lambda: one.committed(1) == 20)
    one.ledger().check()
    assert one.metrics.value(M.REBALANCES, event="revoked") == 2
    assert one.metrics.value(M.ABANDONED_RECORDS) == 0


async def test_partitions_beyond_the_output_are_held(rig: StartRig) -> None:
    """They are read once the output topic has grown."""
    one = await rig(started=False)
    one.driver.output_grew(1)
    one.feed([b"1"])
    one.feed([b"2"], 2)
    await one.start()
    await one.until(lambda: one.committed() == 1)
    assert one.committed(2) is None
    one.driver.output_grew(3)
    await one.until(lambda: one.committed(2) == 1)
    one.ledger().check()


@pytest.mark.parametrize(("fenced", "given_up"), [(False, 3), (True, 0)])
async def test_an_abort_in_a_drain_counts_what_is_still_ours(rig: StartRig, *, fenced: bool, given_up: int) -> None:
    """What was dropped for a fault of the brokers stays uncommitted; what others own already is theirs."""
    one = await rig(guarantee="exactly_once")
    one.broker.withhold_acks(TopicPartition("out", 0))
    one.feed([b"1", b"2", b"3"])
    await one.until(lambda: one.pipeline.in_flight_records == 3)
    drain = asyncio.create_task(one.driver.drain(6.0))
    await one.until(lambda: one.driver.draining)
    one.transactions.transaction_aborted(fenced)
    assert await drain == given_up


async def test_what_a_poll_returns_after_the_drain_began_is_left_alone(
    rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain has counted what it must finish: later records would stay uncommitted, and fail it."""
    one = await rig(started=False)
    await one.start()
    began = asyncio.Event()
    poll = one.driver.source.poll

    async def late(max_records: int, timeout_s: float) -> list[Polled]:
        found = await poll(max_records, timeout_s)
        if not found or not max_records:
            return found
        one.driver.draining = True
        began.set()
        return found

    monkeypatch.setattr(one.driver.source, "poll", late)
    one.feed([b"1", b"2"])
    async with asyncio.timeout(20):
        await began.wait()
    assert await one.driver.drain(6.0) == 0
    assert (one.committed(), one.pipeline.uncommitted_records) == (None, 0)


async def test_a_stopped_partition_that_is_tried_keeps_none_waiting(
    rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one record comes with those of the others, which are not waited for then."""
    one = await rig(started=False)
    asked: list[tuple[int, float]] = []

    async def poll_one(tp: TopicPartition) -> list[str]:
        return [f"one of {tp.partition}"]

    async def poll(max_records: int, timeout_s: float) -> list[str]:
        asked.append((max_records, timeout_s))
        return ["others"]

    with monkeypatch.context() as patch:
        patch.setattr(one.driver, "source", SimpleNamespace(poll_one=poll_one, poll=poll))
        patch.setattr(one.pipeline.brakes, "due", lambda _now: [A])
        both: list[object] = [*await one.driver._poll(10)]
        alone: list[object] = [*await one.driver._poll(1)]
    assert both == ["one of 0", "others"]
    assert alone == ["one of 0"]
    assert asked == [(9, 0.0)]
