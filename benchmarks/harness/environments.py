"""Makes what a system needs to run, once: a virtual environment from its lock file, or a jar."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.places import CACHE, PROJECT
from benchmarks.harness.places import SYSTEMS as FOLDER
from benchmarks.systems import Runtime, System

STAMP = "complete"
# A package's name; what follows it in a requirement ([extra], >=, ==, <, ~=, !=, ;) does not match.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class EnvironmentFailedError(RuntimeError):
    """A system could not be installed or built on this machine."""


def command(system: System) -> list[str]:
    """The command that starts a system; installs or builds it first where that is due."""
    program = FOLDER / system.name / "main.py"
    match system.runtime:
        case Runtime.PROJECT:
            return [sys.executable, str(program)]
        case Runtime.PYTHON:
            return [str(_virtual_environment(system.name)), str(program)]
        case Runtime.JAVA:
            return ["java", f"@{FOLDER / system.name / 'jvm.options'}", "-jar", str(_jar(system.name))]


def packages(system: System) -> str:
    """The versions that name a system in the result: its direct requirements, as its lock file or its pom pins them."""
    folder = FOLDER / system.name
    match system.runtime:
        case Runtime.PROJECT:
            return ""
        case Runtime.PYTHON:
            return pinned((folder / "requirements.in").read_text(), (folder / "requirements.txt").read_text())
        case Runtime.JAVA:
            return declared((folder / "pom.xml").read_text())


def pinned(wanted: str, locked: str) -> str:
    """Of a lock file the pins (``name==version``) of the packages that the lines of ``wanted`` name."""
    names = {found.group() for line in wanted.splitlines() if (found := NAME.match(line.strip()))}
    pins = [
        (found.group(), line.partition(";")[0].split()[0])
        for line in locked.splitlines()
        if (found := NAME.match(line))
    ]
    return ", ".join(pin for name, pin in pins if name in names)


def declared(pom: str) -> str:
    """The dependencies of a pom as ``artifact==version``, with its properties put in."""
    properties = dict(re.findall(r"<([\w.]+)>([^<]*)</\1>", pom.partition("<properties>")[2].partition("</prop")[0]))
    section = pom.partition("<dependencies>")[2].partition("</dependencies>")[0]
    found = re.findall(r"<artifactId>([^<]+)</artifactId>\s*<version>([^<]+)</version>", section)
    return ", ".join(f"{name}=={properties.get(version.strip('${}'), version)}" for name, version in found)


def _virtual_environment(name: str) -> Path:
    """The Python of ``.cache/bench/NAME``, made anew when the lock file or the interpreter changes."""
    lock, folder = FOLDER / name / "requirements.txt", CACHE / name
    python, stamp = folder / "bin" / "python", folder / STAMP
    wanted = f"{platform.python_version()} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {name} into {folder.relative_to(PROJECT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run(name, [sys.executable, "-m", "venv", str(folder)])
        quiet = ["--disable-pip-version-check", "--no-input", "-q"]
        _run(name, [str(python), "-m", "pip", "install", *quiet, "--require-hashes", "-r", str(lock)])
        stamp.write_text(wanted)
    return python


def _jar(name: str) -> Path:
    """The jar with all dependencies of ``.cache/bench/NAME``, built anew when a source changes."""
    source, folder = FOLDER / name, CACHE / name
    # All Java sources, for the systems share some of them.
    files = [source / "pom.xml", *sorted(path for path in FOLDER.glob("*/src/**/*") if path.is_file())]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"building {name} into {folder.relative_to(PROJECT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run(name, ["mvn", "-q", "-B", "-f", str(source / "pom.xml"), "package", f"-Dbench.directory={folder}"])
        stamp.write_text(wanted)
    jars = sorted(folder.glob("*.jar"), key=lambda path: path.stat().st_size)
    if not jars:
        raise EnvironmentFailedError(f"{name}: mvn package left no jar in {folder}")
    return jars[-1]


def _run(name: str, arguments: Sequence[str]) -> None:
    if shutil.which(arguments[0]) is None:
        raise EnvironmentFailedError(f"{name}: {arguments[0]} is not on this machine")
    done = subprocess.run(list(arguments), check=False, capture_output=True, text=True, cwd=PROJECT)
    if done.returncode != 0:
        shown = " ".join(Path(part).name if part.startswith("/") else part for part in arguments)
        raise EnvironmentFailedError(f"{name}: `{shown}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
