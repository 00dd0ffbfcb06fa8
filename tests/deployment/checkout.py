"""Where the checkout is, and its paths seen from inside the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
# What the image holds below /opt/headrace stands at the top of the checkout.
IMAGE_ROOT = "/opt/headrace"


def read_yaml(path: str) -> Any:
    """The document at ``path`` of the checkout, anchors and merge keys resolved."""
    return yaml.safe_load((PROJECT / path).read_text(encoding="utf-8"))


def from_image(text: str) -> str:
    """``text`` with the image's paths replaced by those of the checkout."""
    return text.replace(IMAGE_ROOT, str(PROJECT))
