"""The workers under test: processes as users start them, each with a name of its own at the broker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.chaos.account import Lane
from tests.chaos.altered import AlteredWorker
from tests.chaos.cluster import Cluster
from tests.chaos.events import write_model, write_schema
from tests.kafka.client import REQUEST_TIMEOUT_S
from tests.kafka.processes import free_ports, tail, wait_until
from tests.kafka.worker_process import LOOPBACK, WorkerProcess, merged

OPEN_WORK_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What a fault hit, seen from the broker: records fetched or fetchable and uncommitted, open transactions."""

    records: int = 0
    transactions: int = 0

    @property
    def any(self) -> bool:
        """Whether there was anything to lose or to repeat."""
        return bool(self.records or self.transactions)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a campaign."""

    inputs: tuple[str, ...]
    output: str
    dead_letters: str
    group: str


@dataclass(frozen=True, slots=True)
class UnexpectedExit:
    """A worker ended although nothing told it to."""

    name: str
    code: int
    log: str


class Fleet:
    """Starts, watches and counts worker processes of one group."""

    def __init__(self, folder: Path, cluster: Cluster, topics: Topics, overrides: Mapping[str, Any]) -> None:
        self._folder = folder
        self._cluster = cluster
        self._topics = topics
        self._started = 0
        self.running: dict[str, WorkerProcess] = {}
        self.unexpected: list[UnexpectedExit] = []
        self.tolerated: str | None = None
        """Workers whose log says this may end by themselves: the fault of the moment asks for it."""
        self.alterations: tuple[str, ...] = ()
        """What is changed in every worker; empty but for the proof that the kit can fail."""
        settings: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": cluster.relayed,
                "group_id": topics.group,
                "input_topics": list(topics.inputs),
                "output_topic": topics.output,
                "dead_letter_topic": topics.dead_letters,
                "session_timeout_s": 3,
                "heartbeat_interval_s": 0.5,
                "rebalance_timeout_s": 15,
            },
            "event": {"schema": str(write_schema(folder)), "id_field": "id"},
            "model": {"path": str(write_model(folder / "linear")), "providers": ["cpu"]},
            "batching": {"max_batch_size": 64},
            "flow": {"max_in_flight_records": 500},
            # An interval so long that only the record count keeps the repeats within their bound.
            "delivery": {"commit_interval_s": 5, "commit_max_records": 500},
            "drain": {"timeout_s": 8},
            "log": {"level": "info", "format": "json"},
        }
        self.settings = merged(settings, overrides)

    @property
    def repeat_bound(self) -> int:
        """Most records that one crash may repeat under at_least_once, as documented."""
        return int(self.settings["flow"]["max_in_flight_records"] + self.settings["delivery"]["commit_max_records"])

    def start(self, *, ready: bool = True, alterations: Sequence[str] = ()) -> str:
        """Start one more worker, with ``alterations`` of its code if any; returns its name."""
        name = f"{self._topics.group}-{self._started}"
        self._started += 1
        own = {"kafka": {"client_id": name}, "probes": {"host": LOOPBACK, "port": free_ports(1)[0]}}
        config = merged(self.settings, own)
        process = (
            AlteredWorker(self._folder / name, config, [*self.alterations, *alterations])
            if self.alterations or alterations
            else WorkerProcess(self._folder / name, config)
        )
        process.start()
        self.running[name] = process
        if ready:
            process.wait_ready(READY_TIMEOUT_S)
        return name

    def forget(self, name: str) -> WorkerProcess:
        """The worker is no longer expected to run."""
        return self.running.pop(name)

    def pid(self, name: str) -> int:
        """Process id of a running worker."""
        return self.running[name]._started().pid

    def reap(self) -> int:
        """Note every worker that ended by itself; returns how many."""
        ended = [name for name, process in self.running.items() if not process.is_alive]
        for name in ended:
            process = self.running.pop(name)
            code, log = process.exit_code or 0, tail(process.log, 6000)
            if self.tolerated is None or code <= 0 or self.tolerated not in log:
                self.unexpected.append(UnexpectedExit(name, code, log))
        return len(ended)

    def restore(self, size: int) -> None:
        """Bring the fleet back to ``size`` ready workers."""
        self.reap()
        fresh = [self.start(ready=False) for _ in range(size - len(self.running))]
        for name in fresh:
            self.running[name].wait_ready(READY_TIMEOUT_S)

    def freeze_at_work(self, name: str) -> OpenWork:
        """Stop the process (SIGSTOP) at a moment when the broker sees unfinished work of it."""
        deadline = time.monotonic() + OPEN_WORK_TIMEOUT_S
        while True:
            lanes = self.assignment(name)
            ends = self.ends(lanes)
            self.running[name].pause()
            work = self._observed(lanes, ends)
            if work.any or time.monotonic() > deadline:
                return work
            self.running[name].resume()
            time.sleep(0.05)

    def open_work(self, name: str) -> OpenWork:
        """The unfinished work of one worker as the broker sees it now."""
        lanes = self.assignment(name)
        return self._observed(lanes, self.ends(lanes))

    def _observed(self, lanes: list[Lane], ends: Mapping[Lane, int]) -> OpenWork:
        committed = self.committed(lanes)
        records = sum(max(0, end - committed.get(lane, 0)) for lane, end in ends.items())
        return OpenWork(records, self._open_transactions({partition for _, partition in lanes}))

    def _open_transactions(self, partitions: set[int]) -> int:
        """Output partitions with an open transaction: the last stable offset is behind what was the end before."""
        lanes = [(self._topics.output, partition) for partition in partitions]
        ends = self.ends(lanes)
        stable = self.ends(lanes, IsolationLevel.READ_COMMITTED)
        return sum(stable[lane] < ends[lane] for lane in lanes)

    def assignment(self, name: str) -> list[Lane]:
        """The partitions that the broker has assigned to this worker."""
        for member in self.members():
            if member.client_id == name and member.assignment is not None:
                return [(at.topic, at.partition) for at in member.assignment.topic_partitions]
        return []

    def members(self) -> list[Any]:
        """The members of the group as the broker describes them."""
        return list(self._cluster.described(self._topics.group).members)

    def is_settled(self) -> bool:
        """Whether the group has exactly the running workers, each with partitions, and no rebalance is under way."""
        group = self._cluster.described(self._topics.group)
        return group.state is ConsumerGroupState.STABLE and _owners(list(group.members)) == self.running.keys()

    def is_member(self, name: str) -> bool:
        """Whether the group has this worker."""
        return any(member.client_id == name for member in self.members())

    def ends(self, lanes: list[Lane], level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> dict[Lane, int]:
        """End offsets."""
        if not lanes:
            return {}
        asked = {TopicPartition(*lane): OffsetSpec.latest() for lane in lanes}  # type: ignore[no-untyped-call]

        def ask(admin: AdminClient) -> dict[Lane, int]:
            found = admin.list_offsets(asked, isolation_level=level, request_timeout=5)
            return {(at.topic, at.partition): int(one.result(REQUEST_TIMEOUT_S).offset) for at, one in found.items()}

        return self._cluster.ask(ask)

    def committed(self, lanes: list[Lane]) -> dict[Lane, int]:
        """Committed offsets of the group."""
        if not lanes:
            return {}
        # Asked for the members, librdkafka notices a coordinator that has moved; asked for the offsets, it crashes.
        self.members()
        group = self._topics.group
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*lane) for lane in lanes])

        def ask(admin: AdminClient) -> dict[Lane, int]:
            found = admin.list_consumer_group_offsets([asked], request_timeout=5)[group]
            places = found.result(REQUEST_TIMEOUT_S).topic_partitions or []
            for at in places:
                if at.error is not None:
                    raise KafkaException(at.error)
            return {(at.topic, at.partition): int(at.offset) for at in places if at.offset >= 0}

        return self._cluster.ask(ask)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; returns the exit codes."""
        for process in self.running.values():
            process.sigterm()
        return {name: process.wait_exit() for name, process in self.running.items()}

    def discard(self) -> None:
        """Kill whatever still runs."""
        for process in self.running.values():
            process.discard()

    def await_members(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until the group has so many members, each with partitions."""
        wait_until(
            lambda: len(_owners(self.members())) == count,
            timeout_s=timeout_s,
            what=lambda: f"the group does not have {count} members with partitions",
        )


def _owners(members: list[Any]) -> set[str]:
    """The names of those that have partitions."""
    return {one.client_id for one in members if one.assignment and one.assignment.topic_partitions}
