"""Opens ONNX Runtime sessions: which provider is asked, which one answers, and why where they differ."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.errors import BundleError, EnvironmentFault, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    import onnxruntime

PROVIDERS: Final = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_SHORT_NAMES: Final = {name: short for short, name in PROVIDERS.items()}
# The arena otherwise doubles past every batch; TF32 rounds float32 products to ten bits, which scores would show.
_CUDA_OPTIONS: Final = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, the provider in use, and a sentence where that is not the one asked for first.

    ``nodes`` counts the graph's nodes by the provider that runs them, after optimisation.
    """

    session: onnxruntime.InferenceSession
    provider: str
    fallback: str | None
    nodes: dict[str, int]


def open_session(
    model_path: Path, providers: Sequence[str], require_provider: str | None, intra_op_threads: int
) -> Opened:
    """Open ``model_path`` on the first of ``providers`` (``cuda``, ``cpu``) that works.

    Raises ``EnvironmentFault`` where onnxruntime is missing, no provider works, or the one that does is not
    ``require_provider``; ``BundleError`` where ONNX Runtime refuses the model.
    """
    runtime = import_runtime()
    wanted = [require_provider] if require_provider is not None else list(dict.fromkeys(providers))
    reasons: list[str] = []
    for short in wanted:
        reason = _unavailable(runtime, short)
        if reason is None:
            session, reason = _try_open(runtime, model_path, short, intra_op_threads, is_last=short == wanted[-1])
            if session is not None:
                fallback = f"using {short}, because {'; '.join(reasons)}" if reasons else None
                return Opened(session, short, fallback, _count_nodes(session))
        reasons.append(reason)
    raise _no_provider(runtime, wanted, require_provider, reasons)


def import_runtime() -> ModuleType:
    """The onnxruntime module; raises ``EnvironmentFault`` with the command to type where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        message = f"ONNX Runtime cannot be imported: {error}"
        remedy = "Type `pip install 'headrace[cpu]'`, or on a machine with an NVIDIA GPU `pip install 'headrace[gpu]'`."
        raise EnvironmentFault(Problem(message, remedy, code="onnxruntime_missing")) from error
    return onnxruntime  # type: ignore[no-any-return, unused-ignore]  # the package has no type marker


def _unavailable(runtime: ModuleType, short: str) -> str | None:
    name = PROVIDERS.get(short)
    if name is None:
        return f"'{short}' is not one of the known providers {', '.join(PROVIDERS)}"
    if name not in runtime.get_available_providers():
        return f"the installed onnxruntime was built without {short}"
    return None


def _try_open(
    runtime: ModuleType, model_path: Path, short: str, intra_op_threads: int, *, is_last: bool
) -> tuple[Any, str]:
    """The session, or None and the reason why ``short`` does not work here."""
    # ONNX Runtime prints its troubles to the standard output, which may be carrying our JSON.
    with contextlib.redirect_stdout(sys.stderr):
        if short == "cuda":
            runtime.preload_dlls()
        try:
            session = runtime.InferenceSession(
                str(model_path),
                _session_options(runtime, intra_op_threads),
                providers=[(PROVIDERS[short], _CUDA_OPTIONS if short == "cuda" else {})],
                enable_fallback=0,
            )
        except Exception as error:
            # Any type may come: the binding raises its own. A refusal by the CPU is the model's fault.
            if short == "cpu":
                raise _refused(model_path, error) from error
            if is_last:
                _check_loads_on_cpu(runtime, model_path, error)
            return None, f"{short} failed: {_first_line(error)}"
    if session.get_providers()[0] != PROVIDERS[short]:
        return None, f"{short} could not be started (driver or CUDA libraries missing)"
    return session, ""


def _check_loads_on_cpu(runtime: ModuleType, model_path: Path, cause: Exception) -> None:
    """Tell a bad model from a bad device: a model that the CPU refuses too is the bundle's fault."""
    try:
        runtime.InferenceSession(str(model_path), _session_options(runtime, 1), providers=[PROVIDERS["cpu"]])
    except Exception as error:  # noqa: BLE001  the binding's exceptions share no base class
        raise _refused(model_path, error) from cause


def _session_options(runtime: ModuleType, intra_op_threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # Fatal only: errors come back as exceptions, and a row that the model refuses is no news for the log.
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _count_nodes(session: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        short = _SHORT_NAMES.get(part.ep_name, part.ep_name)
        counts[short] = counts.get(short, 0) + len(part.get_nodes())
    return counts


def _refused(model_path: Path, error: Exception) -> BundleError:
    message = f"ONNX Runtime refuses the model: {_first_line(error)}"
    remedy = "Export the model again, for an operator set that this onnxruntime knows."
    return BundleError(Problem(message, remedy, str(model_path), code="model_refused"))


def _no_provider(
    runtime: ModuleType, wanted: list[str], require_provider: str | None, reasons: list[str]
) -> EnvironmentFault:
    available = [_SHORT_NAMES[name] for name in runtime.get_available_providers() if name in _SHORT_NAMES]
    asked = f"model.require_provider is {require_provider}" if require_provider else f"asked for {', '.join(wanted)}"
    message = (
        f"no usable execution provider: {asked}, this onnxruntime has {', '.join(available)}: {'; '.join(reasons)}"
    )
    key = "model.require_provider" if require_provider else "model.providers"
    if "cuda" in wanted:
        gpu = "install `headrace[gpu]` instead of `headrace[cpu]`, with an NVIDIA driver of branch 580 or newer"
        remedy = f"For CUDA, {gpu}; or put cpu into model.providers and clear model.require_provider."
    else:
        remedy = "Put cpu into model.providers."
    return EnvironmentFault(Problem(message, remedy, key=key, code="provider_missing"))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
