"""What the command prints."""

from __future__ import annotations

from benchmarks.harness.cells import Table
from benchmarks.harness.plan import FORMS, MEASUREMENTS
from benchmarks.harness.results import Result
from benchmarks.harness.tables import tables as all_tables
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS


def tables(result: Result) -> str:
    """Every table of a result, columns aligned."""
    return "\n\n".join(_aligned(table) for table in all_tables(result))


def listing() -> str:
    """Systems with their variants, workloads, and the parts of the forms."""
    lines = ["systems:"]
    lines += [f"  {one.name:15} {_plain(one.title)}: {', '.join(one.variants)}" for one in SYSTEMS.values()]
    lines.append("\nworkloads:")
    lines += [f"  {one.name:15} {(one.recipe.__doc__ or '').splitlines()[0]}" for one in WORKLOADS.values()]
    lines.append("\nparts:")
    lines += [f"  {name:15} {what}" for name, what in MEASUREMENTS.items()]
    lines.append("\nforms:")
    lines += [f"  {name:15} {' '.join(form().parts)}" for name, form in FORMS.items()]
    return "\n".join(lines)


def _aligned(table: Table) -> str:
    lines = [table.header, *(tuple(_plain(cell) for cell in row) for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    text = [
        "  ".join(
            cell.rjust(width) if _is_figure(table, column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, "=" * len(table.title), *text])


def _is_figure(table: Table, column: int) -> bool:
    return column > 0 and all(row[column][:1] in "0123456789+-<>" for row in table.rows)


def _plain(text: str) -> str:
    return text.replace("**", "")
