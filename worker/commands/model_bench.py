"""``headrace model bench``: what a call of the model costs on this machine, and the batch sizes that follow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import JsonOption
from worker.commands.report import emit_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.adapters.onnx_bench import Bench, Timing


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
    from worker.adapters.onnx_placement import PROVIDERS
    from worker.errors import EnvironmentFault

    loaded = load_bundle(bundle)
    benches: dict[str, Bench] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(provider or PROVIDERS):
        try:
            benches[name] = bench_bundle(loaded, name, threads, seconds=seconds)
        except EnvironmentFault as error:
            if provider:
                raise
            left_out[name] = error.problems[0].message
    if json_output:
        facts = {"model": loaded.label, "intra_op_threads": threads, "not_measured": left_out}
        emit_json(facts | _document(benches))
        return
    typer.echo(f"{loaded.label}, intra-op threads {threads}, microseconds (medians)")
    for line in (*_lines(benches), *(f"{name}: not measured: {reason}" for name, reason in left_out.items())):
        typer.echo(line)


def _document(benches: Mapping[str, Bench]) -> dict[str, object]:
    return {
        "timings": [_fields(timing) for one in benches.values() for timing in one.timings],
        "recommended": _advice(benches),
        "notes": {name: list(one.notes) for name, one in benches.items()},
    }


def _lines(benches: Mapping[str, Bench]) -> Iterator[str]:
    yield from _table([timing for one in benches.values() for timing in one.timings])
    for name, advice in _advice(benches).items():
        yield f"{name}: rows cost least from {advice['max_batch_size']} on, see batching.max_batch_size"
        if name != "cpu":
            yield f"{name}: batching.buckets: {advice['buckets']}"
    for name, one in benches.items():
        yield from (f"{name}: {note}" for note in one.notes)


def _fields(timing: Timing) -> dict[str, object]:
    return asdict(timing) | {"row_us": timing.row_us}


def _advice(benches: Mapping[str, Bench]) -> Mapping[str, Mapping[str, object]]:
    """By provider, from the calls as the worker makes them there."""
    from worker.adapters.onnx_bench import level_size, recommended_buckets

    advice: dict[str, Mapping[str, object]] = {}
    for name, bench in benches.items():
        own = [timing for timing in bench.timings if timing.way == bench.way]
        advice[name] = {"way": bench.way, "max_batch_size": level_size(own), "buckets": list(recommended_buckets(own))}
    return advice


def _table(timings: Sequence[Timing]) -> list[str]:
    """One line per provider and size: a call with host arrays, its spread, a row; the other ways' calls and rows."""
    from worker.adapters.onnx_device import BOUND, GRAPH, HOST

    by_key = {(one.provider, one.rows, one.way): one for one in timings}
    plain = f"{'provider':<9}{'rows':>6}{'call':>11}{'p10 - p90':>19}{'row':>10}"
    lines = [f"{plain}{'bound call':>13}{'row':>10}{'graph call':>13}{'row':>10}"]
    for one in timings:
        if one.way != HOST:
            continue
        spread = f"{one.p10_us:.1f} - {one.p90_us:.1f}"
        line = f"{one.provider:<9}{one.rows:>6}{one.median_us:>11.1f}{spread:>19}{one.row_us:>10.3f}"
        for way in (BOUND, GRAPH):
            other = by_key.get((one.provider, one.rows, way))
            line += f"{'-':>13}{'-':>10}" if other is None else f"{other.median_us:>13.1f}{other.row_us:>10.3f}"
        lines.append(line)
    return lines
