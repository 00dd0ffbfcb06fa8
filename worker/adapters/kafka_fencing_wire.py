"""The versions of TxnOffsetCommit and OffsetFetch that fence, which aiokafka lacks."""

from __future__ import annotations

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class TxnOffsetCommitResponse(Response):  # type: ignore[misc]
    """An error code for each partition."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 28, 3, True
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class TxnOffsetCommitRequest(RequestStruct):  # type: ignore[misc]
    """Offsets with the member and generation that they belong to."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 28, 3, True
    RESPONSE_TYPE = TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT), _TAGS
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class OffsetFetchResponse(Response):  # type: ignore[misc]
    """Committed offsets, -1 where there are none."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 9, 7, True
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    )


class OffsetFetchRequest(RequestStruct):  # type: ignore[misc]
    """Committed offsets, on demand only such as no open transaction may change."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 9, 7, True
    RESPONSE_TYPE = OffsetFetchResponse
    SCHEMA = Schema(
        ("group_id", _TEXT),
        ("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("require_stable", Boolean),
        _TAGS,
    )


class FencedOffsetCommit(Request[TxnOffsetCommitRequest]):  # type: ignore[misc]
    """TxnOffsetCommit in version 3 and no other."""

    API_KEY = 28

    def __init__(self, *fields: object) -> None:
        self._fields = fields

    def build(self, struct: type[TxnOffsetCommitRequest]) -> TxnOffsetCommitRequest:
        """The request in the one version there is."""
        return struct(*self._fields)


class StableOffsetFetch(Request[OffsetFetchRequest]):  # type: ignore[misc]
    """OffsetFetch in version 7 and no other."""

    API_KEY = 9

    def __init__(self, *fields: object) -> None:
        self._fields = fields

    def build(self, struct: type[OffsetFetchRequest]) -> OffsetFetchRequest:
        """The request in the one version there is."""
        return struct(*self._fields)
