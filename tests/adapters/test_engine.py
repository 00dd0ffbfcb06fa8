"""The engine thread: order, isolation of culprits, faults passed on, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import numpy as np
import pytest

from worker.adapters import engine as engine_module
from worker.adapters.engine import Engine, assemble
from worker.core.actions import Outcome
from worker.core.batching import Batch, FlushReason
from worker.core.place import FIRST_TRIAL, SHORT_S
from worker.core.records import Block, Slice
from worker.errors import EngineFault, ModelError
from worker.testing import FakeDecoder, FakeModel, ManualClock, make_span

TIMEOUT_S = 20.0


def _rows(values: Sequence[int], start: int = 0, stop: int | None = None) -> Slice:
    span = make_span(("in", 0), range(len(values)), [b"%d" % value for value in values])
    return Slice(Block(span, FakeDecoder().decode(span.values)), start, len(values) if stop is None else stop)


def _batch(*slices: Slice) -> Batch:
    size = sum(rows.stop - rows.start for rows in slices)
    return Batch(list(slices), size, 0, FlushReason.SIZE, 0.0)


class _Results:
    """What the engine finished, readable from the test's thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Batch, Outcome | BaseException]] = SimpleQueue()

    def finished(self, batch: Batch, result: Outcome | BaseException) -> None:
        self._queue.put((batch, result))

    def next(self) -> tuple[Batch, Outcome | BaseException]:
        return self._queue.get(timeout=TIMEOUT_S)


@pytest.fixture
def model() -> FakeModel:
    """Doubles; poison is 13, NaN comes from 7."""
    return FakeModel(poison=[13], nan=[7])


@pytest.fixture
def results() -> _Results:
    """The engine's results."""
    return _Results()


@pytest.fixture
def engine(model: FakeModel, results: _Results) -> Iterator[Engine]:
    """A started engine, ended after the test."""
    engine = Engine(model, results.finished)
    engine.start()
    yield engine
    model.gate.set()
    engine.stop()
    engine._thread.join(TIMEOUT_S)


def test_batches_finish_in_the_order_they_were_given(engine: Engine, results: _Results) -> None:
    """Each batch comes back once, with one score per row."""
    batches = [_batch(_rows([number, number + 1])) for number in range(20, 40)]
    for batch in batches:
        engine.submit(batch)
    for number, batch in enumerate(batches, 20):
        finished, outcome = results.next()
        assert finished is batch
        assert isinstance(outcome, Outcome)
        assert outcome.outputs["score"].tolist() == [2 * number, 2 * number + 2]
        assert outcome.refusals == {}


