"""Verdicts on single values: limits to the unit, and the phrases that refused records carry."""

from __future__ import annotations

import math
from typing import Any

import pytest

from worker.core.specs import (
    ArraySpec,
    BooleanSpec,
    Fault,
    NumberSpec,
    ObjectSpec,
    Spec,
    StringSpec,
    node_fault,
)

LISTED = "is not one of the values that the schema lists"


@pytest.mark.parametrize(
    ("spec", "good", "bad", "text"),
    [
        (NumberSpec(minimum=1), [1, 1.5], 0.99, "is below the minimum 1"),
        (NumberSpec(exclusive_minimum=1), [1.01], 1, "is not above 1"),
        (NumberSpec(maximum=1.5), [1.5, -9], 1.51, "is above the maximum 1.5"),
        (NumberSpec(exclusive_maximum=1.5), [1.49], 1.5, "is not below 1.5"),
        (NumberSpec(minimum=0, maximum=0), [0], -1, "is below the minimum 0"),
        (NumberSpec(exclusive_minimum=0, exclusive_maximum=1), [0.5], 0, "is not above 0"),
        (NumberSpec(), [1.7e308, -(2**70)], math.inf, "is too large for a 64-bit float"),
        (NumberSpec(integer=True), [1, 1.0], -math.inf, "is too large for a 64-bit float"),
        (StringSpec(pattern="^a"), ["a", "ab"], "ba", "does not match the pattern of the schema"),
        (StringSpec(pattern="b"), ["abc"], "ac", "does not match the pattern of the schema"),
        (StringSpec(allowed=("a", "b")), ["a", "b"], "c", LISTED),
        (NumberSpec(allowed=(1, 2.5)), [1, 1.0, 2.5], 2, LISTED),
        (BooleanSpec(allowed=(True,)), [True], False, LISTED),
        (StringSpec(allowed=()), [None], "", LISTED),
    ],
)
def test_a_value_outside_its_limits(spec: Spec, good: list[Any], bad: Any, text: str) -> None:
    """The limit itself is on the right side, and the phrase names it."""
    assert [node_fault(spec, value) for value in good] == [None] * len(good)
    assert node_fault(spec, bad) == Fault("out_of_range", text)


@pytest.mark.parametrize(
    ("spec", "good", "bad", "text"),
    [
        (StringSpec(min_length=2), "ab", "a", "has 1 characters, at least 2 are needed"),
        (StringSpec(max_length=2), "ab", "abc", "has 3 characters, at most 2 are allowed"),
        (StringSpec(max_length=0), "", "é", "has 1 characters, at most 0 are allowed"),
        (ArraySpec(min_items=1), [0], [], "has 0 items, at least 1 are needed"),
        (ArraySpec(max_items=1), [0], [0, 0], "has 2 items, at most 1 are allowed"),
    ],
)
def test_a_value_of_the_wrong_length(spec: Spec, good: Any, bad: Any, text: str) -> None:
    """Characters and items are counted, and the count is in the phrase."""
    assert node_fault(spec, good) is None
    assert node_fault(spec, bad) == Fault("wrong_length", text)


@pytest.mark.parametrize(
    ("spec", "good", "bad", "text"),
    [
        (BooleanSpec(), True, 1, "must be a boolean, not an integer"),
        (NumberSpec(), 1, True, "must be a number, not a boolean"),
        (NumberSpec(), 1.5, "1", "must be a number, not a string"),
        (NumberSpec(integer=True), 2.0, 1.5, "must be an integer, not a number"),
        (StringSpec(), "", 1.5, "must be a string, not a number"),
        (StringSpec(), "", [], "must be a string, not an array"),
        (ArraySpec(), [], {}, "must be an array, not an object"),
        (ObjectSpec(), {}, [], "must be an object, not an array"),
    ],
)
def test_a_value_of_another_type(spec: Spec, good: Any, bad: Any, text: str) -> None:
    """Both types are named with their article; null is as good as the spec says."""
    assert node_fault(spec, good) is None
    assert node_fault(spec, bad) == Fault("wrong_type", text)
    assert node_fault(spec, None) is None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Spec(nullable=False), "must be a value, not null"),
        (BooleanSpec(nullable=False), "must be a boolean, not null"),
        (NumberSpec(nullable=False), "must be a number, not null"),
        (NumberSpec(nullable=False, integer=True), "must be an integer, not null"),
        (StringSpec(nullable=False), "must be a string, not null"),
        (ArraySpec(nullable=False), "must be an array, not null"),
        (ObjectSpec(nullable=False), "must be an object, not null"),
    ],
)
def test_null_where_it_is_not_allowed(spec: Spec, text: str) -> None:
    """The phrase names what is wanted."""
    assert node_fault(spec, None) == Fault("wrong_type", text)


def test_the_first_fault_is_told() -> None:
    """Type before limits, limits before lists."""
    spec = StringSpec(min_length=2, pattern="^x", allowed=("xx",))
    found = [node_fault(spec, value) for value in (1, "a", "aa", "xy", "xx")]
    assert [fault and fault.reason for fault in found] == [
        "wrong_type",
        "wrong_length",
        "out_of_range",
        "out_of_range",
        None,
    ]
    assert found[2] == Fault("out_of_range", "does not match the pattern of the schema")
    assert found[3] == Fault("out_of_range", LISTED)


def test_an_open_spec_takes_anything() -> None:
    """Without a type there is nothing to refuse."""
    values: list[Any] = [None, 1, "a", [], {}]
    assert [node_fault(Spec(), value) for value in values] == [None] * 5
