"""A clock, spans, codecs and a model without Kafka or ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from worker.core.records import Decoded, Header, Refusal, Span, TopicPartition
from worker.errors import EngineFault, ModelError


class ManualClock:
    """A clock that moves when told to; stands in for the ``time`` module wherever a module reads one."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now

    monotonic = perf_counter = time = __call__

    def advance(self, seconds: float) -> float:
        """Move on; returns the new time."""
        self.now += seconds
        return self.now


def make_span(
    tp: tuple[str, int],
    offsets: Sequence[int],
    values: Sequence[bytes | None] | None = None,
    *,
    epoch: int = 1,
    received_at: float = 0.0,
) -> Span:
    """A span with timestamps ``1000 + offset``, keys ``k<offset>`` and, by default, the offsets as values."""
    found: list[bytes | None] = [b"%d" % offset for offset in offsets] if values is None else list(values)
    times, keys = [1000 + offset for offset in offsets], [b"k%d" % offset for offset in offsets]
    headers: list[Sequence[Header]] = [() for _ in offsets]
    return Span(TopicPartition(*tp), epoch, list(offsets), times, list(keys), found, headers, received_at)


class FakeDecoder:
    """Decodes ASCII digits, of which the last six count, to ``float32[n, 1]``; refuses all else."""

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode; never raises."""
        tensor = np.zeros((len(values), 1), dtype=np.float32)
        rows: list[object] = []
        refusals: dict[int, Refusal] = {}
        for at, value in enumerate(values):
            if value is None:
                refusals[at] = Refusal("decode", "tombstone", "the value is null")
            elif not value:
                refusals[at] = Refusal("decode", "empty_value", "the value is empty")
            elif not value.isdigit():
                refusals[at] = Refusal("decode", "invalid_json", f"{value!r} is no number")
            else:
                tensor[at, 0] = int(value[-6:])
            rows.append(None if at in refusals else value)
        return Decoded((tensor,), rows, refusals)


class FakeEncoder:
    """Encodes ``<row>:<score>``."""

    def encode(self, rows: Sequence[object], outputs: Mapping[str, np.ndarray]) -> list[bytes]:
        """One value per row."""
        scores = outputs["score"]
        return [f"{_text(row)}:{score:g}".encode() for row, score in zip(rows, scores, strict=True)]


def _text(row: object) -> str:
    return row.decode() if isinstance(row, bytes) else str(row)


class FakeModel:
    """Scores a row as twice its first feature. Raises on ``poison``, gives NaN on ``nan``, waits at ``gate``."""

    provider = "cpu"
    thread_bound = False

    def __init__(self, *, poison: Iterable[float] = (), nan: Iterable[float] = ()) -> None:
        self.poison = set(poison)
        self.nan = set(nan)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.broken = False
        self.calls: list[int] = []
        self.probes = 0

    def run(self, tensors: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """``{"score": float32[n]}``; raises ModelError if any row is poison, or if the model is broken."""
        features = tensors[0][:, 0]
        self.calls.append(len(features))
        self.entered.set()
        self.gate.wait()
        if self.broken or self.poison & set(features.tolist()):
            raise ModelError("poison in the batch")
        scores = features * np.float32(2)
        scores[np.isin(features, list(self.nan))] = np.nan
        return {"score": scores}

    def probe(self) -> None:
        """Raises EngineFault if the model is broken."""
        self.probes += 1
        if self.broken:
            raise EngineFault("the engine fails on a good row")

    def bucket(self, rows: int) -> int:
        """The next power of two."""
        return 1 << (rows - 1).bit_length()
