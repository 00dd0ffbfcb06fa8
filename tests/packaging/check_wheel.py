"""Build the wheel and test what it installs: ``python tests/packaging/check_wheel.py``.

The wheel goes into an environment of its own under ``.cache``, which borrows the third-party packages of the
development environment. The chosen tests run in a folder that holds the tests but neither ``worker/`` nor
``schemas/`` nor ``models/``, so that only the installed package can serve them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
WORK = PROJECT / ".cache" / "wheel"
SUITES = ("tests/unit/core", "tests/packaging")
PROBE = """
import json, pathlib, worker, worker.resources as resources
print(json.dumps([worker.__file__, *(str(resources.path(name)) for name in (
    "schemas/transaction.schema.json", "schemas/scored.schema.json",
    "schemas/dead-letter-headers.schema.json", "models/fraud/model.onnx"))]))
"""


def main() -> int:
    """0 when the installed wheel serves its tests; the failed command's output is on the terminal."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    python = install(build())
    away = WORK / "away"
    away.mkdir()
    shutil.copytree(PROJECT / "tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", away)
    if not served_by_wheel(python, away):
        return 1
    headrace = subprocess.run([python.parent / "headrace", "version"], cwd=away, env=clean(), check=False)
    if headrace.returncode != 0:
        return headrace.returncode
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES]
    return subprocess.run(command, cwd=away, env=clean(), check=False).returncode


def build() -> Path:
    """Build the wheel with the pinned build backend; returns its path."""
    command = [uv(), "build", "-q", "--wheel", "--no-build-isolation"]
    where = ["--python", sys.executable, "--out-dir", str(WORK / "dist"), str(PROJECT)]
    subprocess.run([*command, *where], check=True)
    (wheel,) = (WORK / "dist").glob("*.whl")
    return wheel


def install(wheel: Path) -> Path:
    """An environment with the wheel and, by links, every locked package but the editable project."""
    folder = WORK / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "headrace" not in entry.name and entry.name != "__pycache__":
            (site / entry.name).symlink_to(entry)
    command = [uv(), "pip", "install", "-q", "--python", str(python), "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    return python


def served_by_wheel(python: Path, away: Path) -> bool:
    """True when the package and the files it ships all come from the environment of the wheel."""
    found = subprocess.run([python, "-c", PROBE], cwd=away, env=clean(), check=True, capture_output=True, text=True)
    strays = [path for path in json.loads(found.stdout) if not path.startswith(str(WORK / "venv"))]
    if strays:
        sys.stderr.write(f"these do not come from the wheel: {', '.join(strays)}\n")
    return not strays


def uv() -> str:
    """The installer of the development environment."""
    return str(Path(sys.executable).parent / "uv")


def clean() -> dict[str, str]:
    """The environment without anything that leads Python back to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


if __name__ == "__main__":
    sys.exit(main())
