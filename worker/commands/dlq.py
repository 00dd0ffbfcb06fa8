"""``headrace dlq``: look into the dead letters, and produce them again once their cause is gone."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from worker.commands.report import emit_json
from worker.errors import BrokerError, Problem

if TYPE_CHECKING:
    from worker.adapters.kafka_dead_letters import Listing, Redrive, Stored
    from worker.core.dead_letters import Selection
    from worker.settings import KafkaSection

_DECLINED = 1
_HEX_WIDTH = 16
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HELD_BACK = {
    "value_not_kept": "held back: the value was not kept (oversize, corrupt_record)",
    "redriven_too_often": "held back: redriven --max-redrives times already",
    "other_topic": "held back: their topic does not exist, or is none of kafka.input_topics",
    "foreign": "held back: not written by a worker",
}

TopicOption = Annotated[
    str | None, typer.Option("--topic", help="Dead-letter topic [default: kafka.dead_letter_topic]")
]
ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason; may be given more than once.")
]
PartitionOption = Annotated[
    list[int] | None,
    typer.Option("--partition", min=0, help="Only records that came from this partition; may be given more than once."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Only from this time on: RFC 3339, or so long ago (90s, 30m, 2h, 7d).")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Only before this time; written as for --since.")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, max=100_000, help="How many of the newest to show.")]
MaxRedrivesOption = Annotated[
    int, typer.Option("--max-redrives", min=1, help="Hold back what was redriven so often already.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be redriven; write nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
PlaceArgument = Annotated[
    str, typer.Argument(metavar="PARTITION/OFFSET", help="Place in the dead-letter topic, as list shows it.")
]

app = typer.Typer(help="Look into dead letters and redrive them.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(
    config: ConfigOption = DEFAULT_CONFIG,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    partition: PartitionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    json_output: JsonOption = False,
) -> None:
    """Count dead letters by reason and show the newest."""
    selection = _selection(reason, partition, since, until)
    section = _section(config)
    from worker.adapters.kafka_dead_letters import list_letters

    name = topic or section.dead_letter_topic
    listing = list_letters(section, name, selection, limit)
    if json_output:
        letters = [_fields(stored) for stored in listing.newest]
        counts = {"matched": listing.reasons.total(), "foreign": listing.foreign, "reasons": dict(listing.reasons)}
        emit_json({"topic": name, **counts, "letters": letters})
    else:
        _write(_listing_lines(name, listing))


@app.command()
def show(
    place: PlaceArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    topic: TopicOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show one dead letter: where it came from, why it was refused, headers, key and value."""
    left, _, right = place.partition("/")
    if not (left.isascii() and left.isdigit() and right.isascii() and right.isdigit()):
        raise typer.BadParameter(f"{place!r} is no place: write PARTITION/OFFSET, such as 0/17")
    section = _section(config)
    from worker.adapters.kafka_dead_letters import read_one

    name = topic or section.dead_letter_topic
    stored = read_one(section, name, int(left), int(right))
    if stored is None:
        message = f"{name} holds no record at {place}"
        raise BrokerError(Problem(message, "headrace dlq list shows what it holds", code="no_record"))
    if json_output:
        own = stored.headers if stored.letter is None else stored.letter.originals
        headers = [{"name": header, **_bytes_fields("value", value)} for header, value in own]
        record = {**_bytes_fields("key", stored.key), **_bytes_fields("value", stored.value)}
        emit_json({"topic": name, **_fields(stored), "headers": headers, **record})
    else:
        _write(_letter_lines(name, stored))


