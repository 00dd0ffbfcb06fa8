"""The memory ladder: how far it falls, when it rises, when it gives up, and whose messages it knows."""

from __future__ import annotations

import pytest

from tests.adapters.fake_cuda import OUT_OF_MEMORY
from worker.adapters.onnx_memory import MemoryLadder, is_out_of_memory
from worker.errors import EngineFault
from worker.testing import ManualClock

BUCKETS = (1, 8, 32, 128, 512)
NO_MEMORY = RuntimeError(OUT_OF_MEMORY)
COOL_DOWN_S = 60.0


def _ladder(clock: ManualClock, buckets: tuple[int, ...] = BUCKETS) -> MemoryLadder:
    return MemoryLadder(buckets, clock, COOL_DOWN_S)


@pytest.mark.parametrize(
    "text",
    [
        OUT_OF_MEMORY,
        "bfc_arena.cc Available memory of 1024 is smaller than requested bytes of 4096",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN failure 5001: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
    ],
)
def test_messages_of_memory(text: str) -> None:
    """Each layer below has words of its own for it."""
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "indices element out of data bounds, idx=9 must be within the inclusive range [-5,4]",
        "CUDA failure 700: an illegal memory access was encountered",
        "CUDA failure 719: unspecified launch failure",
        "Got invalid dimensions for input: x",
    ],
)
def test_messages_of_other_faults(text: str) -> None:
    """A bad row, or a broken device, is no want of memory."""
    assert not is_out_of_memory(RuntimeError(text))


def test_python_may_run_out_itself() -> None:
    """The binding turns a failed allocation on the host into Python's own error, which says nothing."""
    assert is_out_of_memory(MemoryError())


def test_half_of_what_failed_is_the_new_ceiling() -> None:
    """The buckets below stay, and the half becomes the largest size."""
    heard: list[int] = []
    ladder = _ladder(ManualClock())
    ladder.changed = heard.append
    ladder.failed(512, NO_MEMORY)
    assert (ladder.ceiling, ladder.sizes) == (256, (1, 8, 32, 128, 256))
    ladder.failed(256, NO_MEMORY)
    assert ladder.sizes == (1, 8, 32, 128)
    assert heard == [256, 128]


def test_the_ceiling_holds_until_the_cool_down_is_over() -> None:
    """Then one step up may be tried; success raises the ceiling, and the next step waits again."""
    clock = ManualClock()
    ladder = _ladder(clock)
    ladder.failed(512, NO_MEMORY)
    ladder.failed(256, NO_MEMORY)
    clock.advance(COOL_DOWN_S - 1)
    assert ladder.largest() == 128
    clock.advance(1)
    assert ladder.largest() == 256
    ladder.succeeded(256)
    assert (ladder.ceiling, ladder.largest()) == (256, 256)
    clock.advance(COOL_DOWN_S)
    assert ladder.largest() == 512
    ladder.succeeded(512)
    assert ladder.sizes == BUCKETS


def test_a_step_up_that_fails_waits_for_the_next_cool_down() -> None:
    """The ceiling is what it was, and nobody is told anew."""
    clock = ManualClock()
    heard: list[int] = []
    ladder = _ladder(clock)
    ladder.failed(512, NO_MEMORY)
    ladder.changed = heard.append
    clock.advance(COOL_DOWN_S)
    ladder.failed(ladder.largest(), NO_MEMORY)
    assert (ladder.ceiling, ladder.largest(), heard) == (256, 256, [])


def test_a_small_call_that_fails_lowers_the_ceiling_below_it() -> None:
    """Where not even 8 rows fit, larger calls need not be tried."""
    ladder = _ladder(ManualClock())
    ladder.failed(8, NO_MEMORY)
    assert ladder.sizes == (1, 4)


def test_it_gives_up_at_the_smallest_bucket() -> None:
    """Once may be a neighbour's doing, twice in a row ends the process."""
    ladder = _ladder(ManualClock(), (4, 16))
    ladder.failed(4, NO_MEMORY)
    ladder.succeeded(4)
    ladder.failed(4, NO_MEMORY)
    with pytest.raises(EngineFault, match="no memory even for a batch of 4") as caught:
        ladder.failed(4, NO_MEMORY)
    assert caught.value.problems[0].code == "out_of_memory"
    assert caught.value.exit_code == 5


def test_it_never_falls_below_the_smallest_bucket() -> None:
    """Half of the next one is raised to it."""
    ladder = _ladder(ManualClock(), (48, 64))
    ladder.failed(64, NO_MEMORY)
    assert ladder.sizes == (48,)
