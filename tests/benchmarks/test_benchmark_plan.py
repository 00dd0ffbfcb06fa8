"""What the command line makes of the forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import _parser, _prepared, main
from benchmarks.harness.plan import chosen_parts, chosen_rows, full, long, quick
from benchmarks.harness.results import load, save
from benchmarks.harness.scratch import Place
from benchmarks.systems import SYSTEMS, Kind, entry
from benchmarks.workloads import WORKLOADS
from tests.benchmarks.samples import part, result

PLACE = Place(Path("runs"), "in memory")


def names(rows: tuple[tuple[object, str], ...]) -> list[str]:
    """``system:variant workload`` of each row."""
    return [f"{getattr(one, 'name', one)} {workload}" for one, workload in rows]


def test_quick_form_is_headrace_between_limit_and_loop() -> None:
    """Five rows, all on the fraud events."""
    assert names(quick().rows) == [
        "echo_aiokafka:pipelined fraud",
        "headrace:at_least_once fraud",
        "headrace:exactly_once fraud",
        "confluent_loop:unsafe fraud",
        "confluent_loop:safe fraud",
    ]


def test_full_form_has_every_system_on_fraud_and_ours_on_all() -> None:
    """Alternatives run on fraud, the hand-written loop also on trees, limits and one process of Headrace on all."""
    rows = names(full().rows)
    assert {row.partition(":")[0] for row in rows if row.endswith(" fraud")} == {*SYSTEMS}
    assert "headrace:exactly_once strings" in rows
    assert "confluent_loop:safe trees" in rows
    assert [row for row in rows if row.startswith("headrace:two_processes")] == ["headrace:two_processes fraud"]
    assert not [row for row in rows if row.startswith("quix") and not row.endswith(" fraud")]


def test_a_system_without_variant_means_all_of_them() -> None:
    """Both guarantees are taken, and the pod of two processes."""
    assert names(chosen_rows(["headrace"], ["tiny"], quick())) == [
        "headrace:at_least_once tiny",
        "headrace:exactly_once tiny",
        "headrace:two_processes tiny",
    ]


def test_a_workload_alone_keeps_the_systems_of_the_form() -> None:
    """What a system cannot do is left out."""
    assert "confluent_loop:safe crayfish" not in names(chosen_rows([], ["crayfish", "trees"], quick()))
    assert "confluent_loop:safe trees" in names(chosen_rows([], ["crayfish", "trees"], quick()))


@pytest.mark.parametrize(
    ("systems", "text"),
    [
        (["spark"], "there is no system 'spark'"),
        (["headrace:sometimes"], "headrace has no variant 'sometimes'; it has at_least_once, exactly_once"),
    ],
)
def test_a_wrong_name_is_answered_with_those_that_exist(systems: list[str], text: str) -> None:
    """The message helps to choose."""
    with pytest.raises(LookupError, match=text):
        chosen_rows(systems, [], quick())


def test_a_pair_that_cannot_be_is_refused() -> None:
    """The hand-written loop reads numbers, not a text of them."""
    with pytest.raises(LookupError, match="can do crayfish"):
        chosen_rows(["confluent_loop"], ["crayfish"], quick())


def test_a_wrong_name_ends_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 2, before any broker is started, and nothing is written."""
    assert main(["--system", "spark", "--out", str(tmp_path)]) == 2
    assert "there is no system 'spark'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_list_prints_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Systems and workloads, and exit code 0."""
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "crayfish_whole" in shown
    assert "Kafka Streams (Java)" in shown


def test_parts_are_what_is_measured_together() -> None:
    """Each workload's drains are one part, every other measurement another."""
    assert quick().parts == ("throughput:fraud", "latency")
    assert full().parts[:2] == ("throughput:fraud", "throughput:trees")
    assert full().parts[-5:] == ("crash", "standby", "latency", "idle", "capacity")
    assert long().parts == ("long",)


def test_every_workload_is_drained_by_the_full_form() -> None:
    """None is forgotten."""
    assert {part for part in full().parts if part.startswith("throughput:")} == {
        f"throughput:{name}" for name in WORKLOADS
    }


