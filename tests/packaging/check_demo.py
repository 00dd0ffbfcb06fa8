"""Run the demo as a stranger would and judge its last line: ``python tests/packaging/check_demo.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SECONDS = 10
TIMEOUT_S = 120
PROMISED = {
    *("produced", "scored", "dead_lettered", "missing", "duplicates", "seconds", "events_per_second", "latency_ms"),
    *("mean_batch_size", "flagged", "true_fraud_flagged", "precision", "recall", "model", "provider"),
}


def main() -> int:
    """0 when the demo ended well, lost nothing, doubled nothing and dead-lettered its bad records."""
    command = [str(Path(sys.executable).parent / "headrace"), "demo", "--json", "--seconds", str(SECONDS)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        sys.stderr.write(f"headrace demo ended with exit code {done.returncode}\n")
        return 1
    summary = json.loads(lines[-1])
    print(lines[-1])
    faults = [f"the summary lacks {name}" for name in sorted(PROMISED - summary.keys())]
    faults += [f"{name} is {summary.get(name)}, not 0" for name in ("missing", "duplicates") if summary.get(name) != 0]
    faults += [f"{name} is 0" for name in ("produced", "scored", "dead_lettered") if not summary.get(name)]
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
