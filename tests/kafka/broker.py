"""One Apache Kafka node, broker and controller in one process: ``python -m tests.kafka.broker`` keeps one up."""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kafka import jars
from tests.kafka.client import KafkaClient
from tests.kafka.processes import free_ports, spawn, tail, wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SMALL = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Java options of a broker that starts soon and stays small."""

LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
DEFAULT_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # A killed node may register again only after its old session; the default would cost 9 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    # Records of tests carry old timestamps, too: by age the broker would delete them at its next look.
    "log.retention.ms": "-1",
    # The cleaner's default of 128 MiB would not fit the small heap, and the broker would never listen.
    "log.cleaner.dedupe.buffer.size": "2097152",
}


class KafkaBroker:
    """A node with its own data folder and free loopback ports, kept over stop, kill and start.

    ``properties`` override the broker's, for example ``{"message.max.bytes": "65536"}``; ``java_options`` size its
    heap and choose its compilers. Call ``start`` from a thread that lives as long as the broker should: the kernel
    kills the broker with that thread.
    """

    def __init__(
        self, folder: Path, properties: Mapping[str, str] | None = None, java_options: Sequence[str] = SMALL
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "broker.log"
        self.cluster_id = base64.urlsafe_b64encode(uuid.UUID(int=uuid.uuid4().int >> 1).bytes).decode().rstrip("=")
        self.port, self._controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.client = KafkaClient(self.bootstrap)
        self._overrides = dict(properties or {})
        self._java_options = tuple(java_options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the broker runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until *this* broker answers; raises RuntimeError or TimeoutError with its log."""
        jars_folder = jars.fetch()
        config = self._write_config()
        if not self.data.exists():
            self._format(jars_folder, config)
        self._process = spawn(self._java(jars_folder, "kafka.Kafka", str(config)), log=self.log)
        wait_until(
            self._is_listening,
            timeout_s=START_TIMEOUT_S,
            what=lambda: f"the broker does not listen on {self.bootstrap}; its log ends:\n{tail(self.log)}",
        )
        answered = self.client.cluster_id()
        if answered != self.cluster_id:
            raise RuntimeError(f"{self.bootstrap} belongs to cluster {answered}, not to ours, {self.cluster_id}")

    def stop(self) -> None:
        """End the broker in an orderly way; its data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a crash would; its data stays."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the broker: its port stays open, nothing answers. Undo with ``resume``."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on."""
        self._running().send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the broker is not running; its log ends:\n{tail(self.log)}")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_listening(self) -> bool:
        self._running()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _write_config(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = DEFAULT_PROPERTIES | {
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller_port}",
            "log.dirs": str(self.data),
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in (properties | self._overrides).items()))
        return path

    def _format(self, jars_folder: Path, config: Path) -> None:
        command = self._java(jars_folder, "kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(config))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka refused to format its data folder:\n{done.stdout}{done.stderr}")

    def _java(self, jars_folder: Path, *arguments: str) -> list[str]:
        return ["java", *self._java_options, *LOG_OPTIONS, "-cp", f"{jars_folder}/*", *arguments]


def main() -> None:
    """Keep one broker up until SIGINT or SIGTERM; its address is the first line of stdout."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="headrace-kafka-") as folder:
        broker = KafkaBroker(Path(folder))
        try:
            broker.start()
            print(broker.bootstrap, flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
