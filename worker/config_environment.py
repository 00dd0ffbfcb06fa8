"""Read ``HEADRACE__SECTION__FIELD`` variables: each overrides one key of the configuration file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import yaml

from worker.config_yaml import Located, parse_value
from worker.errors import Problem
from worker.settings_fields import VARIABLE_PREFIX, FieldEntry, fields, secret_files

ENVIRONMENT = "environment"


def read_environment(environ: Mapping[str, str]) -> tuple[dict[tuple[str, str], Located], list[Problem]]:
    """Return the values set by variables, by section and key, and what is wrong with the variables.

    Text stands as it is, so that a password or a group of digits needs no quotes; all else is read as YAML.
    """
    known = {entry.variable: (path, entry) for path, entry in fields().items()}
    files = {f"{entry.variable}_FILE": path for path, entry in secret_files().items()}
    values: dict[tuple[str, str], Located] = {}
    problems: list[Problem] = []
    for name in sorted(name for name in environ if name.startswith(VARIABLE_PREFIX)):
        text = environ[name]
        if name not in known and name not in files:
            problems.append(_unknown_variable(name, [*known, *files]))
        elif not text.strip():
            problems.append(
                Problem(
                    f"{name} is empty: it would be unclear whether it means off or a mistake",
                    "unset it, or give it a value; off is null, where the key takes null",
                    ENVIRONMENT,
                    0,
                    name,
                    "empty_value",
                )
            )
        elif name in known and not _is_text(text):
            message = f"{name} is not UTF-8 text"
            problems.append(Problem(message, "write it in UTF-8", ENVIRONMENT, 0, name, "not_utf8"))
        elif name in files:
            values[files[name]] = Located(text, ENVIRONMENT, 0, name, text)
        else:
            path, entry = known[name]
            values[path] = Located(_read_value(entry, text), ENVIRONMENT, 0, name, text)
    return values, problems


def _is_text(text: str) -> bool:
    """Whether its bytes are UTF-8; Python lets others through as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_value(entry: FieldEntry, text: str) -> object:
    if entry.secret:
        return text
    try:
        value = parse_value(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if entry.textual and not isinstance(value, str):
        return None if value is None and entry.nullable else text
    return value


def _unknown_variable(name: str, known: list[str]) -> Problem:
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
    remedy = f"did you mean {close[0]}?" if close else f"unset it, or name a key: {VARIABLE_PREFIX}SECTION__KEY"
    return Problem(f"{name} is no setting", remedy, ENVIRONMENT, 0, name, "unknown_variable")
