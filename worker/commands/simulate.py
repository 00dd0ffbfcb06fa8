"""``headrace simulate``: what a load and a configuration would come to, without Kafka and in virtual time."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json
from worker.errors import ConfigError, Problem

if TYPE_CHECKING:
    from worker.core.simulation import Load, Machine, Result, Rules
    from worker.settings import Settings

FIT_RECORDS = 20_000
"""Enough for steady means, few enough for a dozen runs within seconds."""

SHARES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
WARM_UP = 0.1
"""Share of the records, the first ones, that latencies leave out."""

RateOption = Annotated[float | None, typer.Option(min=0.1, max=1e7, help="Records per second, arriving independently.")]
SecondsOption = Annotated[float, typer.Option(min=0.1, max=3600, help="Length of the load.")]
PartitionsOption = Annotated[int, typer.Option(min=1, max=10_000, help="Partitions that they arrive in.")]
BytesOption = Annotated[int, typer.Option(min=1, help="Bytes of a record's value.")]
TickOption = Annotated[float, typer.Option(min=0, max=1000, help="A producer's linger: records come so often only.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of all that is by chance: the same seed, the same result.")]
PaddedOption = Annotated[bool, typer.Option("--padded", help="Pad batches to their bucket, as on a GPU.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Another value of a setting: batching.max_batch_size=256.")
]

app = typer.Typer(help=__doc__, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def simulate(  # noqa: PLR0913, PLR0917 # a parameter is an option of the command line
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    changes: SetOption = None,
    rate: RateOption = None,
    trace: Annotated[Path | None, typer.Option(help="Arrivals, a line each: seconds and partition.")] = None,
    seconds: SecondsOption = 10.0,
    partitions: PartitionsOption = 8,
    value_bytes: BytesOption = 500,
    tick_ms: TickOption = 0.0,
    seed: SeedOption = 1,
    machine: Annotated[Path | None, typer.Option(help="What `headrace simulate fit` printed.")] = None,
    bench: Annotated[Path | None, typer.Option(help="What `headrace model bench --json` printed.")] = None,
    provider: Annotated[str | None, typer.Option(help="Whose calls of --bench; default: the first one's.")] = None,
    call_us: Annotated[float | None, typer.Option(min=0.001, help="A model call, whatever its size.")] = None,
    row_us: Annotated[float | None, typer.Option(min=0, help="What a record adds to it.")] = None,
    padded: PaddedOption = False,
    json_output: JsonOption = False,
) -> None:
    """Predict latency, batches and utilisation of a load under the settings, and under others by --set."""
    if context.invoked_subcommand is not None:
        return
    from worker.commands.simulate_inputs import read_trace
    from worker.core.simulation import poisson
    from worker.core.simulation import simulate as simulated

    if trace is not None and rate is None:
        load = read_trace(trace, value_bytes)
    elif rate is not None and trace is None:
        load = poisson(rate, seconds, partitions, tick_s=tick_ms / 1000, value_bytes=value_bytes, seed=seed)
    else:
        raise typer.BadParameter("give either --rate or --trace")
    rules = rules_of(settings_with(config, changes or []), padded=padded)
    on = _machine(machine, bench, provider, (call_us, row_us), rules.batch.max_batch_size)
    summary = summarise(simulated(on, rules, load, seed), load)
    if json_output:
        emit_json(summary)
    else:
        typer.echo("\n".join(text_lines(summary)))


@app.command("fit")
def fit(  # noqa: PLR0913, PLR0917 # as above
    metrics: Annotated[Path, typer.Argument(help="What /metrics showed at the end of a constant load.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long it lasted.")],
    before: Annotated[Path | None, typer.Option(help="What /metrics showed when it began; default: nothing.")] = None,
    capacity: Annotated[float | None, typer.Option(min=0.1, help="Records a second that the worker can do.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    partitions: PartitionsOption = 8,
    value_bytes: BytesOption = 500,
    tick_ms: TickOption = 0.0,
    padded: PaddedOption = False,
) -> None:
    """Print, as JSON for --machine, the costs of the machine on which these metrics were measured."""
    from worker.commands.simulate_inputs import machine_fields, read_measured
    from worker.core.simulation import poisson
    from worker.core.simulation_fit import fit as fitted

    measured = read_measured(metrics, before, seconds)
    rate = measured.records / measured.seconds
    lasts_s = min(seconds, max(FIT_RECORDS / rate, 2.0))
    load = poisson(rate, lasts_s, partitions, tick_s=tick_ms / 1000, value_bytes=value_bytes)
    emit_json(machine_fields(fitted(measured, rules_of(settings_with(config, []), padded=padded), load, capacity)))


def settings_with(config: Path, changes: list[str]) -> Settings:
    """The settings, with ``section.key=value`` changes; raises ConfigError."""
    from worker.config_file import load_with_origins
    from worker.settings_fields import fields

    known = {".".join(path): entry.variable for path, entry in fields().items()}
    environ = dict(os.environ)
    unknown: list[Problem] = []
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{change!r} is not of the form section.key=value")
        if key in known:
            environ[known[key]] = value
        else:
            close = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {close[0]}?" if close else "docs/configuration.md lists what there is"
            unknown.append(Problem(f"{key} is no setting", remedy, key="--set", code="unknown_key"))
    if unknown:
        raise ConfigError(*unknown)
    return load_with_origins(config, environ).settings


def rules_of(settings: Settings, *, padded: bool) -> Rules:
    """What of the settings the simulation goes by."""
    from worker.core.simulation import Rules
    from worker.limits import batch_limits, flow_limits, poll_limit

    batch = batch_limits(settings, padded=padded)
    return Rules(batch, flow_limits(settings), poll_limit(settings), settings.batching.gather_s)


def summarise(result: Result, load: Load) -> dict[str, Any]:
    """The figures of a result, in types of JSON; latencies in milliseconds, of what came after the warm-up."""
    import numpy as np

    late = result.sent_at >= load.times_s[int(len(load.times_s) * WARM_UP)]
    latency: dict[str, dict[str, float]] = {}
    for name, values_s in (("appended_ms", result.appended_s), ("acknowledged_ms", result.delivered_s)):
        points = np.percentile(values_s[late] * 1000, list(SHARES.values())).tolist()
        latency[name] = {share: round(value, 3) for share, value in zip(SHARES, points, strict=True)}
    batches = result.sizes.total()
    ordered = np.repeat(*(np.array(column) for column in zip(*sorted(result.sizes.items()), strict=True)))
    sizes = dict(zip(SHARES, np.percentile(ordered, list(SHARES.values())).tolist(), strict=True))
    return {
        "records": len(result.sent_at),
        "seconds": round(result.until_s, 3),
        "records_per_second": round(len(result.sent_at) / result.until_s, 1),
        "latency": latency,
        "batches": batches,
        "batch_size": {"mean": round(len(result.sent_at) / batches, 2)} | sizes,
        "reasons": dict(result.reasons.most_common()),
        "engine_share": round(result.engine_share, 4),
        "loop_share": round(result.loop_share, 4),
    }


def text_lines(summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    done = f"{summary['records']} records in {summary['seconds']:g} s, {summary['records_per_second']:g} a second"
    lines = [done, f"{'ms, append to':<16}" + "".join(f"{share:>10}" for share in SHARES)]
    for name, title in (("appended_ms", "append"), ("acknowledged_ms", "acknowledgement")):
        lines.append(f"{title:<16}" + "".join(f"{value:>10.2f}" for value in summary["latency"][name].values()))
    sizes = "  ".join(f"{name} {value:g}" for name, value in summary["batch_size"].items())
    reasons = "  ".join(f"{name} {count}" for name, count in summary["reasons"].items())
    shares = f"engine {summary['engine_share']:.0%}  loop {summary['loop_share']:.0%}"
    return [*lines, f"batch size      {sizes}", f"closed by       {reasons}", f"busy            {shares}"]


def _machine(
    machine: Path | None,
    bench: Path | None,
    provider: str | None,
    call_us: tuple[float | None, float | None],
    most: int,
) -> Machine:
    """The machine of a file, or a typical one, with other model calls where timings or a line (us) are given."""
    from worker.commands.simulate_inputs import TYPICAL, read_calls, read_machine

    on = read_machine(machine) if machine else TYPICAL
    if bench:
        on = replace(on, calls=read_calls(bench, provider))
    if call_us != (None, None):
        fixed_s, per_row_s = ((one or 0.0) * 1e-6 for one in call_us)
        on = replace(on, calls=((1, fixed_s + per_row_s), (most, fixed_s + per_row_s * most)))
    return on
