"""The table: for the terminal, for ``docs/evaluation.md``, and read back from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.evaluate.failure import EvaluationError
from benchmarks.evaluate.protocol import Metrics
from benchmarks.evaluate.verdict import Finding
from tests.kafka.jars import kafka_version

BEGIN = "<!-- begin of the table that `make evaluate` checks -->"
END = "<!-- end of the table that `make evaluate` checks -->"
PACKAGES = ("numpy", "scikit-learn", "skl2onnx", "onnxruntime", "aiokafka")
HEADER = (
    "model",
    "scored by",
    "AUC",
    "average precision",
    "card precision@100",
    "produced",
    "scored",
    "dead-lettered",
    "missing",
    "doubled",
    "counted",
    "largest difference",
)
_METRICS = slice(2, 5)
_DIFFERENCE = 11
Rows = list[tuple[str, ...]]


def rows(findings: Sequence[Finding]) -> Rows:
    """Three rows per model: by the worker, by scikit-learn, as published. A dash: there is no such number."""
    table: Rows = []
    for finding in findings:
        recipe, counts = finding.recipe, finding.counts
        numbers = (counts.produced, counts.scored, counts.dead_lettered, counts.missing, counts.doubled)
        difference = "-" if finding.difference is None else f"{finding.difference:.0e}"
        columns = (*(f"{number:,}" for number in (*numbers, finding.counted)), difference)
        blank = ("-",) * len(columns)
        table.append((recipe.title, "worker", *_cells(finding.worker), *columns))
        table.append((recipe.title, "scikit-learn", *_cells(finding.reference), *blank))
        table.append((recipe.title, "published", *_cells(recipe.published), *blank))
    return table


def as_text(table: Rows) -> str:
    """The table for a terminal, columns aligned."""
    lines = [HEADER, *table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def versions() -> str:
    """The sentence that names the versions on which the numbers may depend."""
    named = [f"{name} {version(name)}" for name in PACKAGES]
    return f"Versions: {', '.join(named)}, Apache Kafka {kafka_version()}."


def section(table: Rows) -> str:
    """The part of the document that is generated: table and versions, between the two marks."""
    rule = ("---", "---", *("---:" for _ in HEADER[2:]))
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, rule, *table))
    return f"{BEGIN}\n{lines}\n\n{versions()}\n{END}"


def committed(path: Path) -> tuple[Rows, str]:
    """Rows and versions that the document holds; raises EvaluationError where it has no such part."""
    lines = [line for line in _parts(path)[1].splitlines() if line]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]
    return cells[2:], next((line for line in lines if line.startswith("Versions: ")), "")


def deviations(table: Rows, known: Rows, tolerances: Mapping[str, float]) -> list[str]:
    """How the table departs from the known one, a sentence each.

    Metrics may differ by the tolerance of their model, so that another machine's rounding is no deviation. The
    largest difference is left out: it has its own limit.
    """
    if [row[:2] for row in table] != [row[:2] for row in known]:
        return ["the committed table has other rows"]
    found = []
    for new, old in zip(table, known, strict=True):
        for column in range(2, _DIFFERENCE):
            is_metric = column in range(_METRICS.start, _METRICS.stop)
            if len(old) != len(new) or not _agree(new[column], old[column], tolerances[new[0]] if is_metric else 0.0):
                known_cell = old[column] if column < len(old) else "nothing"
                found.append(f"{new[0]}, {new[1]}, {HEADER[column]}: {new[column]}, committed is {known_cell}")
    return found


def write(path: Path, table: Rows) -> None:
    """Put the table into the document; the prose around it stays."""
    before, _, after = _parts(path)
    path.write_text(before + section(table) + after, encoding="utf-8")


def _parts(path: Path) -> tuple[str, str, str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise EvaluationError(f"{path} lacks the lines {BEGIN!r} and {END!r}: there the table belongs")
    return before, inside, after


def _cells(metrics: Metrics | None) -> tuple[str, ...]:
    return ("-",) * 3 if metrics is None else tuple(f"{value:.3f}" for value in metrics.values())


def _agree(new: str, old: str, tolerance: float) -> bool:
    if new == old:
        return True
    try:
        return abs(float(new) - float(old)) <= tolerance + 1e-9
    except ValueError:
        return False
