"""What the command line makes of the forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.plan import chosen_rows, full, quick
from benchmarks.systems import SYSTEMS, Kind, entry


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
    """Alternatives run on fraud, the hand-written loop also on trees, limits and Headrace on every workload."""
    rows = names(full().rows)
    assert {row.partition(":")[0] for row in rows if row.endswith(" fraud")} == {
        name for name, system in SYSTEMS.items() if system.is_present
    }
    assert "headrace:exactly_once strings" in rows
    assert "confluent_loop:safe trees" in rows
    assert not [row for row in rows if row.startswith("quix") and not row.endswith(" fraud")]


def test_a_system_without_variant_means_all_of_them() -> None:
    """Both guarantees are taken."""
    assert names(chosen_rows(["headrace"], ["tiny"], quick())) == [
        "headrace:at_least_once tiny",
        "headrace:exactly_once tiny",
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


def test_transactional_variants_are_read_committed() -> None:
    """Their outputs count once they are committed."""
    assert entry("headrace:exactly_once").is_transactional
    assert not entry("headrace:at_least_once").is_transactional
    assert entry("headrace:at_least_once").system.kind is Kind.OURS
