"""Headrace itself: writes the configuration that a user would write, and becomes ``headrace run``.

Everything that is not named here has its default. The sections of event, model and output lie beside the model as
``headrace.yaml``. BENCH_DELIVERY chooses:

- ``at_least_once``, ``exactly_once``: ``delivery.guarantee``, one process.
- ``two_processes``: at least once, with ``run.processes: 2``, as one pod on two cores would have it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

VARIANTS: dict[str, dict[str, object]] = {
    "at_least_once": {"delivery": {"guarantee": "at_least_once"}},
    "exactly_once": {"delivery": {"guarantee": "exactly_once"}},
    "two_processes": {"delivery": {"guarantee": "at_least_once"}, "run": {"processes": 2}},
}


def main() -> None:
    """Write the configuration into BENCH_STATE and run it in this process's place."""
    variant = os.environ["BENCH_DELIVERY"]
    if variant not in VARIANTS:
        sys.exit(f"BENCH_DELIVERY is {variant!r}; this system offers {', '.join(VARIANTS)}")
    config = yaml.safe_load((Path(os.environ["BENCH_MODEL"]).parent / "headrace.yaml").read_text())
    config |= {
        "kafka": {
            "bootstrap_servers": [os.environ["BENCH_BOOTSTRAP"]],
            "group_id": os.environ["BENCH_GROUP"],
            "input_topics": [os.environ["BENCH_INPUT"]],
            "output_topic": os.environ["BENCH_OUTPUT"],
        },
        "probes": {"host": "127.0.0.1", "port": int(os.environ["BENCH_METRICS_PORT"])},
        **VARIANTS[variant],
    }
    path = Path(os.environ["BENCH_STATE"]) / "worker.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    os.execv(sys.executable, [sys.executable, "-m", "worker", "run", "--config", str(path)])  # noqa: S606


if __name__ == "__main__":
    main()
