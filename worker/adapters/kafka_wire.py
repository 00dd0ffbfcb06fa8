"""Requests that aiokafka lacks: both ask the broker which operations it grants us, without trying any of them."""

from __future__ import annotations

from typing import ClassVar

from aiokafka.protocol.admin import DescribeGroupsRequest_v2, DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

OPERATIONS = {3: "READ", 4: "WRITE", 5: "CREATE", 6: "DELETE", 7: "ALTER", 8: "DESCRIBE", 10: "DESCRIBE_CONFIGS"}
"""Kafka's numbers of the operations that concern us; they are the bit positions in an answer."""

UNKNOWN_OPERATIONS = -(2**31)
"""What a broker answers that does not tell."""


def operation_names(bits: int | None) -> frozenset[str] | None:
    """Names of the granted operations; None where the broker does not tell."""
    if bits is None or bits == UNKNOWN_OPERATIONS:
        return None
    return frozenset(name for number, name in OPERATIONS.items() if bits >> number & 1)


class MetadataResponse_v8(Response):  # type: ignore[misc]  # noqa: N801 - aiokafka's way to name versions
    """Metadata with the operations granted on each topic."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class MetadataRequest_v8(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks for topics by name."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class TopicsRequest(Request[MetadataRequest_v5 | MetadataRequest_v8]):  # type: ignore[misc]
    """The named topics, none of them created by the question; brokers before 2.3 do not tell permissions."""

    API_KEY: ClassVar[int] = 3

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """The request in the version that the broker speaks."""
        if request_struct_class is MetadataRequest_v5:
            return request_struct_class(self._names, False)
        return request_struct_class(self._names, False, False, True)


class DescribeGroupsRequest_v3_answered(DescribeGroupsRequest_v3):  # type: ignore[misc]  # noqa: N801
    """aiokafka reads the answer to version 3 as version 2 and so drops the operations."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class GroupRequest(Request[DescribeGroupsRequest_v2 | DescribeGroupsRequest_v3_answered]):  # type: ignore[misc]
    """One consumer group: who reads with it, and what we may do with it."""

    API_KEY: ClassVar[int] = 15

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """The request in the version that the broker speaks."""
        if request_struct_class is DescribeGroupsRequest_v2:
            return request_struct_class([self._group_id])
        return request_struct_class([self._group_id], True)
