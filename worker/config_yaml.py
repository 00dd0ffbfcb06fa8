"""Read a configuration file as YAML and keep where everything stands.

The scalars follow YAML 1.2: ``yes``, ``off``, ``010`` and ``12:30`` are text, ``5e-3`` is a number. Anything that would
be lost or guessed at is a problem: a key given twice, an unknown tag, more than one document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from worker.errors import Problem
from worker.yaml_source import UnicodeLoader

UNREADABLE = object()
"""The value of a key that was reported already."""


@dataclass(frozen=True, slots=True)
class Located:
    """A value and where it was set. ``name`` is the YAML key or the variable, ``item_lines`` those of a list."""

    value: object
    file: str
    line: int
    name: str
    raw: str = ""
    item_lines: tuple[int, ...] = ()


@dataclass(slots=True)
class Document:
    """What a file says: values by section and key, the line of each section, and what could not be read.

    ``strays`` are top-level names that hold a value instead of keys; ``line`` is where the first section stands.
    """

    file: str
    values: dict[tuple[str, str], Located] = field(default_factory=dict)
    strays: dict[str, Located] = field(default_factory=dict)
    section_lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    line: int = 1

    def report(self, code: str, message: str, remedy: str, line: int = 0, key: str = "") -> None:
        """Add a problem of this file."""
        self.problems.append(Problem(message, remedy, self.file, line, key, code))


class _CoreLoader(UnicodeLoader):
    """With the scalar rules of YAML 1.2's core schema."""


_CORE = "tag:yaml.org,2002:"
_FORMS: dict[str, list[re.Pattern[str]]] = {}
_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]{1,18}$", list("-+0123456789")),
    ("float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _FORMS.setdefault(_tag, []).append(re.compile(_pattern))
    _CoreLoader.add_implicit_resolver(_CORE + _tag, _FORMS[_tag][-1], _first)


def parse_value(text: str) -> object:
    """Return a variable's text as YAML: a scalar, or a list of scalars. Raises ``yaml.YAMLError`` or ValueError."""
    node = yaml.compose(text, Loader=_CoreLoader)
    return None if node is None else _convert(node)


def read_document(path: Path) -> Document:
    """Read the file at ``path``; whatever is wrong with it is in the document's problems, nothing is raised."""
    document = Document(str(path))
    text = _read_text(path, document)
    if text is None:
        return document
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.YAMLError as error:
        _report_syntax(error, document, text)
        return document
    except RecursionError:
        document.report("yaml_syntax", "the file is nested too deep to be read", "write sections and keys only")
        return document
    document.line = 1 if root is None else root.start_mark.line + 1
    remedy = "write sections with keys below them, such as kafka:, event: and model:"
    if root is None or root.tag == "tag:yaml.org,2002:null":
        document.report("empty_file", "the file is empty", remedy, document.line)
    elif isinstance(root, yaml.MappingNode):
        _read_sections(root, document)
    else:
        document.report("not_a_mapping", "the file is not a mapping of sections", remedy, document.line)
    return document


def _read_text(path: Path, document: Document) -> str | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        document.report("file_not_found", "the configuration file does not exist", "name an existing file")
        return None
    except OSError as error:
        document.report(
            "file_unreadable", f"the configuration file cannot be read: {error.strerror}", "name a readable file"
        )
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        document.report("not_utf8", "the file is not UTF-8 text", "save it as UTF-8", line)
        return None


def _report_syntax(error: yaml.YAMLError, document: Document, text: str) -> None:
    """Say what YAML cannot read, without quoting the line: a secret may stand in it."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        document.report("yaml_syntax", "the file holds a control character", "remove it", line)
        return
    mark = getattr(error, "problem_mark", None)
    line = 0 if mark is None else mark.line + 1
    reason = str(getattr(error, "problem", None) or "it cannot be read")
    message = "the file is not YAML: " + re.sub(r" ['\"].*['\"]$", "", reason)
    remedy = "check the colons, quotes, brackets and indentation here and in the line above"
    if "\\t" in reason:
        message, remedy = "a tab is used for indentation, which YAML does not take", "indent with spaces"
    elif "document" in reason:
        message, remedy = "the file holds more than one document", "remove the second ---"
    elif isinstance(error, yaml.composer.ComposerError):
        message = "an alias (*) has no anchor (&), or an anchor is given twice"
        remedy = "put quotes around a value that begins with * or &"
    document.report("yaml_syntax", message, remedy, line)


def _read_sections(root: yaml.MappingNode, document: Document) -> None:
    if root.tag != f"{_CORE}map":
        _report_tag(document, document.line, "")
    for section, line, node in _pairs(root, "", document):
        document.section_lines[section] = line
        if isinstance(node, yaml.MappingNode) and node.tag != f"{_CORE}map":
            _report_tag(document, line, section)
        if isinstance(node, yaml.MappingNode):
            for key, key_line, value in _pairs(node, f"{section}.", document):
                document.values[section, key] = _locate(value, document, key_line, key, f"{section}.{key}")
        elif not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:null":
            document.strays[section] = _locate(node, document, line, section, section)


def _pairs(mapping: yaml.MappingNode, prefix: str, document: Document) -> list[tuple[str, int, yaml.Node]]:
    """Return the entries of a mapping with their lines; a repeated key is a problem, and its first value stands."""
    entries: dict[str, tuple[str, int, yaml.Node]] = {}
    for key_node, value in mapping.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
        if not key:
            document.report("wrong_type", "a key is not plain text", "write key: value", line, prefix.rstrip("."))
        elif key in entries:
            document.report(
                "duplicate_key",
                f"{prefix}{key} is given twice, first in line {entries[key][1]}: one of the two would be ignored",
                "keep one of them",
                line,
                f"{prefix}{key}",
            )
        else:
            entries[key] = (key, line, value)
    return list(entries.values())


def _locate(node: yaml.Node, document: Document, line: int, name: str, dotted: str) -> Located:
    raw = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
    item_lines: tuple[int, ...] = ()
    if isinstance(node, yaml.SequenceNode):
        item_lines = tuple(item.start_mark.line + 1 for item in node.value)
    try:
        value = _convert(node)
    except ValueError:
        _report_tag(document, line, dotted)
        value = UNREADABLE
    return Located(value, document.file, line, name, raw, item_lines)


def _report_tag(document: Document, line: int, dotted: str) -> None:
    message = "the value has a tag (!) that means nothing here or does not fit it"
    document.report("unknown_tag", message, "write the value without a tag", line, dotted)


def _convert(node: yaml.Node) -> object:
    """Return a scalar or a list of scalars; deeper nesting becomes ``{}``, which no key accepts. Raises ValueError."""
    if isinstance(node, yaml.ScalarNode):
        return _convert_scalar(node)
    if node.tag not in {f"{_CORE}map", f"{_CORE}seq"}:
        raise ValueError(f"tag {node.tag}")
    if isinstance(node, yaml.SequenceNode):
        return [_convert_scalar(item) if isinstance(item, yaml.ScalarNode) else {} for item in node.value]
    return {}


def _convert_scalar(node: yaml.ScalarNode) -> Any:
    kind, text = node.tag.removeprefix(_CORE), str(node.value)
    if kind == "str":
        return text
    if not any(form.match(text) for form in _FORMS.get(kind, ())):
        raise ValueError(f"tag {node.tag}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
