"""The ONNX Runtime adapter: what it refuses at load, how it runs, pads, warms up and checks golden rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from tests.adapters.onnx_builders import (
    identity,
    minus_batch_mean,
    model_bytes,
    row_sum,
    table_lookup,
    value,
    write_bundle,
    write_golden,
)
from worker.adapters.bundle import load_bundle
from worker.adapters.onnx_invariance import check_invariance
from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_rows import largest_difference, sample_rows
from worker.adapters.onnx_session import open_session
from worker.core.features import OutputSpec
from worker.core.records import Decoded, Refusal
from worker.errors import BundleError, EngineFault, EnvironmentFault, ModelError, Problem

INDEX_INPUT = [{"name": "x", "dtype": "int64", "shape": ["batch"], "fields": ["a"]}]


def _load(folder: Path, model: bytes, **changes: object) -> OnnxModel:
    return OnnxModel.load(load_bundle(write_bundle(folder, model, **changes)), ("cpu",))


def _problems(folder: Path, model: bytes, **changes: object) -> tuple[Problem, ...]:
    with pytest.raises(BundleError) as caught:
        _load(folder, model, **changes)
    return caught.value.problems


def _problem(folder: Path, model: bytes, **changes: object) -> Problem:
    problems = _problems(folder, model, **changes)
    assert len(problems) == 1, problems
    return problems[0]


def _rows(count: int) -> np.ndarray:
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


class _Decoder:
    """Stands in for the core's decoder: gives prepared tensors, refuses the rows it is told to."""

    def __init__(self, tensors: tuple[np.ndarray, ...], refusals: dict[int, Refusal] | None = None) -> None:
        self._decoded = Decoded(tensors, [None] * len(tensors[0]), refusals or {})

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        assert len(values) == len(self._decoded.rows)
        return self._decoded


def _check_golden(model: OnnxModel, decoder: _Decoder) -> None:
    model.check_golden(decoder)  # type: ignore[arg-type]  # only decode() is called


def test_scores_a_batch(tmp_path: Path) -> None:
    """One column left out of `column` is a scalar a row, on the provider that was asked for."""
    model = _load(tmp_path, row_sum())

    assert model.outputs == (OutputSpec("score"),)
    assert (model.provider, model.fallback, model.label) == ("cpu", None, "fraud@1.0.0")
    assert sum(model.placement.counts.values()) == model.placement.counts["cpu"] > 0
    assert model.run((_rows(4),))["score"].tolist() == [3.0, 12.0, 21.0, 30.0]


def test_vector_and_column_of_one_output(tmp_path: Path) -> None:
    """Several outputs may read the same tensor: all of it, or one column."""
    outputs = {"all": {"output": "y"}, "last": {"output": "y", "column": 2}}
    model = _load(tmp_path, identity(), outputs=outputs)

    found = model.run((_rows(2),))

    assert model.outputs == (OutputSpec("all", 3), OutputSpec("last"))
    assert found["all"].tolist() == _rows(2).tolist()
    assert found["last"].tolist() == [2.0, 5.0]


@pytest.mark.parametrize("out_shape", [None, (None, None), ("n", "m")])
def test_open_output_shape_is_learned(tmp_path: Path, out_shape: Sequence[str | None] | None) -> None:
    """A width that the graph leaves open is known after loading."""
    model = _load(tmp_path, identity((None, "m"), out_shape=out_shape))

    assert model.outputs == (OutputSpec("score", 3),)


def test_one_dimensional_output(tmp_path: Path) -> None:
    """An output of shape [batch] is a scalar, also under `column: 0`."""
    outputs = {"score": {"output": "y"}, "same": {"output": "y", "column": 0}}
    model = _load(tmp_path, table_lookup(5), inputs=INDEX_INPUT, outputs=outputs)

    found = model.run((np.array([1, 4]),))

    assert model.outputs == (OutputSpec("score"), OutputSpec("same"))
    assert found["score"].tolist() == found["same"].tolist() == [10.0, 40.0]


