"""Opens ONNX Runtime sessions: which provider is asked, which one answers, and why where they differ."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.adapters.onnx_placement import PROVIDERS, SHORT_NAMES, Placement, read_placement
from worker.errors import BundleError, EnvironmentFault, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    import onnxruntime

# The arena otherwise doubles past every batch; TF32 rounds float32 products to ten bits, which scores would show.
_CUDA_OPTIONS: Final = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, the provider in use, and a sentence where that is not the one asked for first.

    ``placement`` says which of the graph's nodes runs where. ``has_graphs`` tells that the session records a CUDA
    graph in each call that does not forbid it.
    """

    session: onnxruntime.InferenceSession
    provider: str
    fallback: str | None
    placement: Placement
    has_graphs: bool = False


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
                return Opened(session, short, fallback, read_placement(session))
        reasons.append(reason)
    raise _no_provider(runtime, wanted, require_provider, reasons)


def reopen_with_graphs(model_path: Path, provider: str, intra_op_threads: int) -> tuple[Opened | None, str]:
    """A session that records CUDA graphs; None, and the reason, where ONNX Runtime refuses."""
    session, reason = _try_open(import_runtime(), model_path, provider, intra_op_threads, has_graphs=True)
    if session is None:
        return None, reason
    return Opened(session, provider, None, read_placement(session), has_graphs=True), ""


def usable_providers() -> list[str]:
    """The known providers that the installed onnxruntime was built with; each may still fail to start."""
    runtime = import_runtime()
    return [short for short in PROVIDERS if _unavailable(runtime, short) is None]


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
    runtime: ModuleType,
    model_path: Path,
    short: str,
    intra_op_threads: int,
    *,
    is_last: bool = False,
    has_graphs: bool = False,
) -> tuple[Any, str]:
    """The session, or None and the reason why ``short`` does not work here."""
    options: dict[str, str] = {}
    if short == "cuda":
        options = _CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if has_graphs else {})
    # ONNX Runtime prints its troubles to the standard output, which may be carrying our JSON.
    with contextlib.redirect_stdout(sys.stderr):
        if short == "cuda":
            runtime.preload_dlls()
        try:
            session = runtime.InferenceSession(
                str(model_path),
                _session_options(runtime, intra_op_threads),
                providers=[(PROVIDERS[short], options)],
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


def _refused(model_path: Path, error: Exception) -> BundleError:
    message = f"ONNX Runtime refuses the model: {_first_line(error)}"
    remedy = "Export the model again, for an operator set that this onnxruntime knows."
    return BundleError(Problem(message, remedy, str(model_path), code="model_refused"))


def _no_provider(
    runtime: ModuleType, wanted: list[str], require_provider: str | None, reasons: list[str]
) -> EnvironmentFault:
    available = [SHORT_NAMES[name] for name in runtime.get_available_providers() if name in SHORT_NAMES]
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
