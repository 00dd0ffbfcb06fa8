"""The costs of a simulated machine, from what a worker told of itself at one constant load.

Learned lines and counted processor time give the work of loop and engine directly. The two round trips to the brokers
show only with their queues before them, so they are fitted: the simulation is run at the load that was measured, and
they are moved until its mean produce time and mean latency are those that were measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.core.simulation import Line, Load, Machine, Rules, simulate

ROW_S = 0.000002
"""What a record costs the loop beside decoding and encoding, where no capacity tells: parsing, appending, metrics."""

MOST = 0.7
"""At most this share of the other work goes with the records, whatever a capacity says: polls are never free."""

ROUNDS = 12
LEAST_S = 0.00005
STEP = 0.7
STAMP_S = 0.0005
"""Kafka's timestamps are whole milliseconds, rounded down: ages by them are half of one too long."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Sums over ``seconds`` of a constant load, and what was learned of sizes until its end.

    ``polls`` counts those that brought records, ``cpu_s`` is the processor time of the whole process, ``assemble_s``
    that of joining the rows of batches. ``produce_s`` are equally likely times from a parcel's hand-over to its
    acknowledgement, ascending.
    """

    seconds: float
    records: float
    batches: float
    polls: float
    cpu_s: float
    assemble_s: float
    call: Line
    decode: Line
    handle: Line
    produce_s: tuple[float, ...]
    produce_mean_s: float
    latency_mean_s: float


def fit(measured: Measured, rules: Rules, load: Load, capacity: float | None = None) -> Machine:
    """The machine on which ``load``, which should be like the one measured, behaves as measured.

    ``capacity``, in records a second, tells what a record costs by itself; without it a usual value is taken, and
    loads near saturation are predicted less well.
    """
    machine = _first_guess(measured, rules.batch.max_batch_size, capacity)
    for _ in range(ROUNDS):
        result = simulate(machine, rules, load)
        scale = min(max(measured.produce_mean_s / result.produce_mean_s, 0.5), 2.0)
        off_s = measured.latency_mean_s - STAMP_S - float(result.delivered_s.mean())
        machine = replace(
            machine,
            round_trips_s=tuple(trip_s * scale for trip_s in machine.round_trips_s),
            fetch_s=max(machine.fetch_s + STEP * off_s, LEAST_S),
        )
    return machine


def _first_guess(measured: Measured, most: int, capacity: float | None) -> Machine:
    """Everything but the round trips is final.

    What is accounted for is computed from the lines: measured sums hold the time that others had the processor, too.
    """
    call, decode, handle = measured.call, measured.decode, measured.handle
    spent_s = measured.assemble_s + measured.batches * (call.fixed_s + handle.fixed_s)
    spent_s += measured.polls * decode.fixed_s
    spent_s += measured.records * (call.per_row_s + handle.per_row_s + decode.per_row_s)
    other_s = max(measured.cpu_s - spent_s, 0.0)
    row_s = _row_s(measured, other_s, most, capacity)
    joined_s = measured.assemble_s / measured.batches
    return Machine(
        calls=((1, call(1) + joined_s), (most, call(most) + joined_s)),
        decode=decode,
        handle=handle,
        cycle_s=(other_s - row_s * measured.records) / measured.batches / 2,
        row_s=row_s,
        fetch_s=0.001,
        round_trips_s=measured.produce_s,
    )


def _row_s(measured: Measured, other_s: float, most: int, capacity: float | None) -> float:
    """The part of the loop's other work that goes with the records, not with polls and batches.

    At its capacity the loop does nothing but full batches, so a record takes ``1 / capacity`` there: what is known
    of it, and its share of what a batch costs, leave the rest. This says nothing where the engine is the limit.
    """
    largest_s = MOST * other_s / measured.records
    mean = measured.records / measured.batches
    if capacity is None or mean >= most or measured.call(most) / most > 0.9 / capacity:
        return min(ROW_S, largest_s)
    known_s = measured.decode.per_row_s + measured.handle(most) / most + other_s / measured.batches / most
    return min(max((1 / capacity - known_s) / (1 - mean / most), 0.0), largest_s)