def test_image_like_input(tmp_path: Path) -> None:
    """A tensor of several dimensions is fed as it is declared."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    axes = {"axes": np.array([1, 2], np.int64)}
    graph = model_bytes(nodes, [value("x", "float32", [None, 1, 784])], [value("y", "float32", [None])], axes)
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 784], "fields": ["pixels"], "encoding": "csv"}]
    model = _load(tmp_path, graph, inputs=inputs)

    model.warm_up()

    assert model.run((np.ones((2, 1, 784), np.float32),))["score"].tolist() == [784.0, 784.0]


def test_float_matrix_and_string_input(tmp_path: Path) -> None:
    """Several inputs at once, one of them text."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node(
            "LabelEncoder", ["kind"], ["code"], domain="ai.onnx.ml", keys_strings=["é"], values_floats=[7.0]
        ),
        helper.make_node("Add", ["sum", "code"], ["y"]),
    ]
    graph = model_bytes(
        nodes,
        [value("x", "float32", [None, 3]), value("kind", "string", [None, 1])],
        [value("y", "float32", [None, 1])],
        {"axes": np.array([1], np.int64)},
    )
    inputs = [
        {"name": "kind", "dtype": "string", "shape": ["batch", 1], "fields": ["kind"]},
        {"name": "x", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]},
    ]
    model = _load(tmp_path, graph, inputs=inputs)
    model.warm_up()
    model.probe()

    found = model.run((np.array([["é"], [""]], dtype=object), _rows(2)))

    assert found["score"].tolist() == [10.0, 12.0]


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "bool", "int64"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    """Numbers of every kind and booleans run through unchanged."""
    inputs = [{"name": "x", "dtype": dtype, "shape": ["batch", 3], "fields": ["a", "b", "c"]}]
    model = _load(tmp_path, identity(dtype=dtype), inputs=inputs)
    model.warm_up()
    rows = _rows(2).astype(dtype)

    found = model.run((rows,))["score"]

    assert found.dtype == rows.dtype
    assert found.tolist() == rows.tolist()


def test_wrong_input_name_and_output_name(tmp_path: Path) -> None:
    """Names that the graph does not have come with a suggestion and the manifest's line, all at once."""
    inputs = [{"name": "X", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}]

    found = {
        problem.key: problem
        for problem in _problems(tmp_path, row_sum(), inputs=inputs, outputs={"s": {"output": "z"}})
    }

    assert set(found) == {"inputs[0].name", "inputs", "outputs.s.output"}
    assert found["inputs[0].name"].line == 6
    assert found["inputs"].message == "the graph needs 'x', which the manifest does not feed"
    assert "y" in found["outputs.s.output"].remedy


def test_wrong_dtype(tmp_path: Path) -> None:
    """A dtype that differs from the graph's says what to write."""
    inputs = [{"name": "x", "dtype": "float64", "shape": ["batch", 3], "fields": ["a", "b", "c"]}]

    problem = _problem(tmp_path, row_sum(), inputs=inputs)

    assert (problem.key, problem.remedy) == ("inputs[0].dtype", "Write `dtype: float32`.")


@pytest.mark.parametrize("shape", [["batch", 2], ["batch", 3, 1], ["batch"]])
def test_wrong_shape(tmp_path: Path, shape: list[object]) -> None:
    """A rank or size that differs from the graph's says what to write."""
    inputs = [{"name": "x", "dtype": "float32", "shape": shape, "fields": ["a"]}]

    problem = _problem(tmp_path, row_sum(), inputs=inputs)

    assert (problem.key, problem.remedy) == ("inputs[0].shape", "Write `shape: [batch, 3]`.")


def test_fixed_batch_dimension(tmp_path: Path) -> None:
    """A graph made for one batch size is refused with the way to export it."""
    problem = _problem(tmp_path, row_sum(batch=1))

    assert (problem.code, problem.key) == ("fixed_batch", "inputs[0].shape")
    assert "dynamic" in problem.remedy


def test_zipmap_from_scikit_learn(tmp_path: Path) -> None:
    """A sequence of maps is refused with the converter option that avoids it."""
    rows = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]], np.float32)
    classifier = LogisticRegression().fit(rows, [0, 1])
    graph = to_onnx(classifier, rows[:1], options={id(classifier): {"zipmap": True}}).SerializeToString()
    inputs = [{"name": "X", "dtype": "float32", "shape": ["batch", 3], "fields": ["a", "b", "c"]}]
    outputs = {"score": {"output": "output_probability", "column": 1}}

    problem = _problem(tmp_path, graph, inputs=inputs, outputs=outputs)

    assert problem.code == "zipmap"
    assert "{'zipmap': False}" in problem.remedy


