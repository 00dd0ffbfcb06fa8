"""How systems are named, installed and started."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks.harness import machine
from benchmarks.harness.environments import declared, packages, pinned
from benchmarks.harness.places import SYSTEMS as FOLDER
from benchmarks.systems import SYSTEMS
from worker.settings import Settings

WANTED = """# direct requirements
confluent-kafka>=2.16
faust-streaming[fast,uvloop]~=0.15
numpy
onnxruntime<1.32
orjson!=3.0; python_version < "4"
quixstreams == 3.28
"""
LOCKED = """confluent-kafka==2.16.1 \\
    --hash=sha256:00
faust-streaming[fast,uvloop]==0.15.3 \\
    --hash=sha256:11
mode-streaming==0.4.1 \\
    --hash=sha256:22
numpy==2.4.6
numpy-quaternion==1.0
onnxruntime==1.31.1 ; sys_platform == "linux"
orjson==3.11.5
quixstreams==3.28.0;python_version>"3"
"""


def test_versions_are_those_of_the_direct_requirements() -> None:
    """Whatever follows a name in its line: a bound, extras, a marker, nothing. What only they need is left out."""
    assert pinned(WANTED, LOCKED) == (
        "confluent-kafka==2.16.1, faust-streaming[fast,uvloop]==0.15.3, numpy==2.4.6, onnxruntime==1.31.1, "
        "orjson==3.11.5, quixstreams==3.28.0"
    )


def test_a_pom_names_its_dependencies() -> None:
    """Properties are put in; plugins are none."""
    pom = """<project><artifactId>loop</artifactId><version>1</version>
      <properties><kafka.version>4.3.1</kafka.version></properties>
      <dependencies>
        <dependency><artifactId>kafka-clients</artifactId>
          <version>${kafka.version}</version></dependency>
        <dependency><artifactId>onnxruntime</artifactId><version>1.29.0</version></dependency>
      </dependencies>
      <build><plugin><artifactId>shade</artifactId><version>3</version></plugin></build></project>"""
    assert declared(pom) == "kafka-clients==4.3.1, onnxruntime==1.29.0"


@pytest.mark.parametrize(
    ("name", "package"),
    [("confluent_loop", "confluent-kafka"), ("faust", "faust-streaming"), ("java_loop", "kafka-clients")],
)
def test_every_alternative_has_versions(name: str, package: str) -> None:
    """What is compared is named with its version."""
    assert f"{package}" in packages(SYSTEMS[name])
    assert "==" in packages(SYSTEMS[name])


@pytest.mark.parametrize(
    ("variant", "guarantee", "processes"),
    [("at_least_once", "at_least_once", 1), ("exactly_once", "exactly_once", 1), ("two_processes", "at_least_once", 2)],
)
def test_headrace_runs_as_its_variant_says(
    variant: str, guarantee: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration that it is started with is valid, and has defaults where the variant says nothing."""
    (tmp_path / "headrace.yaml").write_text("event: {schema: event.json, id_field: id}\nmodel: {path: model}\n")
    given = {"BOOTSTRAP": "127.0.0.1:1", "INPUT": "in", "OUTPUT": "out", "GROUP": "group", "METRICS_PORT": "15001"}
    given |= {"MODEL": str(tmp_path / "model.onnx"), "STATE": str(tmp_path), "DELIVERY": variant}
    for name, value in given.items():
        monkeypatch.setenv(f"BENCH_{name}", value)
    started: list[Any] = []
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    runpy.run_path(str(FOLDER / "headrace" / "main.py"), run_name="__main__")
    config = yaml.safe_load((tmp_path / "worker.yaml").read_text())
    settings = Settings.model_validate(config)
    assert (settings.delivery.guarantee, settings.run.processes) == (guarantee, processes)
    assert started[0][1][1:4] == ["-m", "worker", "run"]


def test_an_unknown_variant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message names those that there are."""
    monkeypatch.setenv("BENCH_DELIVERY", "sometimes")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="offers at_least_once, exactly_once, two_processes"):
        runpy.run_path(str(FOLDER / "headrace" / "main.py"), run_name="__main__")


def test_every_variant_of_headrace_can_be_chosen() -> None:
    """The table of systems and the program agree."""
    program = runpy.run_path(str(FOLDER / "headrace" / "main.py"))
    assert list(program["VARIANTS"]) == list(SYSTEMS["headrace"].variants)


def test_own_processes_are_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 4 s the machine worked for 5 s, we for 3 of them: others had half a core; the host took 2 s, as much."""
    ticks = iter(([100, 0, 50, 900, 9, 0, 0, 40], [300, 100, 150, 900, 9, 50, 50, 240]))
    stolen_s = iter((0.4, 2.4))
    own_s, at = iter((10.0, 13.0)), iter((1000.0, 1004.0))
    monkeypatch.setattr(machine, "processor_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine, "stolen_s", lambda: next(stolen_s))
    monkeypatch.setattr(machine, "cpu_s", lambda _: next(own_s))
    monkeypatch.setattr(machine, "TICKS_PER_S", 100)
    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: next(at)))
    assert machine.Surroundings().cores() == (0.5, 0.5)
