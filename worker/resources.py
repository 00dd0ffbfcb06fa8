"""Where the files that ship beside the code are found: event contracts and the demo model."""

from __future__ import annotations

from pathlib import Path

from worker.errors import EnvironmentFault, Problem

_PACKAGE = Path(__file__).resolve().parent
# An installed wheel carries them inside the package; a checkout keeps them at its top level.
_ROOTS = (_PACKAGE / "share", _PACKAGE.parent)


def path(name: str) -> Path:
    """Absolute path of a shipped file or folder, such as ``schemas/transaction.schema.json`` or ``models/fraud``.

    Raises EnvironmentFault where the installation does not hold it.
    """
    for root in _ROOTS:
        candidate = root / name
        if candidate.exists():
            return candidate
    raise EnvironmentFault(
        Problem(
            f"this installation lacks {name}",
            remedy="install headrace again: its wheel carries schemas/ and models/fraud",
            code="missing_resource",
        )
    )
