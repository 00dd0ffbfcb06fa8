"""The compose file: its services fit each other, the image and the worker's configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.checkout import PROJECT, from_image, read_yaml
from worker.config_file import load
from worker.settings import Settings

CONFIG_IN_CONTAINER = "/etc/headrace/worker.yaml"
SERVICES: dict[str, dict[str, Any]] = read_yaml("docker-compose.yml")["services"]
OURS = ("topics", "worker", "producer")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of the compose file's worker; the image's paths are those of the checkout."""
    path = tmp_path / "worker.yaml"
    path.write_text(from_image((PROJECT / "examples/compose/worker.yaml").read_text(encoding="utf-8")))
    return load(path, {})


@pytest.mark.parametrize("name", SERVICES)
def test_a_condition_can_come_true(name: str) -> None:
    """A service waits for services that exist, for health where there is a check, for an end where there is one."""
    for other, how in SERVICES[name].get("depends_on", {}).items():
        service = SERVICES[other]
        if how["condition"] == "service_healthy":
            assert "test" in service["healthcheck"]
        else:
            assert (how["condition"], service["restart"]) == ("service_completed_successfully", "no")


def test_the_line_starts_in_order() -> None:
    """Kafka, then the topics, then the worker, then its input."""
    waits = {name: [*SERVICES[name].get("depends_on", {})] for name in SERVICES}
    assert waits == {"kafka": [], "topics": ["kafka"], "worker": ["topics"], "producer": ["worker"]}


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_one_image_on_one_configuration(name: str) -> None:
    """All commands read the same file, mounted read-only, in the same locked-down image."""
    service = SERVICES[name]
    source, target, mode = service["volumes"][0].split(":")
    assert (PROJECT / source).is_file()
    assert (target, mode) == (CONFIG_IN_CONTAINER, "ro")
    assert service["command"][service["command"].index("--config") + 1] == target
    assert service["image"] == "headrace:cpu"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_one_service_builds_the_image_of_all() -> None:
    """Two builds of one tag at a time collide; what does not build never asks a registry for the image either."""
    builds = {name: SERVICES[name]["build"]["args"] for name in OURS if "build" in SERVICES[name]}
    assert builds == {"worker": {"FLAVOUR": "cpu"}}
    assert {SERVICES[name]["pull_policy"] for name in OURS if name not in builds} == {"never"}


def test_the_image_of_kafka_is_pinned() -> None:
    """The broker is the Apache project's own image, in the version that the integration tests run on."""
    pom = (PROJECT / "tests/kafka/pom.xml").read_text(encoding="utf-8")
    tested = re.search(r"<kafka\.version>([^<]+)<", pom)
    assert tested is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{tested.group(1)}"


def test_the_worker_asks_the_listener_for_containers(settings: Settings) -> None:
    """The worker's broker is the address that Kafka advertises to containers."""
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INTERNAL://{settings.kafka.bootstrap_servers[0]}" in advertised.split(",")


def test_the_drain_fits_into_the_stop(settings: Settings) -> None:
    """The container is stopped no sooner than the drain may end."""
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= settings.drain.timeout_s + 5


def test_probes_are_published_on_this_machine_only(settings: Settings) -> None:
    """The worker's port is published where the worker listens, on the loopback address."""
    port = settings.probes.port
    assert SERVICES["worker"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/readyz" in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_the_input_has_room_for_more_workers() -> None:
    """The topics get several partitions, so that a second worker has something to do, and one copy."""
    command = SERVICES["topics"]["command"]
    assert int(command[command.index("--partitions") + 1]) > 1
    assert command[command.index("--replication-factor") + 1] == "1"
