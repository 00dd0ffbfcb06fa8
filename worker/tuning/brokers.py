"""Where a trial runs: a mock cluster in this process, or temporary topics on a cluster of the user's own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from worker.demo.cluster import MockCluster
from worker.errors import BrokerError, ConfigError, Problem
from worker.settings import KafkaSection, Settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

PREFIX = "headrace-tune-"
# As many as the mock cluster gives a topic.
PARTITIONS = 4
_REQUEST_TIMEOUT_S = 20.0
_VISIBLE_TIMEOUT_S = 20.0
_ASK_AGAIN_S = 0.1
# The mock cluster answers a waiting fetch only when its wait is over.
_MOCK_FETCH_WAIT_S = 0.003
_SECURITY_KEYS = ("sasl_mechanism", "sasl_username", "sasl_password", "ssl_ca_file", "ssl_cert_file", "ssl_key_file")


class Topics(NamedTuple):
    """The names of a trial's topics."""

    input: str
    output: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Stage:
    """The topics of one trial, empty at first.

    ``client`` are librdkafka's options to get there, ``kafka`` the keys of the worker's section that lead there.
    ``linger_ms`` is how long the sender gathers records, ``fetch_wait_ms`` how long a reader's fetch waits.
    """

    client: Mapping[str, str | int]
    kafka: Mapping[str, Any]
    topics: Topics
    partitions: int
    linger_ms: int
    fetch_wait_ms: int


class Place(Protocol):
    """Makes a stage for each trial."""

    def stage(self) -> AbstractContextManager[Stage]:
        """The stage; its topics are gone afterwards."""


class MockPlace:
    """A new mock cluster for each trial. Raises ConfigError for settings that it cannot serve."""

    def __init__(self, settings: Settings) -> None:
        if settings.delivery.guarantee == "exactly_once":
            problem = Problem(
                "the mock cluster in this process does not speak what exactly_once needs",
                "name a test cluster by --bootstrap HOST:PORT",
                key="delivery.guarantee",
                code="needs_cluster",
            )
            raise ConfigError(problem)

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """The stage; the cluster ends with it."""
        cluster = MockCluster()
        topics = _names(PREFIX)
        partitions = min(cluster.create_topic(name) for name in topics)
        keys: dict[str, Any] = dict.fromkeys(_SECURITY_KEYS)
        keys |= {"security_protocol": "PLAINTEXT", "fetch_max_wait_s": _MOCK_FETCH_WAIT_S}
        keys |= _addresses(cluster.bootstrap_servers, topics)
        # Silent, for the cluster ends before the last client does, and they would complain.
        client: dict[str, str | int] = {"bootstrap.servers": ",".join(cluster.bootstrap_servers), "log_level": 0}
        # The mock returns one produced batch per partition and fetch: records sent one by one would limit the rate.
        yield Stage(client, keys, topics, partitions, linger_ms=5, fetch_wait_ms=2)


class ClusterPlace:
    """Temporary topics on the cluster of ``section``, deleted after each trial; the group goes with its last topic."""

    def __init__(self, section: KafkaSection) -> None:
        from confluent_kafka.admin import AdminClient

        self._section = section
        self._client = client_options(section)
        self._admin = AdminClient(dict(self._client))

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """The stage; raises BrokerError where the cluster refuses it."""
        topics = _names(f"{PREFIX}{uuid.uuid4().hex[:12]}-")
        made = TemporaryTopics(self._admin)
        try:
            made.create(topics, PARTITIONS)
            keys = _addresses(list(self._section.bootstrap_servers), topics)
            yield Stage(self._client, keys, topics, PARTITIONS, linger_ms=1, fetch_wait_ms=100)
        finally:
            made.delete_all()


@dataclass(slots=True)
class TemporaryTopics:
    """Topics that this object made; it deletes no other."""

    admin: AdminClient
    _made: list[str] = field(default_factory=list)

    def create(self, names: Sequence[str], partitions: int) -> None:
        """Create topics and wait for their leaders; raises BrokerError, also where one exists already."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import NewTopic

        wanted = [NewTopic(name, num_partitions=partitions) for name in names]
        try:
            answers = self.admin.create_topics(wanted, request_timeout=_REQUEST_TIMEOUT_S)
            # All answers are awaited before one is raised, so that what was made beside a refused one is known.
            errors = {name: answer.exception(_REQUEST_TIMEOUT_S) for name, answer in answers.items()}
            self._made += [name for name, error in errors.items() if error is None]
            for answer in answers.values():
                answer.result()
            self._await(names, partitions)
        except (KafkaException, TimeoutError) as error:
            raise _refused("creating the temporary topics", error) from error

    def delete_all(self) -> None:
        """Delete what was created; raises BrokerError, with the names of what may be left."""
        from confluent_kafka import KafkaException

        made, self._made = self._made, []
        if not made:
            return
        try:
            for answer in self.admin.delete_topics(made, request_timeout=_REQUEST_TIMEOUT_S).values():
                answer.result(_REQUEST_TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            raise _refused(f"deleting the temporary topics {', '.join(made)}", error) from error

    def _await(self, names: Sequence[str], partitions: int) -> None:
        deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
        while time.monotonic() < deadline:
            topics = self.admin.list_topics(timeout=_REQUEST_TIMEOUT_S).topics
            seen = [topics[name].partitions for name in names if name in topics]
            if len(seen) == len(names) and all(
                len(found) == partitions and all(one.leader >= 0 for one in found.values()) for found in seen
            ):
                return
            time.sleep(_ASK_AGAIN_S)
        raise TimeoutError(f"no leaders after {_VISIBLE_TIMEOUT_S:g} s")


def client_options(section: KafkaSection) -> dict[str, str | int]:
    """librdkafka's options for the listener that ``section`` describes."""
    password = section.sasl_password
    options = {
        "security.protocol": section.security_protocol,
        "sasl.mechanism": section.sasl_mechanism,
        "sasl.username": section.sasl_username,
        "sasl.password": None if password is None else password.get_secret_value(),
        "ssl.ca.location": section.ssl_ca_file,
        "ssl.certificate.location": section.ssl_cert_file,
        "ssl.key.location": section.ssl_key_file,
    }
    given: dict[str, str | int] = {name: str(value) for name, value in options.items() if value is not None}
    return {"bootstrap.servers": ",".join(section.bootstrap_servers), "log_level": 3, **given}


def _names(prefix: str) -> Topics:
    return Topics(f"{prefix}in", f"{prefix}out", f"{prefix}dlq")


def _addresses(servers: list[str], topics: Topics) -> dict[str, Any]:
    """The keys of the worker's section ``kafka`` that say where."""
    return {
        "bootstrap_servers": servers,
        "group_id": topics.input,
        "input_topics": [topics.input],
        "output_topic": topics.output,
        "dead_letter_topic": topics.dead_letters,
    }


def _refused(doing: str, error: BaseException) -> BrokerError:
    problem = Problem(
        f"{doing} failed: {error}",
        f"see that the cluster allows topics that begin with {PREFIX}",
        key="--bootstrap",
        code="temporary_topics",
    )
    return BrokerError(problem)
