"""``headrace demo`` and ``produce-sample`` end to end, on the mock cluster and with the real worker."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from worker.adapters.kafka_admin import Admin, TopicState
from worker.commands.app import execute
from worker.commands.demo import demo
from worker.commands.produce_sample import produce_sample
from worker.demo.cluster import MockCluster
from worker.demo.events import transaction_id
from worker.demo.simulator import TRAINING_SEED
from worker.demo.worker_process import INPUT_TOPIC, configuration
from worker.errors import BrokerError, ConfigError


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Demo:
    """A demo as a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A killed demo cannot clean up: what it leaves goes with the test.
            env=os.environ | {"TMPDIR": str(folder)},
            # What runs in a shell's background ignores interrupts, and hands that on.
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 # no other thread runs here
        )

    def wait_for(self, beginning: str) -> None:
        """Read the steps on standard error up to the one that begins so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(beginning):
                return
        pytest.fail(f"the demo ended without {beginning!r}: {self.process.wait()}")

    def children(self) -> list[int]:
        """The demo's child processes."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    """Demos to be cleaned up."""
    started: list[Demo] = []
    yield started
    for running in started:
        running.process.kill()
        running.process.communicate()


def ended(process: int, within_s: float) -> bool:
    """Whether the process, a pidfd of it, ends in time."""
    readable, _, _ = select.select([process], [], [], within_s)
    return bool(readable)


def test_demo_accounts_for_every_record(demos: list[Demo], tmp_path: Path) -> None:
    """One JSON line with the documented keys; everything produced is scored or dead-lettered, exit 0."""
    demos.append(Demo(tmp_path, "--json", "--seconds", "2", "--rate", "400", "--seed", "7"))
    output, errors = demos[0].process.communicate(timeout=90)
    assert demos[0].process.returncode == 0, errors
    facts = json.loads(output)
    assert list(facts) == list(report_keys())
    assert (facts["missing"], facts["duplicates"]) == (0, 0)
    assert (facts["produced"], facts["scored"], facts["dead_lettered"]) == (808, 800, 8)
    assert (facts["model"], facts["provider"]) == ("fraud@1.0.0", facts["provider"])
    assert facts["latency_ms"]["p50"] > 0


def report_keys() -> tuple[str, ...]:
    """The keys that ``--json`` promises, in order."""
    return (
        *("produced", "scored", "dead_lettered", "missing", "duplicates", "seconds", "events_per_second"),
        *("latency_ms", "mean_batch_size", "flagged", "true_fraud_flagged", "precision", "recall", "model", "provider"),
    )


def test_interrupt_ends_early_and_in_order(demos: list[Demo], tmp_path: Path) -> None:
    """Ctrl-C stops the stream; what was sent is still accounted for and the exit code is 0."""
    demos.append(Demo(tmp_path, "--json", "--seconds", "600", "--rate", "100"))
    demos[0].wait_for("running")
    demos[0].process.send_signal(signal.SIGINT)
    output, errors = demos[0].process.communicate(timeout=90)
    facts = json.loads(output)
    assert demos[0].process.returncode == 0, errors
    assert 0 < facts["produced"] < 10_000
    assert (facts["missing"], facts["duplicates"]) == (0, 0)


def test_killed_demo_leaves_no_worker(demos: list[Demo], tmp_path: Path) -> None:
    """Even after kill -9 of the demo its worker ends."""
    demos.append(Demo(tmp_path, "--json"))
    demos[0].wait_for("waiting")
    (worker,) = map(os.pidfd_open, demos[0].children())
    demos[0].process.kill()
    assert ended(worker, within_s=60)
    os.close(worker)


@pytest.mark.parametrize("command", [demo, produce_sample])
def test_training_seed_is_refused(command: Callable[..., int]) -> None:
    """The world that the model was trained on is never shown, and the refusal says why."""
    with pytest.raises(ConfigError, match="trained on"):
        command(seed=TRAINING_SEED)


def test_missing_extra_is_an_environment_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the demo extra: exit 3 and the command to type."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    assert execute(["demo"]) == 3
    assert "headrace[demo,cpu]" in capsys.readouterr().err


@pytest.fixture
def cluster() -> MockCluster:
    """An empty mock cluster."""
    return MockCluster()


def config_for(cluster: MockCluster, folder: Path) -> Path:
    """A configuration file for the cluster."""
    file = folder / "worker.yaml"
    file.write_text(yaml.safe_dump(configuration(cluster.bootstrap_servers, 8080)), encoding="utf-8")
    return file


@pytest.mark.parametrize("rate", [None, 1000.0])
def test_sample_arrives_in_the_input_topic(
    cluster: MockCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float | None
) -> None:
    """All transactions are acknowledged and in the topic once, each with its customer as the key."""
    partitions = cluster.create_topic(INPUT_TOPIC)
    assert produce_sample(config_for(cluster, tmp_path), 600, rate, json_output=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["topic"], facts["sent"], facts["acknowledged"]) == (INPUT_TOPIC, 600, 600)
    reader = cluster.reader({INPUT_TOPIC: partitions})
    values = [(message.key() or b"", json.loads(message.value() or b"")) for message in reader.consume(600, timeout=30)]
    reader.close()
    assert {event["transaction_id"] for _, event in values} == {transaction_id(number) for number in range(600)}
    assert [key.decode() for key, _ in values] == [event["customer_id"] for _, event in values]


@pytest.mark.logs_errors
def test_sample_for_a_silent_broker_is_a_broker_error(cluster: MockCluster, tmp_path: Path) -> None:
    """Where nobody answers, the command says so instead of waiting for ever."""
    cluster.bootstrap_servers = ["127.0.0.1:9"]
    with pytest.raises(BrokerError):
        produce_sample(config_for(cluster, tmp_path), 1)


def test_sample_for_a_missing_topic_is_a_broker_error(
    cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic is not created on the quiet: the error names the command that does."""

    async def nothing(_admin: Admin, names: list[str]) -> dict[str, TopicState]:
        return {name: TopicState(name, 3) for name in names}

    # The mock cluster creates each topic that somebody asks for.
    monkeypatch.setattr(Admin, "topics", nothing)
    with pytest.raises(BrokerError, match=f"topic {INPUT_TOPIC} does not exist"):
        produce_sample(config_for(cluster, tmp_path), 1)
