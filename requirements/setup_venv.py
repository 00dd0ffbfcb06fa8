"""Create or refresh the virtual environment: ``python requirements/setup_venv.py FOLDER --for dev|demo``.

Needs nothing but Python 3.11 or newer and a package registry. The packages are those of the lock files beside
this script, checked against their hashes; the project itself is installed in editable form. The folder is
rebuilt when it belongs to another Python version. A stamp in it makes a second call with nothing changed return
at once. ``gpu.txt`` is taken where an NVIDIA device is present, else ``cpu.txt``: both provide the same module,
so exactly one of them is ever installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
PROJECT = LOCKS.parent
STAMP = "headrace-setup.json"
OLDEST_PYTHON = (3, 11)
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def main() -> int:
    """Bring the environment up to date; 0 on success, 3 where the machine lacks something."""
    parser = argparse.ArgumentParser(description="Create or refresh the virtual environment.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--for", dest="purpose", choices=("dev", "demo"), default="dev")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST_PYTHON:
        return complain(f"this is Python {version()}; Python 3.11 or newer is needed: make setup PYTHON=python3.12")
    folder: Path = arguments.folder.absolute()
    cache = PROJECT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return refresh(folder, arguments.purpose)


def refresh(folder: Path, purpose: str) -> int:
    """Install what the stamp does not already promise. A ``dev`` environment serves ``demo`` too."""
    device = "gpu" if has_nvidia_device() else "cpu"
    stamp = folder / STAMP
    installed = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if installed in (wanted("dev", device), wanted(purpose, device)):
        return 0
    if installed.get("purpose") == "dev":
        purpose = "dev"
    stamp.unlink(missing_ok=True)
    print(f"setup: Python {version()}, {purpose} packages for {device}, into {folder}", flush=True)
    try:
        create(folder)
        install(folder, purpose, device)
    except subprocess.CalledProcessError as failure:
        shown = " ".join(str(part) for part in failure.cmd)
        return complain(f"the command failed with exit code {failure.returncode}: {shown}")
    stamp.write_text(json.dumps(wanted(purpose, device), indent=1, sort_keys=True) + "\n")
    return 0


def wanted(purpose: str, device: str) -> dict[str, str]:
    """Everything that decides what the environment holds."""
    digest = hashlib.sha256()
    for path in (*locks(purpose, device), LOCKS / "bootstrap.txt", PROJECT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return {"python": version(), "purpose": purpose, "device": device, "sha256": digest.hexdigest()}


def locks(purpose: str, device: str) -> tuple[Path, Path]:
    """The two lock files whose union is installed."""
    return LOCKS / f"{purpose}.txt", LOCKS / f"{device}.txt"


def create(folder: Path) -> None:
    """Make the bare environment with pip in it, unless one of this Python version stands there."""
    python = folder / "bin" / "python"
    if python.exists() and reported_version(python) == version():
        return
    if folder.exists():
        shutil.rmtree(folder)
    try:
        run(sys.executable, "-m", "venv", folder)
    except subprocess.CalledProcessError:
        complain("python -m venv failed; on Debian and Ubuntu the package python3-venv provides it")
        raise


def install(folder: Path, purpose: str, device: str) -> None:
    """Install uv and the build backend by pip, the locked packages by uv, and the project without dependencies."""
    python = folder / "bin" / "python"
    uv = folder / "bin" / "uv"
    quiet = ("--disable-pip-version-check", "--no-input", "-q")
    run(python, "-m", "pip", "install", *quiet, "--no-deps", "--require-hashes", "-r", LOCKS / "bootstrap.txt")
    environment = os.environ | registry_of_pip(python)
    sync = ("pip", "sync", "-q", "--python", python, "--require-hashes")
    run(uv, *sync, *locks(purpose, device), LOCKS / "bootstrap.txt", env=environment)
    editable = ("--no-deps", "--no-build-isolation", "--editable", PROJECT)
    run(uv, "pip", "install", "-q", "--python", python, *editable, env=environment)


def registry_of_pip(python: Path) -> dict[str, str]:
    """uv does not read pip's configuration: hand it the registry that pip was told to use."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        variable = PIP_TO_UV.get(name.rpartition(".")[2])
        if variable is not None and variable not in os.environ:
            found[variable] = value.strip("'\"").replace("\\n", " ").strip()
    return found


def has_nvidia_device() -> bool:
    """True where the driver shows a device; ``HEADRACE_SETUP_DEVICE=cpu`` or ``gpu`` overrules the look."""
    forced = os.environ.get("HEADRACE_SETUP_DEVICE")
    if forced in ("cpu", "gpu"):
        return forced == "gpu"
    if Path("/dev/nvidia0").exists():
        return True
    probe = shutil.which("nvidia-smi")
    return probe is not None and subprocess.run([probe, "-L"], check=False, capture_output=True).stdout != b""


def reported_version(python: Path) -> str:
    """The version of the interpreter at that path; empty where it cannot run any more or has no pip."""
    code = "import pip, platform; print(platform.python_version())"
    try:
        return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version() -> str:
    """The version of the running interpreter, such as ``3.12.1``."""
    return ".".join(str(part) for part in sys.version_info[:3])


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run one command in the project's folder; raises CalledProcessError."""
    subprocess.run([str(part) for part in command], check=True, cwd=PROJECT, env=env)


def complain(message: str) -> int:
    """Say what is wrong; the exit code of a faulty environment."""
    print(f"setup: {message}", file=sys.stderr, flush=True)
    return 3


if __name__ == "__main__":
    sys.exit(main())
