"""The last word on one record: read it field by field, then say what is wrong, or what it holds.

Only records that the quick way balks at come here, so clarity goes before speed. msgspec still judges the syntax,
lazily: the parts that nobody reads are checked for syntax and never turned into values.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from worker.core.plan import Node
from worker.core.records import Refusal
from worker.core.specs import Fault, NumberSpec, ObjectSpec, Spec, node_fault
from worker.core.tensors import RowFault, TensorPacker
from worker.core.texts import Unusable, number_from

# Deeper values are refused on every Python version alike, well before any interpreter's own limit.
MAX_DEPTH: Final = 500
_OBJECTS: Final = msgspec.json.Decoder(dict[str, Raw])
_ARRAYS: Final = msgspec.json.Decoder(list[Raw])
_STRINGS: Final = msgspec.json.Decoder(str)
_ANYTHING: Final = msgspec.json.Decoder()
_SYNTAX: Final = msgspec.json.Decoder(Raw)
_STRING_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Accepted(NamedTuple):
    """A good record: the row as the quick way would have decoded it, and one tensor row per input."""

    row: object
    vectors: tuple[np.ndarray, ...]


class _Refused(Exception):
    def __init__(self, path: str, fault: Fault) -> None:
        self.refusal = Refusal("validate", fault.reason, f"field {path} {fault.text}")
        super().__init__(self.refusal.error)


def explain(value: bytes | None, root: Node, packers: tuple[TensorPacker, ...]) -> Accepted | Refusal:
    """The verdict on one record; never raises, whatever the bytes."""
    refusal = _syntax_refusal(value)
    if refusal is not None or value is None:
        return refusal or Refusal("decode", "tombstone", "the value is null")
    try:
        row = _read_object(root, _OBJECTS.decode(value), "")
        vectors = tuple(packer.vector(row) for packer in packers)
    except _Refused as error:
        return error.refusal
    except RowFault as error:
        return Refusal("validate", error.reason, error.error)
    return Accepted(row, vectors)


def is_too_deep(value: bytes) -> bool:
    """Whether arrays and objects nest deeper than ``MAX_DEPTH``; cheap unless there are that many brackets."""
    # To find nothing takes a tenth of the time of counting, and most long values are flat.
    if value.find(b"{", 1) < 0 and value.find(b"[") < 0:
        return False
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    marks = np.frombuffer(_STRING_TOKEN.sub(b"", value), np.uint8)
    steps = ((marks == ord("[")) | (marks == ord("{"))).astype(np.int64)
    steps -= (marks == ord("]")) | (marks == ord("}"))
    return bool(steps.cumsum().max(initial=0) > MAX_DEPTH)


def _syntax_refusal(value: bytes | None) -> Refusal | None:
    if value is None:
        return None
    if not value:
        return Refusal("decode", "empty_value", "the value is empty")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Refusal("decode", "invalid_utf8", f"the value is not UTF-8 at byte {error.start}")
    if is_too_deep(value):
        return Refusal("decode", "too_deep", f"the value nests deeper than {MAX_DEPTH} levels")
    try:
        _SYNTAX.decode(value)
    except RecursionError:
        return Refusal("decode", "too_deep", "the value nests deeper than the interpreter allows")
    except msgspec.DecodeError as error:
        return Refusal("decode", "invalid_json", f"the value is not JSON: {error}")
    if not value.lstrip(b" \t\r\n").startswith(b"{"):
        return Refusal("decode", "not_an_object", "the value is JSON, but not an object")
    return None


def _read(node: Node, raw: bytes, path: str) -> object:
    """The value that the msgspec types would give for ``raw``. Raises ``_Refused``."""
    if type(node.spec) is Spec:
        return _read_any(node, raw, path)
    value = _plain(node, raw, path)
    fault = node_fault(node.spec, value)
    if fault is not None:
        raise _Refused(path, fault)
    if isinstance(value, dict):
        return _read_object(node, value, path)
    if isinstance(value, list) and node.item is not None:
        item = node.item
        return [_read(item, bytes(part), f"{path}[{index}]") for index, part in enumerate(value)]
    return value


def _read_object(node: Node, members: dict[str, Raw], path: str) -> object:
    prefix = f"{path}." if path else ""
    values: dict[str, object] = {}
    for name, child in node.children.items():
        if name in members:
            values[node.attributes[name]] = _read(child, bytes(members[name]), prefix + name)
        elif node.is_required(name):
            raise _Refused(prefix + name, Fault("missing_field", "is required and absent"))
    # A closed object gets this far in full mode only, where every declared property is a child.
    if isinstance(node.spec, ObjectSpec) and node.spec.closed and members.keys() - node.children.keys():
        raise _Refused(path or "(the event)", Fault("wrong_type", "has a property that the schema does not allow"))
    return node.make(**values)


def _read_any(node: Node, raw: bytes, path: str) -> object:
    if not node.whole:
        return Raw(raw)
    try:
        return _ANYTHING.decode(raw)
    except msgspec.DecodeError:
        raise _Refused(path, Fault("out_of_range", "holds a number too large for a 64-bit float")) from None


def _plain(node: Node, raw: bytes, path: str) -> object:
    """``raw`` as a Python value, with the parts of objects and arrays left raw."""
    match raw[:1]:
        case b"{":
            return _OBJECTS.decode(raw)
        case b"[":
            return _ARRAYS.decode(raw)
        case b'"':
            return _STRINGS.decode(raw)
        case b"n":
            return None
        case b"t" | b"f":
            return raw == b"true"
    return _number(node, raw.decode(), path)


def _number(node: Node, text: str, path: str) -> float:
    """A JSON number as the field's type has it; a fraction stays one, for ``node_fault`` to judge."""
    digits_only = text.lstrip("-").isdigit()
    if not isinstance(node.spec, NumberSpec):
        # The field wants no number, so that only the word for its type matters.
        return 0 if digits_only else 0.5
    try:
        return number_from(text, integer=node.spec.integer or (node.whole and digits_only))
    except Unusable as error:
        raise _Refused(path, Fault(error.reason, error.text)) from None
