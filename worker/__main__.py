"""The entry of the command ``headrace``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process) and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["run"]:
        # Before the imports: as process 1 of a container the signal would be ignored until the worker listens to it.
        signal.signal(signal.SIGTERM, _stop_before_start)
    from worker.commands.app import execute

    return execute(arguments)


def _stop_before_start(_number: int, _frame: FrameType | None) -> None:
    """Nothing has been read yet, so stopping is a clean end."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
