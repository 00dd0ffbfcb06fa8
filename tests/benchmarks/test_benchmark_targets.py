"""What Headrace must reach, judged on made-up results."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.harness.results import Drain, Latency, Result, Tally
from benchmarks.harness.summary import Summary, compared
from benchmarks.harness.targets import Outcome, Verdict, judge
from tests.benchmarks.samples import CLEAN, HURT, drain, latency, part, percentiles, result

LEAST, EXACTLY, TWO = "headrace:at_least_once", "headrace:exactly_once", "headrace:two_processes"
ECHO = "echo_aiokafka:pipelined"


def verdict(made: Result, what: str) -> Verdict:
    """The one whose text begins so."""
    (found,) = [one for one in judge(Summary(made)) if one.what.startswith(what)]
    return found


def of_drains(*drains: Drain) -> Result:
    """A result of these drains only."""
    made = result()
    made.parts = [part("throughput:fraud", drains=list(drains))]
    return made


def of_windows(*windows: Latency) -> Result:
    """A result of these windows only."""
    made = result()
    made.parts = [part("latency", latencies=list(windows))]
    return made


def test_a_ratio_is_taken_within_each_repetition() -> None:
    """The machine slowed down by half in the second one: 120/100, 60/50 and 130/100, of which the median is 1.2."""
    rates = [(120.0, 100.0), (60.0, 50.0), (130.0, 100.0)]
    pairs = [
        (drain(LEAST, number, ours, 6.0), drain("confluent_loop:unsafe", number, theirs, 8.0))
        for number, (ours, theirs) in enumerate(rates)
    ]
    found = verdict(
        of_drains(*(one for pair in pairs for one in pair)), "throughput / that of the hand-written loop, u"
    )
    assert (found.required, found.reached, found.outcome) == (">= 1.15", "1.2 (1.2 to 1.3)", Outcome.MET)
    assert found.share == pytest.approx(1.2 / 1.15)


def test_a_repetition_that_one_of_them_lacks_is_left_out() -> None:
    """A drain that failed has nothing to be compared with."""
    ours = [drain(LEAST, number, rate, 6.0) for number, rate in enumerate((100.0, 200.0, 300.0))]
    theirs = [drain(ECHO, number, 100.0, 4.0) for number in (0, 2)]
    found = compared(ours, theirs, lambda one, other: one.events_per_s / other.events_per_s)
    assert found is not None
    assert (found.least, found.median, found.most) == (1, 2, 3)
    assert compared(ours, [], lambda one, other: one.cpu_us / other.cpu_us) is None


def test_of_several_variants_the_fastest_counts() -> None:
    """Quix Streams is met by its batch sink, 26 k, not by its slower form."""
    assert verdict(result(), "throughput / that of Quix").reached == "4.62"


@pytest.mark.parametrize(
    ("rate", "outcome", "share"),
    [(101_000.0, Outcome.MET, 1.007), (94_000.0, Outcome.CLOSE, 0.937), (80_000.0, Outcome.MISSED, 0.798)],
)
def test_a_tenth_short_is_close(rate: float, outcome: Outcome, share: float) -> None:
    """Exactly once must reach 0.85 of at least once; up to a tenth less is close, below that it is missed."""
    made = of_drains(drain(LEAST, 1, 118_000.0, 6.5), drain(EXACTLY, 1, rate, 7.0))
    found = verdict(made, "exactly once: throughput")
    assert found.outcome is outcome
    assert found.share == pytest.approx(share, abs=0.001)


def test_two_processes_are_compared_with_one() -> None:
    """150 k against 100 k is 1.5 x, of at least 1.6."""
    made = of_drains(drain(LEAST, 1, 100_000.0, 6.5), drain(TWO, 1, 150_000.0, 7.0))
    found = verdict(made, "two processes: throughput")
    assert (found.required, found.reached, found.outcome) == (">= 1.6", "1.5", Outcome.CLOSE)


def test_java_is_judged_by_its_second_half() -> None:
    """Its compiler warms up in the first: 9 us on the whole are 6 later on, which 7 us do not beat."""
    made = of_drains(
        drain(TWO, 1, 1.0, 8.0, late_cpu_us=7.0), drain("java_loop:at_least_once", 1, 1.0, 9.0, late_cpu_us=6.0)
    )
    found = verdict(made, "two processes: CPU")
    assert (found.reached, found.outcome) == ("1.17", Outcome.MISSED)


def test_an_upper_bound_is_close_by_a_tenth_above() -> None:
    """85 ms against at most 80 is close; 340 against 140 ms is missed."""
    made = of_windows(latency(EXACTLY, "2,000/s", 84.0))
    assert verdict(made, "exactly once: p50").outcome is Outcome.CLOSE
    assert verdict(made, "exactly once: p99").outcome is Outcome.MISSED


def test_latency_is_compared_with_the_echo_of_the_same_repetition() -> None:
    """2.4 less 1.5 ms, then 5 less 4.5: the median of 0.9 and 0.5 is 0.7 ms; as ratios of p99 1.6 and 1.11."""
    made = of_windows(
        *(latency(ECHO, "2,000/s", p50, repetition=number) for number, p50 in ((1, 1.5), (2, 4.5))),
        *(latency(LEAST, "2,000/s", p50, repetition=number) for number, p50 in ((1, 2.4), (2, 5.0))),
    )
    found = verdict(made, "p50 at 2,000/s")
    assert (found.required, found.reached, found.outcome) == ("<= 1 ms", "0.7 ms (0.5 to 0.9)", Outcome.MET)
    assert verdict(made, "p99 at 2,000/s").reached == "1.36 (1.11 to 1.6)"


def test_a_rate_that_was_not_held_misses_its_targets() -> None:
    """However short its latency seems: the load was not there."""
    made = of_windows(latency(ECHO, "2,000/s", 1.0), latency(LEAST, "2,000/s", 1.0, why_not_held="the lag grew"))
    found = verdict(made, "p50 at 2,000/s")
    assert (found.reached, found.outcome) == ("not held", Outcome.MISSED)


def test_an_echo_that_was_not_held_is_no_measure() -> None:
    """A limit that lags would make any latency look good."""
    made = of_windows(latency(ECHO, "2,000/s", 9.0, why_not_held="the lag grew"), latency(LEAST, "2,000/s", 9.0))
    assert verdict(made, "p50 at 2,000/s").outcome is Outcome.UNKNOWN


def test_own_share_is_the_difference_from_planned_to_seen() -> None:
    """Append times are whole milliseconds; p99 13.6, 12 and 15.6 against 8.8, 8 and 8.4 are 4.8, 4 and 7.2 ms more."""
    windows = []
    for number, (ours, echo) in enumerate(((3.4, 2.2), (3.0, 2.0), (3.9, 2.1))):
        windows.append(latency(LEAST, "idle", 1.0, repetition=number, planned=percentiles(ours)))
        windows.append(latency(ECHO, "idle", 1.0, repetition=number, planned=percentiles(echo)))
    found = verdict(of_windows(*windows), "batches of one")
    assert (found.required, found.reached, found.outcome) == ("<= 1 ms", "4.8 ms (4 to 7.2)", Outcome.MISSED)


def test_a_share_below_nothing_meets_its_target() -> None:
    """A worker faster than the echo has no meaningful share of the bound."""
    made = of_windows(
        latency(LEAST, "idle", 1.0, planned=percentiles(1.0)), latency(ECHO, "idle", 1.0, planned=percentiles(2.0))
    )
    found = verdict(made, "batches of one")
    assert (found.outcome, found.share) == (Outcome.MET, None)


@pytest.mark.parametrize(("echo", "outcome"), [(20_000.0, Outcome.MISSED), (14_000.0, Outcome.UNKNOWN)])
def test_crayfish_counts_where_the_echo_allows_it(echo: float, outcome: Outcome) -> None:
    """Where copying the same bytes is slower than the bound, there is no verdict."""
    drains = [
        msgspec.structs.replace(drain(name, 1, rate, 40.0), workload="crayfish")
        for name, rate in ((ECHO, echo), (LEAST, 12_000.0))
    ]
    assert verdict(of_drains(*drains), "crayfish: throughput").outcome is outcome


def test_memory_is_that_of_the_worst_drain() -> None:
    """200 MB are 190.7 MiB."""
    made = of_drains(*(drain(LEAST, number, 1.0, 1.0, rss_mib=rss) for number, rss in enumerate((150.0, 195.0, 150.0))))
    found = verdict(made, "memory")
    assert (found.required, found.reached, found.outcome) == ("<= 191 MiB", "195 MiB", Outcome.CLOSE)


@pytest.mark.parametrize(
    ("tally", "reached", "outcome"),
    [
        (CLEAN, "0", Outcome.MET),
        (HURT, "3", Outcome.MISSED),
        (msgspec.structs.replace(CLEAN, wrong=2), "2", Outcome.MISSED),
    ],
)
def test_harm_in_any_measurement_is_a_target_missed(tally: Tally, reached: str, outcome: Outcome) -> None:
    """Lost events and wrong scores count, repeated ones do not; those of other systems are theirs."""
    made = of_drains(drain("quix:batch", 1, 1.0, 1.0, tally=HURT), drain(LEAST, 1, 1.0, 1.0))
    made.parts.append(part("latency", latencies=[latency(EXACTLY, "2,000/s", 1.0, tally=tally)]))
    found = verdict(made, "events lost")
    assert (found.reached, found.outcome) == (reached, outcome)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """Without figures there is no verdict."""
    made = result()
    made.parts = []
    assert {one.outcome for one in judge(Summary(made))} == {Outcome.UNKNOWN}
