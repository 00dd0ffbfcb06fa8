"""Mutate the core and count the mutants that its tests kill: ``python tests/packaging/check_mutants.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
STATS = PROJECT / "mutants" / "mutmut-cicd-stats.json"
LEAST_KILLED = 0.85


def main() -> int:
    """0 when at least 85 % of the mutants are killed; those left alive are listed by ``mutmut results``."""
    mutmut = Path(sys.executable).parent / "mutmut"
    # mutmut ends with 0 or 1 whatever it finds; its statistics decide.
    subprocess.run([mutmut, "run"], cwd=PROJECT, check=False)
    subprocess.run([mutmut, "export-cicd-stats"], cwd=PROJECT, check=True)
    stats = json.loads(STATS.read_text(encoding="utf-8"))
    judged = stats["total"] - stats["skipped"]
    killed = stats["killed"] + stats["timeout"]
    if judged == 0:
        sys.stderr.write("mutmut made no mutants\n")
        return 1
    print(f"mutants: {killed} of {judged} killed, {killed / judged:.1%}; at least {LEAST_KILLED:.0%} are asked for")
    return 0 if killed / judged >= LEAST_KILLED else 1


if __name__ == "__main__":
    sys.exit(main())
