"""What was found in the worker, by these targets or while they were written, and what it does now.

Each has a test in the suite of the module that was changed. Where an input alone broke an oracle, it is kept in the
corpus under a name that begins with ``fixed``.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Finding(NamedTuple):
    """A target, the kind of input and what it did, and today's answer to it."""

    target: str
    found: str
    now: str


FINDINGS: Final[tuple[Finding, ...]] = (
    Finding("bundle", "a YAML tag that does not fit its text: three kinds of exception", "refused with its line"),
    Finding("bundle", "a whole number of hundreds of digits: OverflowError", "refused: does not fit into 64 bits"),
    Finding("bundle", "an escape beyond Unicode: OverflowError, ValueError", "refused with its line"),
    Finding("bundle", "anchors that repeat repeated keys: memory without end", "refused: too many values"),
    Finding("bundle", "weights in a file whose name holds NUL, or links to itself: two exceptions", "refused by name"),
    Finding("bundle", "weights under a name that is not UTF-8: compared with its escaped form", "refused as damaged"),
    Finding("bundle", "weights that only the training part names: not seen", "must be named and hashed like all"),
    Finding("bundle", "a manifest that is a pipe or a link out of the folder: waited for, read", "refused unread"),
    Finding("bundle", "a row of more values than memory: accepted", "refused above 16,777,216 values"),
    Finding("bundle", "a model named `.ort`, which ONNX Runtime reads by other rules: accepted", "refused by its name"),
    Finding("bundle", "a model above 2 GiB: hashed before it was refused", "refused by its size"),
    Finding(
        "config", "a path longer than the file system takes, or without permission: OSError", "refused with its line"
    ),
    Finding("config", "a secret's path with NUL: ValueError", "refused with its line"),
    Finding("config", "a secret from a device without an end: read until memory ends", "refused above 64 KiB"),
    Finding("config", "an escape beyond Unicode: OverflowError, ValueError", "refused with its line"),
    Finding("config", "a variable of many brackets: RecursionError", "refused by name"),
    Finding("config", "a tag on a list, a section or a null: ignored", "refused with its line"),
    Finding("schema", "a pattern with a huge repetition, or many brackets: two exceptions", "refused by its pointer"),
    Finding(
        "schema", "a pattern with set operations: a warning, and a meaning that may change", "refused by its pointer"
    ),
    Finding("schema", "hundreds of levels: RecursionError", "refused above 64 levels of schema or 300 of JSON"),
    Finding("schema", "references that double level by level: hours", "refused above 10,000 subschemas"),
    Finding("schema", "a length of 2**63 or more: ValueError", "a bound like any other"),
    Finding("schema", "half of a surrogate pair in a name or value: UnicodeEncodeError", "refused by its pointer"),
    Finding("schema", "`additionalProperties: 1`: ignored", "refused by its pointer"),
    Finding("schema", "`const: true` beside `enum: [1]`: true was accepted", "no value is"),
    Finding("schema", "a reference with percent signs: taken literally", "decoded, as in any address"),
    Finding("headers", "a partition, offset or time that Kafka does not have: redriven to it", "not a letter of ours"),
)
