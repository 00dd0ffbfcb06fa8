"""How commands speak: problems for people on standard error, one JSON value for programs on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TextIO

from worker.errors import Problem

_BOLD, _RED, _GREEN, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def emit_json(value: object) -> None:
    """Write ``value`` as one line of JSON to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) + "\n")


def emit_problems_json(problems: Iterable[Problem]) -> None:
    """Write ``{ok, problems}`` to standard output: ``ok`` where there are none."""
    listed = [problem_fields(problem) for problem in problems]
    emit_json({"ok": not listed, "problems": listed})


def problem_fields(problem: Problem) -> dict[str, object]:
    """Return a problem as ``{file, line, key, code, message, remedy}``."""
    values = asdict(problem)
    return {name: values[name] for name in ("file", "line", "key", "code", "message", "remedy")}


def print_problems(problems: Iterable[Problem], stream: TextIO | None = None) -> None:
    """Write one block per problem to ``stream`` (standard error): place and key, what is wrong, what to write."""
    target = sys.stderr if stream is None else stream
    for problem in problems:
        target.write(format_problem(problem, colour=wants_colour(target)))


def format_problem(problem: Problem, *, colour: bool = False) -> str:
    """Return the block of one problem, with a newline at its end."""
    place = f"{problem.file}:{problem.line}" if problem.file and problem.line else problem.file
    title = " ".join(part for part in (place, problem.key) if part) or "headrace"
    bold, red, green, reset = (_BOLD, _RED, _GREEN, _RESET) if colour else ("", "", "", "")
    lines = [f"{bold}{title}{reset}", f"  {red}wrong:{reset}   {problem.message}"]
    if problem.remedy:
        lines.append(f"  {green}instead:{reset} {problem.remedy}")
    return "\n".join(lines) + "\n"


def wants_colour(stream: TextIO) -> bool:
    """Return whether ``stream`` is a terminal whose user has not asked for plain text by ``NO_COLOR``."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
