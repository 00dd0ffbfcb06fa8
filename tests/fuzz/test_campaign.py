"""The coverage-guided run around the targets: what it keeps, replays and reports, without the fuzzer itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import campaign, keeping, report
from tests.fuzz.findings import FINDINGS
from tests.fuzz.target import NAMES, Target, load


def test_only_inputs_that_reach_something_new_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two inputs that do the same the shorter one is kept, and none that does what a seed does."""
    found = tmp_path / "found"
    found.mkdir()
    for index, data in enumerate((b"[]", b"[ ]", b'{"id":1}', b'{"id": 1}', b"x" * 5000)):
        (found / str(index)).write_bytes(data)
    monkeypatch.setattr(keeping, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(keeping, "found_folder", lambda _name: found)
    monkeypatch.setattr(Target, "corpus", lambda _self: [])
    check = load("decoder").check
    kept = keeping.keep(Target("decoder", check, (b"[1]",), ()))
    assert [path.read_bytes() for path in kept] == [b'{"id":1}']
    assert keeping.keep(Target("decoder", check, (b"[1]", b'{"id":1}'), ())) == []


def test_an_input_that_breaks_its_oracle_ends_the_replay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replay says which inputs hold, and raises where one does not."""

    def check(data: bytes) -> None:
        assert data == b"good"

    monkeypatch.setattr(command, "load", lambda name: Target(name, check, (), ()))
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    assert command.replay(["decoder"], [good]) == 0
    assert "holds" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        command.replay(["decoder"], [bad])


def test_a_missing_fuzzer_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where atheris is not installed, the command says so and ends with 3."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr("sys.argv", ["fuzz"])
    assert command.main() == 3
    assert "atheris is not installed" in capsys.readouterr().err


def test_a_crash_fails_the_run(tmp_path: Path) -> None:
    """A kept crash, and an exit code other than 0, both count as failures."""
    sound = campaign.Result("decoder", 10, 1, 5, (), 0, tmp_path)
    assert not sound.failed
    assert campaign.Result("decoder", 10, 1, 5, (tmp_path,), 77, tmp_path).failed
    assert campaign.Result("decoder", 0, 1, 0, (), 1, tmp_path).failed


def test_the_report_counts_every_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """JSON and page hold a row for each target and a line for each finding."""
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "1")
    results = [campaign.Result(name, 1200, 10, 50, (), 0, tmp_path) for name in NAMES]
    report.write(results, "make fuzz", tmp_path / "page.md", tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["executions_per_s"] for one in written["targets"]] == [120.0] * len(NAMES)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.count("| 1,200 | 120 | 50 |") == len(NAMES)
    assert all(one.found in page for one in FINDINGS)


def test_the_committed_page_follows_its_figures() -> None:
    """docs/fuzzing.md is what docs/fuzzing.json says."""
    docs = campaign.PROJECT / "docs"
    figures = json.loads((docs / "fuzzing.json").read_text(encoding="utf-8"))
    assert (docs / "fuzzing.md").read_text(encoding="utf-8") == report.page(figures)
