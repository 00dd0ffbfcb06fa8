"""One coverage-guided run in a process of its own, which libFuzzer ends: ``python -m tests.fuzz.guided TARGET ...``.

The arguments after the target are libFuzzer's.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from tests.fuzz.target import load


def main() -> None:
    """Instrument the worker, load the target, and hand over to libFuzzer, which does not return."""
    name, *arguments = sys.argv[1:]
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["worker"]):
        target = load(name)
    # A warning is an error here as in the test suites.
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
