"""The demo on the screen: a live view on a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.demo.snapshot import Snapshot

if TYPE_CHECKING:
    from types import TracebackType

    from worker.demo.session import Result

_WIDTH = 80
_BAR_WIDTH = 14
_ROWS = 6
_FACTS = 4
_SPARKS = " ▁▂▃▄▅▆▇█"
_PLAIN_EVERY_S = 2.0
_ROUND_FROM = 100


class PlainDisplay:
    """A line for each step and, while the stream runs, one about every two seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s = 0.0

    def say(self, sentence: str) -> None:
        """Write the step."""
        self._write(sentence)

    def show(self, snapshot: Snapshot) -> None:
        """Write one line if the last one is old enough."""
        if snapshot.elapsed_s < self._next_s:
            return
        self._next_s = snapshot.elapsed_s + _PLAIN_EVERY_S
        recent, mean = snapshot.recent_ms, snapshot.batches.mean_size
        self._write(
            f"{snapshot.phase} {snapshot.elapsed_s:5.1f} s  {snapshot.rate:,.0f} events/s  "
            f"p50 {_number(recent['p50'])} ms  p99 {_number(recent['p99'])} ms  mean batch {_number(mean)}  "
            f"flagged {_share(snapshot.flagged, snapshot.scored)}  fraud {_share(snapshot.fraud, snapshot.scored)}  "
            f"dead letters {snapshot.dead_lettered}"
        )

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveDisplay:
    """A view that fits a terminal of 80 columns and 24 lines and is gone when the stream ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._started_at = time.monotonic()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, sentence: str) -> None:
        """Print the step above the view, with the seconds since the start."""
        elapsed_s = time.monotonic() - self._started_at
        self._console.print(Text.assemble((f"{elapsed_s:5.1f} s  ", "dim"), sentence))

    def show(self, snapshot: Snapshot) -> None:
        """Redraw."""
        self._live.update(render(snapshot, min(self._console.width, _WIDTH)), refresh=True)


def render(snapshot: Snapshot, width: int) -> Group:
    """The live view of one moment."""
    title = Text.assemble(
        (" Headrace demo ", "bold reverse"),
        "  real worker, mock Kafka, simulated cards   ",
        (f"{snapshot.model or 'model'} on {snapshot.batches.provider or '?'}", "cyan"),
    )
    shown_s = min(snapshot.elapsed_s, snapshot.seconds)
    progress = Table.grid(padding=(0, 1))
    progress.add_row(
        Text(
            f" {snapshot.phase:8}",
            "bold green" if snapshot.phase == "running" else "bold yellow",
        ),
        ProgressBar(snapshot.seconds, shown_s, width=width - 30),
        f"{shown_s:4.0f} of {snapshot.seconds:.0f} s",
    )
    grid = Table.grid(expand=False)
    half = width // 2
    for height, left, right in (
        (_FACTS + 2, _throughput(snapshot), _latency(snapshot)),
        (_ROWS + 2, _sizes(snapshot), _closed(snapshot)),
        (_FACTS + 2, _fraud(snapshot), _dead_letters(snapshot)),
    ):
        grid.add_row(
            *(Panel(body, title=name, title_align="left", width=half, height=height) for name, body in (left, right))
        )
    return Group(title, progress, grid)


_Part = tuple[str, Table]


def _facts(rows: Sequence[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _throughput(snapshot: Snapshot) -> _Part:
    return "Throughput", _facts(
        [
            (
                sparkline(snapshot.history),
                Text(f"{snapshot.rate:,.0f} events/s", "bold"),
            ),
            ("produced", f"{snapshot.produced:,}"),
            ("scored", f"{snapshot.scored:,}"),
            ("in flight", f"{snapshot.in_flight:,}"),
        ]
    )


def _latency(snapshot: Snapshot) -> _Part:
    rows: list[tuple[str, str | Text]] = [
        (name, Text(f"{_number(snapshot.recent_ms[name])} ms", "bold")) for name in ("p50", "p95", "p99")
    ]
    return "Latency, sent to read back", _facts([*rows, ("the last 3 s", "")])


def _sizes(snapshot: Snapshot) -> _Part:
    mean = _number(snapshot.batches.mean_size)
    return f"Batch sizes, mean {mean}", _bars(snapshot.batches.sizes)


def _closed(snapshot: Snapshot) -> _Part:
    return "Why batches closed", _bars(snapshot.batches.reasons)


def _bars(counts: Mapping[str, int]) -> Table:
    """The most frequent entries, in their own order, as shares."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", min_width=8, no_wrap=True)
    table.add_column(min_width=_BAR_WIDTH, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    total = sum(counts.values())
    kept = set(sorted(counts, key=lambda name: -counts[name])[:_ROWS])
    for name in (name for name in counts if name in kept):
        bar = ProgressBar(
            total,
            counts[name],
            width=_BAR_WIDTH,
            complete_style="cyan",
            finished_style="cyan",
        )
        table.add_row(name, bar, _share(counts[name], total))
    return table


def _fraud(snapshot: Snapshot) -> _Part:
    return "Fraud", _facts(
        [
            (
                "flagged",
                f"{snapshot.flagged:,}  {_share(snapshot.flagged, snapshot.scored):>7}",
            ),
            (
                "true fraud",
                f"{snapshot.fraud:,}  {_share(snapshot.fraud, snapshot.scored):>7}",
            ),
            (
                "flags that are right",
                _share(snapshot.true_fraud_flagged, snapshot.flagged),
            ),
            ("frauds found", _share(snapshot.true_fraud_flagged, snapshot.fraud)),
        ]
    )


def _dead_letters(snapshot: Snapshot) -> _Part:
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    entries = [(name, str(count)) for name, count in sorted(snapshot.reasons.items())][: 2 * _FACTS]
    entries += [("", "")] * (2 * _FACTS - len(entries))
    for left, right in zip(entries[:_FACTS], entries[_FACTS:], strict=True):
        table.add_row(*left, *right)
    return f"Dead letters, {snapshot.dead_lettered} sent on purpose", table


def sparkline(values: Sequence[float]) -> str:
    """One block per value, as high as its share of the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_SPARKS[round(value / top * (len(_SPARKS) - 1))] for value in values)


def summary(result: Result) -> str:
    """What happened, in lines of at most 80 characters, with what to do next."""
    facts = result.report
    latency = facts["latency_ms"]
    rate, seconds = _number(facts["events_per_second"]), facts["seconds"]
    p50, p95, p99 = (_number(latency[name]) for name in ("p50", "p95", "p99"))
    quality = f"precision {_number(facts['precision'])}, recall {_number(facts['recall'])}"
    mean = _number(facts["mean_batch_size"])
    lines = [
        "",
        f"records    {facts['produced']:,} sent: {facts['scored']:,} scored, {facts['dead_lettered']:,} refused",
        f"losses     {facts['missing']:,} missing, {facts['duplicates']:,} twice",
        f"rate       {rate} events/s over {seconds:.1f} s, {facts['model']} on {facts['provider']}",
        f"latency    p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, sent to read back",
        *_wrapped("batches    ", f"{mean} records on average, closed by {_listed(result.batches.reasons)}"),
        f"fraud      {facts['flagged']:,} flagged, {facts['true_fraud_flagged']:,} of them rightly: {quality}",
        *_wrapped("refused    ", _listed(result.reasons)),
        "",
    ]
    if result.problems:
        return "\n".join(
            [
                *lines,
                "NOT AS IT SHOULD BE:",
                *(f"  {problem}" for problem in result.problems),
                "",
            ]
        )
    return "\n".join(
        [
            *lines,
            "Every record is accounted for, and the worker committed them all before it left.",
            "",
            "Next:",
            "  headrace model inspect YOUR.onnx --init    a starter bundle for your own model",
            "  headrace config show                       every setting and its value",
            "  headrace check --config worker.yaml        what is wrong, before you start",
            "  headrace run --config worker.yaml          the same worker on your own Kafka",
            "",
        ]
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH - 1, initial_indent=label, subsequent_indent=" " * len(label))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 0 if value >= _ROUND_FROM else 1 if value >= 1 else 2
    return f"{value:,.{digits}f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
