"""Change keys in the text of a configuration file and leave everything else, comments too, as it stands. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from worker.errors import ConfigError, Problem
from worker.tuning.space import Value
from worker.yaml_source import UnicodeLoader

Edit = tuple[int, int, str]
"""Replace the characters from one position to another by a text."""


def rewrite(text: str, changes: Mapping[str, Value], comment: str) -> str:
    """The text of a valid configuration with other values of some keys, ``section.key``; a new key gets ``comment``.

    Raises ConfigError, with the keys to set by hand, where a text cannot be changed so that only these keys differ:
    one that uses anchors for them, for instance.
    """
    root = yaml.compose(text, Loader=UnicodeLoader)
    sections = {key.value: (key, value) for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    edits: list[Edit] = []
    added: list[str] = []
    for section, values in _by_section(changes).items():
        if section in sections:
            edits += _edit_section(text, *sections[section], values, comment)
        else:
            added += ["", f"# {comment}", f"{section}:"]
            added += [f"  {key}: {_plain(value)}" for key, value in values.items()]
    changed = text
    for start, stop, new in sorted(edits, reverse=True):
        changed = changed[:start] + new + changed[stop:]
    if added:
        changed = changed.rstrip("\n") + "\n".join(["", *added, ""])
    _check(text, changed, changes)
    return changed


def assignments(changes: Mapping[str, Value]) -> list[str]:
    """``section.key: value`` for each change, to be shown."""
    return [f"{dotted}: {_plain(value)}" for dotted, value in changes.items()]


def _by_section(changes: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    sections: dict[str, dict[str, Value]] = {}
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def _edit_section(text: str, name: yaml.Node, node: yaml.Node, values: Mapping[str, Value], comment: str) -> list[Edit]:
    entries = {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    edits = [
        (entries[key][0].end_mark.index, _end(entries[key][1]), f": {_plain(value)}")
        for key, value in values.items()
        if key in entries
    ]
    new = [f"{key}: {_plain(value)}" for key, value in values.items() if key not in entries]
    if not new:
        return edits
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        at = node.start_mark.index + 1
        return [*edits, (at, at, "".join(f"{line}, " for line in new))]
    # Below the section's name: behind its last key a comment may stand that belongs to the next section.
    end = text.find("\n", name.end_mark.index)
    at = len(text) if end < 0 else end + 1
    indent = " " * (next(iter(entries.values()))[0].start_mark.column if entries else 2)
    break_before = "" if text[:at].endswith("\n") else "\n"
    lines = [f"{indent}{line}  # {comment}\n" for line in new]
    return [*edits, (at, at, break_before + "".join(lines))]


def _end(node: yaml.Node) -> int:
    """Where a value ends; a block list says that it goes on until the next key, so its last item is asked."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    end: int = node.end_mark.index
    return end


def _plain(value: Value) -> str:
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)


def _check(before: str, after: str, changes: Mapping[str, Value]) -> None:
    """Raise ConfigError unless the texts differ in the values of ``changes`` alone."""
    expected = yaml.load(before, Loader=UnicodeLoader) or {}  # noqa: S506 - a SafeLoader
    for section, values in _by_section(changes).items():
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        expected[section] = {**(expected.get(section) or {}), **plain}
    try:
        found = yaml.load(after, Loader=UnicodeLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        found = None
    if found != expected:
        problem = Problem(
            "the configuration file is written in a way that tune cannot change",
            "set by hand: " + ", ".join(assignments(changes)),
            code="cannot_rewrite",
        )
        raise ConfigError(problem)
