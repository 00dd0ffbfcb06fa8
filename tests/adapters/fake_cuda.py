"""An onnxruntime with a make-believe CUDA device: the CPU computes, memory and recorded graphs behave as on a GPU.

It stands in for what no test machine has. It can be told how many rows fit into memory, what goes wrong, and which
nodes are left to the CPU; it notes every call. Like ONNX Runtime it replays a recorded graph on the memory of its
recording, whatever is bound, and checks nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.adapters.onnx_builders import row_sum, write_bundle
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_model import OnnxModel

OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Gemm node. Name:'g' "
    "Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to "
    "allocate memory for requested buffer of size 285081600"
)
BUCKETS = (1, 8, 32)
_REAL = onnxruntime


@dataclass(frozen=True, slots=True)
class Node:
    """A node as a session reports it."""

    op_type: str
    name: str
    domain: str = ""


@dataclass(slots=True)
class Device:
    """The device: its faults, and what it did. ``calls`` holds way and rows of each call.

    ``memory_rows`` is the largest batch that memory takes. ``stale`` makes a replay go on reading what was bound when
    it was recorded. ``on_cpu`` are nodes that CUDA does not take.
    """

    memory_rows: int = 1 << 30
    no_graphs: str = ""
    recording_fails: str = ""
    binding_fails: str = ""
    stale: bool = False
    has_pinned: bool = False
    pinning_fails: str = ""
    on_cpu: list[Node] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    sessions: int = 0

    def sizes(self, way: str) -> list[int]:
        """The rows of each call that went this way."""
        return [rows for found, rows in self.calls if found == way]


class Value:
    """Memory of the device: a copy, unless it is pinned."""

    def __init__(self, array: np.ndarray, *, pinned: bool = False) -> None:
        self.array = array.copy()
        self._pinned = pinned

    def update_inplace(self, array: np.ndarray) -> None:
        """Copy to the device; the size must be right."""
        assert array.nbytes == self.array.nbytes
        self.array[...] = array

    def shape(self) -> list[int]:
        """As ONNX Runtime gives it: a list."""
        return list(self.array.shape)

    def numpy(self) -> np.ndarray:
        """A copy on the host; pinned memory itself."""
        return self.array if self._pinned else self.array.copy()

    def data_ptr(self) -> int:
        """The address."""
        return self.array.ctypes.data


class Options:
    """Run options."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Set one."""
        self.entries[key] = value


class Binding:
    """What is bound, by name."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """Bind an input."""
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        """Bind an output."""
        self.outputs[name] = value


class Session:
    """A session on the make-believe device."""

    def __init__(self, device: Device, path: str, *, has_graphs: bool) -> None:
        self._device = device
        self._has_graphs = has_graphs
        self._graphs: dict[int, Binding] = {}
        options = _REAL.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4
        self._real = _REAL.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        device.sessions += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        """CUDA first."""
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """One node on CUDA, and those that it does not take."""
        parts = {"CUDAExecutionProvider": [Node("Gemm", "g")], "CPUExecutionProvider": self._device.on_cpu}
        return [SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes) for name, nodes in parts.items()]

    def io_binding(self) -> Binding:
        """An empty binding."""
        return Binding()

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray], options: Options | None = None) -> Any:
        """Host arrays; in a session with graphs this must be told not to record."""
        assert not self._has_graphs or (options is not None and options.entries == {"gpu_graph_id": "-1"})
        self._note("host", next(iter(feeds.values())))
        return self._real.run(names, feeds)

    def run_with_iobinding(self, binding: Binding, options: Options | None = None) -> None:
        """Bound buffers, or the replay of a graph."""
        graph_id = int(options.entries["gpu_graph_id"]) if options is not None else 0
        first = next(iter(binding.inputs.values())).array
        if not self._has_graphs or graph_id == -1:
            self._note("bound", first)
            self._compute(binding, binding)
        elif graph_id in self._graphs:
            self._note("replay", first)
            recorded = self._graphs[graph_id]
            if not self._device.stale:
                self._compute(recorded, recorded)
        else:
            self._note("record", first)
            if self._device.recording_fails:
                raise RuntimeError(self._device.recording_fails)
            self._graphs[graph_id] = binding
            self._compute(binding, binding)

    def _note(self, way: str, array: np.ndarray) -> None:
        self._device.calls.append((way, len(array)))
        if len(array) > self._device.memory_rows:
            raise RuntimeError(OUT_OF_MEMORY)

    def _compute(self, source: Binding, target: Binding) -> None:
        feeds = {name: value.array for name, value in source.inputs.items()}
        found = self._real.run(list(target.outputs), feeds)
        for value, array in zip(target.outputs.values(), found, strict=True):
            value.array[...] = array


def make_runtime(device: Device) -> ModuleType:
    """An onnxruntime module with this device and the real CPU."""

    def make_values(shape: Sequence[int], dtype: Any, *where: object, memory_info: object = None) -> Value:
        if memory_info is None and device.binding_fails:
            raise RuntimeError(device.binding_fails)
        if memory_info is not None and device.pinning_fails:
            raise RuntimeError(device.pinning_fails)
        assert where in {(), ("cuda", 0)}
        return Value(np.zeros(shape, dtype), pinned=memory_info is not None)

    def open_one(path: str, options: Any = None, *, providers: Sequence[Any], **_more: object) -> Any:
        name, given = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
        if name == "CPUExecutionProvider":
            return _REAL.InferenceSession(path, options, providers=[name])
        has_graphs = given.get("enable_cuda_graph") == "1"
        if has_graphs and device.no_graphs:
            raise RuntimeError(device.no_graphs)
        return Session(device, path, has_graphs=has_graphs)

    pinned = SimpleNamespace(ep_name="CUDAExecutionProvider", memory_info=lambda _kind: "pinned")
    module = ModuleType("onnxruntime")
    vars(module).update(
        InferenceSession=open_one,
        SessionOptions=_REAL.SessionOptions,
        RunOptions=Options,
        OrtValue=SimpleNamespace(
            ortvalue_from_numpy=lambda array, *_where: Value(array), ortvalue_from_shape_and_type=make_values
        ),
        OrtDeviceMemoryType=SimpleNamespace(HOST_ACCESSIBLE="host"),
        get_ep_devices=lambda: [pinned] if device.has_pinned else [],
        preload_dlls=lambda: None,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    return module


def install(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """Let the adapters import this onnxruntime."""
    monkeypatch.setitem(sys.modules, "onnxruntime", make_runtime(device))


def load_model(folder: Path, model: bytes | None = None, *, graphs: bool = False, **changes: object) -> OnnxModel:
    """A model on the device, by default the sum of three fields, with ``BUCKETS``."""
    bundle = load_bundle(write_bundle(folder, row_sum() if model is None else model, **changes))
    return OnnxModel.load(bundle, ("cuda", "cpu"), buckets=BUCKETS, cuda_graphs=graphs)


def made_rows(count: int, first: int = 0) -> np.ndarray:
    """Rows of three numbers that count on."""
    return np.arange(first, first + count * 3, dtype=np.float32).reshape(count, 3)


def scores_of(model: OnnxModel, rows: np.ndarray) -> list[float]:
    """The one output."""
    scores: list[float] = model.run((rows,))["score"].tolist()
    return scores


def sums_of(rows: np.ndarray) -> list[float]:
    """What the default model gives for them."""
    sums: list[float] = rows.sum(axis=1).tolist()
    return sums
