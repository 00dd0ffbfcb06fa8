"""The worker's command line in a process that cannot outlive the demo, however the demo ends.

Without it, a demo killed outright would leave a worker behind that looks for its broker for ever.
"""

from __future__ import annotations

import ctypes
import signal
import sys

from worker.__main__ import main

_PR_SET_PDEATHSIG = 1


def bind_to_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent is gone; other systems have no such request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


if __name__ == "__main__":
    bind_to_parent()
    sys.exit(main())