@pytest.mark.parametrize("out_shape", [(None, 3), None])
def test_column_out_of_range(tmp_path: Path, out_shape: Sequence[int | None] | None) -> None:
    """A column beyond the output is refused, also where only a run shows how many there are."""
    problem = _problem(
        tmp_path, identity((None, "m"), out_shape=out_shape), outputs={"s": {"output": "y", "column": 3}}
    )

    assert problem.key == "outputs.s.column"
    assert "from 0 to 2" in problem.remedy


@pytest.mark.parametrize("shape", [(None, 1, 3), None])
def test_output_of_three_dimensions(tmp_path: Path, shape: Sequence[int | None] | None) -> None:
    """A row holds a number or a vector; more dimensions are refused, also where only a run shows them."""
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 3], "fields": ["a"]}]

    problem = _problem(tmp_path, identity(shape, out_shape=shape), inputs=inputs)

    assert problem.key == "outputs.score.output"
    assert "Reshape" in problem.remedy


def test_text_output(tmp_path: Path) -> None:
    """Texts cannot be an output."""
    inputs = [{"name": "x", "dtype": "string", "shape": ["batch", 3], "fields": ["a", "b", "c"]}]

    assert "tensors of numbers" in _problem(tmp_path, identity(dtype="string"), inputs=inputs).message


@pytest.mark.parametrize("out_shape", [(None, 3), None])
def test_decision_on_a_vector(tmp_path: Path, out_shape: Sequence[int | None] | None) -> None:
    """A decision compares one number with the threshold, so a vector is refused."""
    decision = {"output": "score", "threshold": 0.5, "field": "flag"}

    problem = _problem(tmp_path, identity((None, "m"), out_shape=out_shape), decision=decision)

    assert problem.key == "decision.output"


def test_model_that_onnxruntime_refuses(tmp_path: Path) -> None:
    """A well-formed file with an operator nobody knows is the bundle's fault."""
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"])]
    graph = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 1])])

    problem = _problem(tmp_path, graph)

    assert problem.code == "model_refused"
    assert "NoSuchOperator" in problem.message


def test_call_that_raises(tmp_path: Path) -> None:
    """What ONNX Runtime raises on a batch becomes a ModelError with its cause."""
    model = _load(tmp_path, table_lookup(5), inputs=INDEX_INPUT)

    with pytest.raises(ModelError) as caught:
        model.run((np.array([1, 9]),))

    assert caught.value.__cause__ is not None
    model.probe()


