"""Metrics of the worker: ``M`` names every one of them, ``Metrics`` accumulates and exposes them."""

from __future__ import annotations

import worker.telemetry.catalogue as M  # noqa: N812  constants read as M.BATCHES at every use
from worker.telemetry.metrics import Metrics, Snapshot

__all__ = ["M", "Metrics", "Snapshot"]
