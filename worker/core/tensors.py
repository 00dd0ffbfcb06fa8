"""Turn decoded rows into one input tensor: packed in bulk, checked in bulk, or row by row where that fails.

The bulk way may balk at any row. The row way (``TensorPacker.vector``) has the last word: what it returns or
refuses is the truth, and both give the same numbers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET

from worker.core.features import TensorSpec
from worker.core.plan import NAN, Path
from worker.core.specs import ArraySpec, NumberSpec, Spec
from worker.core.texts import FloatPacker, Unusable, bytes_from_base64, numbers_from_csv, seconds_from_time

Values = list[Any]

# What packing raises where a value is absent, null, or does not fit; the row way then decides.
_BALKS: Final = (struct.error, AttributeError, TypeError, OverflowError, Unusable)


class RowFault(Exception):
    """A row that cannot become a tensor row: dead-letter ``reason`` and a sentence naming the field."""

    def __init__(self, reason: str, error: str) -> None:
        self.reason = reason
        self.error = error
        super().__init__(error)


@dataclass(frozen=True, slots=True)
class Column:
    """One field of an input and the slots it fills; ``shape`` is () for a scalar."""

    path: Path
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of slots."""
        return math.prod(self.shape)


class TensorPacker:
    """Packs one input. ``columns`` are in the order of the slots and together fill ``spec.width``."""

    def __init__(self, spec: TensorSpec, columns: tuple[Column, ...]) -> None:
        self.spec = spec
        self.columns = columns
        self._is_text = spec.dtype == "string"
        self.dtype: np.dtype[Any] = np.dtype(object) if self._is_text else np.dtype(spec.dtype)
        self._is_float = self.dtype.kind == "f"
        code = "d" if self._is_float else "Q" if self.dtype == np.uint64 else "q"
        self._buffer = self._buffer_type(code)
        self._pack = struct.Struct(f"<{spec.width}{code}").pack
        scalars = spec.encoding is None and not any(column.shape for column in columns)
        self._never_absent = scalars and not any(column.path.optional for column in columns)
        # What stands for an absent or null scalar; None makes packing balk.
        self._fills = [_fill(column, is_float=self._is_float) for column in columns] if scalars else None
        self._low, self._high = self._bounds()
        self._is_packed_text = spec.encoding == "base64" or (spec.encoding == "csv" and self._is_float)
        self._text_to_bytes = FloatPacker().packed if spec.encoding == "csv" else bytes_from_base64
        self._leading = None if self._is_text else self._leading_scalars()
        self._flat = self._flat_getter()

    def _buffer_type(self, code: str) -> np.dtype[Any]:
        """The type in which values are packed and compared, wider than the tensor's own."""
        if self._is_text:
            return self.dtype
        return np.dtype("<f4" if self.spec.encoding == "base64" else {"d": "<f8", "Q": "<u8", "q": "<i8"}[code])

    def bulk(self, rows: Sequence[object]) -> tuple[np.ndarray, list[int]]:
        """Tensor ``dtype[len(rows), *shape]`` and the positions it balks at, whose content has no meaning."""
        if self._is_text:
            return self._bulk_text(rows)
        chunks, balked = self._chunks(rows)
        matrix = np.frombuffer(b"".join(chunks), self._buffer).reshape(len(rows), self.spec.width)
        # NaN passes the bounds: JSON cannot carry it, so that it only stands for an absent value; base64 can.
        outside = (matrix < self._low) | (matrix > self._high)
        bad = ~np.isfinite(matrix) if self.spec.encoding == "base64" else outside
        if bad.any():
            balked = sorted({*balked, *np.flatnonzero(bad.any(axis=1)).tolist()})
        with np.errstate(over="ignore", invalid="ignore"):
            tensor = matrix.astype(self.dtype)
        return tensor.reshape(len(rows), *self.spec.shape), balked

    def vector(self, row: object) -> np.ndarray:
        """``dtype[*shape]`` of one row that satisfies the schema. Raises ``RowFault``."""
        values: Values = []
        for column in self.columns:
            try:
                values += self._values(column, column.path.value(row))
            except Unusable as error:
                raise RowFault(error.reason, f"field {column.path.text} {error.text}") from None
        # By way of the buffer's type, as in bulk, so that both round alike.
        with np.errstate(over="ignore"):
            return np.array(values, self._buffer).astype(self.dtype).reshape(self.spec.shape)

    def zeros(self, count: int) -> np.ndarray:
        """Tensor of ``count`` empty rows."""
        return np.full((count, *self.spec.shape), "" if self._is_text else 0, self.dtype)

    def _chunks(self, rows: Sequence[object]) -> tuple[list[bytes], list[int]]:
        pack, flat = self._pack, self._flat
        try:
            if self._is_packed_text:
                return [self._raw(flat(row)) for row in rows], []
            if self._leading is not None:
                count, as_tuple = self._leading, msgspec.structs.astuple
                return [pack(*as_tuple(row)[:count]) for row in rows], []  # type: ignore[arg-type] # rows are structs
            return [pack(*flat(row)) for row in rows], []
        except _BALKS:
            return self._chunks_one_by_one(rows)

    def _chunks_one_by_one(self, rows: Sequence[object]) -> tuple[list[bytes], list[int]]:
        chunks: list[bytes] = []
        balked: list[int] = []
        empty = bytes(self.spec.width * self._buffer.itemsize)
        for position, row in enumerate(rows):
            try:
                chunks.append(self._chunk(row))
            except _BALKS:
                chunks.append(empty)
                balked.append(position)
        return chunks, balked

    def _chunk(self, row: object) -> bytes:
        if self._is_packed_text:
            return self._raw(self._flat(row))
        if self._fills is None:
            return self._pack(*self._flat(row))
        try:
            values = self._flat(row)
        except AttributeError:
            # A parent is absent or null.
            values = [column.path.value(row) for column in self.columns]
        pairs = zip(values, self._fills, strict=True)
        return self._pack(*[fill if value is None or value is UNSET else value for value, fill in pairs])

    def _raw(self, text: Any) -> bytes:
        """The packed buffer of one row's text. Raises ``Unusable``."""
        raw = self._text_to_bytes(text)
        needed = self.spec.width * self._buffer.itemsize
        if len(raw) != needed:
            raise Unusable("wrong_length", f"holds {len(raw)} bytes, {needed} are needed")
        return raw

    def _bulk_text(self, rows: Sequence[object]) -> tuple[np.ndarray, list[int]]:
        tensor = self.zeros(len(rows)).reshape(len(rows), self.spec.width)
        if self._never_absent and rows:
            tensor[:] = [self._flat(row) for row in rows]
            return tensor.reshape(len(rows), *self.spec.shape), []
        balked: list[int] = []
        for position, row in enumerate(rows):
            try:
                tensor[position] = self.vector(row).ravel()
            except RowFault:
                balked.append(position)
        return tensor.reshape(len(rows), *self.spec.shape), balked

    def _values(self, column: Column, value: object) -> Values:
        """Checked numbers (or texts) that one field puts into its slots. Raises ``Unusable``."""
        if value is None or value is UNSET:
            value = column.path.node.spec.default
        if value is None or value is UNSET:
            if not self._is_float:
                raise Unusable("missing_field", "is absent or null and has no default")
            return [NAN] * column.size
        values = self._decoded(column, value)
        if self._is_text:
            return values
        low, high = _dtype_range(self.dtype)
        for number in values:
            if number is not NAN and not low <= number <= high and not self._rounds_into_range(number):
                raise Unusable("out_of_range", f"does not fit {self.spec.dtype}")
        return values

    def _rounds_into_range(self, number: float) -> bool:
        if not self._is_float:
            return False
        try:
            with np.errstate(over="ignore"):
                return bool(np.isfinite(np.float64(number).astype(self.dtype)))
        except OverflowError:
            return False

    def _decoded(self, column: Column, value: Any) -> Values:
        match self.spec.encoding:
            case "csv":
                values = numbers_from_csv(value, integer=not self._is_float)
            case "base64":
                values = np.frombuffer(self._raw(value), "<f4").tolist()
                if not all(map(math.isfinite, values)):
                    raise Unusable("not_finite", "holds NaN or infinity")
            case "epoch_s":
                seconds = seconds_from_time(value)
                values = [seconds if self._is_float else math.floor(seconds)]
            case _:
                return self._flattened(column.path.node.spec, value, column.shape)
        if len(values) != column.size:
            raise Unusable("wrong_length", f"holds {len(values)} numbers, {column.size} are needed")
        return values

    def _flattened(self, spec: Spec, value: Any, shape: tuple[int, ...]) -> Values:
        if not shape or not isinstance(spec, ArraySpec):
            if value is not None:
                return [value]
            if spec.default is not UNSET and spec.default is not None:
                return [spec.default]
            if self._is_float:
                return [NAN]
            raise Unusable("missing_field", "holds a null item that has no default")
        if len(value) != shape[0]:
            raise Unusable("wrong_length", f"has {len(value)} items, {shape[0]} are needed")
        return list(chain.from_iterable(self._flattened(spec.items, part, shape[1:]) for part in value))

    def _flat_getter(self) -> Callable[[Any], Any]:
        """A function from a row to the flat values of all slots; it may raise any of ``_BALKS``."""
        column = self.columns[0]
        getter: Callable[[Any], Any] = attrgetter(*(".".join(column.path.attributes) for column in self.columns))
        if self._is_packed_text:
            return getter
        if self.spec.encoding == "csv":
            return lambda row: numbers_from_csv(getter(row), integer=True)
        if self.spec.encoding == "epoch_s":
            if self._is_float:
                return lambda row: (seconds_from_time(getter(row)),)
            return lambda row: (math.floor(seconds_from_time(getter(row))),)
        if all(not column.shape for column in self.columns):
            return getter if len(self.columns) > 1 else lambda row: (getter(row),)
        if len(self.columns) == 1 and len(column.shape) == 1:
            return getter
        return lambda row: chain.from_iterable(
            self._flattened(part.path.node.spec, part.path.value(row), part.shape) for part in self.columns
        )

    def _leading_scalars(self) -> int | None:
        """How many slots, where they are scalars and the first attributes of the row, in order; such pack quickest."""
        count = len(self.columns)
        if self.spec.encoding is not None or any(column.shape for column in self.columns):
            return None
        named = [column.path.attributes for column in self.columns]
        return count if named == [(f"f{index}",) for index in range(count)] else None

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Inclusive bounds per slot in the buffer's type: the schema's and the tensor type's, the narrower."""
        low, high = _dtype_range(self.dtype)
        lows: Values = []
        highs: Values = []
        for column in self.columns:
            least, most = low, high
            leaf = _leaf(column.path.node.spec)
            if isinstance(leaf, NumberSpec):
                least, most = _narrowed(leaf, low, high, is_float=self._is_float)
            lows += [least] * column.size
            highs += [most] * column.size
        return np.array(lows, self._buffer), np.array(highs, self._buffer)


def _leaf(spec: Spec) -> Spec:
    while isinstance(spec, ArraySpec):
        spec = spec.items
    return spec


def _dtype_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        return -limit, limit
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(info.min), int(info.max)
    return 0, 1


def _narrowed(spec: NumberSpec, low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """The schema's bounds within ``low`` and ``high``."""
    least, most = spec.limits(whole=not is_float)
    least = low if least is None else max(low, least)
    most = high if most is None else min(high, most)
    # Bounds that no value of the tensor type meets: an empty range, which the buffer's type can hold.
    return (least, most) if least <= most else (1, 0)


def _fill(column: Column, *, is_float: bool) -> object:
    default = column.path.node.spec.default
    if default is not UNSET and default is not None:
        return default
    return NAN if is_float else None
