"""``headrace model``: look into an ONNX file, start a bundle from it, verify a bundle, measure it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.model_bench import bench
from worker.commands.options import JsonOption
from worker.commands.report import emit_json, problem_fields

if TYPE_CHECKING:
    from worker.adapters.bundle import Bundle
    from worker.adapters.onnx_file import GraphValue, OnnxFile
    from worker.adapters.onnx_placement import Placement
    from worker.adapters.onnx_verify import Check, DecoderFactory
    from worker.core.specs import ObjectSpec

app = typer.Typer(no_args_is_help=True, help="Inspect ONNX files, verify and measure model bundles.")
app.command()(bench)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Any .onnx file.")],
    init: Annotated[
        Path | None, typer.Option("--init", metavar="DIR", help="Write a starter bundle and event schema into DIR.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="cuda or cpu: open the file there too, and show which nodes run where.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show inputs, outputs, operator sets, size and operators of an ONNX file, without running it."""
    from worker.adapters.bundle import file_sha256
    from worker.adapters.bundle_starter import write_starter
    from worker.adapters.onnx_file import read_onnx_file
    from worker.errors import BundleError, Problem

    try:
        facts, size_bytes, sha256 = (read_onnx_file(path), path.stat().st_size, file_sha256(path))
    except OSError as error:
        message = f"the model cannot be read: {error.strerror}"
        raise BundleError(Problem(message, "Name an .onnx file.", str(path), code="missing_file")) from error
    placement = _placement(path, provider) if provider is not None else None
    notes = write_starter(path, facts, init) if init is not None else []
    if json_output:
        document = {"path": str(path), "size_bytes": size_bytes, "sha256": sha256, **asdict(facts)}
        if placement is not None:
            document["placement"] = asdict(placement)
        if init is not None:
            document |= {"bundle": str(init), "notes": notes}
        emit_json(document)
        return
    for line in _facts_lines(path, facts, size_bytes, sha256):
        typer.echo(line)
    if placement is not None:
        counts = ", ".join(f"{count} on {name}" for name, count in sorted(placement.counts.items()))
        typer.echo(f"placement {placement.left_behind(str(provider)) or counts}")
    if init is not None:
        for line in _starter_lines(init, notes):
            typer.echo(line)


def _placement(path: Path, provider: str) -> Placement:
    """Where the file's nodes run on that provider; raises ``EnvironmentFault`` where it does not work here."""
    from worker.adapters.onnx_session import open_session

    return open_session(path, (provider,), None, 1).placement


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    schema: Annotated[
        Path | None, typer.Option(help="The event schema; needed for the fields and the golden rows.")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="cuda or cpu; may be given twice, tried in order. Default: cuda, cpu.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Run every start-up check on a bundle, and batch invariance; exit 5 if one fails."""
    from worker.adapters.onnx_verify import verify_bundle
    from worker.errors import BundleError

    make_decoder = _decoder_factory(schema) if schema is not None else None
    checks = verify_bundle(bundle, make_decoder, provider or ["cuda", "cpu"])
    failed = any(check.status == "failed" for check in checks)
    if json_output:
        emit_json({"ok": not failed, "checks": [_check_fields(check) for check in checks]})
    else:
        for line in _check_lines(checks):
            typer.echo(line)
    return BundleError.exit_code if failed else 0


def _decoder_factory(path: Path) -> DecoderFactory:
    """A function that fits a bundle to the schema at ``path``; raises ``ConfigError`` where that is no schema."""
    from worker.adapters.schema_file import load_schema
    from worker.core.decoder import Decoder

    schema = load_schema(path)

    def make(bundle: Bundle) -> Decoder:
        return Decoder(schema, bundle.inputs, _any_id_field(schema, bundle), (), full=False)

    return make


def _any_id_field(schema: ObjectSpec, bundle: Bundle) -> str:
    """A field that can stand for the id, which only the worker's configuration names."""
    from worker.core.specs import NumberSpec, StringSpec

    for name, child in schema.properties.items():
        is_id = isinstance(child, StringSpec) or (isinstance(child, NumberSpec) and child.integer)
        if is_id and name in schema.required and not child.nullable:
            return name
    return bundle.inputs[0].fields[0]


def _check_fields(check: Check) -> dict[str, object]:
    problems = [problem_fields(problem) for problem in check.problems]
    return {"name": check.name, "status": check.status, "detail": check.detail, "problems": problems}


def _facts_lines(path: Path, facts: OnnxFile, size_bytes: int, sha256: str) -> list[str]:
    operators = ", ".join(f"{name} {count}" for name, count in facts.operators.items())
    rows = [
        ("file", str(path)),
        ("size", _size_text(size_bytes)),
        ("sha256", sha256),
        ("producer", facts.producer or "not stated"),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in facts.opsets.items())),
        ("nodes", f"{sum(facts.operators.values())}: {operators}"),
        ("external", ", ".join(facts.external_data) or "none: all weights are in the file"),
    ]
    lines = [f"{title:<10}{text}" for title, text in rows]
    return [*lines, "inputs", *_value_lines(facts.inputs), "outputs", *_value_lines(facts.outputs)]


def _value_lines(values: tuple[GraphValue, ...]) -> list[str]:
    names = max((len(value.name) for value in values), default=0)
    dtypes = max((len(value.dtype) for value in values), default=0)
    return [f"  {value.name:<{names}}  {value.dtype:<{dtypes}}  {_shape_text(value)}".rstrip() for value in values]


def _shape_text(value: GraphValue) -> str:
    return f"[{', '.join(map(str, value.shape))}]" if value.shape is not None else ""


def _size_text(size_bytes: int) -> str:
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= step:
            return f"{size_bytes / step:.1f} {unit} ({size_bytes} bytes)"
    return f"{size_bytes} bytes"


def _starter_lines(folder: Path, notes: list[str]) -> list[str]:
    from worker.adapters.bundle_starter import ID_FIELD, SCHEMA_NAME

    return [
        "",
        f"wrote {folder}: model.onnx, model.yaml, {SCHEMA_NAME}",
        *(f"  look at: {note}" for note in notes),
        "next",
        f"  1. give the fields in model.yaml and {SCHEMA_NAME} the names of your events",
        f"  2. headrace model verify {folder} --schema {folder / SCHEMA_NAME}",
        f"  3. in worker.yaml: event.schema {folder / SCHEMA_NAME}, event.id_field {ID_FIELD}, model.path {folder}",
    ]


def _check_lines(checks: list[Check]) -> list[str]:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(
            f"{check.status:<9} {check.name:<{width}}  {check.detail if check.status != 'failed' else ''}".rstrip()
        )
        for problem in check.problems:
            place = ":".join(filter(None, (problem.file, str(problem.line or ""))))
            where = " ".join(filter(None, (place, problem.key)))
            lines.append(f"          {where + ': ' if where else ''}{problem.message}")
            lines.extend([f"          {problem.remedy}"] if problem.remedy else [])
    return lines
