"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.", show_default=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

DEFAULT_CONFIG = Path("worker.yaml")
