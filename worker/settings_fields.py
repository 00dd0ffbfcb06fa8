"""The settings as data: one entry per key, for messages, variables, the JSON Schema and the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from worker.settings import Section, Settings

VARIABLE_PREFIX = "HEADRACE__"
FILE_SUFFIX = "_file"


@dataclass(frozen=True, slots=True)
class FieldEntry:
    """One key of one section. ``schema`` is its JSON Schema, ``attribute`` its name in Python."""

    section: str
    key: str
    attribute: str
    required: bool
    schema: Mapping[str, Any]

    @property
    def dotted(self) -> str:
        """The name used in messages, such as ``kafka.group_id``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides the key."""
        return f"{VARIABLE_PREFIX}{self.section}__{self.key}".upper()

    @property
    def value_schema(self) -> Mapping[str, Any]:
        """The JSON Schema of the value itself, where null is possible too: without the null."""
        for option in self.schema.get("anyOf", ()):
            if option.get("type") != "null":
                return {**self.schema, **option}
        return self.schema

    @property
    def nullable(self) -> bool:
        """Whether null is a value, meaning off."""
        return any(option.get("type") == "null" for option in self.schema.get("anyOf", ()))

    @property
    def words(self) -> list[str]:
        """Words that are a value of their own beside values of another type."""
        return [option["const"] for option in self.schema.get("anyOf", ()) if "const" in option]

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        return self.value_schema.get("format") == "password"

    @property
    def textual(self) -> bool:
        """Whether the value is text, so that a number or a word such as ``true`` is meant literally."""
        return self.value_schema.get("type") == "string"

    @property
    def expected(self) -> str:
        """What the value must be, in words."""
        return " or ".join([*self.words, describe_type(self.value_schema), *(["null"] if self.nullable else [])])

    @property
    def example(self) -> Any:
        """A value that is accepted: the default, else the first documented example."""
        default = self.schema.get("default")
        return default if default is not None else self.schema.get("examples", [None])[0]


def describe_type(schema: Mapping[str, Any]) -> str:
    """Return what a JSON Schema of a scalar or a list asks for, in words."""
    if "enum" in schema:
        return "one of " + ", ".join(str(choice) for choice in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "array":
        item = describe_type(schema["items"])
        form = "a list of text" if item == "text" else f"a list, each {item}"
        return form + (", at least one" if schema.get("minItems") else "")
    if schema["type"] == "string":
        return {"path": "a path", "password": "a secret text"}.get(schema.get("format", ""), "text")
    return ("a whole number" if schema["type"] == "integer" else "a number") + _describe_bounds(schema)


def _describe_bounds(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and low == high:
        return f": {low:g}"
    parts = []
    if low is not None:
        parts.append(f"from {low}")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"up to {high}" if isinstance(high, int) else f"up to {high:g}")
    if below is not None:
        parts.append(f"and below {below:g}" if parts else f"below {below:g}")
    return "".join(f" {part}" for part in parts)


@cache
def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema 2020-12 of a configuration file, with the ``_file`` form of each secret."""
    schema = Settings.model_json_schema(by_alias=True)
    for (section, key), secret in secret_files().items():
        schema["$defs"][section_models()[section].__name__]["properties"][key] = {
            "description": f"File that holds `{secret.key}`; one trailing newline is dropped.",
            "format": "path",
            "minLength": 1,
            "type": "string",
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Headrace configuration"}


@cache
def section_models() -> dict[str, type[Section]]:
    """Return the model of each section, by its YAML name."""
    models: dict[str, type[Section]] = {}
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            models[name] = info.annotation
    return models


@cache
def fields() -> dict[tuple[str, str], FieldEntry]:
    """Return every key, by section and YAML name, in the order of the reference page."""
    definitions = Settings.model_json_schema(by_alias=True)["$defs"]
    entries = {}
    for section, model in section_models().items():
        definition = definitions[model.__name__]
        for attribute, info in model.model_fields.items():
            key = info.alias or attribute
            required = key in definition.get("required", ())
            entries[section, key] = FieldEntry(section, key, attribute, required, definition["properties"][key])
    return entries


@cache
def secret_files() -> dict[tuple[str, str], FieldEntry]:
    """Return the ``_file`` form of each secret, by section and YAML name, with the secret that it fills."""
    return {(entry.section, entry.key + FILE_SUFFIX): entry for entry in fields().values() if entry.secret}
