"""The table in words, in the document, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evaluate import document
from benchmarks.evaluate.__main__ import DOCUMENT, main, settle
from benchmarks.evaluate.failure import EvaluationError
from benchmarks.evaluate.models import RECIPES
from benchmarks.evaluate.protocol import Metrics
from benchmarks.evaluate.replay import Counts
from benchmarks.evaluate.verdict import COUNTED_ROWS, Finding, complaints

EVENTS = ("67,080", "67,080", "0", "0", "0", "58,264")
TOLERANCES = {recipe.title: recipe.repeats_within for recipe in RECIPES}


def table(auc: float = 0.870, missing: int = 0, difference: float | None = 5e-7) -> document.Rows:
    """The table of one model."""
    counts = Counts(67_080, 67_080 - missing, 0, missing, 0)
    measured = Metrics(auc, 0.605, 0.291)
    return document.rows([Finding(RECIPES[0], measured, measured, difference, counts, 58_264, ())])


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with prose around an older table, in the place of the real one."""
    path = tmp_path / "evaluation.md"
    path.write_text(f"# Before\n\n{document.section(table())}\n\nAfter.\n", encoding="utf-8")
    monkeypatch.setattr("benchmarks.evaluate.__main__.DOCUMENT", path)
    return path


def test_rows_show_worker_reference_and_published() -> None:
    """Counts and difference stand with the worker; the others have metrics only."""
    assert table() == [
        ("logistic regression", "worker", "0.870", "0.605", "0.291", *EVENTS, "5e-07"),
        ("logistic regression", "scikit-learn", "0.870", "0.605", "0.291", *["-"] * 7),
        ("logistic regression", "published", "0.871", "0.606", "0.291", *["-"] * 7),
    ]


def test_terminal_table_is_aligned() -> None:
    """All numbers of a column end at the same place."""
    header, worker, *_ = document.as_text(table()).splitlines()
    assert header.index("AUC") + 3 == worker.index("0.870") + 5
    assert worker.endswith("5e-07")
    assert len(header) == len(worker)


def test_document_gives_back_what_was_written(page: Path) -> None:
    """Rows and versions survive the way through Markdown."""
    assert document.committed(page) == (table(), document.versions())


def test_write_keeps_the_prose(page: Path) -> None:
    """Only the part between the marks changes."""
    document.write(page, table(auc=0.9))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Before\n\n<!-- begin")
    assert text.endswith("-->\n\nAfter.\n")
    assert document.committed(page)[0] == table(auc=0.9)


def test_document_without_marks_is_an_error(tmp_path: Path) -> None:
    """The error names the file and the two lines that it needs."""
    with pytest.raises(EvaluationError, match=r"evaluation\.md lacks the lines"):
        document.committed(tmp_path / "evaluation.md")


def test_rounding_is_no_deviation() -> None:
    """A metric within its model's tolerance and another largest difference agree with the known table."""
    assert document.deviations(table(auc=0.872, difference=9e-7), table(), TOLERANCES) == []


def test_deviations_name_row_column_and_both_values() -> None:
    """A metric beyond the tolerance and any other count are named."""
    found = document.deviations(table(auc=0.873, missing=1), table(), TOLERANCES)
    assert found[0] == "logistic regression, worker, AUC: 0.873, committed is 0.870"
    assert found[1] == "logistic regression, worker, scored: 67,079, committed is 67,080"
    assert found[2] == "logistic regression, worker, missing: 1, committed is 0"


def test_other_rows_are_a_deviation() -> None:
    """A table with other models is not compared cell by cell."""
    assert document.deviations(table(), [], TOLERANCES) == ["the committed table has other rows"]


def test_damaged_row_is_a_deviation() -> None:
    """A committed row that lost cells does not pass."""
    known = [row[:4] for row in table()]
    assert "committed is nothing" in document.deviations(table(), known, TOLERANCES)[-1]


def test_agreeing_table_leaves_the_document_alone(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --write too: a run within the tolerances leaves no trace."""
    before = page.read_text(encoding="utf-8")
    assert settle(table(auc=0.871), write=True) == []
    assert page.read_text(encoding="utf-8") == before
    assert "agrees" in capsys.readouterr().out


def test_deviating_table_fails_and_is_written_only_on_demand(page: Path) -> None:
    """Without --write the deviation is named and the document stays; with it, it is replaced."""
    before = page.read_text(encoding="utf-8")
    failures = settle(table(auc=0.9), write=False)
    assert "run again with --write" in failures[-1]
    assert page.read_text(encoding="utf-8") == before
    assert settle(table(auc=0.9), write=True) == []
    assert document.committed(page)[0] == table(auc=0.9)


def test_other_versions_are_a_remark(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal numbers by other versions pass, with a line that says how to renew the document."""
    text = page.read_text(encoding="utf-8").replace(document.versions(), "Versions: numpy 1.0.0.")
    page.write_text(text, encoding="utf-8")
    assert settle(table(), write=False) == []
    assert "other versions (Versions: numpy 1.0.0.)" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == text
    assert settle(table(), write=True) == []
    assert document.committed(page) == (table(), document.versions())


def test_committed_table_passes_its_own_rules() -> None:
    """The document in the repository has all models, every event once, and metrics near the published ones."""
    rows, versions = document.committed(DOCUMENT)
    assert [row[0] for row in rows[::3]] == [recipe.title for recipe in RECIPES]
    assert versions.startswith("Versions: numpy ")
    for recipe, row in zip(RECIPES, rows[::3], strict=True):
        worker = Metrics(*(float(cell) for cell in row[2:5]))
        counts = Counts(*(int(cell.replace(",", "")) for cell in row[5:10]))
        assert counts == Counts(67_080, 67_080, 0, 0, 0)
        finding = Finding(recipe, worker, worker, float(row[11]), counts, int(row[10].replace(",", "")), ())
        assert finding.counted == COUNTED_ROWS
        assert complaints(finding) == []


def test_missing_data_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the files the command says what is missing and exits with 2, before anything is started."""
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate: there is no train-2018-07-25_07-31.parquet in ")
    assert "--data" in error
