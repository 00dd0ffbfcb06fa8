"""The result as a file for machines and a page for people."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from benchmarks.gpu.calls import PURE, Calls
from benchmarks.gpu.stream import Stream


class Report(msgspec.Struct, kw_only=True):
    """Everything that was measured. ``device`` is the GPU's name, or the processor's where that was asked for."""

    started: str
    command: str
    provider: str
    device: str
    driver: str
    machine: dict[str, str]
    versions: dict[str, str]
    calls: dict[str, Calls] = {}
    streams: list[Stream] = []
    not_measured: list[str] = []


def save(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``gpu-<device>-<time>.json`` and ``.md``; returns both paths."""
    device = "cpu" if report.provider == "cpu" else _slug(report.device)
    stem = f"gpu-{device}-{report.started[:19].replace(':', '')}"
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{stem}.json", folder / f"{stem}.md"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    page.write_text(markdown(report), encoding="utf-8")
    return data, page


def markdown(report: Report) -> str:
    """The page: one sentence per line, one table per model, one for the pipeline."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    lines = [
        f"# {report.device}, provider {report.provider}",
        "",
        f"Measured {report.started} by `{report.command}`.",
        f"Driver: {report.driver or 'none'}.",
        f"Machine: {', '.join(report.machine.values())}.",
        f"Versions: {versions}.",
    ]
    for name, calls in report.calls.items():
        lines += [
            "",
            f"## Calls: {name}",
            "",
            "Microseconds per batch, medians; below each the microseconds per row.",
            "",
        ]
        lines += _calls_table(calls)
        lines += [f"\n{note[0].upper()}{note[1:]}." for note in calls.notes]
    if report.streams:
        lines += ["", "## Pipeline", "", "A backlog in the in-process broker, drained by one worker process.", ""]
        lines += _streams_table(report.streams)
    lines += [f"\nNot measured: {reason}." for reason in report.not_measured]
    return "\n".join(lines) + "\n"


def _calls_table(calls: Calls) -> list[str]:
    callers = list(dict.fromkeys(one.caller for one in calls.timings))
    by_key = {(one.caller, one.rows): one for one in calls.timings}
    # The pure call first: what the engine adds to it is the question.
    callers.sort(key=lambda caller: caller != PURE)
    lines = [f"| Rows | {' | '.join(callers)} |", "|---:|" + "---:|" * len(callers)]
    for rows in dict.fromkeys(one.rows for one in calls.timings):
        cells = [by_key[caller, rows] for caller in callers]
        texts = [f"{one.median_us:.1f} ({one.median_us / rows:.3f})" for one in cells]
        lines.append(f"| {rows} | {' | '.join(texts)} |")
    return lines


def _streams_table(streams: list[Stream]) -> list[str]:
    head = "| Model | Provider | Calls | Events | Outputs | Events/s | Mean batch | Model busy |"
    lines = [head, "|---|---|---|---:|---:|---:|---:|---:|"]
    return lines + [
        f"| {one.model} | {one.provider} | {one.calls} | {one.events} | {one.outputs} | {one.per_second:.0f} |"
        f" {one.mean_batch:.0f} | {one.model_share:.0%} |"
        for one in streams
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"
