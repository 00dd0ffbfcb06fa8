"""What must hold of any JSON document before it is compiled: finite reach and Unicode texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from worker.errors import Problem

MAX_JSON_LEVELS: Final = 300
"""Arrays and objects within each other; far above any schema, far below what the interpreter can follow."""

MAX_SCHEMA_LEVELS: Final = 64
"""Subschemas within each other, references followed."""

MAX_SUBSCHEMAS: Final = 10_000
"""Subschemas in total, each counted as often as it is referred to: references can double it level by level."""


def document_problems(document: object) -> list[Problem]:
    """Texts that are no Unicode, or nesting beyond ``MAX_JSON_LEVELS``; walks without recursion."""
    problems: list[Problem] = []
    left = [(document, "", 0)]
    while left:
        value, pointer, level = left.pop()
        if level > MAX_JSON_LEVELS:
            return [limit_problem(pointer[:100], f"the schema nests deeper than {MAX_JSON_LEVELS} levels of JSON")]
        parts: Iterable[tuple[object, object]] = ()
        if isinstance(value, Mapping):
            parts = value.items()
        elif isinstance(value, list):
            parts = enumerate(value)
        elif isinstance(value, str) and not _is_unicode(value):
            problems.append(_half_pair(pointer))
        for name, part in parts:
            place = join(pointer, str(name))
            if _is_unicode(place):
                left.append((part, place, level + 1))
            else:
                problems.append(_half_pair(pointer))
    return problems


def limit_problem(pointer: str, message: str) -> Problem:
    """The document asks for more than a compiler can follow."""
    return Problem(message, "describe fewer levels; what lies below can stay open: true", key=pointer, code="too_large")


def join(pointer: str, name: str) -> str:
    """JSON pointer of a member; an empty ``name`` means the value itself."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}" if name else pointer


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _half_pair(pointer: str) -> Problem:
    message = f"a text at {pointer or '/'} holds half of a surrogate pair, which no event can"
    return Problem(message, "write both halves, or the character itself", key=pointer, code="invalid_schema")
