"""A study destroys no file and writes a configuration that means the same in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.tuning.studies import PLAN, figures, trial
from worker import resources
from worker.config_file import load, load_with_origins
from worker.errors import ConfigError
from worker.tuning.files import Files
from worker.tuning.report import Study
from worker.tuning.space import SIZE, space_around
from worker.tuning.trial import Origin
from worker.tuning.verdict import Final

CONFIG = """\
# ours
kafka: {group_id: g, input_topics: [in], output_topic: out}
event:
  schema: event.json
  id_field: transaction_id
model:
  path: bundle  # relative
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with relative paths."""
    shutil.copy(resources.path("schemas/transaction.schema.json"), tmp_path / "event.json")
    path = tmp_path / "worker.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def files(config: Path, output: Path, variables: dict[str, str] | None = None) -> Files:
    """The files of a study of that configuration."""
    return Files(config, output, load_with_origins(config, variables or {}))


def study(files: Files, cpu_us: float) -> Study:
    """A study in which batches of 64 take so much processor time, and the defaults 100."""
    space = space_around(files.loaded.settings, 2, fetch=False)
    trials = [
        trial(0, figures(100), space.defaults, Origin.DEFAULTS),
        trial(1, figures(cpu_us), {**space.defaults, SIZE: 64}),
    ]
    finals = [Final(one, (one.figures,) * 3) for one in trials]
    return Study(space, PLAN, {}, trials, [], finals)


def test_nothing_is_overwritten_unasked(config: Path, tmp_path: Path) -> None:
    """Each of the three files is in the way until forced; the configuration itself always is."""
    for name in ("tuned.yaml", "tuned.json", "tuned.svg"):
        (tmp_path / name).write_text("", encoding="utf-8")
        with pytest.raises(ConfigError, match=name):
            files(config, tmp_path / "tuned.yaml").check(force=False)
        files(config, tmp_path / "tuned.yaml").check(force=True)
        (tmp_path / name).unlink()
    files(config, tmp_path / "tuned.yaml").check(force=False)
    with pytest.raises(ConfigError, match="the configuration itself"):
        files(config, config).check(force=True)


def test_places_that_do_not_serve_are_refused(config: Path, tmp_path: Path) -> None:
    """Another ending, no folder, and another folder where paths are relative."""
    (tmp_path / "other").mkdir()
    for name, words in (("tuned.json", "no YAML"), ("none/tuned.yaml", "no folder"), ("other/t.yaml", "relative")):
        with pytest.raises(ConfigError, match=words):
            files(config, tmp_path / name).check(force=False)
    config.write_text(
        CONFIG.replace("event.json", f"{tmp_path}/event.json").replace("bundle", "/bundle"), encoding="utf-8"
    )
    files(config, tmp_path / "other/t.yaml").check(force=False)


def test_recommended_values_are_written(config: Path, tmp_path: Path) -> None:
    """The new file loads, has the new value and the old comments; figures and plot stand beside it."""
    target = files(config, tmp_path / "tuned.yaml")
    notes = target.finish(study(target, 50))
    assert load(tmp_path / "tuned.yaml", {}).batching.max_batch_size == 64
    assert "# ours" in (tmp_path / "tuned.yaml").read_text(encoding="utf-8")
    assert (tmp_path / "tuned.json").stat().st_size
    assert (tmp_path / "tuned.svg").stat().st_size
    assert notes[-1].startswith("configuration: ")


def test_defaults_need_no_file(config: Path, tmp_path: Path) -> None:
    """Where there is nothing to change, no configuration is written, and that is said."""
    target = files(config, tmp_path / "tuned.yaml")
    notes = target.finish(study(target, 101))
    assert not (tmp_path / "tuned.yaml").exists()
    assert "nothing to change" in notes[-1]


def test_winning_variable_is_noted(config: Path, tmp_path: Path) -> None:
    """A variable that sets a changed key would undo the change."""
    target = files(config, tmp_path / "tuned.yaml", {"HEADRACE__BATCHING__MAX_BATCH_SIZE": "128"})
    notes = target.finish(study(target, 50))
    assert notes[-1] == "note: the variable HEADRACE__BATCHING__MAX_BATCH_SIZE is set and wins over the file"