@app.command()
def redrive(  # noqa: PLR0913, PLR0917 # a parameter is an option of the command line
    config: ConfigOption = DEFAULT_CONFIG,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    partition: PartitionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    max_redrives: MaxRedrivesOption = 3,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json_output: JsonOption = False,
) -> int:
    """Produce dead letters again to the topics that they came from: same key, value and headers."""
    if not (dry_run or yes or (sys.stdin.isatty() and not json_output)):
        raise typer.BadParameter("redrive asks before it writes, and nobody is there to answer: add --yes or --dry-run")
    selection = _selection(reason, partition, since, until)
    section = _section(config)
    from worker.adapters import kafka_dead_letters as letters

    name = topic or section.dead_letter_topic
    guard = letters.Guard(section.input_topics, max_redrives)
    result = letters.plan_redrive(section, name, selection, guard)
    if not json_output:
        _write(_plan_lines(name, result))
    begun = datetime.now(UTC)
    wanted = result.wanted.total()
    if wanted and not dry_run:
        if not yes and not _confirmed(f"Redrive {wanted} records?"):
            sys.stdout.write("nothing written\n")
            return _DECLINED
        result = letters.redrive(section, name, selection, guard, result)
    if json_output:
        emit_json(_redrive_fields(name, result, dry_run=dry_run))
    elif wanted and not dry_run:
        moment = begun.isoformat(timespec="seconds").replace("+00:00", "Z")
        _write([
            f"{result.done} redriven",
            f"note: {name} still holds them, and another redrive would produce them again;",
            f"      what is refused from now on is found with --since {moment}",
        ])  # fmt: skip
    return 0


