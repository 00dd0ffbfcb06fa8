"""Shipped files are found in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import resources
from worker.errors import EnvironmentFault


def test_shipped_files_are_found() -> None:
    """Contracts and the demo model are there, by absolute paths."""
    for name in ("schemas/transaction.schema.json", "schemas/samples/scored.json", "models/fraud/model.yaml"):
        found = resources.path(name)
        assert found.is_absolute()
        assert found.is_file()


def test_files_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the installed package carries wins over what happens to lie beside it."""
    inside, beside = tmp_path / "inside", tmp_path / "beside"
    for root in (inside, beside):
        (root / "schemas").mkdir(parents=True)
    monkeypatch.setattr(resources, "_ROOTS", (inside, beside))
    assert resources.path("schemas") == inside / "schemas"


def test_missing_file_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that was not installed is named, with exit code 3."""
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path,))
    with pytest.raises(EnvironmentFault, match="lacks schemas") as caught:
        resources.path("schemas")
    assert caught.value.exit_code == 3
