"""The part of a page that is written by a command, between two lines that mark it; the prose around it stays."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.cells import Table

BEGIN = "<!-- begin of what `python -m benchmarks --page` writes -->"
END = "<!-- end of what `python -m benchmarks --page` writes -->"


def replaced(page: Path, text: str) -> str:
    """The page's content with ``text`` between the marks. Raises ValueError where it lacks them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}: between them the figures belong")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def rows(table: Table) -> str:
    """A table's header and rows in Markdown."""
    rule = ("---", *("---:" for _ in table.header[1:]))
    return "\n".join(f"| {' | '.join(escaped(cell) for cell in row)} |" for row in (table.header, rule, *table.rows))


def escaped(text: str) -> str:
    """Text as Markdown shows it."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
