"""What a model's input tensors look like and which event fields feed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Encoding = Literal["csv", "base64", "epoch_s"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input tensor of the model.

    ``shape`` leaves out the leading batch dimension: ``[batch, 15]`` is ``(15,)`` and ``[batch]`` is ``()``.
    ``dtype`` is a numpy name (``float32``, ``int64``, ``bool``, ...) or ``string``. ``fields`` are dotted paths
    into the event. With ``encoding`` there is one field, whose text holds the whole tensor of a row.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    encoding: Encoding | None = None

    @property
    def width(self) -> int:
        """How many numbers (or strings) one row holds."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One named output; ``width`` is None for a scalar per row, else the length of the vector."""

    name: str
    width: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionSpec:
    """A boolean ``field`` in the output: ``output >= threshold``."""

    output: str
    threshold: float
    field: str
