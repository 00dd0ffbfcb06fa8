"""The kinds of value that settings are made of, each with its check and its own words for the operator."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_TOPIC_PATTERN = r"^[a-zA-Z0-9._-]{1,249}$"
_SERVER_PATTERN = r"^(\[[0-9a-fA-F:.]+\]|[^\s:\[\],/]+):[0-9]{1,5}$"
_FIELD_PATTERN = r"^[^.]+(\.[^.]+)*$"


def _refuse(message: str, remedy: str) -> PydanticCustomError:
    """Return the error of a value that needs its own words; both texts reach the operator as they stand."""
    return PydanticCustomError("refused", "{message}", {"message": message, "remedy": remedy})


def _check_topic(name: str) -> str:
    if re.fullmatch(_TOPIC_PATTERN, name) is None or name in {".", ".."}:
        raise _refuse(
            f"{name!r} is no topic name: Kafka takes 1 to 249 letters, digits, dots, underscores and hyphens",
            "name the topic with those characters only, such as transactions",
        )
    return name


def _check_server(address: str) -> str:
    if re.fullmatch(_SERVER_PATTERN, address) is None or not 0 < int(address.rpartition(":")[2]) < 65536:
        raise _refuse(
            f"{address!r} is no broker address: without host and port nothing can be reached",
            "write host:port, such as localhost:9092",
        )
    return address


def _check_field_name(name: str) -> str:
    if re.fullmatch(_FIELD_PATTERN, name) is None:
        raise _refuse(
            f"{name!r} is no field of an event: a path is names joined by single dots",
            "write a path such as transaction_id or merchant.risk",
        )
    return name


def _check_unique(items: tuple[Any, ...]) -> tuple[Any, ...]:
    for position, item in enumerate(items):
        if item in items[:position]:
            raise _refuse(f"{item!r} is listed twice", f"list {item!r} once")
    return items


def check_ascending(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse buckets that do not strictly ascend."""
    if list(buckets) != sorted(set(buckets)):
        raise _refuse(
            f"the buckets {list(buckets)} do not ascend: the smallest one that fits a batch could not be found",
            f"write buckets: {sorted(set(buckets))}",
        )
    return buckets


def _check_header(name: str) -> str:
    if name.startswith("headrace-") or name in {"traceparent", "tracestate"}:
        raise _refuse(
            f"the header {name!r} is written by the worker already: each output would carry it twice",
            f"take {name!r} out of the list",
        )
    return name


def _resolve(path: object, info: ValidationInfo) -> object:
    """Make the text of a path absolute, relative to the folder in the validation context (else the current one)."""
    if not isinstance(path, str):
        return path
    if not path:
        raise _refuse("the path is empty", "write a path, or null where the key is optional")
    folder = info.context["folder"] if isinstance(info.context, dict) else Path.cwd()
    # Links stay, unlike with Path.resolve: a mounted ConfigMap is made of them.
    return Path(os.path.abspath(Path(folder, path)))  # noqa: PTH100 - see above


Text = Annotated[str, StringConstraints(min_length=1)]
Topic = Annotated[str, AfterValidator(_check_topic), WithJsonSchema({"type": "string", "pattern": _TOPIC_PATTERN})]
Server = Annotated[str, AfterValidator(_check_server), WithJsonSchema({"type": "string", "pattern": _SERVER_PATTERN})]
EventField = Annotated[
    str, AfterValidator(_check_field_name), WithJsonSchema({"type": "string", "pattern": _FIELD_PATTERN})
]
HeaderName = Annotated[Text, AfterValidator(_check_header)]
FilePath = Annotated[Path, BeforeValidator(_resolve)]
Unique = AfterValidator(_check_unique)
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Provider = Literal["cuda", "cpu"]


class _OrAuto:
    """Lets a list be the word ``auto`` instead; whatever else is wrong is said of the list."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, as_list: value if value == AUTO else as_list(value),
            handler.generate_schema(Annotated[tuple[Provider, ...], Unique, Field(strict=False, min_length=1)]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value if value == AUTO else list(value)
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        as_list = {"items": {"enum": ["cuda", "cpu"], "type": "string"}, "minItems": 1, "type": "array"}
        return {"anyOf": [as_list, {"const": AUTO, "type": "string"}]}


AUTO = "auto"
Providers = Annotated[tuple[Provider, ...] | Literal["auto"], _OrAuto()]


def list_field(**constraints: Any) -> Any:
    """Return a field for a YAML list: strict about its items, while the list itself becomes a tuple."""
    return Field(strict=False, **constraints)
