"""Turn a configuration file and the environment into ``Settings``, or into every problem at once.

A variable wins over the file, the file over the default. Relative paths start at the folder of the file, also those
that come from a variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.config_environment import ENVIRONMENT, read_environment
from worker.config_yaml import UNREADABLE, Document, Located, read_document
from worker.errors import ConfigError, Problem
from worker.settings import Settings
from worker.settings_fields import FILE_SUFFIX, FieldEntry, describe_type, fields, secret_files, section_models
from worker.settings_rules import RULES

_Path = tuple[str, str]

# More than any password; a device or a pipe without an end must not fill the memory.
_MAX_SECRET_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each key that is not a default was set."""

    settings: Settings
    origins: Mapping[tuple[str, str], Located]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings of the file at ``path`` under ``environ``; raises ConfigError with all problems."""
    return load_with_origins(path, environ).settings


def load_with_origins(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Like ``load``, and tell where each value came from."""
    document = read_document(path)
    if not document.section_lines and document.problems:
        raise ConfigError(*document.problems, *read_environment(environ)[1])
    return _Loading(document, path.absolute().parent, environ).finish()


@dataclass(slots=True)
class _Loading:
    """One load: values pass from step to step, and each step adds the problems that it finds."""

    document: Document
    folder: Path
    environ: Mapping[str, str]
    values: dict[_Path, Located] = field(default_factory=dict)
    faulty: set[_Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def finish(self) -> Loaded:
        self.problems += self.document.problems
        self._take_file()
        self._take_environment()
        self._read_secret_files()
        self._drop_unreadable()
        settings = self._validate()
        self._check_rules(settings)
        self._check_files(settings)
        if self.problems:
            raise ConfigError(*sorted(self.problems, key=_position))
        return Loaded(settings, self.values)

    def _take_file(self) -> None:
        """Keep the known keys of the file; report the others, and the sections that are none."""
        for section, line in self.document.section_lines.items():
            if section not in section_models():
                self._report_unknown("", section, line)
        for section, stray in self.document.strays.items():
            if section in section_models():
                self.faulty |= {path for path in fields() if path[0] == section}
                first = next(key for name, key in fields() if name == section)
                self._report(
                    stray, section, "wrong_type", f"{section} is a section and needs keys", f"write {section}: and,"
                    f" indented below it, keys such as {first}:",
                )  # fmt: skip
        for path, located in self.document.values.items():
            if path in fields() or path in secret_files():
                self.values[path] = located
            elif path[0] in section_models():
                self._report_unknown(*path, located.line)

    def _report_unknown(self, section: str, key: str, line: int) -> None:
        siblings = [*section_models()] if not section else [
            name for owner, name in (*fields(), *secret_files()) if owner == section
        ]  # fmt: skip
        homes = [owner for owner, name in fields() if name == key]
        close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
        if close:
            remedy = f"did you mean {close[0]}?"
            if (section, close[0]) not in self.document.values:
                meant = (section, close[0]) if section else (close[0],)
                self.faulty |= {path for path in fields() if path[: len(meant)] == meant}
        elif homes:
            remedy = f"move it below {homes[0]}:"
        else:
            remedy = f"remove it; {section or 'the file'} takes {', '.join(siblings)}"
        dotted = f"{section}.{key}" if section else key
        what = "key" if section else "section"
        self.problems.append(
            Problem(f"{dotted} is no {what} of the configuration", remedy, self.document.file, line, dotted,
                    "unknown_key")
        )  # fmt: skip

    def _take_environment(self) -> None:
        """Let the variables win: a secret by either of its names replaces both names of the file."""
        values, problems = read_environment(self.environ)
        self.problems += problems
        for path, entry in secret_files().items():
            if path in values or (entry.section, entry.key) in values:
                self.values.pop(path, None)
                self.values.pop((entry.section, entry.key), None)
        self.values |= values

    def _read_secret_files(self) -> None:
        """Replace each ``_file`` of a secret by the content of that file, less one trailing newline."""
        for path, entry in secret_files().items():
            located = self.values.pop(path, None)
            if located is None:
                continue
            target = (entry.section, entry.key)
            name = located.name if located.file == ENVIRONMENT else f"{entry.dotted}{FILE_SUFFIX}"
            if target in self.values:
                message = f"{name} and {entry.key} are both set: one of them would be ignored"
                self._report(located, name, "conflict", message, "keep one of them")
                continue
            text = self._read_secret(located, name)
            if text is None:
                self.faulty.add(target)
            else:
                self.values[target] = replace(located, value=text, raw="")

    def _read_secret(self, located: Located, name: str) -> str | None:
        if not isinstance(located.value, str) or not located.value:
            self._report(located, name, "wrong_type", f"{name} must be a path", f"write {located.name}: path/of/file")
            return None
        text, reason = _small_text(Path(self.folder, located.value))
        if reason:
            message = f"{name} names {located.value!r}, which cannot be read: {reason}"
            self._report(located, name, "file_unreadable", message, "name a readable file")
            return None
        text = text[:-1].removesuffix("\r") if text.endswith("\n") else text
        if not text:
            message = f"{name} names {located.value!r}, which is empty"
            self._report(located, name, "file_unreadable", message, "write the secret into the file")
            return None
        return text

    def _drop_unreadable(self) -> None:
        for path in [path for path, located in self.values.items() if located.value is UNREADABLE]:
            self.faulty.add(path)
            del self.values[path]

    def _validate(self) -> Settings:
        """Return settings in which a stand-in replaces each faulty key, so that the rules can still be checked."""
        sections = {}
        context = {"folder": self.folder}
        for section, model in section_models().items():
            given = {key: located.value for (owner, key), located in self.values.items() if owner == section}
            try:
                sections[section] = model.model_validate(given, context=context)
                continue
            except ValidationError as error:
                for details in error.errors(include_url=False):
                    self._report_invalid(fields()[section, str(details["loc"][0])], details)
            sound = {key: value for key, value in given.items() if (section, key) not in self.faulty}
            stand_ins = {
                key: entry.example for (owner, key), entry in fields().items() if owner == section and entry.required
            }
            sections[section] = model.model_validate(stand_ins | sound, context=context)
        return Settings.model_validate(sections)

    def _report_invalid(self, entry: FieldEntry, details: ErrorDetails) -> None:
        path = (entry.section, entry.key)
        located = self.values.get(path)
        kind = details["type"]
        # A default that was not computed, a typo reported already, and a list that lacks only its refused items.
        if kind == "default_factory_not_called" or (kind in {"missing", "too_short"} and path in self.faulty):
            return
        self.faulty.add(path)
        if kind == "missing":
            message, code = f"{entry.dotted} is required and not set", "missing_key"
            remedy = f"add {_assignment(entry, None, entry.example)} below {entry.section}:"
        elif kind == "refused":
            message, remedy, code = f"{entry.dotted}: {details['ctx']['message']}", details["ctx"]["remedy"], "refused"
        else:
            code = "wrong_type" if kind.endswith(("_type", "_of")) else "bad_value"
            found = "an unusable value" if entry.secret else _describe(details["input"])
            if len(details["loc"]) > 1:
                message = (
                    f"{entry.dotted}: expected {describe_type(entry.value_schema['items'])} in the list, found {found}"
                )
            else:
                message = f"{entry.dotted}: expected {entry.expected}, found {found}"
            remedy = "write " + _suggest(entry, located)
        self._report(located, self._name(path), code, message, remedy, details["loc"])

    def _check_rules(self, settings: Settings) -> None:
        by_name = {entry.dotted: path for path, entry in fields().items()}
        for rule in RULES:
            paths = [by_name[key] for key in rule.keys]
            finding = None if self.faulty.intersection(paths) else rule.check(settings)
            if finding is not None:
                path = next((path for path in paths if path in self.values), paths[0])
                self._report(self.values.get(path), self._name(path), rule.code, finding.message, finding.remedy)

    def _check_files(self, settings: Settings) -> None:
        """Report files that do not exist. The bundle is left to its loader: that is the model's, not ours."""
        for path, entry in fields().items():
            target = getattr(getattr(settings, entry.section), entry.attribute)
            if path not in self.values or path in self.faulty or path == ("model", "path"):
                continue
            state = _flaw_of_file(target) if isinstance(target, Path) else ""
            if state:
                message = f"{entry.dotted} names {target}, which {state}"
                remedy = f"name an existing file; relative paths start at {self.folder}"
                self._report(self.values[path], self._name(path), "file_not_found", message, remedy)

    def _name(self, path: _Path) -> str:
        located = self.values.get(path)
        return located.name if located is not None and located.file == ENVIRONMENT else ".".join(path)

    def _report(
        self, located: Located | None, key: str, code: str, message: str, remedy: str, loc: tuple[Any, ...] = ()
    ) -> None:
        """Add a problem where the value stands; without a value, at its section or where the file begins."""
        if located is None:
            line = self.document.section_lines.get(key.partition(".")[0], self.document.line)
            self.problems.append(Problem(message, remedy, self.document.file, line, key, code))
            return
        line = located.line
        if len(loc) > 1 and isinstance(loc[1], int) and loc[1] < len(located.item_lines):
            line = located.item_lines[loc[1]]
        self.problems.append(Problem(message, remedy, located.file, line, key, code))


def _small_text(path: Path) -> tuple[str, str]:
    """The text of a file, and why there is none; never reads on without an end."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_SECRET_BYTES + 1)
        text = content.decode()
    except OSError as error:
        return "", error.strerror or str(error)
    except UnicodeDecodeError:
        return "", "it is not UTF-8 text"
    except ValueError:
        return "", "this is no path"
    return (text, "") if len(content) <= _MAX_SECRET_BYTES else ("", "it is larger than 64 KiB")


def _flaw_of_file(path: Path) -> str:
    """What keeps ``path`` from being read as a file, as far as its entry in the folder tells; empty for nothing."""
    try:
        if path.is_file():
            return ""
        return "is a folder" if path.is_dir() else "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _position(problem: Problem) -> tuple[bool, int]:
    return problem.file == ENVIRONMENT, problem.line


def _describe(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if value else "an empty text"
    return "an empty list" if value in ((), []) else "a list" if isinstance(value, (list, tuple)) else "a mapping"


def _suggest(entry: FieldEntry, located: Located | None) -> str:
    """Return the assignment that was most likely meant: the same value in the right form, else an example."""
    value = None if located is None else located.value
    kind = entry.value_schema.get("type")
    if entry.secret and located is not None:
        return f"it in quotes, or better in a file named by {entry.key}{FILE_SUFFIX}"
    if located is not None and value is not None and not isinstance(value, (list, dict)):
        choices = [*entry.words, *(str(choice) for choice in entry.value_schema.get("enum", ()))]
        close = difflib.get_close_matches(located.raw.lower(), [choice.lower() for choice in choices], n=1)
        if close:
            return _assignment(entry, located, next(choice for choice in choices if choice.lower() == close[0]))
        if kind == "array":
            return _assignment(entry, located, [part.strip() for part in located.raw.split(",")])
        if kind == "string" and not choices and located.raw:
            return _assignment(entry, located, f'"{located.raw}"')
        if kind == "integer" and located.raw.isdigit() and isinstance(value, str):
            return _assignment(entry, located, int(located.raw))
    if entry.example is None:
        return _assignment(entry, located, "null") + ", or " + entry.expected
    return _assignment(entry, located, entry.example) + f", or another value: {entry.expected}"


def _assignment(entry: FieldEntry, located: Located | None, value: object) -> str:
    text = "[" + ", ".join(str(item) for item in value) + "]" if isinstance(value, (list, tuple)) else str(value)
    if located is not None and located.file == ENVIRONMENT:
        return f"{located.name}={text}"
    return f"{entry.key}: {text}"
