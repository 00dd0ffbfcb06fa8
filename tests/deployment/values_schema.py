"""Keep the worker's settings in the chart's schema: ``python -m tests.deployment.values_schema FILE [--check]``.

Only ``config`` and the ``*Section`` definitions are written; the rest of the file is edited by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from worker.settings_fields import settings_schema

SECTION = "Section"
# A ConfigMap is no place for it: it comes from a Secret.
REFUSED = ("KafkaSection", "sasl_password")


def merged(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with the settings of today; the password itself is left out and so refused."""
    settings = settings_schema()
    sections: dict[str, Any] = settings["$defs"]
    del sections[REFUSED[0]]["properties"][REFUSED[1]]
    kept = {name: part for name, part in document["$defs"].items() if not name.endswith(SECTION)}
    config = {
        "description": "worker.yaml. The password itself is refused here: it comes from existingSecret.",
        "type": "object",
        "additionalProperties": False,
        "properties": settings["properties"],
        "required": settings["required"],
    }
    properties = document["properties"] | {"config": config}
    return document | {"properties": properties, "$defs": kept | sections}


def render(text: str) -> str:
    """The file's new text."""
    return json.dumps(merged(json.loads(text)), indent=2) + "\n"


def main() -> int:
    """0 when the file is up to date; without ``--check`` it is afterwards."""
    path = Path(sys.argv[1])
    old = path.read_text(encoding="utf-8")
    new = render(old)
    if new == old:
        return 0
    if "--check" in sys.argv[2:]:
        sys.stderr.write(f"{path} is out of date; run: make docs\n")
        return 1
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
