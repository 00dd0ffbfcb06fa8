"""Which parts of an event are read, and the msgspec types that read them.

A plan is a tree over the event: each node in use becomes an attribute of a msgspec Struct, named ``f0``, ``f1``, ...
so that any JSON name works. Constraints that msgspec enforces ride on the types; ``Node.loose`` marks the few that
it cannot, which ``loose_fault`` checks per record.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw

from worker.core.specs import ArraySpec, BooleanSpec, Fault, NumberSpec, ObjectSpec, Spec, StringSpec, node_fault
from worker.errors import Problem

# Integers below this are exact as 64-bit floats, so that a vectorised comparison with such a bound is exact too.
EXACT: Final = 2**53
_INT64: Final = 2**63

# What an absent field puts into a float tensor; recognised by identity.
NAN: Final = float("nan")


@dataclass(slots=True, eq=False)
class Node:
    """One value that is read.

    ``whole``: the output repeats it, so absence is kept apart from null and integers from floats. ``fed``: it feeds
    a tensor, which checks the bounds of numbers. ``absent`` is what a row holds in its absence. ``length`` is what a
    tensor asks of an array, level by level. ``item`` stands for every item of an array. ``make`` builds an object's
    Struct.
    """

    spec: Spec
    whole: bool = False
    fed: bool = False
    absent: object = UNSET
    length: tuple[int, ...] = ()
    children: dict[str, Node] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    item: Node | None = None
    make: Callable[..., object] = dict
    loose: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.spec, ArraySpec):
            self.item = Node(self.spec.items)

    def child(self, name: str, spec: Spec) -> Node:
        """The node of a property, made on first use."""
        if name not in self.children:
            self.attributes[name] = f"f{len(self.attributes)}"
            self.children[name] = Node(spec)
        return self.children[name]

    def is_required(self, name: str) -> bool:
        """Whether the schema demands this property of every such object."""
        return isinstance(self.spec, ObjectSpec) and name in self.spec.required


class Path:
    """A dotted path that the schema knows: the specs it passes and the Struct attributes that lead to its value."""

    __slots__ = ("attributes", "node", "optional", "text")

    def __init__(self, text: str, root: Node, steps: list[tuple[str, Spec]]) -> None:
        self.text = text
        attributes: list[str] = []
        node = root
        self.optional = False
        for name, spec in steps:
            self.optional = self.optional or not node.is_required(name) or spec.nullable
            child = node.child(name, spec)
            attributes.append(node.attributes[name])
            node = child
        self.node = node
        self.attributes = tuple(attributes)

    def value(self, row: object) -> object:
        """What the row holds here: UNSET if it or a parent is absent, None for null (or a parent's null)."""
        for attribute in self.attributes:
            if row is None or row is UNSET:
                return row
            row = getattr(row, attribute)
        return row


def steps_to(text: str, root: ObjectSpec) -> list[tuple[str, Spec]] | None:
    """Properties along a dotted path, None where the schema has no such field. Names may hold dots themselves."""
    parts = text.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        spec = root.properties.get(name)
        if spec is None:
            continue
        if count == len(parts):
            return [(name, spec)]
        inner = steps_to(".".join(parts[count:]), spec) if isinstance(spec, ObjectSpec) else None
        if inner is not None:
            return [(name, spec), *inner]
    return None


def unknown_field(text: str, root: ObjectSpec, place: str) -> Problem:
    """The problem of a path that the schema does not describe, with the names nearest to it."""
    names = list(_paths(root, ""))
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    # A misplaced level ("risk" for "merchant.risk") is not close as text.
    near += [name for name in names if name.rpartition(".")[2] == text.rpartition(".")[2] and name not in near]
    shown = near[:3] or sorted(names)[:10]
    remedy = f"did you mean {' or '.join(shown)}?" if near else f"the schema has: {', '.join(shown) or 'no fields'}"
    return Problem(f"{place}: the event schema has no field {text}", remedy, key=place, code="unknown_field")


def _paths(spec: ObjectSpec, prefix: str) -> Iterator[str]:
    for name, child in spec.properties.items():
        yield prefix + name
        if isinstance(child, ObjectSpec):
            yield from _paths(child, f"{prefix}{name}.")


def expand(node: Node, *, whole: bool) -> None:
    """Put everything below ``node`` in use; ``whole`` if the output repeats it."""
    node.whole = node.whole or whole
    if isinstance(node.spec, ObjectSpec):
        for name, spec in node.spec.properties.items():
            expand(node.child(name, spec), whole=whole)
    elif node.item is not None:
        expand(node.item, whole=whole)


def problems_in(node: Node, *, full: bool) -> Iterator[Problem]:
    """Keywords that cannot be enforced on the nodes in use, and names that msgspec cannot carry."""
    yield from node.spec.problems
    if isinstance(node.spec, ObjectSpec) and node.spec.closed and not full:
        place = f"{node.spec.pointer}/additionalProperties"
        remedy = "remove it, or set event.validate to full"
        yield Problem(
            f"additionalProperties: false cannot be enforced where only the fields in use are read (at {place})",
            remedy,
            key=place,
            code="unenforceable_keyword",
        )
    for name, child in node.children.items():
        if any(character in '"\\' or character < " " for character in name):
            place = f"{node.spec.pointer}/properties/{name}"
            message = f"the field name {name!r} holds a quote, a backslash or a control character"
            yield Problem(message, "rename the field", key=place, code="unsupported_name")
        yield from problems_in(child, full=full)
    if node.item is not None:
        yield from problems_in(node.item, full=full)


def build(node: Node, *, full: bool) -> Any:
    """The msgspec type of ``node``; sets ``make`` and ``loose`` on the way down."""
    plain = _wire_type(node, full=full)
    if node.spec.nullable and plain not in (object, Raw, None):
        plain = plain | None
    return plain


def _wire_type(node: Node, *, full: bool) -> Any:
    match node.spec:
        case ObjectSpec():
            return _struct_type(node, node.spec, full=full)
        case ArraySpec() as spec if node.item is not None:
            item = node.item
            item.fed, item.length = node.fed, node.length[1:]
            inner: Any = build(item, full=full)
            node.loose = item.loose
            least, most = spec.min_items, spec.max_items
            if node.length:
                least = max(least, node.length[0])
                most = node.length[0] if most is None else min(most, node.length[0])
            return Annotated[list.__class_getitem__(inner), Meta(min_length=least, max_length=most)]
        case StringSpec() as spec:
            if spec.allowed is not None:
                return Literal[spec.allowed] if spec.allowed else None
            limits = Meta(min_length=spec.min_length, max_length=spec.max_length, pattern=spec.pattern)
            return Annotated[str, limits]
        case NumberSpec() as spec:
            return _number_type(node, spec)
        case BooleanSpec() as spec:
            node.loose = spec.allowed is not None
            return bool
    return object if node.whole else Raw


def _number_type(node: Node, spec: NumberSpec) -> Any:
    low, above = spec.minimum, spec.exclusive_minimum
    high, below = spec.maximum, spec.exclusive_maximum
    bounds = [bound for bound in (low, above, high, below) if bound is not None]
    if spec.integer and spec.allowed and all(abs(value) < _INT64 for value in spec.allowed if isinstance(value, int)):
        return Literal[spec.allowed]
    exact = all(abs(bound) < EXACT for bound in bounds)
    node.loose = spec.allowed is not None or not exact
    # What feeds a tensor is checked there, by column.
    bounded = bounds and exact and not node.fed
    whole: Any = Annotated[int, _limits(spec, whole=True)] if bounded else int
    if spec.integer:
        return whole
    real: Any = Annotated[float, _limits(spec, whole=False)] if bounded else float
    return real | whole if node.whole else real


def _limits(spec: NumberSpec, *, whole: bool) -> Meta:
    least, most = spec.limits(whole=whole)
    return Meta(ge=least, le=most)


def _struct_type(node: Node, spec: ObjectSpec, *, full: bool) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    for name, child in node.children.items():
        attribute, wire = node.attributes[name], build(child, full=full)
        node.loose = node.loose or child.loose
        if name in spec.required:
            fields.append((attribute, wire))
        else:
            fields.append((attribute, wire, child.absent))
    struct = msgspec.defstruct(
        "Event",
        fields,
        rename={attribute: name for name, attribute in node.attributes.items()},
        forbid_unknown_fields=spec.closed and full,
        kw_only=True,
        gc=False,
    )
    node.make = struct
    return struct


def loose_fault(node: Node, value: object) -> Fault | None:
    """First fault in a decoded value that the msgspec types let pass; only ``loose`` nodes are visited."""
    if value is None or value is UNSET or not node.loose:
        return None
    if node.children:
        parts = ((child, getattr(value, node.attributes[name])) for name, child in node.children.items())
    elif node.item is not None and isinstance(value, list):
        item = node.item
        parts = ((item, part) for part in value)
    else:
        return node_fault(node.spec, value)
    return next((fault for child, part in parts if (fault := loose_fault(child, part))), None)
