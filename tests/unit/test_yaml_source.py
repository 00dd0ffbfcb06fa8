"""YAML is read by the rules of version 1.2, with the line of every key and nothing lost on the way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from worker.yaml_source import YamlSourceError, did_you_mean, dotted, parse, read

PATH = Path("model.yaml")


def _problems(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(YamlSourceError) as caught:
        parse(text, PATH)
    return [(problem.line, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("18446744073709551615", 2**64 - 1),
        ("!!str 1", "1"),
        ("-.INF", -math.inf),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.0.0", "1.0.0"),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        ("[1, [a], {b: c}]", [1, ["a"], {"b": "c"}]),
    ],
)
def test_values(text: str, expected: object) -> None:
    """Only what looks like a number, true, false or null is one; all else is text."""
    data = parse(f"key: {text}", PATH).data

    assert data == {"key": expected}


def test_lines() -> None:
    """Each key and list entry carries the line it stands in, the document its first."""
    source = parse("# top\na: 1\nb:\n  - x\n  - c: 2\n    on: 3\n", PATH)

    assert source.data == {"a": 1, "b": ["x", {"c": 2, "on": 3}]}
    assert source.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("b", 1, "on"): 6,
    }


def test_empty_file() -> None:
    """Nothing is null, in line 1."""
    assert parse("", PATH) == (None, {(): 1})


def test_repeated_and_complex_keys() -> None:
    """A key given twice and a key that is no text are both reported."""
    assert _problems("a: {b: 1, b: 2}\n? [1]\n: 3\n") == [
        (1, "'a.b' is given twice, first in line 1"),
        (2, "a key must be plain text"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1\n", 3),
        ("a:\n\t- 1", 2),
        ("a: !own x", 1),
        ("a: 1\n---\nb: 2", 2),
        ("a: *b", 1),
        ("a: !!int x", 1),
        ("a: 1\nb: !!bool x", 2),
        ("a: !!float ''", 1),
        ("a: !!timestamp x", 1),
        ("a: !!null x", 1),
        ("a: !own [x]", 1),
        ("a:\n  b: !!set {c, d}", 2),
        ('a: "\\UFFFFFFFF"', 1),
        ('a: "\\U00110000"', 1),
        ('"\\uD800": 1', 1),
        ("a: 18446744073709551616", 1),
        ("a: 0x" + "f" * 5000, 1),
        ("a: " + "9" * 5000, 1),
        (b"a: \xff", 0),
    ],
)
def test_text_that_is_no_yaml(text: str | bytes, line: int) -> None:
    """Syntax errors carry their line where there is one."""
    ((found, message),) = _problems(text)

    assert found == line
    assert message.startswith("not valid YAML")


def test_deep_nesting() -> None:
    """Endless brackets are a problem, not a crash."""
    assert _problems("[" * 1500) == [(0, "the file is nested too deeply")]


def test_aliases_cannot_explode() -> None:
    """Anchors are followed, but only up to a size that no honest file reaches."""
    assert parse("a: &x [1]\nb: *x\n", PATH).data == {"a": [1], "b": [1]}

    levels = [f"k{level}: &k{level} [{', '.join([f'*k{level - 1}'] * 10)}]" for level in range(1, 9)]
    ((_, message),) = _problems("\n".join(["k0: &k0 [x]", *levels]))
    assert message == "not valid YAML: too many values"


def test_aliases_cannot_multiply_problems() -> None:
    """What is wrong behind an anchor is not reported again and again until the memory ends."""
    twice = ", ".join(["x: 1"] * 1000)
    text = f"a: &a {{{twice}}}\nb: &b [{', '.join(['*a'] * 1000)}]\nc: [{', '.join(['*b'] * 1000)}]\n"
    assert _problems(text) == [(1, "not valid YAML: too many values")]


def test_large_file(tmp_path: Path) -> None:
    """A file above 1 MiB is refused before it is parsed."""
    path = tmp_path / "model.yaml"
    path.write_bytes(b"#" * (1 << 20))
    assert read(path).data is None

    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(YamlSourceError, match="larger than 1 MiB"):
        read(path)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there stays the caller's to explain."""
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("dtyp", ["name", "dtype"], "Did you mean 'dtype'?"),
        ("zzz", ["name", "dtype"], "Known here: dtype, name."),
        ("zzz", [], "Nothing is known here."),
    ],
)
def test_did_you_mean(word: str, known: list[str], expected: str) -> None:
    """The closest name is offered, else all of them."""
    assert did_you_mean(word, known) == expected


def test_dotted() -> None:
    """Key paths read as people write them."""
    assert [dotted(()), dotted(("a",)), dotted(("a", 0, "b"))] == ["", "a", "a[0].b"]
