"""The chart's values: their schema, their defaults and their documentation agree with the worker."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import worker
from tests.deployment import values_schema
from tests.deployment.checkout import IMAGE_ROOT, PROJECT, from_image, read_yaml
from worker.config_file import load
from worker.settings import Settings

SCHEMA_FILE = PROJECT / "helm" / "values.schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
# One row of the table stands for all that is below these.
GROUPS = (
    *("config", "resources.requests", "resources.limits", "podSecurityContext", "securityContext"),
    *("probes.startup", "probes.liveness", "probes.readiness"),
)
PAGE = (PROJECT / "docs" / "deployment.md").read_text(encoding="utf-8")
SHOWN = [
    *(yaml.safe_load(block) for block in re.findall(r"(?s)```yaml\n(.*?)```", PAGE)),
    *(yaml.safe_load(path.read_text()) for path in sorted((PROJECT / "helm" / "ci").glob("*-values.yaml"))),
]


def overlaid(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``values`` under ``over``, mapping by mapping, as Helm does it."""
    result = copy.deepcopy(values)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = overlaid(result[key], value) if nested else value
    return result


def with_files_at_hand(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``config`` with files of this machine for those that the cluster would mount."""
    file = folder / "mounted"
    file.write_text("content\n", encoding="utf-8")
    shipped = {"event": {"schema": f"{IMAGE_ROOT}/schemas/transaction.schema.json"}}
    shipped["model"] = {"path": f"{IMAGE_ROOT}/models/fraud"}
    mounted = [key for key in config["kafka"] if key.startswith("ssl_")]
    if "sasl_username" in config["kafka"]:
        mounted.append("sasl_password_file")
    return overlaid(config, shipped | {"kafka": dict.fromkeys(mounted, str(file))})


def settings_of(config: dict[str, Any], folder: Path) -> Settings:
    """The worker's settings from the chart's ``config``; the image's paths are those of the checkout."""
    path = folder / "worker.yaml"
    path.write_text(from_image(yaml.safe_dump(config)), encoding="utf-8")
    return load(path, {})


def leaves(values: dict[str, Any], stop: tuple[str, ...], prefix: str = "") -> list[str]:
    """Dotted names of all keys that are no mappings, or empty ones; those in ``stop`` are not looked into."""
    names = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        deeper = isinstance(value, dict) and value and name not in stop
        names += leaves(value, stop, f"{name}.") if deeper else [name]
    return names


def test_the_schema_is_one() -> None:
    """The schema of the values is a valid JSON Schema."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["additionalProperties"] is False


def test_the_schema_holds_the_settings_of_today() -> None:
    """The part about ``config`` is what the worker's settings give; the script beside this test renews it."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    assert values_schema.render(text) == text


def test_the_defaults_fit_the_schema() -> None:
    """``values.yaml`` is valid."""
    jsonschema.validate(read_yaml("helm/values.yaml"), SCHEMA)


@pytest.mark.parametrize("over", SHOWN)
def test_the_values_of_the_page_and_the_examples_are_the_workers(over: dict[str, Any], tmp_path: Path) -> None:
    """What ``docs/deployment.md`` and ``ci/`` show can be installed as it stands: chart and worker both take it."""
    values = overlaid(read_yaml("helm/values.yaml"), over)
    jsonschema.validate(values, SCHEMA)
    settings = settings_of(with_files_at_hand(values["config"], tmp_path), tmp_path)
    assert settings.drain.timeout_s + 5 <= values["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    "over",
    [
        {"replicas": 2},
        {"gpu": {"enbled": True}},
        {"config": {"kafka": {"grup_id": "x"}}},
        {"config": {"kafka": {"sasl_password": "x"}}},
        {"config": {"batching": {"max_batch_size": "512"}}},
        {"probes": {"startup": {"path": "/"}}},
        {"image": {"digest": "latest"}},
    ],
)
def test_the_schema_refuses_what_would_have_no_effect(over: dict[str, Any]) -> None:
    """An unknown key, a secret in the configuration and a value of the wrong type are refused."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(overlaid(read_yaml("helm/values.yaml"), over), SCHEMA)


def test_the_default_configuration_is_the_workers(tmp_path: Path) -> None:
    """The worker takes the chart's ``config`` and finds the contract and the model that the image carries."""
    settings = settings_of(read_yaml("helm/values.yaml")["config"], tmp_path)
    assert settings.event.schema_path.is_file()
    assert (settings.model.path / "model.yaml").is_file()


def test_the_default_grace_period_outlasts_drain_and_rebalance(tmp_path: Path) -> None:
    """Drain, then rebalance timeout, then grace period: each is longer than the one before."""
    values = read_yaml("helm/values.yaml")
    settings = settings_of(values["config"], tmp_path)
    assert settings.drain.timeout_s < settings.kafka.rebalance_timeout_s < values["terminationGracePeriodSeconds"]


def test_the_service_is_where_the_worker_listens(tmp_path: Path) -> None:
    """The chart assumes the worker's own default port."""
    values = read_yaml("helm/values.yaml")
    assert settings_of(values["config"], tmp_path).probes.port == values["service"]["port"]


def test_the_chart_installs_this_version() -> None:
    """``appVersion`` names the image of the code beside it."""
    assert read_yaml("helm/Chart.yaml")["appVersion"] == worker.__version__


def test_every_value_is_described() -> None:
    """The table of ``helm/README.md`` has one row for each value, and none for others."""
    rows = (PROJECT / "helm" / "README.md").read_text(encoding="utf-8").splitlines()
    described = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert described == leaves(read_yaml("helm/values.yaml"), GROUPS)
