"""The image: what goes in, what it installs and how it runs."""

from __future__ import annotations

import ast
import fnmatch
import json
import re

import pytest

from tests.deployment.checkout import PROJECT
from worker.settings import ProbesSection

DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()


def instructions(name: str) -> list[str]:
    """The arguments of every instruction with this name, in order."""
    return [line.split(maxsplit=1)[1] for line in INSTRUCTIONS if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_sent() -> None:
    """Each source of a COPY exists and is let through by ``.dockerignore``."""
    allowed = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    sources = {source.rstrip("/") for copy in copies for source in copy}
    assert {source for source in sources if not (PROJECT / source).exists()} == set()
    assert sources == set(allowed)


def test_only_what_is_needed_is_sent() -> None:
    """``.dockerignore`` refuses everything first, and bytecode last."""
    lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert (rules[0], rules[-1]) == ("*", "**/__pycache__")
    assert fnmatch.filter(rules, "!.git*") == []


@pytest.mark.parametrize(("flavour", "runtime"), [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")])
def test_each_flavour_installs_one_runtime_from_hashes(flavour: str, runtime: str) -> None:
    """The lock file of a flavour pins every package with a hash, and names exactly its own ONNX Runtime."""
    text = (PROJECT / "requirements" / f"{flavour}.txt").read_text(encoding="utf-8")
    pins = re.findall(r"(?m)^([a-z0-9-]+)==(?:.*\\\n)(?: +(--hash=sha256:))?", text)
    assert [name for name, digest in pins if not digest] == []
    assert [name for name, _ in pins if name.startswith("onnxruntime")] == [runtime]


def test_the_gpu_flavour_brings_cuda_and_cudnn() -> None:
    """The base image has neither, so the lock file does, for the same major version of CUDA."""
    text = (PROJECT / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"(?m)^(nvidia-[a-z0-9-]+)==(\d+)", text))
    assert {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cufft"} <= set(pins)
    assert pins["nvidia-cuda-runtime"] == "13"


def test_the_default_is_the_gpu_flavour() -> None:
    """Without a build argument the image is the one for GPUs."""
    assert instructions("ARG") == ["BASE=python:3.12-slim-trixie", "FLAVOUR=gpu"]


def test_one_argument_pins_the_base_of_all_stages() -> None:
    """No stage names another, so that one digest can take its place."""
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE}"}


def test_the_container_runs_the_worker_without_privileges() -> None:
    """The user is a number above the system's own, so that Kubernetes can check it; the command is the worker."""
    assert instructions("USER") == ["10001:10001"]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["headrace"]
    assert json.loads(instructions("CMD")[0]) == ["run", "--config", "/etc/headrace/worker.yaml"]


def test_the_health_check_is_a_program_that_asks_for_liveness() -> None:
    """The check compiles, and asks the port that the worker listens on where nothing else is said."""
    command = json.loads(instructions("HEALTHCHECK")[0].split(" CMD ", 1)[1])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    port = ProbesSection().port
    assert f"'HEADRACE__PROBES__PORT', '{port}'" in command[2]
    assert "/livez" in command[2]
    assert instructions("EXPOSE") == [str(port)]
