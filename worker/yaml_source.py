"""Read a YAML file with the line of every key, by the rules of YAML 1.2 that people expect.

``no``, ``on`` and dates stay text, ``1e-5`` is a number, ``010`` is ten, a key given twice is refused. Merge keys
and tags are not supported; anchors are, up to a size that no honest file reaches.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import yaml

from worker.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KeyPath = tuple[str | int, ...]

_MAX_BYTES: Final = 1 << 20
# Aliases repeat a subtree for free, so the file's size alone does not bound the tree.
_MAX_VALUES: Final = 100_000
_MAX_DIGITS: Final = 1000
_TOO_LARGE: Final = 1 << 64


class YamlSource(NamedTuple):
    """What the file says: plain dicts (text keys), lists and scalars, and the 1-based line of each key path.

    ``lines`` holds ``()`` for the whole document, ``("kafka", "input_topics", 0)`` for a list's first entry.
    """

    data: object
    lines: dict[KeyPath, int]


class YamlSourceError(Exception):
    """The text is not YAML that we read; carries what is wrong, in the order of the lines."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__(*(problem.message for problem in problems))


def read(path: Path) -> YamlSource:
    """Read and parse ``path``; raises ``OSError`` where it cannot be read and ``YamlSourceError`` elsewise."""
    with path.open("rb") as stream:
        raw = stream.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise YamlSourceError(_problem(path, 0, "the file is larger than 1 MiB", "Keep only settings in it."))
    return parse(raw, path)


def parse(raw: bytes | str, path: Path) -> YamlSource:
    """Parse ``raw``; ``path`` only names it in problems. Raises ``YamlSourceError``."""
    loader = _loader(raw, path)
    try:
        node = loader.get_single_node()
        if node is None:
            return YamlSource(None, {(): 1})
        walk = _Walk(path)
        data = walk.value(node, ())
    except yaml.YAMLError as error:
        raise YamlSourceError(_syntax_problem(path, error)) from error
    except RecursionError as error:
        raise YamlSourceError(_problem(path, 0, "the file is nested too deeply", "Flatten it.")) from error
    finally:
        loader.dispose()
    if walk.problems:
        raise YamlSourceError(*walk.problems)
    return YamlSource(data, walk.lines)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the closest of ``known``, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known here: {', '.join(names)}." if names else "Nothing is known here."


def dotted(path: KeyPath) -> str:
    """``("inputs", 0, "name")`` as ``inputs[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


class UnicodeLoader(yaml.SafeLoader):
    """SafeLoader that reads Unicode texts only: every escape names a character, none of them half a surrogate pair."""

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        """The characters of a quoted text; raises ScannerError."""
        try:
            chunks: list[str] = super().scan_flow_scalar_non_spaces(double, start_mark)
            "".join(chunks).encode()
        except (ValueError, OverflowError):
            problem = "an escape names no Unicode character"
            raise yaml.scanner.ScannerError(problem=problem, problem_mark=self.get_mark()) from None
        return chunks


class _Loader(UnicodeLoader):
    """With the scalars of YAML 1.2's core schema."""


_CORE: Final = "tag:yaml.org,2002:"
_NO_TAG: Final = "a tag (!) means nothing here or does not fit its value"
_COLLECTIONS: Final = frozenset({f"{_CORE}map", f"{_CORE}seq"})
_FORMS: Final[dict[str, re.Pattern[str]]] = {}
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
):
    _FORMS[_tag] = re.compile(rf"^{_pattern}$")
    _Loader.add_implicit_resolver(_CORE + _tag, _FORMS[_tag], _first)


def _scalar(node: yaml.ScalarNode) -> object:
    """The value of a scalar. Raises ``ValueError`` for a number out of range and a tag that does not fit the text."""
    kind, text = node.tag.removeprefix(_CORE), str(node.value)
    if kind == "str":
        return text
    if kind not in _FORMS or not _FORMS[kind].fullmatch(text):
        raise ValueError(_NO_TAG)
    if kind == "int":
        return _int(text)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text.lower() == "true" if kind == "bool" else None


def _int(text: str) -> int:
    # Python converts only so many decimal digits, and such a number would break whatever prints or compares it.
    number = int(text, 0) if text[:2] in {"0o", "0x"} else int(text) if len(text) <= _MAX_DIGITS else _TOO_LARGE
    if abs(number) >= _TOO_LARGE:
        raise ValueError("a whole number does not fit into 64 bits")
    return number


def _loader(raw: bytes | str, path: Path) -> _Loader:
    try:
        return _Loader(raw)
    except yaml.YAMLError as error:
        raise YamlSourceError(_syntax_problem(path, error)) from error


class _Walk:
    """Turns nodes into values, noting lines and problems on the way."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._path = path

    def value(self, node: yaml.Node, at: KeyPath) -> object:
        self.lines.setdefault(at, node.start_mark.line + 1)
        # Problems count too: an alias repeats those of its mapping as it repeats the values.
        if len(self.lines) + len(self.problems) > _MAX_VALUES:
            raise yaml.composer.ComposerError(problem="too many values", problem_mark=node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node)
            except ValueError as error:
                raise yaml.constructor.ConstructorError(problem=str(error), problem_mark=node.start_mark) from error
        if node.tag not in _COLLECTIONS:
            raise yaml.constructor.ConstructorError(problem=_NO_TAG, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(_problem(self._path, line, "a key must be plain text", "Write `key: value`."))
                continue
            # The written text, so that a key such as `on` or `1` stays what the author sees.
            key = str(key_node.value)
            path = (*at, key)
            if key in result:
                message = f"'{dotted(path)}' is given twice, first in line {self.lines[path]}"
                self.problems.append(_problem(self._path, line, message, "Keep one of them.", dotted(path)))
                continue
            self.lines[path] = line
            result[key] = self.value(value_node, path)
        return result


def _syntax_problem(path: Path, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    line = mark.line + 1 if mark is not None else 0
    remedy = "Check the indentation, colons and quotes around this line."
    return _problem(path, line, f"not valid YAML: {reason}", remedy, code="invalid_yaml")


def _problem(path: Path, line: int, message: str, remedy: str, key: str = "", code: str = "invalid_yaml") -> Problem:
    return Problem(message, remedy, str(path), line, key, code)