def test_a_part_is_chosen_by_its_name() -> None:
    """``throughput`` means all workloads; the order is the form's."""
    parts = ("throughput:fraud", "throughput:tiny", "crash", "latency")
    assert chosen_parts(["latency", "throughput"], parts) == ("throughput:fraud", "throughput:tiny", "latency")
    assert chosen_parts(["throughput:tiny"], parts) == ("throughput:tiny",)
    assert chosen_parts([], parts) == parts


def test_a_part_that_does_not_exist_is_answered_with_those_that_do() -> None:
    """The message helps to choose; ``through`` is no abbreviation."""
    with pytest.raises(LookupError, match=r"no part 'through'; there are throughput:fraud, crash"):
        chosen_parts(["through"], ("throughput:fraud", "crash"))


def test_part_of_a_form_is_still_that_form() -> None:
    """Measured part by part, a form's results belong together."""
    plan, parts, made = _prepared(_parser().parse_args(["--form", "full", "--part", "crash"]), [], PLACE)
    assert (plan.form, parts, made.missing) == ("full", ("crash",), list(full().parts))


def test_a_changed_form_is_another_one() -> None:
    """A shorter drain, or fewer systems, are not the form's figures."""
    for changed in (["--drain-seconds", "1"], ["--system", "headrace"], ["--part", "crash"]):
        assert _prepared(_parser().parse_args(changed), [], PLACE)[0].form == "custom"


def resumable(folder: Path, *complete: str) -> Path:
    """The file of a full run on this machine that was cut after these parts."""
    _, _, made = _prepared(_parser().parse_args(["--form", "full"]), ["--form", "full"], PLACE)
    made.parts = [part(name) for name in complete]
    save(made, folder / "full.json")
    return folder / "full.json"


def test_a_cut_run_is_resumed_with_what_it_lacks(tmp_path: Path) -> None:
    """The complete parts stay, and both commands are named."""
    path = resumable(tmp_path, *full().parts[:-1])
    plan, parts, made = _prepared(_parser().parse_args(["--resume", str(path)]), ["--resume", "x"], PLACE)
    assert (plan.form, parts) == ("full", ("capacity",))
    assert made.commands == ["python -m benchmarks --form full", "python -m benchmarks --resume x"]
    assert [one.name for one in made.parts] == list(full().parts[:-1])


def test_a_complete_part_can_be_measured_anew(tmp_path: Path) -> None:
    """Named, it is taken although it is not missing."""
    path = resumable(tmp_path, *full().parts)
    assert _prepared(_parser().parse_args(["--resume", str(path), "--part", "idle"]), [], PLACE)[1] == ("idle",)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ([], "nothing is missing"),
        (["--repetitions", "9"], "only --part may be chosen"),
        (["--part", "long"], "only --part may be chosen"),
        (["--part", "everything"], "there is no part everything"),
    ],
)
def test_what_cannot_be_resumed_says_why(
    more: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the file stays as it is."""
    path = resumable(tmp_path, *full().parts)
    before = path.read_bytes()
    assert main(["--resume", str(path), *more]) == 2
    assert text in capsys.readouterr().err
    assert path.read_bytes() == before


def test_figures_of_other_versions_are_not_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file never holds two versions of the worker."""
    path = resumable(tmp_path, "crash")
    made = load(path)
    made.versions["headrace"] = "0.0.1 (abc)"
    save(made, path)
    assert main(["--resume", str(path)]) == 2
    assert "versions, headrace: 0.0.1 (abc) and " in capsys.readouterr().err


def test_a_file_that_is_not_there_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and its name, before anything is started."""
    assert main(["--resume", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_show_prints_the_tables_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured."""
    save(result(), tmp_path / "full.json")
    assert main(["--show", str(tmp_path / "full.json")]) == 0
    assert "Throughput: fraud" in capsys.readouterr().out


def test_transactional_variants_are_read_committed() -> None:
    """Their outputs count once they are committed."""
    assert entry("headrace:exactly_once").is_transactional
    assert not entry("headrace:at_least_once").is_transactional
    assert entry("headrace:at_least_once").system.kind is Kind.OURS
