"""What a compiled event schema says about each value: plain, frozen, free of JSON Schema's syntax.

``UNSET`` as a default means that the schema names none. ``problems`` are keywords that cannot be enforced at this
node; they count only where the node is in use, so they travel with it instead of stopping the compiler.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import UNSET

from worker.errors import Problem


class SchemaError(Exception):
    """The event schema, or what is asked of it, cannot be used; ``Problem.key`` is a JSON pointer or a place."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


class Fault(NamedTuple):
    """Why a value breaks its spec: a dead-letter reason and a phrase that completes ``field x ...``."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Any JSON value; the kinds below narrow it. ``pointer`` is where the schema describes it.

    ``allowed`` holds the values of ``enum`` and ``const`` that satisfy every other keyword, None without them.
    """

    pointer: str = ""
    nullable: bool = True
    default: object = UNSET
    allowed: tuple[object, ...] | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class BooleanSpec(Spec):
    """True or false."""

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "boolean"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberSpec(Spec):
    """A finite number; ``integer`` means without a fraction, so 1.0 counts as one.

    Any other number counts as its nearest 64-bit float, unless the output repeats it: then its digits count.
    """

    integer: bool = False
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None

    def limits(self, *, whole: bool) -> tuple[float | None, float | None]:
        """The bounds as the least and the largest float that satisfy them, or whole number; None without a bound."""
        least: list[float] = []
        most: list[float] = []
        if self.minimum is not None:
            least.append(math.ceil(self.minimum) if whole else float(self.minimum))
        if self.exclusive_minimum is not None:
            bound = self.exclusive_minimum
            least.append(math.floor(bound) + 1 if whole else math.nextafter(bound, math.inf))
        if self.maximum is not None:
            most.append(math.floor(self.maximum) if whole else float(self.maximum))
        if self.exclusive_maximum is not None:
            bound = self.exclusive_maximum
            most.append(math.ceil(bound) - 1 if whole else math.nextafter(bound, -math.inf))
        return max(least, default=None), min(most, default=None)

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "integer" if self.integer else "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class StringSpec(Spec):
    """A text of Unicode characters; ``pattern`` is a Python expression to be searched for."""

    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec(Spec):
    """A list of like items."""

    items: Spec = field(default_factory=Spec)
    min_items: int = 0
    max_items: int | None = None

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "array"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSpec(Spec):
    """Named properties; ``closed`` forbids any others, which takes reading all of them."""

    properties: Mapping[str, Spec] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    closed: bool = False

    @property
    def kind(self) -> str:
        """The JSON type in words, for messages."""
        return "object"


def node_fault(spec: Spec, value: object) -> Fault | None:
    """First thing wrong with ``value`` itself; what an object or array contains is the caller's to visit."""
    if value is None:
        return None if spec.nullable else Fault("wrong_type", f"must be {_article(spec.kind)}, not null")
    fault = _type_fault(spec, value)
    if fault is None:
        fault = next(_constraint_faults(spec, value), None)
    if fault is None and spec.allowed is not None and value not in spec.allowed:
        fault = Fault("out_of_range", "is not one of the values that the schema lists")
    return fault


def _type_fault(spec: Spec, value: object) -> Fault | None:
    fits = True
    match spec:
        case BooleanSpec():
            fits = isinstance(value, bool)
        case NumberSpec():
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            if isinstance(value, float) and fits:
                if not math.isfinite(value):
                    return Fault("out_of_range", "is too large for a 64-bit float")
                fits = not spec.integer or value.is_integer()
        case StringSpec():
            fits = isinstance(value, str)
        case ArraySpec():
            fits = isinstance(value, list)
        case ObjectSpec():
            fits = isinstance(value, dict)
    return None if fits else Fault("wrong_type", f"must be {_article(spec.kind)}, not {_article(type_word(value))}")


def _constraint_faults(spec: Spec, value: object) -> Iterator[Fault]:
    if isinstance(spec, NumberSpec) and isinstance(value, int | float):
        if spec.minimum is not None and value < spec.minimum:
            yield Fault("out_of_range", f"is below the minimum {spec.minimum}")
        if spec.exclusive_minimum is not None and value <= spec.exclusive_minimum:
            yield Fault("out_of_range", f"is not above {spec.exclusive_minimum}")
        if spec.maximum is not None and value > spec.maximum:
            yield Fault("out_of_range", f"is above the maximum {spec.maximum}")
        if spec.exclusive_maximum is not None and value >= spec.exclusive_maximum:
            yield Fault("out_of_range", f"is not below {spec.exclusive_maximum}")
    elif isinstance(spec, StringSpec) and isinstance(value, str):
        yield from _size_faults(len(value), spec.min_length, spec.max_length, "characters")
        if spec.pattern is not None and not re.search(spec.pattern, value):
            yield Fault("out_of_range", "does not match the pattern of the schema")
    elif isinstance(spec, ArraySpec) and isinstance(value, list):
        yield from _size_faults(len(value), spec.min_items, spec.max_items, "items")


def _size_faults(size: int, least: int, most: int | None, unit: str) -> Iterator[Fault]:
    if size < least:
        yield Fault("wrong_length", f"has {size} {unit}, at least {least} are needed")
    if most is not None and size > most:
        yield Fault("wrong_length", f"has {size} {unit}, at most {most} are allowed")


def type_word(value: object) -> str:
    """JSON's word for the type of a decoded value."""
    words = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return words.get(type(value), "null")


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aio' else 'a'} {word}"
