"""How Hypothesis looks for examples: as usual, or, against a mutant, the same few ones each time."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# A deadline would measure how busy the machine is.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")

# mutmut sets this variable.
AGAINST_A_MUTANT = "MUTANT_UNDER_TEST" in os.environ

if AGAINST_A_MUTANT:
    # Any failing example kills the mutant; looking for a smaller one would take most of the time.
    settings.register_profile(
        "mutants",
        max_examples=30,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
    )
    settings.load_profile("mutants")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Against a mutant, run unit tests first: most mutants fall to one of them, and they take no time."""
    if AGAINST_A_MUTANT:
        items.sort(key=lambda item: "property" in item.path.parts)
