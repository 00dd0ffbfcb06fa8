"""The command: train, convert, replay, compare, print; exit code 0 only where everything agrees."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks.evaluate import dataset, document, models, replay
from benchmarks.evaluate.failure import EvaluationError
from benchmarks.evaluate.protocol import counted_rows
from benchmarks.evaluate.verdict import Finding, complaints, find
from tests.kafka.broker import KafkaBroker
from tests.kafka.jars import MissingToolError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation and return its exit code: 0 all agrees, 1 something does not, 2 it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the three weeks; nothing is written there"
    )
    parser.add_argument("--write", action="store_true", help="bring the table of docs/evaluation.md up to date")
    options = parser.parse_args(arguments)
    try:
        findings = evaluate(options.data)
        table = document.rows(findings)
        say(f"\n{document.as_text(table)}\n\n{document.versions()}")
        failures = [sentence for finding in findings for sentence in complaints(finding)]
        if not failures:
            failures = settle(table, write=options.write)
    except (EvaluationError, MissingToolError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    for sentence in failures:
        print(f"evaluate: {sentence}", file=sys.stderr)
    return 1 if failures else 0


def evaluate(data: Path) -> list[Finding]:
    """One finding per model; everything that is written on the way goes into a temporary folder."""
    training = dataset.read_week(data, dataset.TRAINING_FILE)
    delay = dataset.read_week(data, dataset.DELAY_FILE, labels_only=True)
    test = dataset.read_week(data, dataset.TEST_FILE)
    counted = counted_rows(training.labels, delay.labels, test.labels)
    say(f"{len(training)} transactions to learn from, {len(test)} to score, {int(counted.sum())} of them count")
    findings = []
    with tempfile.TemporaryDirectory(prefix="headrace-evaluate-") as name:
        folder = Path(name)
        (folder / "event.schema.json").write_bytes(orjson.dumps(dataset.event_schema()))
        with KafkaBroker(folder / "kafka") as broker:
            say(f"{replay.produce(broker, dataset.events(test))} events are in Kafka")
            for recipe in models.RECIPES:
                model = models.train(recipe, training.features, training.labels.fraud)
                models.write_bundle(folder / recipe.name, recipe, model)
                outcome = replay.replay(broker, folder, recipe.name, test.identities)
                say(f"{recipe.title}: worker started, all scored and committed in {outcome.seconds:.1f} s")
                reference = models.reference_scores(model, test.features)
                findings.append(find(recipe, outcome, reference, test.labels, counted))
    return findings


def settle(table: document.Rows, *, write: bool) -> list[str]:
    """Compare with the committed table; with ``write`` replace one that deviates or names other versions.

    Returns what is wrong. Other versions alone are worth a line, no failure.
    """
    tolerances = {recipe.title: recipe.repeats_within for recipe in models.RECIPES}
    known, known_versions = document.committed(DOCUMENT)
    deviations = document.deviations(table, known, tolerances)
    moved = known_versions != document.versions()
    if write and (deviations or moved):
        document.write(DOCUMENT, table)
        say(f"{DOCUMENT.name} is written")
        return []
    if deviations:
        return [*deviations, f"{DOCUMENT.name} deviates; where the new numbers are right, run again with --write"]
    if moved:
        say(f"{DOCUMENT.name} agrees, but was made with other versions ({known_versions}); --write renews it")
    else:
        say(f"{DOCUMENT.name} agrees")
    return []


def say(text: str) -> None:
    """Tell the terminal, at once: the run takes a minute."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