def test_wrong_number_of_rows(tmp_path: Path) -> None:
    """A graph that gives another number of rows than it got is caught on every call."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)]
    axes = {"axes": np.array([0], np.int64)}
    graph = model_bytes(nodes, [value("x", "float32", [None, 3])], [value("y", "float32", [None, 3])], axes)
    model = _load(tmp_path, graph)

    with pytest.raises(ModelError, match="for a batch of 2 rows"):
        model.run((_rows(2),))
    with pytest.raises(BundleError, match="fails on 512 warm-up rows"):
        model.warm_up()


class _Recorder:
    """A session that notes the number of rows of each call."""

    def __init__(self, session: Any) -> None:
        self.sizes: list[int] = []
        self.last_rows: list[float] = []
        self._session = session

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(feeds["x"]))
        self.last_rows.append(float(feeds["x"][-1].sum()))
        found: list[np.ndarray] = self._session.run(names, feeds)
        return found


def _recorded(model: OnnxModel) -> _Recorder:
    """Note the calls of ``model``."""
    recorder = _Recorder(model._session)
    model._session = recorder
    return recorder


def test_no_padding_on_the_processor(tmp_path: Path) -> None:
    """The CPU computes just the rows it gets."""
    model = _load(tmp_path, row_sum())
    recorder = _recorded(model)

    model.run((_rows(9),))

    assert recorder.sizes == [9]


def test_warm_up_order(tmp_path: Path) -> None:
    """Each bucket runs twice, the largest first, so that memory is claimed once."""
    model = _load(tmp_path, row_sum())
    recorder = _recorded(model)

    model.warm_up()

    assert recorder.sizes == [512, 512, 128, 128, 32, 32, 8, 8, 1, 1]


class _Broken:
    """A session whose device is gone."""

    def run(self, _names: list[str], _feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("device lost")


def test_probe_of_a_broken_engine(tmp_path: Path) -> None:
    """When even a good row fails, the engine is at fault, not the data."""
    model = _load(tmp_path, row_sum())
    model.probe()
    model._session = _Broken()

    with pytest.raises(EngineFault, match="device lost"):
        model.probe()


def _golden_model(folder: Path, expected: list[float], **more: object) -> OnnxModel:
    write_bundle(folder, row_sum(), golden="golden.json")
    write_golden(folder, [{}] * len(expected), {"score": expected}, **more)
    return OnnxModel.load(load_bundle(folder), ("cpu",), buckets=(1, 2))


def test_golden_rows_agree(tmp_path: Path) -> None:
    """Golden rows within the tolerance pass, and the largest difference is kept."""
    model = _golden_model(tmp_path, [3.0, 12.0, 21.0], tolerance=0.001)

    _check_golden(model, _Decoder((_rows(3),)))

    assert model.golden_difference == 0.0


def test_golden_rows_differ(tmp_path: Path) -> None:
    """The row that is off most is named, with what it gave and what was expected."""
    model = _golden_model(tmp_path, [3.0, 12.5, 22.0])

    with pytest.raises(BundleError, match=r"golden row 2 gives score = 21\.0, expected 22\.0") as caught:
        _check_golden(model, _Decoder((_rows(3),)))

    assert caught.value.problems[0].file == str(tmp_path.resolve() / "golden.json")


def test_golden_rows_of_another_shape(tmp_path: Path) -> None:
    """A vector expected from a scalar output is refused."""
    write_bundle(tmp_path, row_sum(), golden="golden.json")
    write_golden(tmp_path, [{}], {"score": [[1, 2]]})
    model = OnnxModel.load(load_bundle(tmp_path), ("cpu",))

    with pytest.raises(BundleError, match="has shape"):
        _check_golden(model, _Decoder((_rows(1),)))


def test_golden_row_that_the_decoder_refuses(tmp_path: Path) -> None:
    """A golden row that is no valid event is the bundle's fault."""
    model = _golden_model(tmp_path, [3.0, 12.0])
    refusal = Refusal("validate", "missing_field", "amount is missing")

    with pytest.raises(BundleError, match="golden row 1 is refused as missing_field: amount is missing"):
        _check_golden(model, _Decoder((_rows(2),), {1: refusal}))


def test_golden_row_serves_as_the_good_row(tmp_path: Path) -> None:
    """After the golden check, warm-up and probe use a golden row, for models that cannot take zeros."""
    model = _golden_model(tmp_path, [3.0, 12.0])
    _check_golden(model, _Decoder((_rows(2),)))
    recorder = _recorded(model)

    model.warm_up()
    model.probe()

    assert recorder.sizes == [2, 2, 1, 1, 1]
    assert set(recorder.last_rows) == {3.0}


def test_no_golden_rows(tmp_path: Path) -> None:
    """A bundle without golden rows has nothing to compare."""
    model = _load(tmp_path, row_sum())

    _check_golden(model, _Decoder((_rows(1),)))

    assert model.golden_difference is None


@pytest.mark.parametrize(
    ("actual", "expected", "row", "difference"),
    [
        ([0.0, 0.5], [0.0, 0.25], 1, 0.25),
        ([2000.0, 0.0], [1000.0, 0.5], 0, 1.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0, 0.0),
        ([1.0, np.nan], [1.0, 1.0], 1, np.inf),
        ([np.inf, 1.0], [np.inf, 1.0], 0, 0.0),
        ([-np.inf, 1.0], [np.inf, 1.0], 0, np.inf),
    ],
)
def test_largest_difference(actual: list[float], expected: list[float], row: int, difference: float) -> None:
    """Differences are absolute below one and relative above; a lone NaN or infinity is infinitely off."""
    assert largest_difference(np.array(actual), np.array(expected)) == (row, difference)


def test_row_by_row_model_is_invariant(tmp_path: Path) -> None:
    """A model that looks at one row at a time scores it the same everywhere."""
    model = _load(tmp_path, row_sum())

    seen = check_invariance(model, sample_rows(model.inputs))

    assert seen.difference < 1e-6
    assert (seen.rows, seen.refused) == (16, 0)


def test_model_that_mixes_rows_is_found(tmp_path: Path) -> None:
    """Subtracting the batch's mean makes a row depend on its neighbours, which the check sees and places."""
    model = _load(tmp_path, minus_batch_mean())

    seen = check_invariance(model, sample_rows(model.inputs))

    assert seen.difference > 0.1
    assert "in a batch of" in seen.where


