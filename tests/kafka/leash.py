"""Run a command that must not outlive its parent: ``python leash.py COMMAND ...``.

The command takes this process's place, so its process id is the one that was started. The kernel kills it when
the thread that started it ends, however that happens; a broken test run leaves no broker behind. Linux only:
elsewhere the command runs without the leash.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - replacing this process by the command is the purpose
