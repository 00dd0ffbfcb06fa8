"""The output encoder: keys, values, the shortest floats, and names that collide."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from worker.core.decoder import Decoder
from worker.core.features import DecisionSpec, OutputSpec
from worker.core.output import OutputEncoder
from worker.core.schema import SchemaError, compile_schema

SCHEMA = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "customer": {"type": ["integer", "null"]},
        "amount": {"type": "number"},
        "place": {"type": "object", "properties": {"city": {"type": "string"}, "tags": {"type": "array"}}},
        "score": {"type": "number"},
        "model": {"type": "string"},
    },
}


def encoder(
    *include: str,
    outputs: tuple[OutputSpec, ...] = (OutputSpec("score"),),
    decision: DecisionSpec | None = None,
) -> tuple[Decoder, OutputEncoder]:
    """A decoder and its encoder."""
    decoder = Decoder(compile_schema(SCHEMA), (), "id", include, full=False)
    return decoder, OutputEncoder(decoder, outputs, decision, "fraud@1.0.0")


def rows(decoder: Decoder, *events: dict[str, Any]) -> list[object]:
    """Decoded rows of events."""
    return decoder.decode([json.dumps(event).encode() for event in events]).rows


def test_an_output_holds_id_fields_outputs_decision_and_model() -> None:
    """In this order, floats as short as their type allows, the decision true from the threshold on."""
    decision = DecisionSpec("score", 0.1, "flag")
    decoder, subject = encoder(
        "id", "amount", "customer", outputs=(OutputSpec("score"), OutputSpec("all", 2)), decision=decision
    )
    events = rows(decoder, {"id": "a", "amount": 10, "customer": 7}, {"id": "b", "amount": 0.1, "customer": None})
    scores = np.array([0.1, 0.05], np.float32)
    encoded = subject.encode(events, {"score": scores, "all": np.stack([1 - scores, scores], axis=1), "unused": scores})
    assert encoded == [
        b'{"id":"a","amount":10,"customer":7,"score":0.1,"all":[0.9,0.1],"flag":true,"model":"fraud@1.0.0"}',
        b'{"id":"b","amount":0.1,"customer":null,"score":0.05,"all":[0.95,0.05],"flag":false,"model":"fraud@1.0.0"}',
    ]


def test_absent_fields_are_left_out() -> None:
    """Also below an absent parent; a present one shows what it has."""
    decoder, subject = encoder("place.city", "customer", outputs=())
    encoded = subject.encode(
        rows(decoder, {"id": "a"}, {"id": "b", "place": {"city": "é\n"}}, {"id": "c", "place": {}}), {}
    )
    assert [json.loads(text) for text in encoded] == [
        {"id": "a", "model": "fraud@1.0.0"},
        {"id": "b", "place.city": "é\n", "model": "fraud@1.0.0"},
        {"id": "c", "model": "fraud@1.0.0"},
    ]


def test_an_included_object_shows_its_known_properties() -> None:
    """Arrays of any items come through unchanged; properties that the schema lacks do not."""
    decoder, subject = encoder("place", outputs=())
    events = rows(decoder, {"id": "a", "place": {"tags": [1, "x", None, {"y": 1.5}], "other": 1}}, {"id": "b"})
    assert [json.loads(text) for text in subject.encode(events, {})] == [
        {"id": "a", "place": {"tags": [1, "x", None, {"y": 1.5}]}, "model": "fraud@1.0.0"},
        {"id": "b", "model": "fraud@1.0.0"},
    ]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (np.array([2**62]), b"4611686018427387904"),
        (np.array([True]), b"true"),
        (np.array(["yes"], object), b'"yes"'),
        (np.array([1e-7], np.float32), b"1e-7"),
        (np.array([1 / 3], np.float64), b"0.3333333333333333"),
        (np.array([[1, 2]], np.int32), b"[1,2]"),
        (np.asfortranarray(np.array([[0.1, 0.2], [0.3, 0.4]], np.float32))[:1], b"[0.1,0.2]"),
    ],
)
def test_outputs_of_every_dtype(column: np.ndarray, text: bytes) -> None:
    """Integers, booleans, strings and both float widths are written as JSON has them."""
    decoder, subject = encoder()
    (encoded,) = subject.encode(rows(decoder, {"id": "a"}), {"score": column})
    assert encoded == b'{"id":"a","score":' + text + b',"model":"fraud@1.0.0"}'


def test_no_rows_give_no_output() -> None:
    """An empty batch encodes to an empty list."""
    _, subject = encoder(outputs=(OutputSpec("score"), OutputSpec("v", 3)))
    assert subject.encode([], {"score": np.zeros(0, np.float32), "v": np.zeros((0, 3), np.float32)}) == []


@pytest.mark.parametrize("include", [(), ("amount",), ("place.city",), ("amount", "place.city")])
def test_rows_without_a_gap_are_read_in_bulk(monkeypatch: pytest.MonkeyPatch, include: tuple[str, ...]) -> None:
    """Each field is looked for one by one only in batches where a parent is absent."""
    monkeypatch.setattr("worker.core.decoder._present", lambda *_: pytest.fail("looked for"))
    decoder, subject = encoder(*include, outputs=())
    event = {"id": "a", "amount": 1, "place": {"city": "x"}}
    found = {"id": "a", "amount": 1, "place.city": "x", "model": "fraud@1.0.0"}
    (encoded,) = subject.encode(rows(decoder, event), {})
    assert json.loads(encoded) == {key: found[key] for key in ("id", *include, "model")}


@pytest.mark.parametrize(
    ("include", "outputs", "decision", "code", "words"),
    [
        (("score",), (OutputSpec("score"),), None, "name_collision", "score would stand twice"),
        (("model",), (), None, "name_collision", "model would stand twice"),
        ((), (OutputSpec("id"),), None, "name_collision", "id would stand twice"),
        ((), (OutputSpec("s"), OutputSpec("s")), None, "name_collision", "s would stand twice"),
        ((), (OutputSpec("s"),), DecisionSpec("s", 0.5, "s"), "name_collision", "decision.field"),
        ((), (OutputSpec('s"'),), None, "unsupported_name", "a quote"),
        ((), (OutputSpec("s"),), DecisionSpec("t", 0.5, "f"), "unknown_output", "no output"),
        ((), (OutputSpec("s", 2),), DecisionSpec("s", 0.5, "f"), "not_a_scalar", "a vector"),
    ],
)
def test_names_that_cannot_stand_in_one_output_are_problems(
    include: tuple[str, ...],
    outputs: tuple[OutputSpec, ...],
    decision: DecisionSpec | None,
    code: str,
    words: str,
) -> None:
    """Collisions and bad decisions are refused at start, with a remedy."""
    with pytest.raises(SchemaError) as caught:
        encoder(*include, outputs=outputs, decision=decision)
    (problem,) = caught.value.problems
    assert problem.code == code
    assert words in problem.message
    assert problem.remedy


def test_outputs_of_another_number_of_rows_are_a_bug() -> None:
    """No record may get the score of another."""
    decoder, subject = encoder()
    with pytest.raises(ValueError, match="other than 2 rows"):
        subject.encode(rows(decoder, {"id": "a"}, {"id": "b"}), {"score": np.zeros(3, np.float32)})
