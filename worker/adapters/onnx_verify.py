"""Every check that a bundle must pass, one after the other, each with its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np

from worker.adapters.bundle import DEFAULT_TOLERANCE, Bundle, load_bundle
from worker.adapters.onnx_invariance import check_invariance
from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_rows import sample_rows
from worker.core.specs import SchemaError
from worker.errors import BundleError, EngineFault, ModelError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.core.decoder import Decoder

DecoderFactory = Callable[[Bundle], "Decoder"]
_Result = TypeVar("_Result")
_GOLDEN_ROWS: Final = 12
Status = Literal["ok", "failed", "left out"]


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict: ``detail`` says what was seen, ``problems`` what is wrong where ``status`` is ``failed``."""

    name: str
    status: Status
    detail: str
    problems: tuple[Problem, ...] = ()


def verify_bundle(
    path: Path,
    make_decoder: DecoderFactory | None = None,
    providers: Sequence[str] = ("cuda", "cpu"),
    buckets: Sequence[int] = (1, 8, 32, 128, 512),
) -> list[Check]:
    """Run all start-up checks and batch invariance on the bundle folder ``path``.

    Without ``make_decoder`` (no event schema) the golden rows cannot be read and are left out. Raises
    ``EnvironmentFault`` where this machine cannot run any model.
    """
    checks = _Checks()
    bundle = checks.run("manifest and hashes", lambda: load_bundle(path), _bundle_detail)
    if bundle is None:
        return checks.leave_out(("graph", "event schema", "golden rows", "warm-up", "batch invariance"), "no bundle")
    model = checks.run("graph", lambda: OnnxModel.load(bundle, providers, buckets=buckets), _model_detail)
    decoder = None
    if make_decoder is None:
        checks.leave_out(("event schema",), "give --schema to check the fields against it")
    else:
        decoder = checks.run("event schema", lambda: make_decoder(bundle), lambda _: "all fields fit")
    if model is None:
        return checks.leave_out(("golden rows", "warm-up", "batch invariance"), "no model")
    _check_golden(checks, bundle, model, decoder)
    checks.run("warm-up", model.warm_up, lambda _: f"buckets {', '.join(map(str, reversed(model.buckets)))}")
    checks.run("batch invariance", lambda: _check_invariance(bundle, model, decoder), str)
    return checks.done


class _Checks:
    def __init__(self) -> None:
        self.done: list[Check] = []

    def run(self, name: str, check: Callable[[], _Result], detail: Callable[[_Result], str]) -> _Result | None:
        """The check's result, or None where it failed."""
        try:
            result = check()
        except (BundleError, EngineFault, SchemaError) as error:
            self.done.append(
                Check(name, "failed", "; ".join(found.message for found in error.problems), error.problems)
            )
            return None
        except ModelError as error:
            self.done.append(Check(name, "failed", str(error), (Problem(str(error), code="model_error"),)))
            return None
        self.done.append(Check(name, "ok", detail(result)))
        return result

    def leave_out(self, names: Sequence[str], reason: str) -> list[Check]:
        self.done.extend(Check(name, "left out", reason) for name in names)
        return self.done


def _bundle_detail(bundle: Bundle) -> str:
    return f"{bundle.label}, sha256 {bundle.sha256[:12]}"


def _model_detail(model: OnnxModel) -> str:
    nodes = ", ".join(f"{count} on {provider}" for provider, count in sorted(model.placement.counts.items()))
    outputs = ", ".join(f"{spec.name}[{spec.width}]" if spec.width else spec.name for spec in model.outputs)
    fallback = f" ({model.fallback})" if model.fallback else ""
    left = model.placement.left_behind(model.provider)
    return f"provider {model.provider}{fallback}; nodes: {nodes}{f' ({left})' if left else ''}; outputs: {outputs}"


def _check_golden(checks: _Checks, bundle: Bundle, model: OnnxModel, decoder: Decoder | None) -> None:
    golden = bundle.golden
    if golden is None:
        checks.leave_out(("golden rows",), "the bundle has none")
    elif decoder is None:
        checks.leave_out(("golden rows",), "they can only be read by an event schema that fits: give --schema")
    else:
        rows, tolerance = len(golden.rows), golden.tolerance
        checks.run(
            "golden rows",
            lambda: model.check_golden(decoder),
            lambda _: f"{rows} rows, largest difference {model.golden_difference:.3g}, tolerance {tolerance:g}",
        )


def _check_invariance(bundle: Bundle, model: OnnxModel, decoder: Decoder | None) -> str:
    tolerance = bundle.golden.tolerance if bundle.golden is not None else DEFAULT_TOLERANCE
    golden = model.golden_tensors(decoder) if decoder is not None else None
    rows, kind = sample_rows(model.inputs), "made-up"
    if golden is not None:
        # Few or equal golden rows would hide a row's dependence on its neighbours.
        rows = tuple(np.concatenate([few[:_GOLDEN_ROWS], some]) for few, some in zip(golden, rows, strict=True))
        kind = "golden and made-up"
    seen = check_invariance(model, rows)
    if seen.rows == 0:
        message = f"the model refuses all of {seen.refused} {kind} rows, so invariance could not be seen"
        remedy = "Add golden rows that the model takes, and give --schema."
        raise BundleError(Problem(message, remedy, str(bundle.model_path), code="batch_invariance"))
    if seen.difference > tolerance:
        message = f"{seen.where} is off by {seen.difference:.3g} from the row alone, tolerance {tolerance:g}"
        remedy = (
            "Remove what mixes rows (a mean over the batch, batch normalisation in training mode), "
            "or state a larger tolerance in the golden file."
        )
        raise BundleError(Problem(message, remedy, str(bundle.model_path), code="batch_invariance"))
    return f"{seen.rows} {kind} rows, largest difference {seen.difference:.3g}, tolerance {tolerance:g}"
