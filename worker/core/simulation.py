"""A worker in virtual time: the real batcher under a load, on a machine whose steps have given costs.

The broker answers fetches and produce requests after their round trips, the event loop does one thing at a time, the
engine runs one batch and has one prefetched. Two runs with the same arguments are equal to the last digit.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
from numpy.typing import NDArray

from worker.core.batching import Batch, BatchLimits, MicroBatcher
from worker.core.flow import AHEAD_BYTES, FEW_BYTES, FlowGate, FlowLimits
from worker.core.pipeline import ENGINE_SLOTS
from worker.core.records import Block, Decoded, Slice, Span, TopicPartition

Times = NDArray[np.float64]
Effect = Callable[[], None]
Work = Callable[[], tuple[float, Effect]]
"""Something for the loop to do: begins when called, and says how long it takes and what is so afterwards."""

HAND_OVER_S = 0.00005
"""From the engine's thread to the event loop."""

DRAWS = 4093


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds by size: ``fixed_s + per_row_s * rows``."""

    fixed_s: float
    per_row_s: float

    def __call__(self, rows: int) -> float:
        """The seconds that so many rows cost."""
        return self.fixed_s + self.per_row_s * rows


@dataclass(frozen=True, slots=True)
class Machine:
    """What the steps cost, in seconds.

    ``calls`` are (rows, seconds) of a model call, ascending, at least one; between them it is interpolated. ``decode``
    is the decoding of a poll's records, ``handle`` the encoding of a batch. ``cycle_s`` is what a
    poll, and likewise a produce request, costs the loop besides, ``row_s`` what a record costs it besides.
    ``fetch_s`` is the round trip of a fetch, ``round_trips_s`` are equally likely ones of a produce request,
    ascending, at least two.
    """

    calls: tuple[tuple[int, float], ...]
    decode: Line
    handle: Line
    cycle_s: float
    row_s: float
    fetch_s: float
    round_trips_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Records in the order of their append: seconds from the start (ascending), partition, and bytes of a value."""

    times_s: Times
    partitions: NDArray[np.int64]
    value_bytes: int = 500


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator chose: the limits, the most records of a poll, and the gathering pause of the fetch loop."""

    batch: BatchLimits
    flow: FlowLimits
    max_poll: int
    gather_s: float


@dataclass(slots=True)
class Result:
    """What came out: seconds per record in the order of delivery, and what the batches were.

    ``appended_s`` runs from the input's append to the output's, ``delivered_s`` to the acknowledgement; ``sent_at``
    is when the input was appended. Utilisations are shares of the time until the last delivery, ``until_s``.
    """

    sent_at: Times = field(default_factory=lambda: np.empty(0))
    appended_s: Times = field(default_factory=lambda: np.empty(0))
    delivered_s: Times = field(default_factory=lambda: np.empty(0))
    sizes: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    until_s: float = 0.0
    engine_share: float = 0.0
    loop_share: float = 0.0
    produce_mean_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Partition:
    """One partition: what it holds, how far it was fetched and taken, and its lane of outputs."""

    tp: TopicPartition
    times_s: Times
    fetched: int = 0
    taken: int = 0
    waiting: list[tuple[Times, float]] = field(default_factory=list)
    lane_busy: bool = False


class _Clock:
    """Virtual time, and an event loop that does one thing after the other."""

    def __init__(self) -> None:
        self.now = 0.0
        self.busy_s = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Effect]] = []
        self._work: deque[Work] = deque()
        self._busy = False

    def at(self, time_s: float, effect: Effect) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (time_s, next(self._order), effect))

    def work(self, work: Work) -> None:
        """Give the loop something to do, after what it was given before."""
        self._work.append(work)
        if not self._busy:
            self._next()

    def run(self) -> None:
        """Let everything happen."""
        while self._events:
            self.now, _, effect = heapq.heappop(self._events)
            effect()

    def _next(self) -> None:
        self._busy = bool(self._work)
        if self._busy:
            took_s, effect = self._work.popleft()()
            self.busy_s += took_s
            self.at(self.now + took_s, partial(self._done, effect))

    def _done(self, effect: Effect) -> None:
        effect()
        self._next()


class _Worker:
    """The parts of a worker, on one clock."""

    def __init__(self, machine: Machine, rules: Rules, load: Load, seed: int) -> None:
        self.clock = _Clock()
        self.result = Result()
        self.engine_s = 0.0
        self.finished: list[tuple[Times, float, float]] = []
        self.produced_s: list[float] = []
        self._machine = machine
        self._rules = rules
        self._value = b"v" * load.value_bytes
        self._batcher = MicroBatcher(rules.batch)
        self._gate = FlowGate(rules.flow)
        self._sizes = [rows for rows, _ in machine.calls]
        self._calls_s = [took_s for _, took_s in machine.calls]
        chances = np.random.default_rng(seed).random(DRAWS)
        shares = np.linspace(0.0, 1.0, len(machine.round_trips_s))
        self._trips_s: list[float] = np.interp(chances, shares, machine.round_trips_s).tolist()
        self._trips = count()
        self._usual_s = float(np.mean(machine.round_trips_s))
        numbers = sorted(set(load.partitions.tolist()))
        self._partitions = [
            _Partition(TopicPartition("in", number), load.times_s[load.partitions == number]) for number in numbers
        ]
        self._turns = deque(self._partitions)
        self._in_flight = 0
        self._asking = self._pausing = self._polling = self._sending = self._engine_busy = False
        self._running: list[Batch] = []
        self._submitted: deque[Batch] = deque()
        self._ready: list[tuple[_Partition, list[tuple[Times, float]]]] = []
        self._timer_at: float | None = None

    # ---- fetch and poll ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Send a fetch for what has little unread, unless one is under way; the broker waits for a record."""
        hungry = [one for one in self._partitions if (one.fetched - one.taken) * len(self._value) < AHEAD_BYTES]
        coming = [float(one.times_s[one.fetched]) for one in hungry if one.fetched < len(one.times_s)]
        if self._asking or not coming:
            return
        self._asking = True
        trip_s = self._machine.fetch_s * self._trip_s() / self._usual_s
        answer_at = max(self.clock.now + trip_s / 2, min(coming))
        self.clock.at(answer_at + trip_s / 2, partial(self._answered, hungry, answer_at))

    def _answered(self, asked: Sequence[_Partition], answered_at: float) -> None:
        records = 0
        for one in asked:
            until = int(np.searchsorted(one.times_s, answered_at, "right"))
            records += until - one.fetched
            one.fetched = until
        few = records * len(self._value) < FEW_BYTES
        self._poll_soon()
        if few and self._polling:
            self._pausing = True
        else:
            self.clock.at(self.clock.now, self._ask_again)

    def _ask_again(self) -> None:
        self._asking = False
        self.ask()

    def _poll_soon(self) -> None:
        if not self._polling and self._room() and any(one.fetched > one.taken for one in self._partitions):
            self._polling = True
            self.clock.work(self._poll)

    def _room(self) -> int:
        size_bytes = self._in_flight * len(self._value)
        return min(self._gate.room(self._in_flight, size_bytes, self._in_flight), self._rules.max_poll)

    def _poll(self) -> tuple[float, Effect]:
        """Take what is there, partitions by turns, and decode it."""
        machine, room = self._machine, self._room()
        spans: list[Span] = []
        for one in [one for one in self._turns if one.fetched > one.taken]:
            if room == 0:
                break
            self._turns.remove(one)
            self._turns.append(one)
            rows = min(one.fetched - one.taken, room)
            spans.append(self._span(one, rows))
            one.taken += rows
            room -= rows
        rows = sum(map(len, spans))
        took_s = machine.cycle_s + machine.decode(rows) + machine.row_s / 2 * rows
        return took_s, partial(self._admit, spans)

    def _span(self, one: _Partition, rows: int) -> Span:
        offsets = list(range(one.taken, one.taken + rows))
        stamps = (one.times_s[one.taken : one.taken + rows] * 1000).astype(int).tolist()
        values: list[bytes | None] = [self._value] * rows
        return Span(one.tp, 1, offsets, stamps, [None] * rows, values, [()] * rows, self.clock.now)

    def _admit(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self._in_flight += len(span)
            self._batcher.add(Slice(Block(span, Decoded((), [], {})), 0, len(span)), self.clock.now)
        self._dispatch()
        self._polling = False
        self._poll_soon()
        if self._pausing and not self._polling:
            # The pause begins when all that was fetched is worked on.
            self._pausing = False
            self.clock.at(self.clock.now + self._rules.gather_s, self._ask_again)
        self.ask()

    # ---- batches and engine ------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """As the pipeline: fill the engine's slots with what is due, and see to the next deadline."""
        while len(self._running) < ENGINE_SLOTS:
            batch = self._batcher.take(self.clock.now, idle=not self._running)
            if batch is None:
                break
            self._running.append(batch)
            self._submitted.append(batch)
            self.result.sizes[batch.size] += 1
            self.result.reasons[str(batch.reason)] += 1
        self._run_next()
        deadline = self._batcher.deadline()
        if deadline is None or len(self._running) == ENGINE_SLOTS:
            return
        if self._timer_at is None or deadline < self._timer_at:
            self._timer_at = deadline
            self.clock.at(max(deadline, self.clock.now), partial(self.clock.work, lambda: (0.0, self._tick)))

    def _tick(self) -> None:
        self._timer_at = None
        self._dispatch()

    def _run_next(self) -> None:
        if self._engine_busy or not self._submitted:
            return
        self._engine_busy = True
        batch = self._submitted.popleft()
        took_s = self._call_s(self._batcher.calls.computed(batch.size))
        self.engine_s += took_s
        self.clock.at(self.clock.now + took_s, partial(self._scored, batch, took_s))

    def _call_s(self, rows: int) -> float:
        """Interpolated; beyond the largest size known in proportion to it."""
        beyond = max(rows / self._sizes[-1], 1.0)
        return float(np.interp(rows, self._sizes, self._calls_s)) * beyond

    def _scored(self, batch: Batch, took_s: float) -> None:
        self._engine_busy = False
        self._run_next()
        back = partial(self.clock.work, partial(self._handle, batch, took_s))
        self.clock.at(self.clock.now + HAND_OVER_S, back)

    def _handle(self, batch: Batch, took_s: float) -> tuple[float, Effect]:
        handled_s = self._machine.handle(batch.size)
        return handled_s, partial(self._handled, batch, took_s, handled_s)

    def _handled(self, batch: Batch, took_s: float, handled_s: float) -> None:
        self._running.remove(batch)
        self._batcher.calls.observe(batch.size, took_s)
        self._batcher.handling.observe(batch.size, handled_s)
        self._dispatch()
        by_tp = {one.tp: one for one in self._partitions}
        for rows in batch.slices:
            one, first = by_tp[rows.span.tp], rows.span.offsets[0]
            one.waiting.append((one.times_s[first + rows.start : first + rows.stop], self.clock.now))
            self._fill(one)

    # ---- produce -----------------------------------------------------------------------------------------

    def _fill(self, one: _Partition) -> None:
        """As a lane: one produce batch under way, which takes all that waits; the rest gathers meanwhile."""
        if not one.lane_busy and one.waiting:
            one.lane_busy = True
            self.clock.work(partial(self._build, one))

    def _build(self, one: _Partition) -> tuple[float, Effect]:
        parcels, one.waiting = one.waiting, []
        rows = sum(len(times_s) for times_s, _ in parcels)
        return self._machine.row_s / 2 * rows, partial(self._built, one, parcels)

    def _built(self, one: _Partition, parcels: list[tuple[Times, float]]) -> None:
        self._ready.append((one, parcels))
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._sending and self._ready:
            self._sending = True
            self.clock.work(lambda: (self._machine.cycle_s, self._send))

    def _send(self) -> None:
        """As the client: one request under way per broker, with all batches that are ready."""
        batches, self._ready = self._ready, []
        trip_s = self._trip_s()
        appended_at = self.clock.now + trip_s / 2
        acknowledge = partial(self._acknowledged, batches, appended_at)
        self.clock.at(self.clock.now + trip_s, partial(self.clock.work, lambda: (0.0, acknowledge)))

    def _acknowledged(self, batches: list[tuple[_Partition, list[tuple[Times, float]]]], appended_at: float) -> None:
        self._sending = False
        now = self.clock.now
        for one, parcels in batches:
            for times_s, sent_at in parcels:
                self._in_flight -= len(times_s)
                self._batcher.delivered(now - sent_at)
                self.produced_s.append(now - sent_at)
                self.finished.append((times_s, appended_at, now))
            one.lane_busy = False
            self._fill(one)
        self._send_soon()
        self._poll_soon()

    def _trip_s(self) -> float:
        """The next round trip; the draws come again after a while."""
        return self._trips_s[next(self._trips) % DRAWS]


def simulate(machine: Machine, rules: Rules, load: Load, seed: int = 1) -> Result:
    """Run the load to its end; ``load`` holds at least one record."""
    worker = _Worker(machine, rules, load, seed)
    worker.ask()
    worker.clock.run()
    result = worker.result
    result.sent_at = np.concatenate([times_s for times_s, _, _ in worker.finished])
    result.appended_s = np.concatenate([at - times_s for times_s, at, _ in worker.finished])
    result.delivered_s = np.concatenate([at - times_s for times_s, _, at in worker.finished])
    result.until_s = worker.clock.now
    since_s = float(load.times_s[0])
    result.engine_share = worker.engine_s / (result.until_s - since_s)
    result.loop_share = worker.clock.busy_s / (result.until_s - since_s)
    result.produce_mean_s = float(np.mean(worker.produced_s))
    return result


def poisson(
    rate: float, seconds: float, partitions: int, *, tick_s: float = 0.0, value_bytes: int = 500, seed: int = 1
) -> Load:
    """Independent arrivals at ``rate`` a second, partitions by chance; at least one record.

    With ``tick_s`` a producer hands over what came in the meantime only so often, a batch per partition.
    """
    chance = np.random.default_rng(seed)
    times_s = np.sort(chance.random(max(round(rate * seconds), 1))) * seconds
    if tick_s:
        times_s = np.ceil(times_s / tick_s) * tick_s
    return Load(times_s, chance.integers(0, partitions, len(times_s)), value_bytes)
