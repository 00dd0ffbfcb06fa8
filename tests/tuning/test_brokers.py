"""Temporary topics are created, awaited and deleted, and no other topic is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.unit.tuning.studies import settings
from worker.errors import BrokerError, ConfigError
from worker.tuning.brokers import PREFIX, ClusterPlace, MockPlace, TemporaryTopics, client_options


@dataclass
class Cluster:
    """Stands in for the admin client of a cluster that has some topics, and refuses what it is told to."""

    topics: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def create_topics(self, new: Iterable[NewTopic], **_: object) -> dict[str, Future[None]]:
        """Create those that do not exist."""
        return {one.topic: self._answer(one.topic, exists=one.topic in self.topics, make=True) for one in new}

    def delete_topics(self, names: Iterable[str], **_: object) -> dict[str, Future[None]]:
        """Delete them."""
        return {name: self._answer(name, exists=False, make=False) for name in names}

    def list_topics(self, **_: object) -> Any:
        """All topics, with a leader for each of two partitions."""
        partitions = dict.fromkeys(range(2), SimpleNamespace(leader=1))
        return SimpleNamespace(topics=dict.fromkeys(self.topics, SimpleNamespace(partitions=partitions)))

    def _answer(self, name: str, *, exists: bool, make: bool) -> Future[None]:
        answer: Future[None] = Future()
        if exists or name in self.refused:
            answer.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS)))
        else:
            (self.topics.add if make else self.topics.discard)(name)
            answer.set_result(None)
        return answer


def temporary(cluster: Cluster) -> TemporaryTopics:
    """Topics on that cluster."""
    return TemporaryTopics(cast("AdminClient", cluster))


def test_own_topics_come_and_go() -> None:
    """What was made is deleted, once; the others stay."""
    cluster = Cluster({"theirs"})
    made = temporary(cluster)
    made.create(["a", "b"], 2)
    assert cluster.topics == {"theirs", "a", "b"}
    made.delete_all()
    cluster.topics.add("a")
    made.delete_all()
    assert cluster.topics == {"theirs", "a"}


def test_existing_topic_is_refused_and_left_alone() -> None:
    """A topic that is there already is an error, and it outlives the clearing up, which gets all others."""
    cluster = Cluster({"b"})
    made = temporary(cluster)
    with pytest.raises(BrokerError, match="creating the temporary topics"):
        made.create(["a", "b", "c"], 2)
    assert cluster.topics == {"a", "b", "c"}
    made.delete_all()
    assert cluster.topics == {"b"}


def test_topics_that_stay_are_named() -> None:
    """Where deleting fails, the error names what is left."""
    cluster = Cluster()
    made = temporary(cluster)
    made.create(["a"], 2)
    cluster.refused.add("a")
    with pytest.raises(BrokerError, match="deleting the temporary topics a failed"):
        made.delete_all()


def test_stages_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials on a cluster never share a topic, all names have the prefix, and none of them stays."""
    cluster = Cluster()
    monkeypatch.setattr("worker.tuning.brokers.PARTITIONS", 2)
    place = ClusterPlace(settings().kafka)
    monkeypatch.setattr(place, "_admin", cluster)
    seen: list[set[str]] = []
    for _ in range(2):
        with interrupted(), place.stage() as stage:
            seen.append(set(cluster.topics))
            assert set(stage.topics) == cluster.topics
            assert stage.kafka["input_topics"] == [stage.topics.input]
            raise KeyboardInterrupt
    assert not cluster.topics
    assert not seen[0] & seen[1]
    assert all(name.startswith(PREFIX) for name in seen[0] | seen[1])


@contextmanager
def interrupted() -> Iterator[None]:
    """Expect a Ctrl-C."""
    with pytest.raises(KeyboardInterrupt):
        yield


def test_clients_log_in_like_the_worker() -> None:
    """Every option of a protected listener has its counterpart in librdkafka."""
    section = settings(
        kafka={
            "bootstrap_servers": ["a:1", "b:2"],
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "me",
            "sasl_password": "secret",
            "ssl_ca_file": "/ca.pem",
        }
    ).kafka
    assert client_options(section) == {
        "bootstrap.servers": "a:1,b:2",
        "log_level": 3,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "secret",
        "ssl.ca.location": "/ca.pem",
    }


def test_mock_cluster_refuses_transactions() -> None:
    """It cannot fence a group, so exactly_once needs a cluster."""
    with pytest.raises(ConfigError, match="exactly_once"):
        MockPlace(settings(delivery={"guarantee": "exactly_once"}))
