"""What the command prints."""

from __future__ import annotations

from benchmarks.harness.results import Result
from benchmarks.harness.tables import Table
from benchmarks.harness.tables import tables as all_tables
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS


def tables(result: Result) -> str:
    """Every table of a result, columns aligned."""
    return "\n\n".join(_aligned(table) for table in all_tables(result))


def listing() -> str:
    """Systems with their variants, and workloads."""
    lines = ["systems:"]
    for system in SYSTEMS.values():
        state = "" if system.is_present else "  (not there)"
        lines.append(f"  {system.name:15} {_plain(system.title)}: {', '.join(system.variants)}{state}")
    lines.append("\nworkloads:")
    lines += [f"  {one.name:15} {(one.recipe.__doc__ or '').splitlines()[0]}" for one in WORKLOADS.values()]
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
    return column > 0 and all(row[column][:1] in "0123456789-<>" for row in table.rows)


def _plain(text: str) -> str:
    return text.replace("**", "")
