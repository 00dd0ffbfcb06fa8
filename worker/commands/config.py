"""``headrace config``: the JSON Schema of a configuration, and what a given one comes to."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json

if TYPE_CHECKING:
    from worker.config_file import Loaded

MASK = "********"

app = typer.Typer(help="Show the configuration.", no_args_is_help=True, rich_markup_mode=None)


@app.command("schema")
def schema(json_output: JsonOption = False) -> None:
    """Print the JSON Schema of the configuration."""
    from worker.settings_fields import settings_schema

    if json_output:
        emit_json(settings_schema())
    else:
        sys.stdout.write(json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n")


@app.command("show")
def show(config: ConfigOption = DEFAULT_CONFIG, json_output: JsonOption = False) -> None:
    """Print the effective values, secrets masked."""
    from worker.config_file import load_with_origins

    loaded = load_with_origins(config, os.environ)
    values, origins = effective_values(loaded), origin_names(loaded)
    if json_output:
        emit_json({"settings": values, "origins": origins})
    else:
        sys.stdout.write(_as_yaml(values, origins))


def effective_values(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Return every value by section and YAML name, ready for JSON, with secrets masked."""
    dumped = loaded.settings.model_dump(mode="json", by_alias=True)
    from worker.settings_fields import fields

    for (section, key), entry in fields().items():
        if entry.secret and dumped[section][key] is not None:
            dumped[section][key] = MASK
    return dumped


def origin_names(loaded: Loaded) -> dict[str, str]:
    """Return where each key was set: ``file:line``, the variable's name, or ``default``."""
    from worker.settings_fields import fields

    names = {}
    for path, entry in fields().items():
        located = loaded.origins.get(path)
        if located is None:
            names[entry.dotted] = "default"
        else:
            names[entry.dotted] = f"{located.file}:{located.line}" if located.line else located.name
    return names


def _as_yaml(values: dict[str, dict[str, Any]], origins: dict[str, str]) -> str:
    lines = []
    for section, keys in values.items():
        lines.append(f"{section}:")
        for key, value in keys.items():
            assignment = f"  {key}: {json.dumps(value, ensure_ascii=False)}"
            lines.append(f"{assignment:<60}  # {origins[f'{section}.{key}']}")
    return "\n".join(lines) + "\n"
