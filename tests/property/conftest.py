"""How Hypothesis looks for examples: without time limits, or, against a mutant, the same ones each time and none made smaller."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# Time limits would judge the machine's other work, not the code.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")

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
