"""``headrace check``: everything that ``run`` would refuse, all of it at once, and nothing started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json, print_problems, problem_fields
from worker.errors import BrokerError, ConfigError, HeadraceError, Problem

if TYPE_CHECKING:
    from worker.adapters.bundle import Bundle
    from worker.adapters.onnx_model import OnnxModel
    from worker.adapters.onnx_race import Candidates
    from worker.config_file import Loaded
    from worker.core.decoder import Decoder
    from worker.core.schema import ObjectSpec
    from worker.settings import Settings

_Result = TypeVar("_Result")
OnlineOption = Annotated[bool, typer.Option("--online", help="Ask the brokers too: topics, limits, permissions.")]


def check(config: ConfigOption = DEFAULT_CONFIG, online: OnlineOption = False, json_output: JsonOption = False) -> int:
    """Report all that run would refuse; start nothing."""
    findings = Findings()
    loaded = findings.attempt(lambda: _load(config))
    if loaded is not None:
        check_offline(loaded, findings)
        if online:
            findings.attempt(lambda: _check_online(loaded, findings.not_checked))
    if json_output:
        problems = [problem_fields(problem) for problem in findings.problems]
        emit_json({"ok": not problems, "problems": problems, "not_checked": findings.not_checked})
    else:
        print_problems(findings.problems)
        for note in findings.not_checked:
            sys.stderr.write(f"not checked: {note}\n")
        count = len(findings.problems)
        verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "ok"
        sys.stdout.write(f"{config}: {verdict}\n")
    return findings.exit_code


@dataclass(slots=True)
class Findings:
    """What the steps of a check found. The exit code is that of the first failure."""

    problems: list[Problem] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    exit_code: int = 0

    def attempt(self, step: Callable[[], _Result]) -> _Result | None:
        """Return the step's result, or None after noting what stopped it."""
        try:
            return step()
        except HeadraceError as error:
            self.problems += error.problems
            self.exit_code = self.exit_code or error.exit_code
            return None


def check_offline(loaded: Loaded, findings: Findings) -> None:
    """Check schema, bundle, model and their fit. A step runs where those it builds on succeeded."""
    settings = loaded.settings
    schema = findings.attempt(lambda: _load_schema(settings))
    bundle = findings.attempt(lambda: _load_bundle(settings))
    if bundle is None:
        return
    models = None
    if find_spec("onnxruntime") is None:
        findings.not_checked.append(
            "the model itself, without ONNX Runtime: install headrace[cpu], or headrace[gpu] on an NVIDIA machine"
        )
    else:
        models = findings.attempt(lambda: _open_models(bundle, settings))
    decoder = None if schema is None else findings.attempt(lambda: _build_codec(schema, bundle, models, loaded))
    if models is None:
        return
    if models.is_race and decoder is not None:
        _check_race(models, decoder, findings)
        return
    for model in models.models:
        _check_model(model, decoder, findings)


def _check_race(models: Candidates, decoder: Decoder, findings: Findings) -> None:
    """One provider is enough; the others are worth a note."""
    ready = findings.attempt(lambda: models.ready(decoder))
    for lap in ready.race if ready is not None else ():
        if lap.left_out is not None:
            findings.not_checked.append(f"the model on {lap.provider}, which would not take part: {lap.left_out}")


def _check_model(model: OnnxModel, decoder: Decoder | None, findings: Findings) -> None:
    if decoder is not None:
        # Before the warm-up: a model that cannot take zeros is warmed with a golden row.
        findings.attempt(lambda: model.check_golden(decoder))
    findings.attempt(model.warm_up)


def _load(config: os.PathLike[str]) -> Loaded:
    from pathlib import Path

    from worker.config_file import load_with_origins

    return load_with_origins(Path(config), os.environ)


def _load_schema(settings: Settings) -> ObjectSpec:
    from worker.adapters.schema_file import load_schema

    return load_schema(settings.event.schema_path)


def _load_bundle(settings: Settings) -> Bundle:
    from worker.adapters.bundle import load_bundle

    return load_bundle(settings.model.path)


def _open_models(bundle: Bundle, settings: Settings) -> Candidates:
    from worker.codec import open_models

    return open_models(settings, bundle)


def _build_codec(schema: ObjectSpec, bundle: Bundle, models: Candidates | None, loaded: Loaded) -> Decoder:
    from worker.codec import build_codec, with_lines

    try:
        return build_codec(loaded.settings, schema, bundle, bundle.outputs if models is None else models.outputs)[0]
    except ConfigError as error:
        raise with_lines(error, loaded.origins) from error


def _check_online(loaded: Loaded, notes: list[str]) -> None:
    from worker.adapters.kafka_check import check_online
    from worker.codec import with_lines

    problems = check_online(loaded.settings, notes.append)
    if problems:
        raise BrokerError(*with_lines(ConfigError(*problems), loaded.origins).problems)
