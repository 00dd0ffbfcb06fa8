"""The files of a study: the configuration to write, and beside it every figure and the plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from worker.config_file import Loaded
from worker.errors import ConfigError, Problem
from worker.settings_fields import fields
from worker.tuning.plot import save_plot
from worker.tuning.report import Study
from worker.tuning.rewrite import rewrite

_COMMENT = "by headrace tune"


@dataclass(frozen=True, slots=True)
class Files:
    """Reads ``config``, which came to ``loaded``, and writes ``output`` with its companions ``.json`` and ``.svg``."""

    config: Path
    output: Path
    loaded: Loaded

    @property
    def figures(self) -> Path:
        """The document with every measurement."""
        return self.output.with_suffix(".json")

    @property
    def plot(self) -> Path:
        """The picture of the front."""
        return self.output.with_suffix(".svg")

    def check(self, *, force: bool) -> None:
        """Raise ConfigError where writing would destroy something, or where the output would not mean the same."""
        if self.output.suffix not in {".yaml", ".yml"}:
            raise _unusable(f"{self.output} is no YAML file by its name", "let the name end in .yaml")
        if self.output.exists() and self.output.samefile(self.config):
            raise _unusable(f"{self.output} is the configuration itself", "name another file and compare the two")
        there = [str(path) for path in (self.output, self.figures, self.plot) if path.exists()]
        if there and not force:
            raise _unusable(f"there is already: {', '.join(there)}", "name another file, or add --force to overwrite")
        home, target = (path.absolute().parent for path in (self.config, self.output))
        if not target.is_dir():
            raise _unusable(f"there is no folder {target}", "name a file in a folder that exists")
        if target.resolve() != home.resolve() and _has_relative_paths(self.loaded):
            message = "the configuration names files by relative paths, which start at the folder of the configuration"
            raise _unusable(message, f"name a file in {home}")

    def save(self, study: Study) -> None:
        """Write every measurement so far."""
        self.figures.write_text(json.dumps(study.as_json(), indent=1) + "\n", encoding="utf-8")

    def finish(self, study: Study) -> list[str]:
        """Write all files; returns what is worth saying about them."""
        self.save(study)
        save_plot(study, self.plot)
        notes = [f"figures: {self.figures}", f"plot: {self.plot}"]
        if not study.changes:
            return [*notes, f"{self.output} was not written: there is nothing to change"]
        text = self.config.read_text(encoding="utf-8-sig")
        self.output.write_text(rewrite(text, study.changes, _COMMENT), encoding="utf-8")
        return [*notes, f"configuration: {self.output}", *self._overruled(study)]

    def _overruled(self, study: Study) -> list[str]:
        """A note for each change that a variable of the environment would undo."""
        origins = {".".join(path): located for path, located in self.loaded.origins.items()}
        names = [origins[key].name for key in study.changes if key in origins and not origins[key].line]
        return [f"note: the variable {name} is set and wins over the file" for name in names]


def _has_relative_paths(loaded: Loaded) -> bool:
    return any(
        fields()[path].value_schema.get("format") == "path" and not Path(str(located.value)).is_absolute()
        for path, located in loaded.origins.items()
        if path in fields()
    )


def _unusable(message: str, remedy: str) -> ConfigError:
    return ConfigError(Problem(message, remedy, key="--output", code="output"))