def test_rows_the_model_refuses_are_left_out(tmp_path: Path) -> None:
    """Rows on which the model raises alone say nothing about batches, and are counted."""
    model = _load(tmp_path, table_lookup(2), inputs=INDEX_INPUT)

    seen = check_invariance(model, (np.array([0, 7, 1, 9]),))

    assert (seen.rows, seen.refused, seen.difference) == (2, 2, 0.0)


def test_missing_provider_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA is not built in, the next provider serves, with a sentence for the log."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle = load_bundle(write_bundle(tmp_path, row_sum()))

    model = OnnxModel.load(bundle, ("cuda", "cpu"))

    assert model.provider == "cpu"
    assert model.fallback == "using cpu, because the installed onnxruntime was built without cuda"


@pytest.mark.parametrize(("providers", "required"), [(("cuda",), None), (("cuda", "cpu"), "cuda")])
def test_provider_that_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: tuple[str, ...], required: str | None
) -> None:
    """Without the only or required provider the worker refuses to start, naming what is asked and what there is."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle = load_bundle(write_bundle(tmp_path, row_sum()))

    with pytest.raises(EnvironmentFault, match=r"cuda.*has cpu") as caught:
        OnnxModel.load(bundle, providers, required)

    assert "headrace[gpu]" in caught.value.problems[0].remedy


def test_required_provider_that_is_there(tmp_path: Path) -> None:
    """A required provider is the one in use, whatever stands before it in the list."""
    bundle = load_bundle(write_bundle(tmp_path, row_sum()))

    model = OnnxModel.load(bundle, ("cuda", "cpu"), "cpu")

    assert (model.provider, model.fallback) == ("cpu", None)


class _Session:
    """A session that reports the given providers."""

    def __init__(self, *providers: str) -> None:
        self._providers = list(providers)

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[object]:
        return []


def _runtime(monkeypatch: pytest.MonkeyPatch, cuda: _Session | Exception, cpu: _Session | Exception) -> None:
    """An onnxruntime with CUDA built in, which gives (or raises) what it is told."""

    class SessionOptions:
        def add_session_config_entry(self, _key: str, _value: str) -> None:
            pass

    def open_one(_path: str, _options: object, providers: list[Any], **_more: object) -> _Session:
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        answer = cuda if first == "CUDAExecutionProvider" else cpu
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("onnxruntime")
    vars(module).update(
        InferenceSession=open_one,
        SessionOptions=SessionOptions,
        preload_dlls=lambda: sys.stdout.write("chatter"),
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def test_cuda_in_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first provider that starts is used; the library's chatter stays off the standard output."""
    session = _Session("CUDAExecutionProvider", "CPUExecutionProvider")
    _runtime(monkeypatch, session, _Session("CPUExecutionProvider"))

    opened = open_session(Path("m.onnx"), ("cuda", "cpu"), None, 1)

    assert (opened.session, opened.provider, opened.fallback) == (session, "cuda", None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cuda", [_Session("CPUExecutionProvider"), RuntimeError("no device\ndetails")])
def test_cuda_that_does_not_start(monkeypatch: pytest.MonkeyPatch, cuda: _Session | Exception) -> None:
    """CUDA that is built in but silently dropped, or that raises, is seen; the reason is kept."""
    _runtime(monkeypatch, cuda, _Session("CPUExecutionProvider"))

    opened = open_session(Path("m.onnx"), ("cuda", "cpu"), None, 1)

    assert opened.provider == "cpu"
    assert opened.fallback is not None
    assert opened.fallback.startswith("using cpu, because cuda ")
    with pytest.raises(EnvironmentFault, match="require_provider is cuda"):
        open_session(Path("m.onnx"), ("cuda", "cpu"), "cuda", 1)


def test_bad_model_is_not_blamed_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that the CPU refuses too is the bundle's fault, even where only CUDA was asked for."""
    _runtime(monkeypatch, RuntimeError("bad graph"), RuntimeError("bad graph"))

    with pytest.raises(BundleError, match="refuses the model: bad graph"):
        open_session(Path("m.onnx"), ("cuda",), None, 1)


def test_onnxruntime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime the command to type is named, and it is the environment's fault."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(EnvironmentFault) as caught:
        open_session(Path("m.onnx"), ("cpu",), None, 1)

    assert "pip install 'headrace[cpu]'" in caught.value.problems[0].remedy
    assert caught.value.exit_code == 3
