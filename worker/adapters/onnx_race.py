"""Opens the models that could serve, makes them ready, and under ``model.providers: auto`` lets the cheapest serve.

The rule: every bucket is timed on every provider that works here, with the model itself, and the provider wins whose
call is expected to be the shortest. What sizes will come is not known before the first record, so each bucket counts
half as much as the next smaller one: an idle worker makes small batches, and few batches are full. Times, not ratios,
are averaged: sixty microseconds against eight for a lone record hurt nobody, ten milliseconds against one do.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from worker.adapters.onnx_model import OnnxModel
from worker.adapters.onnx_placement import PROVIDERS
from worker.adapters.onnx_rows import repeated
from worker.adapters.onnx_session import usable_providers
from worker.errors import BundleError, EngineFault, EnvironmentFault, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.adapters.bundle import Bundle
    from worker.core.decoder import Decoder
    from worker.core.features import OutputSpec

Providers = tuple[str, ...] | Literal["auto"]

_LEAST_CALLS: Final = 3
_MOST_CALLS: Final = 200
_BUCKET_S: Final = 0.02
"""Time for each bucket and provider, so that a race is over in a fraction of a second for small models."""


@dataclass(frozen=True, slots=True)
class Lap:
    """One provider in the race: microseconds of a call by bucket, and what a call is expected to take.

    ``left_out`` says why a provider did not run; it has no times then.
    """

    provider: str
    call_us: Mapping[int, float] = field(default_factory=dict)
    expected_us: float | None = None
    left_out: str | None = None

    def facts(self) -> dict[str, object]:
        """For the log and ``/status``."""
        if self.left_out is not None:
            return {"provider": self.provider, "left_out": self.left_out}
        call_us = {str(bucket): round(cost_us, 1) for bucket, cost_us in self.call_us.items()}
        return {"provider": self.provider, "call_us": call_us, "expected_us": round(self.expected_us or 0.0, 1)}


@dataclass(frozen=True, slots=True)
class Ready:
    """The model that serves, checked and warm; ``race`` is empty where there was no choice to make."""

    model: OnnxModel
    race: tuple[Lap, ...] = ()


class Candidates:
    """The models of one bundle that may serve: one, or under ``auto`` one for each provider that works here."""

    def __init__(self, models: Sequence[OnnxModel], left_out: Sequence[Lap] = (), *, is_race: bool = False) -> None:
        self.models = list(models)
        self.is_race = is_race
        self._left_out = list(left_out)

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The named outputs with their widths, the same for all."""
        return self.models[0].outputs

    def ready(self, decoder: Decoder, clock: Callable[[], float] = time.perf_counter) -> Ready:
        """Check the golden rows, warm up, and choose; the others are closed.

        In a race, a provider on which the model fails is left out while another one is there. Raises ``BundleError``
        or ``EngineFault`` where none is left.
        """
        if not self.is_race:
            (model,) = self.models
            model.check_golden(decoder)
            model.warm_up()
            return Ready(model)
        laps: dict[str, Lap] = {lap.provider: lap for lap in self._left_out}
        running: dict[str, OnnxModel] = {}
        while self.models:
            model = self.models.pop(0)
            try:
                model.check_golden(decoder)
                model.warm_up()
                laps[model.provider] = run_lap(model, clock)
            except (BundleError, EngineFault, ModelError) as error:
                if not self.models and not running:
                    raise
                laps[model.provider] = Lap(model.provider, left_out=str(error))
            else:
                running[model.provider] = model
        order = [laps[name] for name in PROVIDERS if name in laps]
        return Ready(running[winner(order)], tuple(order))


def open_candidates(
    bundle: Bundle,
    providers: Providers,
    require_provider: str | None,
    intra_op_threads: int,
    buckets: Sequence[int],
    *,
    cuda_graphs: bool,
) -> Candidates:
    """Open the first of ``providers`` that works, or with ``auto`` all of them.

    Raises ``EnvironmentFault`` (onnxruntime or provider missing) and ``BundleError`` (the graph does not fit).
    """
    load = partial(OnnxModel.load, bundle, intra_op_threads=intra_op_threads, buckets=buckets, cuda_graphs=cuda_graphs)
    if providers != "auto":
        return Candidates([load(providers=providers, require_provider=require_provider)])
    models, left_out = [], []
    usable = usable_providers()
    for short in PROVIDERS:
        if short not in usable:
            left_out.append(Lap(short, left_out=f"the installed onnxruntime was built without {short}"))
            continue
        try:
            models.append(load(providers=(short,), require_provider=short))
        except EnvironmentFault as error:
            left_out.append(Lap(short, left_out=str(error)))
    if not models:
        # It fails once more, and says so in one message for all of them.
        return Candidates([load(providers=tuple(PROVIDERS))])
    return Candidates(models, left_out, is_race=True)


def run_lap(model: OnnxModel, clock: Callable[[], float]) -> Lap:
    """Time every bucket of a warm model on copies of a row that it takes."""
    call_us = {}
    for bucket in model.buckets:
        call_us[bucket] = _median_us(partial(model.run, repeated(model.good_row(), bucket)), clock)
    return Lap(model.provider, call_us, expected_us(call_us))


def expected_us(call_us: Mapping[int, float]) -> float:
    """The mean microseconds of a call where each bucket is half as likely as the next smaller one."""
    weights = [0.5**rank for rank in range(len(call_us))]
    costs = [call_us[bucket] for bucket in sorted(call_us)]
    return sum(weight * cost for weight, cost in zip(weights, costs, strict=True)) / sum(weights)


def winner(laps: Sequence[Lap]) -> str:
    """The provider whose call is expected to be the shortest; the first of equals."""
    return min((lap.expected_us, at, lap.provider) for at, lap in enumerate(laps) if lap.expected_us is not None)[2]


def _median_us(call: Callable[[], object], clock: Callable[[], float]) -> float:
    taken: list[float] = []
    until = clock() + _BUCKET_S
    while len(taken) < _LEAST_CALLS or (len(taken) < _MOST_CALLS and clock() < until):
        begun = clock()
        call()
        taken.append(clock() - begun)
    return statistics.median(taken) * 1e6
