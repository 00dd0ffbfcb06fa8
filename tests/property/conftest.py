"""How Hypothesis looks for examples: as usual, or, against a mutant, the same ones each time and none made smaller."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# mutmut sets this variable. A mutant is killed by any failing example: shrinking it would take most of the time.
if "MUTANT_UNDER_TEST" in os.environ:
    settings.register_profile(
        "mutants",
        max_examples=50,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
    )
    settings.load_profile("mutants")