def _confirmed(question: str) -> bool:
    """Whether the answer on the terminal is yes; the end of the input and Ctrl-C are a no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        sys.stdout.write("\n")
        return False


def _section(config: os.PathLike[str]) -> KafkaSection:
    from pathlib import Path

    from worker.config_file import load

    return load(Path(config), os.environ).kafka


def _selection(
    reasons: list[str] | None, partitions: list[int] | None, since: str | None, until: str | None
) -> Selection:
    """The filters; a mistyped one is a usage error, not an empty result."""
    from worker.core.dead_letters import Selection
    from worker.telemetry.catalogue import DEAD_LETTER_REASONS

    for reason in reasons or ():
        if reason not in DEAD_LETTER_REASONS:
            raise typer.BadParameter(f"--reason {reason} is none of {', '.join(DEAD_LETTER_REASONS)}")
    now_s = time.time()
    return Selection(
        frozenset(reasons or ()), frozenset(partitions or ()), _moment("--since", since, now_s),
        _moment("--until", until, now_s),
    )  # fmt: skip


def _moment(option: str, text: str | None, now_s: float) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time, or of a duration before now."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and unit in _UNITS_S:
        return int((now_s - int(number) * _UNITS_S[unit]) * 1000)
    from worker.core.texts import Unusable, seconds_from_time

    try:
        return int(seconds_from_time(text) * 1000)
    except Unusable as error:
        wanted = "write 2026-07-01T12:00:00Z, or 90s, 30m, 2h, 7d for so long ago"
        raise typer.BadParameter(f"{option} {text!r} {error.text}: {wanted}") from error


def _fields(stored: Stored) -> dict[str, Any]:
    """Place, time and verdict for JSON; ``source`` is where the record came from."""
    fields: dict[str, Any] = {
        "partition": stored.partition, "offset": stored.offset, "time": _time(stored.timestamp_ms)
    }  # fmt: skip
    letter = stored.letter
    if letter is None:
        return fields
    told = {name: value for name, value in asdict(letter).items() if name not in _NOT_TOLD and value != ""}
    source = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
    return fields | {"source": source | {"time": _time(letter.timestamp_ms)}, "redriven": letter.redriven} | told


_NOT_TOLD = frozenset(("topic", "partition", "offset", "timestamp_ms", "originals"))


def _redrive_fields(name: str, result: Redrive, *, dry_run: bool) -> dict[str, Any]:
    held_back = dict(result.held_back) | ({"foreign": result.foreign} if result.foreign else {})
    counts = {"redrivable": dict(result.wanted), "held_back": held_back, "redriven": result.done}
    return {"topic": name, "dry_run": dry_run, **counts}


def _plan_lines(name: str, result: Redrive) -> Iterable[str]:
    lines = [f"{count:>8} to redrive to {topic}" for topic, count in sorted(result.wanted.items())]
    for why, text in _HELD_BACK.items():
        count = result.foreign if why == "foreign" else result.held_back[why]
        lines += [f"{count:>8} {text}"] if count else []
    return [f"{name}:", *(lines or ["       0 match"])]


def _listing_lines(name: str, listing: Listing) -> Iterable[str]:
    yield f"{name}: {listing.reasons.total()} dead letters"
    for reason, count in listing.reasons.most_common():
        yield f"{count:>8} {_plain(reason)}"
    if listing.foreign:
        yield f"{listing.foreign:>8} records that no worker wrote"
    rows = [("AT", "TIME", "SOURCE", "REASON", "REDRIVEN", "ERROR")]
    for stored in listing.newest:
        letter = stored.letter
        if letter is not None:
            source = f"{letter.topic}/{letter.partition}/{letter.offset}"
            at, moment = f"{stored.partition}/{stored.offset}", _time(stored.timestamp_ms)
            rows.append((at, moment, source, letter.reason, str(letter.redriven), letter.error[:80]))
    if len(rows) == 1:
        return
    yield ""
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(rows[0]))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _letter_lines(name: str, stored: Stored) -> Iterable[str]:
    yield f"{name}/{stored.partition}/{stored.offset}  {_time(stored.timestamp_ms)}"
    letter = stored.letter
    if letter is not None:
        yield f"source:   {_plain(letter.topic)}/{letter.partition}/{letter.offset}  {_time(letter.timestamp_ms)}"
        told = ("stage", "reason", "error", "attempts", "group", "model", "redriven", "sha256", "size")
        yield from (
            f"{field + ':':<9} {_plain(str(getattr(letter, field)))}" for field in told if getattr(letter, field) != ""
        )
    else:
        yield "not written by a worker"
    yield "headers:"
    for header, value in stored.headers if letter is None else letter.originals:
        yield f"  {_plain(header)}: {_plain_bytes(value)}"
    yield f"key:      {_plain_bytes(stored.key)}"
    yield from _value_lines(stored.value)


def _value_lines(value: bytes | None) -> Iterable[str]:
    """The fields of a JSON object, one a line; any other text as it is; else a hex dump."""
    if value is None:
        yield "value:    null"
        return
    yield f"value:    {len(value)} bytes"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        for at in range(0, len(value), _HEX_WIDTH):
            part = value[at : at + _HEX_WIDTH]
            seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            yield f"  {at:08x}  {part.hex(' '):<{_HEX_WIDTH * 3}} {seen}"
        return
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        decoded = None
    if isinstance(decoded, dict):
        yield from (f"  {_plain(field)}: {_plain(json.dumps(of, ensure_ascii=False))}" for field, of in decoded.items())
    else:
        yield "  " + _plain(text)


def _bytes_fields(name: str, value: bytes | None) -> dict[str, str | None]:
    """Bytes for JSON: ``name`` where they are UTF-8 (or null), else ``name_base64``."""
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value or b"").decode()}


def _plain_bytes(value: bytes | None) -> str:
    """Bytes on one line: text where they are UTF-8, else hex digits."""
    if value is None:
        return "null"
    try:
        return _plain(value.decode())
    except UnicodeDecodeError:
        return "0x" + value.hex()


def _plain(text: str) -> str:
    """Text from a record, harmless for a terminal: what cannot be printed is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _time(timestamp_ms: int) -> str:
    """RFC 3339 in UTC; ``unknown`` for a record without a time, or one beyond the calendar."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms >= 0 else None
    except (ValueError, OverflowError, OSError):
        moment = None
    return "unknown" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(lines: Iterable[str]) -> None:
    sys.stdout.writelines(line + "\n" for line in lines)
