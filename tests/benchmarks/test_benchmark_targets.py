"""What Headrace must reach, judged on made-up results."""

from __future__ import annotations

import pytest

from benchmarks.harness.summary import Summary
from benchmarks.harness.targets import Outcome, Verdict, judge
from tests.benchmarks.samples import drain, latency, result


def verdict(summary: Summary, what: str) -> Verdict:
    """The one whose text begins so."""
    (found,) = [one for one in judge(summary) if one.what.startswith(what)]
    return found


def test_throughput_is_compared_by_medians() -> None:
    """120 k against the loop's 100 k is 1.2, which is enough."""
    found = verdict(Summary(result()), "throughput / that of the hand-written loop, unsafe")
    assert (found.required, found.reached, found.outcome) == (">= 1.15", "1.2", Outcome.MET)


def test_of_several_variants_the_fastest_counts() -> None:
    """Quix Streams is met by its batch sink, 26 k, not by its slower form."""
    assert verdict(Summary(result()), "throughput / that of Quix").reached == "4.62"


@pytest.mark.parametrize(
    ("rate", "outcome"), [(101_000.0, Outcome.MET), (94_000.0, Outcome.CLOSE), (80_000.0, Outcome.MISSED)]
)
def test_a_tenth_short_is_close(rate: float, outcome: Outcome) -> None:
    """Exactly once must reach 0.85 of at least once; up to a tenth less is close, below that it is missed."""
    made = result()
    made.drains = [drain("headrace:at_least_once", 1, 118_000.0, 6.5), drain("headrace:exactly_once", 1, rate, 7.0)]
    assert verdict(Summary(made), "exactly once / at least once").outcome is outcome


def test_an_upper_bound_is_close_by_a_tenth_above() -> None:
    """108 ms against at most 100 would be close; 144 against 80 ms is missed."""
    made = result()
    made.latencies = [latency("headrace:exactly_once", "2,000/s", 84.0), latency("headrace:at_least_once", "70 %", 6.0)]
    assert verdict(Summary(made), "exactly once, p50").outcome is Outcome.CLOSE
    assert verdict(Summary(made), "exactly once, p99").outcome is Outcome.MISSED


def test_latency_is_bound_by_the_echo() -> None:
    """The bound moves with the echo of the same run."""
    made = result()
    made.latencies = [
        latency("echo_aiokafka:pipelined", "2,000/s", 1.5),
        latency("headrace:at_least_once", "2,000/s", 2.4),
    ]
    found = verdict(Summary(made), "p50 at 2,000/s")
    assert (found.required, found.reached, found.outcome) == ("<= 2.5 ms", "2.4 ms", Outcome.MET)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """Without figures there is no verdict."""
    made = result()
    made.drains, made.latencies = [], []
    assert {one.outcome for one in judge(Summary(made))} == {Outcome.UNKNOWN}
