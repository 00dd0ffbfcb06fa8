"""One or three Kafka nodes whose second listener is advertised at the relay, so that workers go through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription, NewTopic

from tests.chaos.relay import LOOPBACK, Relay
from tests.kafka import jars
from tests.kafka.broker import START_TIMEOUT_S, KafkaBroker
from tests.kafka.client import REQUEST_TIMEOUT_S, KafkaClient
from tests.kafka.processes import free_ports, spawn, tail, wait_until

RETIRED: list[AdminClient] = []
"""Clients that got no answer; kept until the process ends."""

QUICK = {
    "group.min.session.timeout.ms": "1000",
    # Expired transactions are looked for every 10 s unless told otherwise.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
TRIPLE = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
}

_Answer = TypeVar("_Answer")


class Node(KafkaBroker):
    """One broker of a cluster; ``properties`` holds what all of them share."""

    def __init__(self, folder: Path, number: int, relay: Relay, properties: Mapping[str, str]) -> None:
        super().__init__(folder, properties)
        self.number = number
        self.inner_port = free_ports(1)[0]
        self.relay_port = relay.add(self.inner_port)

    @property
    def voter(self) -> str:
        """The node as the controllers' quorum knows it."""
        return f"{self.number}@{LOOPBACK}:{self._controller_port}"

    def join(self, cluster_id: str, voters: list[str]) -> None:
        """Become a part of this cluster; before the first start."""
        self.cluster_id = cluster_id
        self._overrides |= {
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"PLAINTEXT://{self.bootstrap},RELAYED://{LOOPBACK}:{self.inner_port},"
            f"CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},RELAYED://{LOOPBACK}:{self.relay_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }

    def launch(self) -> None:
        """Start the process without waiting: a quorum comes up only together."""
        folder = jars.fetch()
        config = self._write_config()
        if not self.data.exists():
            self._format(folder, config)
        self._process = spawn(self._java(folder, "kafka.Kafka", str(config)), log=self.log)

    def wait_listening(self) -> None:
        """Wait until the node accepts connections; raises TimeoutError with its log."""
        wait_until(
            self._is_listening,
            timeout_s=START_TIMEOUT_S,
            what=lambda: f"node {self.number} does not listen on {self.bootstrap}; its log ends:\n{tail(self.log)}",
        )


class Cluster:
    """``size`` nodes, one relay. The ledger uses ``bootstrap``; workers use ``relayed``."""

    def __init__(self, folder: Path, size: int, properties: Mapping[str, str] | None = None) -> None:
        self.relay = Relay()
        shared = QUICK | (TRIPLE if size > 1 else {}) | dict(properties or {})
        self.nodes = [Node(folder / f"node-{number}", number, self.relay, shared) for number in range(1, size + 1)]
        for node in self.nodes:
            node.join(self.nodes[0].cluster_id, [each.voter for each in self.nodes])
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)
        self.relayed = [f"{LOOPBACK}:{node.relay_port}" for node in self.nodes]
        self.client = KafkaClient(self.bootstrap)
        self.admin = self._new_admin()

    def ask(self, question: Callable[[AdminClient], _Answer]) -> _Answer:
        """The answer of brokers that are being killed: asks again after any error, for a bounded time.

        Each time with a new client: librdkafka's keeps to a group coordinator that has moved. The old one stays,
        because librdkafka may crash when a client goes while a question of it is open.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return question(self.admin)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
            RETIRED.append(self.admin)
            self.admin = self._new_admin()

    def _new_admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def start(self) -> None:
        """Start all nodes and wait for the cluster; from the thread that lives as long as it should."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_listening()
        self.wait_complete()

    def wait_complete(self) -> None:
        """Wait until every node takes part and every partition has all its replicas in sync."""
        wait_until(self._is_complete, timeout_s=START_TIMEOUT_S, what=lambda: "the cluster is not complete")

    def restart(self, node: Node) -> None:
        """Start a killed node again and wait until it is back in sync."""
        node.launch()
        node.wait_listening()
        self.wait_complete()

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Create a topic with all the replication that the cluster offers."""
        new = NewTopic(name, num_partitions=partitions, replication_factor=len(self.nodes), config=dict(config or {}))
        self.admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_S)[name].result(REQUEST_TIMEOUT_S)
        self.client._await_partitions(name, partitions)

    def controller(self) -> Node:
        """The node that a client is told is the controller."""
        found = self.ask(lambda admin: admin.describe_cluster(request_timeout=5).result(REQUEST_TIMEOUT_S))
        return self.nodes[int(found.controller.id) - 1]

    def coordinator(self, group: str) -> Node:
        """The node that coordinates a group."""
        return self.nodes[int(self.described(group).coordinator.id) - 1]

    def described(self, group: str) -> ConsumerGroupDescription:
        """The group as its coordinator sees it."""

        def ask(admin: AdminClient) -> ConsumerGroupDescription:
            asked = admin.describe_consumer_groups([group], request_timeout=5)[group]
            found: ConsumerGroupDescription = asked.result(REQUEST_TIMEOUT_S)
            return found

        return self.ask(ask)

    def leader(self, topic: str, partition: int) -> Node:
        """The node that leads a partition."""
        found = self.ask(lambda admin: admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S)).topics[topic]
        return self.nodes[found.partitions[partition].leader - 1]

    def stop(self) -> None:
        """End all nodes and the relay."""
        for node in self.nodes:
            node.kill()
        self.relay.stop()

    def _is_complete(self) -> bool:
        found = self.ask(lambda admin: admin.list_topics(timeout=REQUEST_TIMEOUT_S))
        partitions = [one for topic in found.topics.values() for one in topic.partitions.values()]
        return len(found.brokers) == len(self.nodes) and all(len(one.isrs) == len(one.replicas) for one in partitions)
