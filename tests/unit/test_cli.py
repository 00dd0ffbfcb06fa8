"""The command line: what goes where, which exit code ends it, and that no secret is shown."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import worker
from worker import resources
from worker.__main__ import main
from worker.commands import check, report, version
from worker.errors import BrokerError, BundleError, ConfigError, EnvironmentFault, HeadraceError, Problem

CONFIG = """\
kafka:
  group_id: fraud-scoring
  input_topics: [transactions]
  output_topic: scored
event:
  schema: event.json
  id_field: transaction_id
model:
  path: bundle
  providers: [cpu]
batching:
  max_batch_size: 8
output:
  include: [customer_id]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that fits the shipped schema and a copy of the shipped bundle."""
    for name in [name for name in os.environ if name.startswith("HEADRACE__")]:
        monkeypatch.delenv(name)
    shutil.copy(resources.path("schemas/transaction.schema.json"), tmp_path / "event.json")
    shutil.copytree(resources.path("models/fraud"), tmp_path / "bundle")
    path = tmp_path / "worker.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def check_json(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run ``check --json`` and return exit code and answer."""
    code = main(["check", "--config", str(config), "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def replace_worker(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """Put ``run`` in the place of the worker, so that nothing connects to a broker."""
    module = types.ModuleType("worker.app")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The version goes to standard output, in words or as JSON."""
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"headrace {worker.__version__} (Python 3.")
    assert main(["version", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == worker.__version__
    assert set(answer) == {"version", "python", "onnxruntime"}


def test_a_missing_runtime_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ONNX Runtime the version says so instead of failing."""
    monkeypatch.setattr(version, "ONNXRUNTIME_PACKAGES", ("no-such-package-here",))
    assert main(["version"]) == 0
    assert "ONNX Runtime not installed" in capsys.readouterr().out


def test_starting_loads_nothing_heavy() -> None:
    """Neither the model's nor the broker's libraries are loaded for a command that needs none."""
    script = (
        "import sys; from worker.__main__ import main; main(['version', '--json']);"
        "heavy = {'numpy', 'onnxruntime', 'aiokafka', 'msgspec', 'yaml', 'asyncio', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_passes_a_sound_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration, schema and bundle that fit each other have no problem."""
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: ok\n"
    assert check_json(config, capsys) == (0, {"ok": True, "problems": [], "not_checked": []})


def test_check_tries_every_provider_under_auto(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that could not take part is a note, not a problem; the worker would start without it."""
    config.write_text(CONFIG.replace("[cpu]", "auto"), encoding="utf-8")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    code, answer = check_json(config, capsys)
    assert (code, answer["problems"]) == (0, [])
    built = "the installed onnxruntime was built without cuda"
    assert answer["not_checked"] == [f"the model on cuda, which would not take part: {built}"]


def test_check_prints_one_block_per_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A block has file and line, key, what is wrong and what to write; the verdict counts the problems."""
    config.write_text(CONFIG.replace("output_topic", "output_topik"), encoding="utf-8")
    assert main(["check", "--config", str(config)]) == 2
    out, err = capsys.readouterr()
    assert err == (
        f"{config}:4 kafka.output_topik\n"
        "  wrong:   kafka.output_topik is no key of the configuration\n"
        "  instead: did you mean output_topic?\n"
    )
    assert out == f"{config}: 1 problem\n"


def test_check_json_has_the_promised_fields(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem carries file, line, key, code, message and remedy."""
    config.write_text(CONFIG.replace("[cpu]", "[gpu]"), encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert (code, answer["ok"]) == (2, False)
    assert [list(problem) for problem in answer["problems"]] == [["file", "line", "key", "code", "message", "remedy"]]
    assert (answer["problems"][0]["line"], answer["problems"][0]["key"]) == (10, "model.providers")


def test_check_reports_independent_problems_together(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken schema and a broken bundle are both reported; the first one found decides the exit code."""
    (config.parent / "event.json").write_text('{"type": "object",\n "properties": {,}}', encoding="utf-8")
    (config.parent / "bundle" / "model.yaml").unlink()
    code, answer = check_json(config, capsys)
    assert code == 2
    places = [(Path(problem["file"]).name, problem["line"], problem["code"]) for problem in answer["problems"]]
    assert places[0] == ("event.json", 2, "invalid_json")
    assert [name for name, _, _ in places[1:]] == ["model.yaml"]


@pytest.mark.parametrize("text", ["[]", '{"a": 1, "a": 2}', '{"a": NaN}', "\ufeff", "[" * 100000])
def test_check_refuses_a_schema_that_is_no_sound_json(
    config: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Repeated names, constants that JSON lacks and other top-level values are configuration errors."""
    (config.parent / "event.json").write_text(text, encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert code == 2
    assert [Path(problem["file"]).name for problem in answer["problems"]] == ["event.json"]


def test_check_points_into_the_schema(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A keyword that cannot be enforced is named by its JSON pointer."""
    path = config.parent / "event.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["properties"]["amount"]["multipleOf"] = 0.01
    path.write_text(json.dumps(document), encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert code == 2
    assert [(problem["file"], problem["key"]) for problem in answer["problems"]] == [
        (str(path), "/properties/amount/multipleOf")
    ]


def test_check_places_what_does_not_fit_the_schema(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that events lack is located in the configuration, or at the variable that names it."""
    config.write_text(CONFIG.replace("[customer_id]", "[costumer_id]"), encoding="utf-8")
    monkeypatch.setenv("HEADRACE__EVENT__ID_FIELD", "transaction")
    code, answer = check_json(config, capsys)
    assert code == 2
    assert {(problem["file"], problem["line"], problem["key"]) for problem in answer["problems"]} == {
        ("environment", 0, "HEADRACE__EVENT__ID_FIELD"),
        (str(config), 14, "output.include"),
    }


def test_check_places_what_is_wrong_with_the_bundle_only(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A decision on an output that does not exist is the model owner's, with a line of the manifest."""
    manifest = config.parent / "bundle" / "model.yaml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("decision:\n  output: score", "decision:\n  output: skore"), encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert code == 5
    assert {(problem["file"], problem["key"]) for problem in answer["problems"]} == {(str(manifest), "decision.output")}
    assert all(problem["line"] > 1 for problem in answer["problems"])


def test_check_sorts_a_collision_to_the_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An event field and an output of the same name are a configuration problem; so is an input without its field."""
    manifest = config.parent / "bundle" / "model.yaml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("field: flag", "field: customer_id"), encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert (code, [problem["code"] for problem in answer["problems"]]) == (2, ["name_collision"])
    manifest.write_text(text.replace("- is_weekend", "- is_weekday"), encoding="utf-8")
    code, answer = check_json(config, capsys)
    assert code == 5
    assert [(problem["file"], problem["key"]) for problem in answer["problems"]] == [(str(manifest), "inputs[0]")]
    assert answer["problems"][0]["line"] == 1 + text.splitlines().index("- name: features")


def test_check_tells_a_schema_that_cannot_be_read(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A schema in another encoding is a configuration error."""
    (config.parent / "event.json").write_bytes(b"{\xff}")
    code, answer = check_json(config, capsys)
    assert (code, [problem["code"] for problem in answer["problems"]]) == (2, ["not_utf8"])


def test_check_tells_a_damaged_model(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model file that is not the one of the manifest ends with the code of bundles."""
    with (config.parent / "bundle" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    code, answer = check_json(config, capsys)
    assert (code, answer["ok"]) == (5, False)


def test_check_says_what_it_left_out(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ONNX Runtime the rest is checked, and the model is reported as not checked."""
    monkeypatch.setattr(check, "find_spec", lambda _: None)
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr().err.startswith("not checked: the model itself")
    code, answer = check_json(config, capsys)
    assert (code, len(answer["not_checked"])) == (0, 1)


def test_check_online_asks_the_brokers(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the brokers lack is reported with the code of brokers; without problems the check passes."""
    answers: list[Problem] = []
    brokers = types.ModuleType("worker.adapters.kafka_check")
    monkeypatch.setattr(brokers, "check_online", lambda *_: answers, raising=False)
    monkeypatch.setitem(sys.modules, brokers.__name__, brokers)
    assert main(["check", "-c", str(config), "--online"]) == 0
    answers.append(Problem("topic scored is missing", "headrace topics ensure", key="kafka.output_topic"))
    capsys.readouterr()
    assert main(["check", "-c", str(config), "--online", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["problems"][0]["remedy"] == "headrace topics ensure"


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema is printed as one JSON document, indented or on one line."""
    assert main(["config", "schema"]) == 0
    indented = capsys.readouterr().out
    assert main(["config", "schema", "--json"]) == 0
    line = capsys.readouterr().out
    assert json.loads(indented) == json.loads(line)
    assert len(line.splitlines()) == 1
    assert "validate" in json.loads(line)["$defs"]["EventSection"]["properties"]


def test_config_show_masks_secrets_and_tells_origins(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effective values come with file and line, variable, or default; a password is masked."""
    for name, text in [("SECURITY_PROTOCOL", "SASL_SSL"), ("SASL_MECHANISM", "PLAIN"), ("SASL_USERNAME", "u"),
                       ("SASL_PASSWORD", "hunter2")]:  # fmt: skip
        monkeypatch.setenv(f"HEADRACE__KAFKA__{name}", text)
    assert main(["config", "show", "-c", str(config)]) == 0
    shown = capsys.readouterr().out
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert f'group_id: "fraud-scoring" # {config}:2' in lines
    assert 'sasl_password: "********" # HEADRACE__KAFKA__SASL_PASSWORD' in lines
    assert "port: 8080 # default" in lines
    assert main(["config", "show", "-c", str(config), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"]["event"]["schema"] == str(config.parent / "event.json")
    assert answer["origins"]["batching.max_batch_size"] == f"{config}:12"
    assert "hunter2" not in shown + json.dumps(answer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(Problem("bad", "mend it", "a.yaml", 3, "x.y")), 2),
        (EnvironmentFault("bad"), 3),
        (BrokerError("bad"), 4),
        (BundleError("bad"), 5),
    ],
)
def test_a_failure_becomes_blocks_and_its_exit_code(
    error: HeadraceError,
    code: int,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each class of failure ends the process with its own code, in words or as JSON."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("worker.config_file.load_with_origins", fail)
    assert main(["config", "show", "-c", str(config)]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "".join(report.format_problem(problem) for problem in error.problems))
    assert main(["config", "show", "-c", str(config), "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"ok": False, "problems": [report.problem_fields(problem) for problem in error.problems]}


def test_a_bug_says_that_it_is_one(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other exception ends with code 1, its traceback and a request to report it."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("worker.config_file.load_with_origins", fail)
    assert main(["config", "show", "-c", str(config), "--json"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "bug in headrace" in err
    assert json.loads(out)["problems"][0]["code"] == "bug"


@pytest.mark.parametrize("code", [0, 4])
def test_run_ends_with_the_code_of_the_worker(config: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The worker gets the loaded settings, and its result is the exit code."""
    seen = []

    async def run(settings: Any) -> int:
        seen.append(settings.kafka.group_id)
        return code

    replace_worker(monkeypatch, run)
    assert main(["run", "--config", str(config)]) == code
    assert seen == ["fraud-scoring"]


def test_run_adds_the_line_to_a_late_problem(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration problem that shows only when the worker starts is located too."""

    async def run(_: object) -> int:
        raise ConfigError(Problem("no such field", key="output.include"))

    replace_worker(monkeypatch, run)
    assert main(["run", "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith(f"{config}:14 output.include\n")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["chek"], "Did you mean 'check'"), (["check", "--conf"], "--conf"), (["config"], "schema"), ([], "check")],
)
def test_wrong_usage_is_told(arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that cannot be read ends with code 2 and says why, on standard error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert shown in err
    assert out == ""


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Help goes to standard output and is no failure."""
    assert main(["--help"]) == 0
    assert {"run", "check", "config", "version"} <= set(capsys.readouterr().out.split())


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours unless NO_COLOR is set; a file never does."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    problem = Problem("bad")
    terminal, plain, silenced = Terminal(), io.StringIO(), Terminal()
    report.print_problems([problem], terminal)
    report.print_problems([problem], plain)
    monkeypatch.setenv("NO_COLOR", "1")
    report.print_problems([problem], silenced)
    assert "\x1b[" in terminal.getvalue()
    assert plain.getvalue() == silenced.getvalue() == "headrace\n  wrong:   bad\n"
