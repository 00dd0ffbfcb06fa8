"""Headrace itself: writes the configuration that a user would write, and becomes ``headrace run``.

Everything that is not named here has its default. BENCH_DELIVERY is ``delivery.guarantee``: ``at_least_once`` or
``exactly_once``. The sections of event, model and output lie beside the model as ``headrace.yaml``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml


def main() -> None:
    """Write the configuration into BENCH_STATE and run it in this process's place."""
    config = yaml.safe_load((Path(os.environ["BENCH_MODEL"]).parent / "headrace.yaml").read_text())
    config |= {
        "kafka": {
            "bootstrap_servers": [os.environ["BENCH_BOOTSTRAP"]],
            "group_id": os.environ["BENCH_GROUP"],
            "input_topics": [os.environ["BENCH_INPUT"]],
            "output_topic": os.environ["BENCH_OUTPUT"],
        },
        "delivery": {"guarantee": os.environ["BENCH_DELIVERY"]},
        "probes": {"host": "127.0.0.1", "port": int(os.environ["BENCH_METRICS_PORT"])},
    }
    path = Path(os.environ["BENCH_STATE"]) / "worker.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    os.execv(sys.executable, [sys.executable, "-m", "worker", "run", "--config", str(path)])  # noqa: S606


if __name__ == "__main__":
    main()
