"""The page and its plots, made from a result."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness import charts, document, excerpt, marked, terminal
from benchmarks.harness.charts import Axis, nice_step
from benchmarks.harness.places import PAGE, PLOTS, README, RESULTS
from benchmarks.harness.plots import plots
from benchmarks.harness.results import Result, new_path, save
from tests.benchmarks.samples import result

EMPTY_PAGE = f"# Title\n\n{marked.BEGIN}\nstale\n{marked.END}\n\nprose\n"


def keep(made: Result, folder: Path) -> None:
    """Write a result as a run does."""
    save(made, new_path(made, folder))


def long_result() -> Result:
    """A result that has the long run alone."""
    made = result("long")
    made.wanted = ["long"]
    return made


def test_committed_page_is_up_to_date() -> None:
    """docs/performance.md, its plots and README's table are what the newest committed results give."""
    assert document.stale(PAGE, PLOTS, RESULTS) + excerpt.stale(README, RESULTS) == []


def test_page_keeps_its_prose(tmp_path: Path) -> None:
    """Only what is between the marks is replaced, and a second writing changes nothing."""
    page = tmp_path / "performance.md"
    page.write_text(EMPTY_PAGE)
    keep(result(), tmp_path)
    written = document.write(page, tmp_path / "performance", tmp_path)
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\nprose\n")
    assert "stale" not in text
    assert len(written) == 11
    assert document.stale(page, tmp_path / "performance", tmp_path) == []


def test_readme_shows_each_system_in_its_fastest_variant(tmp_path: Path) -> None:
    """Headrace in every one; the fastest first, with what a kill cost, and a rate that was not held is said so."""
    made = result()
    readme = tmp_path / "README.md"
    readme.write_text(EMPTY_PAGE)
    assert excerpt.stale(readme, tmp_path) == [readme]
    excerpt.write(readme, tmp_path)
    assert "No full run" in readme.read_text()
    keep(made, tmp_path)
    excerpt.write(readme, tmp_path)
    assert excerpt.stale(readme, tmp_path) == []
    rows = {row[0]: row for row in excerpt.table(made).rows}
    assert list(rows)[:2] == ["echo, aiokafka, pipelined", "**Headrace**, two processes"]
    assert "hand-written loop, unsafe" in rows
    assert "hand-written loop, safe" not in rows
    assert rows["**Headrace**, at least once"][1:4] == ("120,000", "6.5", "120")
    assert {row[-1] for row in rows.values()} > {"-"}


def test_a_rate_that_was_not_held_has_no_latency_in_the_readme() -> None:
    """Its percentiles are those of a queue."""
    made = result()
    part = next(part for part in made.parts if part.latencies and part.name == "latency")
    late = [msgspec.structs.replace(one, why_not_held="late") for one in part.latencies]
    part.latencies[:] = late
    rows = {row[0]: row[4] for row in excerpt.table(made).rows}
    assert rows["**Headrace**, at least once"] == "not held"


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    """Nothing is overwritten where the place for the figures is missing."""
    page = tmp_path / "performance.md"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        document.write(page, tmp_path, tmp_path)
    assert page.read_text() == "# Title\n"


def test_plots_of_an_older_result_are_removed(tmp_path: Path) -> None:
    """A plot for which there are no figures any more does not stay behind."""
    page, old = tmp_path / "performance.md", tmp_path / "old-light.svg"
    page.write_text(EMPTY_PAGE)
    old.write_text("<svg/>")
    assert document.stale(page, tmp_path, tmp_path) == [page, old]
    document.write(page, tmp_path, tmp_path)
    assert not old.exists()


def test_page_has_the_newest_of_both_forms(tmp_path: Path) -> None:
    """The long run has a file of its own; the page shows it below the comparison, with its plot."""
    page = tmp_path / "performance.md"
    page.write_text(EMPTY_PAGE)
    short = result()
    short.wanted.remove("long")
    keep(short, tmp_path)
    keep(long_result(), tmp_path)
    written = {path.name for path in document.write(page, tmp_path / "performance", tmp_path)}
    text = page.read_text()
    assert {"throughput-dark.svg", "long-run-light.svg"} <= written
    assert text.index("## Side by side") < text.index("full-2026-11-22.json") < text.index("## Over minutes")
    assert text.index("## Over minutes") < text.index("long-2026-11-22.json") < text.index("### Stalls")


def test_page_says_what_was_not_run(tmp_path: Path) -> None:
    """Without results there are no figures, and the commands that make them."""
    page = tmp_path / "performance.md"
    page.write_text(EMPTY_PAGE)
    assert document.write(page, tmp_path / "performance", tmp_path) == [page]
    assert "`make bench` makes one" in page.read_text()
    assert "`make bench-long` makes one" in page.read_text()


def test_a_system_that_failed_stands_in_the_table() -> None:
    """Its row says at what it failed, and the reason is named below."""
    text = document.section(result(), "full.json", "performance")
    assert "| Faust, at least once | **failed**: installation |" in text
    assert "| Faust, at least once | fraud | installation | no wheel |" in text


