"""``headrace version``: what is installed, without loading any of it."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import worker
from worker.commands.options import JsonOption
from worker.commands.report import emit_json

ONNXRUNTIME_PACKAGES = ("onnxruntime-gpu", "onnxruntime")


def version(json_output: JsonOption = False) -> None:
    """Print the versions of the worker, of Python and of ONNX Runtime."""
    runtime = installed_runtime()
    if json_output:
        python = platform.python_version()
        emit_json({"version": worker.__version__, "python": python, "onnxruntime": runtime})
        return
    described = "ONNX Runtime not installed" if runtime is None else runtime
    sys.stdout.write(f"headrace {worker.__version__} (Python {platform.python_version()}, {described})\n")


def installed_runtime() -> str | None:
    """Return package and version of ONNX Runtime, such as ``onnxruntime 1.31.0``, or None without one."""
    for package in ONNXRUNTIME_PACKAGES:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return None
