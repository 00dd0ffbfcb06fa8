"""Run targets under libFuzzer, each in its own process, and read what came of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.target import CORPUS, MAX_CORPUS_BYTES, Target

PROJECT: Final = Path(__file__).resolve().parents[2]
WORK: Final = PROJECT / ".cache" / "fuzz"
# One input must not take longer, or more memory; both count as crashes.
INPUT_LIMIT_S: Final = 30
MEMORY_LIMIT_MB: Final = 2048
# Beyond its time a run gets this long to load, to run what is known already, and to end.
GRACE_S: Final = 300


@dataclass(frozen=True, slots=True)
class Result:
    """One run. ``edges`` are those that libFuzzer saw taken in the worker, ``crashes`` the inputs that it kept."""

    target: str
    executions: int
    seconds: int
    edges: int
    crashes: tuple[Path, ...]
    exit_code: int
    log: Path

    @property
    def failed(self) -> bool:
        """Whether something was found, or the run itself did not work."""
        return bool(self.crashes) or self.exit_code != 0


def missing() -> str:
    """What this machine lacks for a coverage-guided run; empty where it lacks nothing."""
    if importlib.util.find_spec("atheris") is None:
        return "the package atheris is not installed: it exists for Linux on x86-64, Python 3.11 to 3.13; make setup"
    return ""


def found_folder(name: str) -> Path:
    """Inputs that a run found interesting; kept from run to run, outside of the repository."""
    return WORK / name / "found"


def run(target: Target, seconds: int) -> Result:
    """Fuzz for so many seconds, from the corpus, the seeds and what earlier runs found; ends at the first crash."""
    home = WORK / target.name
    seeds, crashes, found = home / "seeds", home / "crashes", found_folder(target.name)
    for path in (seeds, crashes, found):
        path.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(target.seeds):
        (seeds / str(index)).write_bytes(seed)
    words = home / "words.dict"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    known = set(crashes.iterdir())
    arguments = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_CORPUS_BYTES}",
        "-len_control=0",
        f"-report_slow_units={INPUT_LIMIT_S}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-artifact_prefix={crashes}/",
        f"-dict={words}",
        "-print_final_stats=1",
        *(str(path) for path in (found, CORPUS / target.name, seeds) if path.is_dir()),
    ]
    log = home / "log.txt"
    code = _fuzz([sys.executable, "-m", "tests.fuzz.guided", target.name, *arguments], log, seconds + GRACE_S)
    text = log.read_text(errors="replace")
    return Result(
        target=target.name,
        executions=_last(r"stat::number_of_executed_units:\s+([0-9]+)", text),
        seconds=seconds,
        edges=_last(r"\bcov: ([0-9]+)", text),
        crashes=tuple(sorted(set(crashes.iterdir()) - known)),
        exit_code=code,
        log=log,
    )


def _fuzz(command: Sequence[str], log: Path, limit_s: int) -> int:
    """The exit code; files of the run lie in memory where the machine offers that, and are gone afterwards."""
    memory = Path("/dev/shm")  # noqa: S108 # a folder of a random name in it
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        log.open("wb") as output,
    ):
        environment = {**os.environ, "TMPDIR": folder, "PYTHONHASHSEED": "0"}
        ended = subprocess.run(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output, timeout=limit_s, check=False
        )
    return ended.returncode


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)
