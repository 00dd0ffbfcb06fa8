"""Kafka's jars, fetched once by Maven into ``.cache/kafka-<version>``: ``python -m tests.kafka.jars``."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

POM = Path(__file__).resolve().parent / "pom.xml"
CACHE = Path(os.environ.get("HEADRACE_TEST_CACHE") or POM.parents[2] / ".cache")
REMEDY = "install them, for example: apt-get install --no-install-recommends openjdk-17-jre-headless maven"


class MissingToolError(RuntimeError):
    """Java or Maven is not on this machine; the integration tests cannot run without them."""


def kafka_version() -> str:
    """The version pinned in ``pom.xml``."""
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    if found is None:
        raise ValueError(f"{POM} pins no kafka.version")
    return found.group(1)


def require(*tools: str) -> None:
    """Raise MissingToolError, with the command that helps, where a program is missing."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise MissingToolError(f"the tests need a real Kafka, but {' and '.join(missing)} cannot be found; {REMEDY}")


def fetch() -> Path:
    """The folder with every jar. Fetches them if they are not there yet; safe to call from several processes."""
    require("java")
    folder = CACHE / f"kafka-{kafka_version()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "complete"
        if not stamp.is_file() or stamp.read_text() != POM.read_text():
            _fetch_into(folder)
            stamp.write_text(POM.read_text())
    return folder


def _fetch_into(folder: Path) -> None:
    require("mvn")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"kafka: fetching the jars of Kafka {kafka_version()} by Maven into {folder}", flush=True)
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Maven could not fetch Kafka's jars:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    print(fetch())