def test_the_engine_is_busy_while_the_model_runs(
    engine: Engine, model: FakeModel, results: _Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the running call shows, and is gone with its end."""
    clock = ManualClock()
    monkeypatch.setattr(engine_module, "time", clock)
    assert engine.busy_s() == 0.0
    model.gate.clear()
    engine.submit(_batch(_rows([1])))
    assert model.entered.wait(TIMEOUT_S)
    clock.advance(61.0)
    assert engine.busy_s() == 61.0
    model.gate.set()
    results.next()
    assert engine.busy_s() == 0.0


def test_a_culprit_is_refused_and_its_neighbours_scored(model: FakeModel, results: _Results) -> None:
    """After a model error the engine proves itself on a good row, then finds the culprit."""
    outcome = Engine(model, results.finished).run(_batch(_rows([1, 13, 3])))
    assert model.probes == 1
    assert model.calls[:2] == [3, 3]
    assert {row: (refusal.stage, refusal.reason) for row, refusal in outcome.refusals.items()} == {
        1: ("infer", "model_error")
    }
    assert outcome.outputs["score"].tolist() == [2.0, 0.0, 6.0]


def test_rows_that_are_not_finite_are_refused(model: FakeModel, results: _Results) -> None:
    """NaN refuses its row only, beside culprits too; a healthy batch costs neither probe nor repetition."""
    outcome = Engine(model, results.finished).run(_batch(_rows([7, 1])))
    assert {row: refusal.reason for row, refusal in outcome.refusals.items()} == {0: "output_not_finite"}
    assert (model.probes, model.calls) == (0, [2])
    outcome = Engine(model, results.finished).run(_batch(_rows([7, 13, 1])))
    assert {row: refusal.reason for row, refusal in outcome.refusals.items()} == {
        0: "output_not_finite",
        1: "model_error",
    }


def test_a_broken_engine_is_no_fault_of_the_data(engine: Engine, model: FakeModel, results: _Results) -> None:
    """When even a good row fails, no row is blamed: the fault itself is the result, and the thread lives on."""
    model.broken = True
    engine.submit(_batch(_rows([1, 2])))
    _, result = results.next()
    assert isinstance(result, EngineFault)
    assert (model.probes, model.calls) == (1, [2])
    model.broken = False
    engine.submit(_batch(_rows([1])))
    assert isinstance(results.next()[1], Outcome)


def test_any_other_exception_is_the_result(
    engine: Engine, model: FakeModel, results: _Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug reaches the loop instead of ending the thread unseen."""

    def bug(_: object) -> dict[str, np.ndarray]:
        raise KeyError("bug")

    monkeypatch.setattr(model, "run", bug)
    engine.submit(_batch(_rows([1])))
    assert isinstance(results.next()[1], KeyError)
    assert model.probes == 0


def test_a_fault_during_isolation_is_not_swallowed(
    model: FakeModel, results: _Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only model errors are bisected."""
    errors: list[Exception] = [ModelError("first"), MemoryError("second")]

    def fail(_: object) -> dict[str, np.ndarray]:
        raise errors.pop(0)

    monkeypatch.setattr(model, "run", fail)
    with pytest.raises(MemoryError, match="second"):
        Engine(model, results.finished).run(_batch(_rows([1, 2])))


def test_the_thread_ends_after_the_batches_it_has(model: FakeModel, results: _Results) -> None:
    """Stopping waits for nothing and loses nothing that was submitted before."""
    engine = Engine(model, results.finished)
    engine.start()
    batches = [_batch(_rows([number])) for number in range(3)]
    for batch in batches:
        engine.submit(batch)
    engine.stop()
    engine._thread.join(TIMEOUT_S)
    assert not engine._thread.is_alive()
    assert [results.next()[0] for _ in batches] == batches


def test_a_single_slice_is_not_copied() -> None:
    """The model reads the decoded columns themselves."""
    rows = _rows([1, 2, 3, 4], 1, 3)
    (tensor,) = assemble(_batch(rows))
    assert tensor.tolist() == [[2.0], [3.0]]
    assert np.shares_memory(tensor, rows.block.decoded.tensors[0])


def test_several_slices_are_joined_in_order() -> None:
    """Rows of several spans stand one after the other, for every input alike."""
    first, second = _rows([1, 2, 3], 1, 3), _rows([4, 5], 0, 1)
    for rows in (first, second):
        column = rows.block.decoded.tensors[0]
        rows.block.decoded.tensors = (column, -column)
    tensors = assemble(_batch(first, second))
    assert [tensor.tolist() for tensor in tensors] == [[[2.0], [3.0], [4.0]], [[-2.0], [-3.0], [-4.0]]]


def _promised(batch: Batch, expected_s: float | None, *, learned: bool = True) -> Batch:
    batch.expected_s, batch.is_learned = expected_s, learned
    return batch


def test_a_call_that_promises_to_be_short_is_run_at_once(model: FakeModel, results: _Results) -> None:
    """Without the thread, which need not even run; its errors come back as results."""
    engine = Engine(model, results.finished)
    outcome = engine.submit(_promised(_batch(_rows([4])), SHORT_S / 2))
    assert isinstance(outcome, Outcome)
    assert outcome.outputs["score"].tolist() == [8]
    model.broken = True
    assert isinstance(engine.submit(_promised(_batch(_rows([13])), SHORT_S / 2)), EngineFault)
    assert engine.busy_s() == 0.0


@pytest.mark.parametrize(
    ("expected_s", "learned", "thread_bound"),
    [(None, True, False), (SHORT_S, True, False), (SHORT_S / 2, False, False), (SHORT_S / 2, True, True)],
)
def test_other_calls_go_to_the_thread(
    engine: Engine,
    model: FakeModel,
    results: _Results,
    monkeypatch: pytest.MonkeyPatch,
    expected_s: float | None,
    learned: bool,
    thread_bound: bool,
) -> None:
    """Those that are long, or may be, and those of a device."""
    monkeypatch.setattr(model, "thread_bound", thread_bound)
    assert engine.submit(_promised(_batch(_rows([4])), expected_s, learned=learned)) is None
    results.next()


def test_a_call_that_the_thread_makes_long_is_tried_on_the_loop(
    engine: Engine, model: FakeModel, results: _Results
) -> None:
    """Now and then; its result, here an error, comes back at once."""
    model.broken = True
    for _ in range(FIRST_TRIAL - 1):
        assert engine.submit(_promised(_batch(_rows([13])), SHORT_S * 2)) is None
        results.next()
        engine.returned()
    assert isinstance(engine.submit(_promised(_batch(_rows([13])), SHORT_S * 2)), EngineFault)


def test_a_short_call_overtakes_none(engine: Engine, model: FakeModel, results: _Results) -> None:
    """Until the loop has taken what was given to the thread before."""
    model.gate.clear()
    first, second = _batch(_rows([1])), _promised(_batch(_rows([2])), SHORT_S / 2)
    assert engine.submit(first) is None
    assert engine.submit(second) is None
    model.gate.set()
    for batch in (first, second):
        assert results.next()[0] is batch
        engine.returned()
    assert engine.submit(_promised(_batch(_rows([3])), SHORT_S / 2)) is not None
