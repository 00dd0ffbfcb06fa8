"""Read the event schema from its file. JSON as written: nothing repeated, nothing that JSON does not have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.core.schema import ObjectSpec, SchemaError, compile_schema
from worker.errors import ConfigError, Problem


def load_schema(path: Path) -> ObjectSpec:
    """Return the compiled schema at ``path``; raises ConfigError with a line (JSON) or JSON pointers (keywords)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        message = f"the event schema cannot be read: {error.strerror}"
        raise _failure(path, message, "name a readable file in event.schema", "file_unreadable") from error
    except UnicodeDecodeError as error:
        raise _failure(path, "the event schema is not UTF-8 text", "save it as UTF-8", "not_utf8") from error
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        message = f"the event schema is not JSON: {error.msg}"
        remedy = f"mend column {error.colno}; JSON has no comments and no trailing commas"
        raise _failure(path, message, remedy, "invalid_json", error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise _failure(path, f"the event schema is not sound JSON: {error}", "mend it there", "invalid_json") from error
    if not isinstance(document, dict):
        raise _failure(path, "the event schema is not an object", 'write {"type": "object", ...}', "not_an_object")
    try:
        return compile_schema(document)
    except SchemaError as error:
        raise ConfigError(*(replace(problem, file=str(path)) for problem in error.problems)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in one object")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _failure(path: Path, message: str, remedy: str, code: str, line: int = 0) -> ConfigError:
    return ConfigError(Problem(message, remedy, str(path), line, "", code))
