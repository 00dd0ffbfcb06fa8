"""What the worker does to its own process."""

from __future__ import annotations

import gc

from worker.app import spare_collector


def test_the_collector_leaves_alone_what_is_loaded() -> None:
    """Everything that lives now is out of its sight, and young objects are many before it runs."""
    threshold = gc.get_threshold()
    try:
        spare_collector()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() > (10_000, *threshold[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
