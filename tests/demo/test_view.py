"""The live view fits its terminal, the plain lines and the summary say what happened."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from worker.demo.faults import KINDS
from worker.demo.session import Result
from worker.demo.snapshot import Batches, Snapshot
from worker.demo.view import LiveDisplay, PlainDisplay, render, sparkline, summary

BATCHES = Batches(
    12_345.6,
    {"1": 1, "2": 2, "3-4": 10, "5-8": 20, "9-16": 30, "17-32": 40, "33-64": 50, "8193-": 60},
    {"size": 5, "bytes": 5, "delay": 5, "idle": 5, "drain": 5, "revoke": 5},
    "cuda",
)
FULL = Snapshot(
    phase="draining",
    elapsed_s=3_600.4,
    seconds=3_600.0,
    rate=199_999.9,
    produced=720_007_200,
    scored=720_000_000,
    dead_lettered=7_200,
    flagged=4_000_000,
    fraud=6_000_000,
    true_fraud_flagged=3_900_000,
    recent_ms={"p50": 12.3, "p95": 1234.5, "p99": 12_345.6},
    reasons=dict.fromkeys(KINDS, 900),
    batches=BATCHES,
    model="fraud@1.0.0",
    history=tuple(float(number) for number in range(18)),
)
EMPTY = Snapshot(
    phase="running",
    elapsed_s=0.0,
    seconds=20.0,
    rate=0.0,
    produced=0,
    scored=0,
    dead_lettered=0,
    flagged=0,
    fraud=0,
    true_fraud_flagged=0,
    recent_ms={"p50": None, "p95": None, "p99": None},
    reasons={},
    batches=Batches(),
    model="",
)
REPORT: dict[str, Any] = {
    "produced": 20_020,
    "scored": 20_000,
    "dead_lettered": 20,
    "missing": 0,
    "duplicates": 0,
    "seconds": 10.1,
    "events_per_second": 1980.2,
    "latency_ms": {"p50": 7.12, "p95": 9.5, "p99": 14.0},
    "mean_batch_size": 5.51,
    "flagged": 134,
    "true_fraud_flagged": 119,
    "precision": 0.8881,
    "recall": 0.7,
    "model": "fraud@1.0.0",
    "provider": "cpu",
}


def drawn(snapshot: Snapshot) -> list[str]:
    """The lines of the view on a terminal of 80 columns."""
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(render(snapshot, 80))
    return capture.get().splitlines()


@pytest.mark.parametrize("snapshot", [FULL, EMPTY], ids=["full", "empty"])
def test_view_fits_a_small_terminal(snapshot: Snapshot) -> None:
    """Neither large numbers nor nothing at all make the view wider than 80 or higher than 23."""
    lines = drawn(snapshot)
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80


def test_view_shows_the_numbers() -> None:
    """Rates, percentiles, batch sizes, reasons, fraud and every kind of dead letter are on the screen."""
    text = "\n".join(drawn(FULL))
    for expected in ("200,000 events/s", "12.3 ms", "1,234 ms", "33-64", "revoke", "97.5 %", "65.0 %", *KINDS):
        assert expected in text


def test_live_display_draws_and_leaves() -> None:
    """Steps stay on the screen; the view is drawn on a terminal and removed at the end."""
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    with LiveDisplay(console) as display:
        display.say("a step")
        display.show(FULL)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    assert "a step" in stream.getvalue()
    assert "Throughput" in stream.getvalue()


def test_plain_lines_come_every_other_second() -> None:
    """Without a terminal: every step, and one line per two seconds of the stream."""
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.say("a step")
    for tenth in range(50):
        display.show(replace(FULL, elapsed_s=tenth / 10))
    display.show(replace(EMPTY, elapsed_s=99.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "a step"
    assert [line.split(" s ")[0] for line in lines[1:]] == [
        "draining   0.0",
        "draining   2.0",
        "draining   4.0",
        "running  99.0",
    ]
    assert "p99 - ms" in lines[-1]


def test_sparkline_is_relative_to_the_largest() -> None:
    """Nothing draws nothing; otherwise one block per value."""
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == ""
    assert sparkline([0.0, 4.0, 8.0]) == " ▄█"


def test_summary_of_a_sound_run() -> None:
    """The counts, the quality and the next steps, in lines that fit the terminal."""
    text = summary(Result(REPORT, dict.fromkeys(KINDS, 2), BATCHES, [], ""))
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("20,020 sent", "0 missing, 0 twice", "precision 0.89", "recall 0.70", "headrace run"):
        assert expected in text


def test_summary_of_a_bad_run_names_the_problems() -> None:
    """Problems are listed and no success is claimed."""
    empty = dict.fromkeys(REPORT) | dict.fromkeys(("produced", "scored", "dead_lettered", "missing"), 0)
    empty |= {"duplicates": 0, "seconds": 0.0, "flagged": 0, "true_fraud_flagged": 0}
    empty["latency_ms"] = dict.fromkeys(("p50", "p95", "p99"))
    text = summary(Result(empty, {}, Batches(), ["7 records are missing"], "log"))
    assert "7 records are missing" in text
    assert "accounted for" not in text
