"""``python -m benchmarks.gpu``: what a GPU is worth to the worker, measured on the machine at hand.

Per model: ONNX Runtime alone beside the worker's engine at each batch size, then the whole pipeline over an in-process
broker. Writes JSON and Markdown into ``benchmarks/results``. ``--provider cpu`` measures the processor instead.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu import calls, models, report, stream
from benchmarks.harness.machine import machine
from benchmarks.harness.places import CACHE, RESULTS
from worker import __version__
from worker.errors import EnvironmentFault, HeadraceError

SIZES = (1, 8, 32, 128, 512, 2048, 8192)
EVENTS = {"small": 200_000, "wide": 100_000, "crayfish": 50_000}
MAX_BATCH_SIZE = 2048
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "numpy")


def main(given: Sequence[str]) -> int:
    """Measure, print the page, write the files; returns the exit code."""
    options = _parser().parse_args(given)
    try:
        name, driver = device(options.provider)
        found = report.Report(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(["python", "-m", "benchmarks.gpu", *given]),
            provider=options.provider,
            device=name,
            driver=driver,
            machine=machine(),
            versions=_versions(),
        )
        for model in options.model or models.MODELS:
            _measure(found, model, options)
    except EnvironmentFault as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        if options.provider == "cuda":
            print("Nothing was measured; --provider cpu measures the processor instead.", file=sys.stderr)
        return error.exit_code
    except HeadraceError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return error.exit_code
    paths = report.save(found, options.out)
    print(report.markdown(found))
    print("written: " + ", ".join(map(str, paths)))
    return 0


def device(provider: str) -> tuple[str, str]:
    """The name of the device and its driver; raises ``EnvironmentFault`` where there is no GPU."""
    if provider == "cpu":
        return machine()["processor"], ""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise EnvironmentFault("no GPU found: there is no nvidia-smi on the path")
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    lines = answer.stdout.strip().splitlines()
    if answer.returncode or not lines:
        raise EnvironmentFault(f"no GPU found: nvidia-smi says {(answer.stderr or answer.stdout).strip()!r}")
    name, _, driver = lines[0].partition(",")
    return name.strip(), driver.strip()


def _measure(found: report.Report, model: str, options: argparse.Namespace) -> None:
    pool = models.pool(model, options.cache)
    print(f"{model}: calls of {len(options.size or SIZES)} sizes", file=sys.stderr)
    found.calls[model] = calls.measure(
        model, pool.folder, options.provider, sorted(options.size or SIZES), options.seconds
    )
    if options.no_pipeline:
        return
    ways = ("bound_buffers", "cuda_graphs") if options.provider == "cuda" else ("bound_buffers",)
    # The processor beside the device: what the device is worth to the pipeline is the difference.
    runs = [(options.provider, way) for way in ways] + [("cpu", "bound_buffers")] * (options.provider == "cuda")
    for provider, way in runs:
        events = options.events or EVENTS[model]
        print(f"{model}: {events} events through the pipeline, {provider}, {way}", file=sys.stderr)
        found.streams.append(stream.measure(pool, model, provider, way, events, MAX_BATCH_SIZE))


def _versions() -> dict[str, str]:
    found = {"headrace": __version__, "python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="what to measure (cuda)")
    parser.add_argument("--model", action="append", choices=list(models.MODELS), help="only these (repeatable)")
    parser.add_argument("--size", action="append", type=int, metavar="N", help="only these batch sizes (repeatable)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="time for each size and caller (0.5)")
    parser.add_argument("--events", type=int, metavar="N", help="length of the backlog, for each model")
    parser.add_argument("--no-pipeline", action="store_true", help="calls only")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the files go")
    parser.add_argument("--cache", type=Path, default=CACHE / "gpu", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
