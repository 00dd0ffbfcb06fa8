"""How the process handles its memory: the garbage collector, and what the C library gives back to the kernel."""

from __future__ import annotations

import ctypes
import gc

import structlog

log = structlog.get_logger("headrace.memory")

COLLECT_AFTER_OBJECTS = 50_000

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 33_554_432
"""Free memory above so much goes back to the kernel."""

MAPPED_BYTES = 4_194_304
"""Blocks from this size on are got from the kernel each time: those of a reader that catches up do not stay."""


def spare_collector() -> None:
    """Have the garbage collector leave alone what is loaded, and run for many new objects only.

    Records make no cycles. With Python's own threshold the collector goes over everything again and again: a sixth
    of the processor time, and pauses of tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)


def keep_memory() -> None:
    """Have the C library keep blocks of up to some megabytes, which each poll needs anew.

    By its own rule it may return them to the kernel after each use, and the kernel clears every page that it gives:
    a tenth of the processor time. Only glibc has this setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        log.debug("allocator_left_alone", detail=str(error))
        return
    mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
