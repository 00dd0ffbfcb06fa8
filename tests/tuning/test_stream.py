"""Sender, counter and reader on a mock cluster, with an echo in the place of the worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from confluent_kafka import Producer

from tests.unit.tuning.studies import settings
from worker.errors import HeadraceError
from worker.tuning.brokers import MockPlace, Stage
from worker.tuning.stream import Arrivals, Outputs, Sender

WITHIN_S = 30.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Topics of a mock cluster."""
    with MockPlace(settings()).stage() as made:
        yield made


def echo(stage: Stage, numbers: range) -> None:
    """Write what the worker would for the events of these numbers."""
    producer = Producer(dict(stage.client))
    for number in numbers:
        offset, partition = divmod(number, stage.partitions)
        source = f"{stage.topics.input}/{partition}/{offset}".encode()
        producer.produce(stage.topics.output, b"{}", partition=partition, headers=[("headrace-source", source)])
    assert producer.flush(WITHIN_S) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_backlog_goes_to_all_partitions(stage: Stage) -> None:
    """Event k of p partitions is at offset k // p of partition k % p, so that an output tells its number."""
    sender = Sender(stage, [b'{"a": 1}', b'{"a": 2}', b'{"a": 3}'])
    sender.backlog(10)
    sender.backlog(4)
    counted = Outputs(Stage(stage.client, stage.kafka, stage.topics._replace(output=stage.topics.input), 4, 1, 1))
    assert counted.ends() == [4, 4, 3, 3]
    counted.close()


def test_events_leave_when_they_are_due(stage: Stage) -> None:
    """No event leaves before its time, each has a time, and the sender waits for no answer."""
    sender = Sender(stage, [b"{}"])
    planned = np.arange(50, dtype=np.float64) * 0.002 + time.monotonic()
    sent = sender.steadily(planned)
    sender.flush()
    assert (sent >= planned).all()
    assert sender.sent == 50


def test_arrivals_are_noted_by_number(stage: Stage) -> None:
    """Outputs of the backlog do not count, and of two outputs of an event the first does."""
    outputs = Outputs(stage)
    echo(stage, range(6))
    assert sum(outputs.ends()) == 6
    arrivals = Arrivals(stage, outputs.ends(), 6, 5)
    outputs.close()
    arrivals.start()
    echo(stage, range(4, 9))
    wait_for(lambda: arrivals.arrived == 3)
    first = arrivals.at.copy()
    echo(stage, range(6, 11))
    wait_for(lambda: arrivals.arrived == 5)
    arrivals.stop()
    assert arrivals.failure is None
    assert (arrivals.at[:3] == first[:3]).all()
    assert not np.isnan(arrivals.at).any()


def test_refused_event_is_a_failure_with_its_reason(stage: Stage) -> None:
    """A dead letter ends the reading, and asked for it is found as well."""
    arrivals, outputs = Arrivals(stage, [0] * stage.partitions, 0, 5), Outputs(stage)
    arrivals.start()
    producer = Producer(dict(stage.client))
    producer.produce(stage.topics.dead_letters, b"{", headers=[("headrace-dlq-reason", b"invalid_json")])
    assert producer.flush(WITHIN_S) == 0
    wait_for(lambda: arrivals.failure is not None)
    arrivals.stop()
    assert isinstance(arrivals.failure, HeadraceError)
    assert "invalid_json" in str(arrivals.failure)
    with pytest.raises(HeadraceError, match="invalid_json"):
        outputs.raise_for_dead_letter()
    outputs.close()
