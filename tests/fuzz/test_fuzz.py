"""The oracles of the fuzz targets hold for every kept input and for whatever Hypothesis thinks of near them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import bundle, configuration, decoder, headers, schema
from tests.fuzz.target import MAX_CORPUS_BYTES, MAX_CORPUS_FILES, NAMES, Target, join, load, split
from worker.settings_fields import fields

TARGETS = [load(name) for name in NAMES]
each_target = pytest.mark.parametrize("target", TARGETS, ids=NAMES)


@each_target
def test_kept_inputs_hold(target: Target) -> None:
    """Every seed, and every input that fuzzing found worth keeping, satisfies its oracle."""
    paths = target.corpus()
    for data in (*target.seeds, *(path.read_bytes() for path in paths)):
        target.check(data)
    assert paths


@each_target
def test_the_corpus_stays_small(target: Target) -> None:
    """Few files and short ones, so that replaying them costs nothing."""
    sizes = [path.stat().st_size for path in target.corpus()]
    assert len(sizes) <= MAX_CORPUS_FILES
    assert max(sizes) <= MAX_CORPUS_BYTES


@st.composite
def edited(draw: st.DrawFn, target: Target) -> bytes:
    """A seed with a few stretches replaced: by a word that matters, by any bytes, by more of itself, by nothing."""
    data = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 12)))
        more = st.sampled_from([b"", data[start : start + 30] * 2, *target.tokens])
        data = data[:start] + draw(more | st.binary(max_size=3)) + data[stop:]
    return data


@each_target
@settings(max_examples=80)
@given(data=st.data())
def test_edited_seeds_hold(target: Target, data: st.DataObject) -> None:
    """Damage anywhere in a sound input never breaks the oracle."""
    target.check(data.draw(edited(target)))


# ---- inputs with a structure of their own ----------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, 1e308, -0.0, 2**53 + 1, 2**63, 2**70, -(2**63), 10**400]),
    st.text(max_size=4),
    st.sampled_from(["a", "1", "1.5", "2024-02-29T12:00:00Z", "AACAPwAAAEA=", "\ud800", "\x00"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
)
types = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
keywords: dict[str, st.SearchStrategy[Any]] = {
    "type": types | st.lists(types, max_size=3) | values,
    "enum": st.lists(scalars, max_size=4) | values,
    "const": values,
    "default": values,
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], scalars),
    **dict.fromkeys(
        ["minLength", "maxLength", "minItems", "maxItems"], st.sampled_from([0, 1, 2, 2**63, 2**70, -1, 1.0])
    ),
    "pattern": st.sampled_from(["^a$", "(", "a{99999999999}", "[a--b]", r"\p{L}", "(?i)a", r"\d+", "[[:x:]]"]),
    "required": st.lists(st.sampled_from("abc"), max_size=2),
    "additionalProperties": st.booleans() | st.just({}) | scalars,
    "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/b", "#/$defs/a%20b", "other.json", "#/nowhere"]),
    "title": st.just("t"),
}


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = {
        "properties": st.dictionaries(st.sampled_from(["a", "b", "c", "id", "\ud800"]), inner, max_size=3),
        "items": inner,
        "anyOf": st.lists(inner | st.just({"type": "null"}), min_size=1, max_size=2),
        "$defs": st.dictionaries(st.sampled_from(["a", "a b"]), inner, max_size=2),
    }
    likely = st.builds(
        lambda kind, more: {"type": kind, **more}, types, st.fixed_dictionaries({}, optional={**keywords, **parts})
    )
    narrow = st.dictionaries(st.sampled_from([*keywords, *parts]), st.none(), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: {**keywords, **parts}[name] for name in names})
    )
    return likely | narrow


documents = st.builds(
    lambda fields_, definitions, more: {
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "string"}, **fields_},
        "$defs": definitions,
        **more,
    },
    st.dictionaries(st.sampled_from("abc"), st.recursive(st.booleans(), _schemas, max_leaves=5), max_size=3),
    st.dictionaries(st.sampled_from(["a", "a b"]), st.recursive(st.booleans(), _schemas, max_leaves=3), max_size=2),
    st.fixed_dictionaries({}, optional={"additionalProperties": st.booleans(), "required": keywords["required"]}),
)
events = st.builds(lambda more: {"id": "x", **more}, st.dictionaries(st.sampled_from("abc"), values, max_size=3))


@settings(max_examples=200)
@given(document=documents, event=events)
def test_schemas_hold(document: dict[str, Any], event: dict[str, Any]) -> None:
    """Whatever keywords come together, the schema compiles or is refused, and judges events as it says."""
    schema.check(join(json.dumps(document), json.dumps(event)))


@settings(max_examples=120)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            ["id", "amount", "ratio", "night", "level", "pair", "grid", "shop", "csv", "raw", "time", "note"]
        ),
        values,
        max_size=3,
    )
)
def test_events_hold(changes: dict[str, Any]) -> None:
    """Any JSON value in any field of an event is decoded or refused, alike by both ways."""
    event = json.loads(decoder.TARGET.seeds[0])
    decoder.check(json.dumps({**event, **changes}).encode())


manifest_keys = ["name", "version", "file", "sha256", "inputs", "outputs", "decision", "golden", "external_data", "x"]
near_manifests = st.dictionaries(st.sampled_from(manifest_keys), values, max_size=2)
near_inputs = st.dictionaries(
    st.sampled_from(["name", "dtype", "shape", "fields", "encoding"]),
    values
    | st.sampled_from(["float32", "string", "csv", "base64", "epoch_s", ["batch", 2**40], ["batch", 2, 3], ["a"]]),
    max_size=2,
)


@settings(max_examples=100)
@given(changes=near_manifests, entry=near_inputs)
def test_manifests_hold(changes: dict[str, Any], entry: dict[str, Any]) -> None:
    """Any value under any key of a manifest loads or is refused by name."""
    manifest, model, golden = split(bundle.TARGET.seeds[1], 3)
    document = yaml.safe_load(manifest.replace(b"{sha256}", b"'{sha256}'"))
    document["inputs"][0].update(entry)
    text = yaml.dump({**document, **changes}, allow_unicode=False).replace("'{sha256}'", "{sha256}")
    bundle.check(join(text, model, golden))


near_settings = st.dictionaries(
    st.sampled_from(sorted(fields())).map("__".join), values | st.sampled_from(["5e-3", "yes", "010"]), max_size=3
)


@settings(max_examples=100)
@given(lines=near_settings, variables=near_settings)
def test_configurations_hold(lines: dict[str, Any], variables: dict[str, Any]) -> None:
    """Any value under any key, in the file or in a variable, gives settings or problems that can be found."""
    document = yaml.safe_load(split(configuration.TARGET.seeds[0], 2)[0])
    for name, value in lines.items():
        section, key = name.split("__")
        document.setdefault(section, {})[key] = value
    text = yaml.dump(document, allow_unicode=False)
    assigned = (f"HEADRACE__{name.upper()}={value}" for name, value in variables.items())
    configuration.check(join(text, "\n".join(assigned).encode("utf-8", "surrogatepass")))


header_names = st.sampled_from(["traceparent", "headrace-redriven", "headrace-dlq-topic", "headrace-dlq-sha256", "é"])
header_lists = st.lists(st.tuples(header_names, st.none() | st.binary(max_size=8)), max_size=4)


@settings(max_examples=120)
@given(before=header_lists, cut=st.integers(0, 12), after=header_lists, which=st.sampled_from(headers.TARGET.seeds))
def test_header_lists_hold(before: list[Any], cut: int, after: list[Any], which: bytes) -> None:
    """Headers of ours among others of the same names are read, shown and redriven without a slip."""
    ours = headers.decoded(which)
    headers.check(headers.encoded([*before, *ours[:cut], *after, *ours[cut:]]))
    headers.check(headers.encoded([*before, *ours]))


def test_an_input_carries_several_files() -> None:
    """Joined files come apart again; those that are missing are empty."""
    assert split(join("a", b"\n", ""), 3) == [b"a", b"\n", b""]
    assert split(b"a", 2) == [b"a", b""]


def test_files_are_named_after_their_target() -> None:
    """Every folder of the corpus belongs to a target."""
    folders = {path.name for path in Path(__file__).with_name("corpus").iterdir() if path.is_dir()}
    assert folders == set(NAMES)
