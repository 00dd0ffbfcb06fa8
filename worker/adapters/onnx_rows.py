"""Rows for a model: made-up ones, zeros, padding; and how far two results are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.features import TensorSpec

Tensors = tuple[np.ndarray, ...]

SEED: Final = 20_160_512
SAMPLE_ROWS: Final = 16


def sample_rows(inputs: Sequence[TensorSpec], rows: int = SAMPLE_ROWS) -> Tensors:
    """Made-up rows, the same in each call: normal numbers, small integers, short texts."""
    random = np.random.default_rng(SEED)
    return tuple(_sample(spec, rows, random) for spec in inputs)


def _sample(spec: TensorSpec, rows: int, random: np.random.Generator) -> np.ndarray:
    shape = (rows, *spec.shape)
    if spec.dtype == "string":
        return random.choice(np.array(["", "a", "b", "abc"], dtype=object), shape)
    if spec.dtype.startswith("float"):
        return random.standard_normal(shape).astype(spec.dtype)
    # Integers are often indices into a table of unknown size: only the first two are safe.
    return random.integers(0, 2, shape).astype(spec.dtype)


def zero_rows(inputs: Sequence[TensorSpec], rows: int) -> Tensors:
    """``rows`` rows of zeros, and of empty strings for string inputs."""
    return tuple(_zeros(spec, rows) for spec in inputs)


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray:
    shape = (rows, *spec.shape)
    return np.full(shape, "", dtype=object) if spec.dtype == "string" else np.zeros(shape, dtype=spec.dtype)


def repeated(row: Tensors, rows: int) -> Tensors:
    """``rows`` copies of one row."""
    return tuple(np.repeat(tensor, rows, axis=0) for tensor in row)


def padded(tensors: Tensors, rows: int) -> Tensors:
    """``tensors`` filled up to ``rows`` rows; the very same where they have so many."""
    if len(tensors[0]) == rows:
        return tensors
    return tuple(_pad(tensor, rows) for tensor in tensors)


def _pad(tensor: np.ndarray, rows: int) -> np.ndarray:
    # A real row, because zeros may be outside of what the model can take.
    return np.concatenate([tensor, np.repeat(tensor[-1:], rows - len(tensor), axis=0)])


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """The row that is off most, and by how much, relative to the expected value where that is above one.

    Arrays of one shape, at least one row; a value that is not finite in only one of them is off by infinity.
    """
    left, right = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        off = np.abs(left - right) / np.maximum(1.0, np.abs(right))
    off = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
    by_row = off.reshape(len(off), -1).max(axis=1)
    row = int(by_row.argmax())
    return row, float(by_row[row])
