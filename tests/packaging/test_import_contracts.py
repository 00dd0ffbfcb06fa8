"""The import contracts of ``pyproject.toml`` leave nobody out."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import worker.adapters

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_every_adapter_stands_in_a_contract_that_keeps_adapters_apart() -> None:
    """A new adapter must be added to the contracts before it may import anything it likes."""
    contracts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    judged = {name for contract in contracts for name in contract.get("source_modules", ())}
    adapters = {f"worker.adapters.{module.name}" for module in pkgutil.iter_modules(worker.adapters.__path__)}
    assert adapters - judged == set()
