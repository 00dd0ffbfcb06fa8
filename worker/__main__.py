"""The entry of the command ``headrace``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process) and return its exit code."""
    from worker.commands.app import execute

    return execute(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
