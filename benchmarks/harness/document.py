"""``docs/performance.md`` and its plots, from the newest results. The prose around what is generated stays."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import marked
from benchmarks.harness.cells import Table
from benchmarks.harness.plots import TITLES, names, plots
from benchmarks.harness.results import Result, load, newest
from benchmarks.harness.summary import Summary
from benchmarks.harness.tables import tables
from benchmarks.harness.targets import Outcome, judge

HEADS = {"full": "## Side by side", "long": "## Over minutes"}
NO_RESULT = {
    "full": "`benchmarks/results` holds no full run yet; `make bench` makes one.",
    "long": "`benchmarks/results` holds no long run yet; `make bench-long` makes one.",
}
# These plots stand above the tables, the others below.
FIRST = ("throughput", "long-run")


def write(page: Path, folder: Path, results: Path) -> list[Path]:
    """Write the page and its plots; returns the files. Plots that the result does not have are removed."""
    wanted = _wanted(page, folder, results)
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.svg")) - set(wanted):
        old.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return list(wanted)


def stale(page: Path, folder: Path, results: Path) -> list[Path]:
    """The files that ``write`` would change."""
    wanted = _wanted(page, folder, results)
    surplus = set(folder.glob("*.svg")) - set(wanted)
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text] + sorted(surplus)


def _wanted(page: Path, folder: Path, results: Path) -> dict[Path, str]:
    """Every file with its content. Raises ValueError where the page has no place for the generated part."""
    sections: list[str] = []
    drawn: dict[Path, str] = {}
    for form, head in HEADS.items():
        path = newest(form, results)
        if path is None:
            sections.append(f"{head}\n\n{NO_RESULT[form]}")
        else:
            result = load(path)
            sections.append(f"{head}\n\n{section(result, path.name, folder.name)}")
            drawn |= {folder / name: svg for name, svg in plots(result).items()}
    return {page: marked.replaced(page, "\n\n".join(sections))} | drawn


def section(result: Result, source: str, folder: str) -> str:
    """The generated part of a result: what was missed first, then tables, and the plots beside what they show."""
    pictures = {name: _picture(name, folder) for name in names(result)}
    parts = [_shortfalls(result)] if result.form == "full" else []
    parts.append(_circumstances(result, source))
    if result.missing:
        parts.append(f"Not measured yet: {', '.join(result.missing)}; `make bench RESUME=benchmarks/results/{source}`.")
    parts += [pictures[name] for name in FIRST if name in pictures]
    parts += [_markdown(table) for table in tables(result)]
    parts += [pictures[name] for name in pictures if name not in FIRST]
    return "\n\n".join(parts)


def _shortfalls(result: Result) -> str:
    verdicts = judge(Summary(result))
    missed = [one for one in verdicts if one.outcome is Outcome.MISSED]
    counts = {outcome: sum(one.outcome is outcome for one in verdicts) for outcome in Outcome}
    head = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    lines = [f"Of {len(verdicts)} targets: {head} (*close*: short by at most a tenth)."]
    if missed:
        lines.append("Missed by more than a tenth:\n")
        lines += [f"- {one.what}: {one.reached}, required {marked.escaped(one.required)}" for one in missed]
    return "\n".join(lines)


def _circumstances(result: Result, source: str) -> str:
    machine = result.machine
    versions = ", ".join(f"{name} {text}" for name, text in result.versions.items() if text)
    broker = ", ".join(f"{name}: {text}" for name, text in result.broker.items())
    commands = ", then ".join(f"`{command}`" for command in result.commands)
    return (
        f"{commands}, from {result.started[:10]} on, {result.minutes:.0f} minutes in all, "
        f"on {machine['cores']} cores of {machine['processor']}, {machine['memory']}, {machine['kernel']}.\n"
        f"Every figure: [{source}](../benchmarks/results/{source}).\n\n"
        f"Versions: {versions}.\n\nBroker, on the same machine: {broker}."
    )


def _markdown(table: Table) -> str:
    note = f"\n\n{table.note}" if table.note else ""
    return f"### {table.title}\n\n{marked.rows(table)}{note}"


def _picture(name: str, folder: str) -> str:
    return (
        "<picture>\n"
        f'  <source media="(prefers-color-scheme: dark)" srcset="{folder}/{name}-dark.svg">\n'
        f'  <img alt="{TITLES[name]}" src="{folder}/{name}-light.svg">\n'
        "</picture>"
    )
