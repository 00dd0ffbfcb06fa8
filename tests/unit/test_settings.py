"""The settings as declared: frozen, documented, and the same in YAML, variables, JSON Schema and reference page."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from worker.commands import reference
from worker.settings import ModelSection, Settings
from worker.settings_fields import fields, secret_files, settings_schema

LEAST: dict[str, dict[str, object]] = {
    "kafka": {"group_id": "g", "input_topics": ["in"], "output_topic": "out"},
    "event": {"schema": "event.json", "id_field": "id"},
    "model": {"path": "bundle"},
}


def test_settings_are_frozen() -> None:
    """A value cannot be changed after loading."""
    settings = Settings.model_validate(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        settings.probes.port = 1
    assert settings.probes.port == 8080


def test_paths_start_at_the_current_folder_without_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings built by hand resolve relative paths against the current folder."""
    monkeypatch.chdir(tmp_path)
    assert Settings.model_validate(LEAST).model.path == tmp_path / "bundle"


def test_every_key_says_what_it_means() -> None:
    """Each key has a description that ends as a sentence, and a required one has an example."""
    for entry in fields().values():
        assert entry.schema["description"].endswith(".")
        assert not entry.required or entry.example is not None


def test_variables_are_unique_and_told_apart_from_secret_files() -> None:
    """No two keys share a variable, also with the files of secrets."""
    names = [entry.variable for entry in fields().values()]
    names += [f"{entry.variable}_FILE" for entry in secret_files().values()]
    assert len(set(names)) == len(names)
    assert "HEADRACE__KAFKA__SASL_PASSWORD_FILE" in names


def test_the_json_schema_judges_as_the_settings_do() -> None:
    """The schema is valid, takes the least file and secret files, and refuses unknown keys and wrong types."""
    validator = jsonschema.Draft202012Validator(settings_schema())
    jsonschema.Draft202012Validator.check_schema(settings_schema())
    assert validator.is_valid(LEAST)
    assert validator.is_valid(LEAST | {"kafka": {**LEAST["kafka"], "sasl_password_file": "x"}})
    assert not validator.is_valid(LEAST | {"kafka": {**LEAST["kafka"], "groupid": "x"}})
    assert not validator.is_valid(LEAST | {"probes": {"port": "8080"}})
    assert not validator.is_valid(LEAST | {"run": {"processes": 0}})
    assert not validator.is_valid({"kafka": {}})


def test_providers_are_a_list_or_the_word_auto() -> None:
    """Both forms come out as they went in; a mistake in the list is told as one of the list."""
    for given in ("auto", ["cuda"], ["cpu", "cuda"]):
        section = ModelSection.model_validate({"path": "bundle", "providers": given})
        assert section.model_dump(mode="json")["providers"] == given
    entry = fields()["model", "providers"]
    assert entry.expected == "auto or a list, each one of cuda, cpu, at least one"
    assert not entry.nullable
    for wrong, kind in (("best", "tuple_type"), ([], "too_short"), (["auto"], "literal_error"), (None, "tuple_type")):
        with pytest.raises(ValidationError) as caught:
            ModelSection.model_validate({"path": "bundle", "providers": wrong})
        assert [error["type"] for error in caught.value.errors()] == [kind]


def test_the_least_example_of_the_reference_page_is_sound() -> None:
    """The example at the top of the page satisfies the schema."""
    example = reference.page().split("```yaml\n")[1].split("```")[0]
    assert jsonschema.Draft202012Validator(settings_schema()).is_valid(yaml.safe_load(example))


def test_the_reference_page_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Writing and then comparing passes; a missing or changed page fails and names the command."""
    target = tmp_path / "configuration.md"
    assert reference.main([str(target), "--check"]) == 1
    assert reference.main([str(target)]) == 0
    assert reference.main([str(target), "--check"]) == 0
    target.write_text("old", encoding="utf-8")
    assert reference.main([str(target), "--check"]) == 1
    assert reference.main([]) == 2
    assert "python -m worker.commands.reference docs/configuration.md" in capsys.readouterr().err


def test_the_reference_page_has_every_key() -> None:
    """Each key is a row of its section's table, with its default where it has one."""
    page = reference.page()
    for entry in fields().values():
        assert f"\n| `{entry.key}` | " in page.split(f"\n### `{entry.section}`\n")[1].split("\n##")[0]
    assert json.dumps(settings_schema())
