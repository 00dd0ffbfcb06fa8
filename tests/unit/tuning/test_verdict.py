"""A candidate is better only beyond the noise, within the limit, in every round, and not at another's cost."""

from __future__ import annotations

import pytest

from tests.unit.tuning.studies import LIMIT_S, figures, final
from worker.tuning.trial import Figures, Objective
from worker.tuning.verdict import Final, best, judge, median_p99_s

DEFAULTS = final(figures(100), figures(104), figures(102), number=0)


@pytest.mark.parametrize(
    ("rounds", "is_better", "reason"),
    [
        ((figures(90), figures(91), figures(92)), True, "cheaper in every round"),
        ((figures(99), figures(102), figures(101)), False, "not cheaper by more than the noise"),
        ((figures(80), figures(105), figures(80)), False, "not cheaper by more than the noise"),
        ((figures(110), figures(110), figures(110)), False, "not cheaper by more than the noise"),
        ((figures(80), figures(80, 0.06), figures(80)), False, "breaks the latency limit in 1 of 3 rounds"),
        ((figures(80), None, figures(80)), False, "failed in 1 of 3 rounds"),
        ((None, None, None), False, "no round in which both could be measured"),
        ((figures(80, drained_per_s=40_000),) * 3, False, "drains more slowly, by 25.0%"),
        ((figures(80, rate_cpu_us=60),) * 3, False, "takes more processor time at the rate, by 20.0%"),
    ],
)
def test_verdict(rounds: tuple[Figures | None, ...], *, is_better: bool, reason: str) -> None:
    """Each thing that speaks against a candidate is found and named."""
    verdict = judge(DEFAULTS, final(*rounds), LIMIT_S, Objective.CPU)
    assert verdict.is_better is is_better
    assert verdict.reason.startswith(reason)


def test_gain_is_taken_round_by_round() -> None:
    """A machine that gets slower for both does not hide the gain; the noise is the defaults' own spread."""
    verdict = judge(DEFAULTS, final(figures(90), figures(93.6), figures(91.8)), LIMIT_S, Objective.CPU)
    assert verdict.gain == pytest.approx(0.1)
    assert [verdict.least, verdict.most] == pytest.approx([0.1, 0.1])
    assert verdict.noise == pytest.approx(4 / 102)


def test_throughput_must_not_be_bought_with_processor_time() -> None:
    """The other costs are watched under every objective."""
    costly = final(*(figures(150, drained_per_s=90_000),) * 3)
    verdict = judge(DEFAULTS, costly, LIMIT_S, Objective.THROUGHPUT)
    assert not verdict.is_better
    assert verdict.reason.startswith("takes more processor time per drained event, by 4")


def test_limit_counts_more_than_cost() -> None:
    """Where the defaults break the limit, a dearer candidate that keeps it is better."""
    late = final(*(figures(100, 0.08),) * 3, number=0)
    verdict = judge(late, final(*(figures(120),) * 3), LIMIT_S, Objective.CPU)
    assert verdict.is_better
    assert "which the defaults break" in verdict.reason


def test_one_round_tells_no_noise() -> None:
    """Without a second round of the defaults nothing is better."""
    verdict = judge(final(figures(100), number=0), final(figures(10)), LIMIT_S, Objective.CPU)
    assert verdict.noise == float("inf")
    assert not verdict.is_better


def test_best_is_the_largest_gain_of_the_better() -> None:
    """None of them better means to keep the defaults."""
    rounds = [(figures(90),) * 3, (figures(80),) * 3, (figures(10, 0.09),) * 3]
    verdicts = [
        judge(DEFAULTS, final(*each, number=number), LIMIT_S, Objective.CPU) for number, each in enumerate(rounds, 1)
    ]
    chosen = best(verdicts)
    assert chosen is not None
    assert chosen.number == 2
    assert best(verdicts[2:]) is None


def test_median_of_nothing_is_no_latency() -> None:
    """A finalist that never ran keeps no limit."""
    assert median_p99_s(Final(DEFAULTS.trial, (None, None))) == float("inf")
    assert median_p99_s(DEFAULTS) == 0.01
