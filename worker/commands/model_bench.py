"""``headrace model bench``: what a call of the model costs on this machine, and the batch sizes that follow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import JsonOption
from worker.commands.report import emit_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.adapters.onnx_bench import Timing


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    provider: Annotated[
        list[str] | None, typer.Option(help="cuda or cpu; may be given twice. Default: every one that works here.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Intra-op threads, as model.intra_op_threads.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.01, max=10, help="Time for each batch size.")] = 0.2,
    json_output: JsonOption = False,
) -> None:
    """Measure what a call costs at each batch size, and recommend sizes."""
    from worker.adapters.bundle import load_bundle
    from worker.adapters.onnx_bench import bench_bundle
    from worker.adapters.onnx_session import PROVIDERS
    from worker.errors import EnvironmentFault

    loaded = load_bundle(bundle)
    timings: list[Timing] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(provider or PROVIDERS):
        try:
            timings += bench_bundle(loaded, name, threads, seconds=seconds)
        except EnvironmentFault as error:
            if provider:
                raise
            left_out[name] = error.problems[0].message
    if json_output:
        facts = {"model": loaded.label, "intra_op_threads": threads, "not_measured": left_out}
        emit_json(facts | {"timings": [_fields(one) for one in timings], "recommended": _advice(timings)})
        return
    typer.echo(f"{loaded.label}, intra-op threads {threads}, microseconds (medians)")
    for line in _table(timings):
        typer.echo(line)
    for name, advice in _advice(timings).items():
        typer.echo(f"{name}: rows cost least from {advice['max_batch_size']} on, see batching.max_batch_size")
        if name != "cpu":
            typer.echo(f"{name}: batching.buckets: {advice['buckets']}")
    for name, reason in left_out.items():
        typer.echo(f"{name}: not measured: {reason}")


def _fields(timing: Timing) -> dict[str, object]:
    return asdict(timing) | {"row_us": timing.row_us}


def _advice(timings: Sequence[Timing]) -> Mapping[str, Mapping[str, object]]:
    """By provider, from the calls as the worker makes them."""
    from worker.adapters.onnx_bench import HOST, level_size, recommended_buckets

    plain: dict[str, list[Timing]] = {}
    for timing in timings:
        if timing.way == HOST:
            plain.setdefault(timing.provider, []).append(timing)
    return {
        name: {"max_batch_size": level_size(own), "buckets": list(recommended_buckets(own))}
        for name, own in plain.items()
    }


def _table(timings: Sequence[Timing]) -> list[str]:
    """One line per provider and size: a call, its spread, a row, and a call on bound buffers."""
    from worker.adapters.onnx_bench import HOST

    bound = {(one.provider, one.rows): f"{one.median_us:.1f}" for one in timings if one.way != HOST}
    lines = [f"{'provider':<9}{'rows':>6}{'call':>11}{'p10 - p90':>19}{'row':>10}{'bound call':>13}"]
    for one in timings:
        if one.way == HOST:
            spread = f"{one.p10_us:.1f} - {one.p90_us:.1f}"
            line = f"{one.provider:<9}{one.rows:>6}{one.median_us:>11.1f}{spread:>19}{one.row_us:>10.3f}"
            lines.append(f"{line}{bound.get((one.provider, one.rows), '-'):>13}")
    return lines