def test_a_part_that_was_cut_short_says_so() -> None:
    """Whoever reads its figures sees that they are not all."""
    made = result()
    made.parts[3].is_complete = False
    assert "latency           2026-11-22 20:00     20.0      181,000     179,000    0.05  0.00  cut short" in (
        terminal.tables(made)
    )


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    """Where no result is whole, the page has what there is, and the command for the rest."""
    made, page = result(), tmp_path / "performance.md"
    missing = made.parts.pop(3).name
    page.write_text(EMPTY_PAGE)
    keep(made, tmp_path)
    document.write(page, tmp_path / "performance", tmp_path)
    command = "`make bench RESUME=benchmarks/results/full-2026-11-22.json`"
    assert f"Not measured yet: {missing}; {command}." in page.read_text()
    assert "Not measured yet" not in document.section(result(), "full.json", "performance")


def test_long_run_has_its_drift_and_its_stalls() -> None:
    """Three windows of 120 stand out, at 3.42, 6.75 and 10.08 minutes; the rest is level."""
    text = document.section(long_result(), "long.json", "performance")
    assert "| +0.00 (+0.00 to +0.00) | 91 | 3 | 120 to 132 | yes | 0 lost, 0 repeated |" in text
    assert "| **Headrace**, at least once | 6.75 | 91 | 136 | 20 | 12 | 0 |" in text


def test_starts_stand_in_a_table() -> None:
    """Medians of the starts; the broker's wait for members, a second, is not held against the target."""
    text = document.section(result(), "full.json", "performance")
    assert "| **Headrace**, at least once | 0.40 | 0.70 | 2.20 | 0.40% | 110 |" in text
    assert "| ready after the start, less the group's wait for members | &lt;= 2 s | 1.2 s (1.1 to 1.4) |" in text


def test_shortfalls_come_first() -> None:
    """What was missed by more than a tenth stands above every table."""
    text = document.section(result(), "full.json", "performance")
    assert text.index("p99 at 70 % of capacity: 25.9 ms") < text.index("### Targets")


def test_losses_show_in_the_table() -> None:
    """The kill test of a system that loses events says so in bold."""
    assert "**3 lost**, 15 repeated; silent 46 s" in document.section(result(), "full.json", "performance")


def test_tables_have_as_many_cells_as_their_header() -> None:
    """No cell of any row is lost or shifted."""
    lines = [line for line in document.section(result(), "full.json", "p").splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in lines]
    rules = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) == 18
    for index, rule in enumerate(rules):
        stop = rules[index + 1] - 1 if index + 1 < len(rules) else len(lines)
        assert set(widths[rule - 1 : stop]) == {widths[rule]}


def test_terminal_shows_the_same_figures() -> None:
    """The command prints the tables that the page has, without its markup."""
    text = terminal.tables(result())
    assert "Headrace, at least once" in text
    assert "**" not in text
    assert "3 lost, 15 repeated; silent 46 s" in text


def test_listing_names_every_system() -> None:
    """--list shows what --system takes."""
    assert "headrace        Headrace: at_least_once, exactly_once, two_processes" in terminal.listing()


def test_plots_are_well_formed_in_both_themes() -> None:
    """Every plot parses as XML and has a title, light and dark."""
    made = plots(result())
    assert sorted(made) == sorted(
        f"{name}-{theme}.svg"
        for name in ("throughput", "latency-by-load", "batches", "latency-histogram", "long-run")
        for theme in ("dark", "light")
    )
    for text in made.values():
        root = ET.fromstring(text)  # noqa: S314 - our own text
        assert root.findtext("{http://www.w3.org/2000/svg}title")


def test_bars_are_as_long_as_their_values() -> None:
    """A bar of half the value is half as long."""
    rows = [charts.Bar(name, value, value, value, "", "accent") for name, value in (("a", 100.0), ("b", 50.0))]
    root = ET.fromstring(charts.bars(charts.LIGHT, "t", rows))  # noqa: S314 - our own text
    _, first, second = (float(one.attrib["width"]) for one in root.iter("{http://www.w3.org/2000/svg}rect"))
    assert first == pytest.approx(2 * second, abs=0.2)


def test_logarithmic_axis_spreads_decades_evenly() -> None:
    """10 lies in the middle between 1 and 100; what is outside sticks to the end."""
    axis = Axis(1, 100, 0, 200, logarithmic=True)
    assert axis.at(10) == pytest.approx(100)
    assert axis.at(0) == 0
    assert axis.ticks() == [1, 2, 5, 10, 20, 50, 100]


def test_linear_ticks_are_round() -> None:
    """About five of them, at 1, 2 or 5 times a power of ten."""
    assert Axis(0, 190_000, 0, 1).ticks() == [0, 50_000, 100_000, 150_000]
    assert nice_step(0.03) == pytest.approx(0.05)
