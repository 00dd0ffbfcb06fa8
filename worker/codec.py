"""Join settings, event schema and bundle into models, decoder and encoder; where they do not fit, say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from worker.core.decoder import Decoder
from worker.core.output import OutputEncoder
from worker.core.schema import ObjectSpec, SchemaError
from worker.errors import BundleError, ConfigError, HeadraceError, Problem

if TYPE_CHECKING:
    from worker.adapters.bundle import Bundle
    from worker.adapters.onnx_race import Candidates
    from worker.config_yaml import Located
    from worker.core.features import OutputSpec
    from worker.settings import Settings


def open_models(settings: Settings, bundle: Bundle) -> Candidates:
    """The model on the provider that the settings ask for first and that works; under ``auto`` on each that works.

    Raises ``EnvironmentFault`` (onnxruntime or provider missing) and ``BundleError`` (the graph does not fit).
    """
    from worker.adapters.onnx_race import open_candidates

    wanted = settings.model
    return open_candidates(
        bundle,
        wanted.providers,
        wanted.require_provider,
        wanted.intra_op_threads,
        settings.batching.buckets,
        cuda_graphs=wanted.gpu_calls == "cuda_graphs",
    )


def build_codec(
    settings: Settings, schema: ObjectSpec, bundle: Bundle, outputs: tuple[OutputSpec, ...]
) -> tuple[Decoder, OutputEncoder]:
    """Return the decoder for the bundle's inputs and the encoder for ``outputs``, whose widths the model knows.

    Raises ConfigError where a key of the configuration or the schema is at fault, BundleError where only the
    manifest is; all problems of the decoder, or all of the encoder, at once.
    """
    full = settings.event.validate_ == "full"
    try:
        decoder = Decoder(schema, bundle.inputs, settings.event.id_field, settings.output.include, full=full)
        return decoder, OutputEncoder(decoder, outputs, bundle.decision, bundle.label)
    except SchemaError as error:
        raise _located(error.problems, settings, bundle) from error


def with_lines(error: ConfigError, origins: Mapping[tuple[str, str], Located]) -> ConfigError:
    """Return ``error`` with file and line in each problem whose key is one of the configuration's."""
    problems = []
    for problem in error.problems:
        section, _, key = problem.key.partition(".")
        origin = None if problem.file else origins.get((section, key))
        if origin is None:
            problems.append(problem)
        else:
            name = problem.key if origin.line else origin.name
            problems.append(replace(problem, file=origin.file, line=origin.line, key=name))
    return ConfigError(*problems)


def _located(problems: tuple[Problem, ...], settings: Settings, bundle: Bundle) -> HeadraceError:
    """Sort each problem to the file that it is about: the configuration (left open), the manifest, or the schema."""
    placed = []
    manifest_only = True
    for problem in problems:
        section = problem.key.partition(".")[0]
        if section in {"inputs", "outputs", "decision"} and problem.code != "name_collision":
            at = _manifest_path(problem.key, bundle)
            placed.append(bundle.manifest.problem(at, problem.message, problem.remedy, problem.code))
            continue
        manifest_only = False
        configured = section in {"event", "output"} or problem.code == "name_collision"
        placed.append(problem if configured else replace(problem, file=str(settings.event.schema_path)))
    return BundleError(*placed) if manifest_only else ConfigError(*placed)


def _manifest_path(key: str, bundle: Bundle) -> tuple[str | int, ...]:
    section, _, name = key.partition(".")
    if section == "inputs":
        positions = [
            position for position, tensor in enumerate(bundle.inputs) if f"{name}.".startswith(f"{tensor.name}.")
        ]
        return ("inputs", *positions[:1])
    return (section, name) if name else (section,)
