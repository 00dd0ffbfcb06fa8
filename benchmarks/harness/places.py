"""Where things are kept. Everything that can be made again lives below ``.cache/bench``."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SYSTEMS = PROJECT / "benchmarks" / "systems"
RESULTS = PROJECT / "benchmarks" / "results"
README = PROJECT / "README.md"
PAGE = PROJECT / "docs" / "performance.md"
PLOTS = PROJECT / "docs" / "performance"
CACHE = PROJECT / ".cache" / "bench"
