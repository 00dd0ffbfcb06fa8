"""The core's limits, as the settings state them."""

from __future__ import annotations

from worker.core.batching import BatchLimits
from worker.core.flow import FlowLimits
from worker.settings import Settings

LEAST_POLL_LIMIT = 512


def batch_limits(settings: Settings, *, padded: bool) -> BatchLimits:
    """What closes a batch; ``padded`` where the model fills batches up to the next bucket."""
    batching = settings.batching
    return BatchLimits(
        batching.max_batch_size,
        batching.max_batch_bytes,
        batching.max_batch_delay_s,
        batching.latency_slo_s,
        batching.buckets,
        padded,
    )


def poll_limit(settings: Settings) -> int:
    """Most records of a poll: a whole batch, and where batches are small so many that polling does not cost more."""
    return max(settings.batching.max_batch_size, LEAST_POLL_LIMIT)


def flow_limits(settings: Settings) -> FlowLimits:
    """What may be in flight."""
    flow = settings.flow
    most = flow.max_in_flight_records
    return FlowLimits(most, flow.max_in_flight_bytes, most + settings.delivery.commit_max_records)
