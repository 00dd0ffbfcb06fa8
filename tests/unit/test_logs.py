"""Log lines: one event and its fields, on the stream, with secrets masked and repeats held back."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import structlog

from worker import logs

pytestmark = pytest.mark.logs_errors


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave the process-wide log set-up as it was."""
    root = logging.getLogger()
    handlers, level, show = root.handlers[:], root.level, warnings.showwarning
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    warnings.showwarning = show
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_carries_event_fields_level_and_utc_time() -> None:
    """A line is one JSON object: time, level, event, then the fields."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger().info("batch_finished", records=512, path=("a", 1))
    (line,) = _lines(stream)
    assert list(line) == ["timestamp", "level", "event", "records", "path"]
    assert (line["level"], line["event"], line["records"], line["path"]) == ("info", "batch_finished", 512, ["a", 1])
    stamp = datetime.fromisoformat(str(line["timestamp"]))
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=1)
    assert stamp.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("log_format", "stream", "as_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", _Terminal(), False),
        ("json", _Terminal(), True),
        ("console", io.StringIO(), False),
    ],
)
def test_format(log_format: logs.LogFormat, stream: io.StringIO, as_json: bool) -> None:
    """Auto writes JSON unless the stream is a terminal; json and console decide by themselves."""
    logs.configure("info", log_format, stream)
    structlog.get_logger().info("started", partitions=3)
    assert stream.getvalue().startswith("{") == as_json
    assert "started" in stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "no_colour", "coloured"),
    [(_Terminal(), "", True), (_Terminal(), "1", False), (io.StringIO(), "", False)],
)
def test_console_colours(stream: io.StringIO, no_colour: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour codes go to terminals only, and not where NO_COLOR is set."""
    monkeypatch.setenv("NO_COLOR", no_colour)
    logs.configure("info", "console", stream)
    structlog.get_logger().info("started", partitions=3)
    assert ("\x1b[" in stream.getvalue()) == coloured


def test_console_line_is_plain_text() -> None:
    """Off a terminal the console format has event and fields in plain text."""
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    structlog.get_logger().warning("broker_lost", broker="b:9092")
    assert re.search(r"Z \[warning  \] broker_lost +broker=b:9092\n", stream.getvalue())


def test_default_stream_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the log reaches stdout."""
    logs.configure("info", "auto")
    structlog.get_logger().info("started")
    logging.getLogger("some.library").warning("careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["event"] for line in captured.err.splitlines()] == ["started", "library_message"]


def test_level_filters_own_and_library_lines() -> None:
    """Lines below the level are not written."""
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("some.library").info("quiet")
    logging.getLogger("some.library").error("loud")
    assert [line["level"] for line in _lines(stream)] == ["error", "error"]


def test_library_line_keeps_a_constant_event_name() -> None:
    """The text of a standard logging record is a field, beside its logger."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("aiokafka.conn").error("Unable to reach %s", "b:9092")
    (line,) = _lines(stream)
    del line["timestamp"]
    assert line == {
        "level": "error",
        "event": "library_message",
        "logger": "aiokafka.conn",
        "message": "Unable to reach b:9092",
    }


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["info", "warning"]), ("info", ["warning"]), ("error", [])],
)
def test_aiokafka_needs_one_level_more(level: str, shown: list[str]) -> None:
    """At info, aiokafka's info lines are left out; at debug, its debug lines."""
    stream = io.StringIO()
    logs.configure(level, "json", stream)
    for method in ("debug", "info", "warning"):
        getattr(logging.getLogger("aiokafka.consumer"), method)("text of %s", method)
    assert [line["level"] for line in _lines(stream)] == shown


def test_configured_again_each_line_is_written_once() -> None:
    """The last call decides stream and level; earlier handlers are gone, foreign ones stay."""
    first, second = io.StringIO(), io.StringIO()
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    logs.configure("info", "json", first)
    logs.configure("info", "json", second)
    logging.getLogger("some.library").warning("once")
    structlog.get_logger().info("own")
    assert (len(_lines(first)), len(_lines(second))) == (0, 2)
    assert foreign in logging.getLogger().handlers


def test_warnings_are_log_lines() -> None:
    """A Python warning does not break the line format of the log."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json", stream)
        warnings.warn("soon gone", stacklevel=1)
    (line,) = _lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "soon gone" in str(line["message"])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_are_masked_at_any_depth(log_format: logs.LogFormat) -> None:
    """No value under a secret-looking name is written; what is unset stays visibly unset."""
    stream = io.StringIO()
    logs.configure("info", log_format, stream)
    structlog.get_logger().info(
        "config",
        sasl_password="hunter2",  # noqa: S106  a made-up one
        kafka={"SASL_PASSWORD": "hunter2", "topics": ["a"], "users": [{"api_token": "hunter2"}]},
        nested=({"client_secret": ["hunter2"]},),
        user="alice",
    )
    assert "hunter2" not in stream.getvalue()
    assert "alice" in stream.getvalue()
    assert stream.getvalue().count(logs.MASK) == 4
    assert logs.mask_secrets(None, "info", {"sasl_password": None}) == {"sasl_password": None}


def test_traceback_shows_no_values() -> None:
    """An exception is logged with its traceback in one field, without the values of variables."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    hidden = "hunter" + str(2)
    try:
        raise RuntimeError("it broke")  # noqa: TRY301  the traceback under test starts here
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("some.library").exception("failed")
    assert hidden == "hunter2"
    assert "hunter2" not in stream.getvalue()
    assert ["RuntimeError: it broke" in str(line["exception"]) for line in _lines(stream)] == [True, True]


def test_any_value_can_be_rendered() -> None:
    """Values that JSON cannot hold become text; none of them loses the line."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger().info("odd", big=2**80, text="\udc80", thing=object(), numbers={1: 2}, line="a\nb")
    structlog.get_logger().info("odd", thing={3}, numbers={1: 2})
    first, second = _lines(stream)
    assert (first["big"], first["numbers"], first["line"]) == (2**80, {"1": 2}, "a\nb")
    assert second["thing"] == "{3}"


def _record(text: str, argument: object = None, name: str = "aiokafka.conn") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "conn.py", 1, text, (argument,), None)


def test_repeats_are_held_back_and_counted() -> None:
    """A repeated message passes again after a second; the line tells how many did not."""
    now = 100.0
    limit = logs.RepeatLimit(lambda: now)
    assert [limit.filter(_record("no broker %s", n)) for n in range(5)] == [True, False, False, False, False]
    assert limit.filter(_record("other text %s"))
    assert limit.filter(_record("no broker %s", name="aiokafka.client"))
    now = 100.999
    assert not limit.filter(_record("no broker %s"))
    now = 101.0
    late = _record("no broker %s")
    assert limit.filter(late)
    assert vars(late)["suppressed"] == 5
    now = 102.999
    assert not limit.filter(_record("no broker %s")), "the wait doubles while the message keeps coming"
    now = 103.0
    assert limit.filter(_record("no broker %s"))
    now = 110.0
    later = _record("no broker %s")
    assert limit.filter(later)
    assert "suppressed" not in vars(later)
    now = 111.0
    assert limit.filter(_record("no broker %s")), "a message that paused is held back for one second again"


def test_the_wait_between_repeats_is_bounded() -> None:
    """However long a message keeps coming, a line passes each minute."""
    now = 0.0
    limit = logs.RepeatLimit(lambda: now)
    passed = []
    for second in range(600):
        now = float(second)
        if limit.filter(_record("no broker %s")):
            passed.append(second)
        limit.filter(_record("no broker %s"))
    assert passed[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {later - earlier for earlier, later in pairwise(passed[6:])} == {60}


def test_repeat_limit_forgets_the_oldest_message() -> None:
    """Messages without end take no memory without end: the one seen first is forgotten."""
    limit = logs.RepeatLimit(lambda: 5.0)
    assert all(limit.filter(_record(f"text {number} %s")) for number in range(257))
    assert limit.filter(_record("text 0 %s"))
    assert not limit.filter(_record("text 256 %s"))


def test_suppressed_count_is_a_field() -> None:
    """The line that passes after held-back ones carries their number."""
    now = 10.0
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger().handlers[-1].filters[:] = [logs.RepeatLimit(lambda: now)]
    logger = logging.getLogger("aiokafka.conn")
    for attempt in range(4):
        logger.error("no broker, attempt %d", attempt)
    now = 11.5
    logger.error("no broker, attempt %d", 4)
    assert [(line["message"], line.get("suppressed")) for line in _lines(stream)] == [
        ("no broker, attempt 0", None),
        ("no broker, attempt 4", 3),
    ]


def test_library_lines_are_limited() -> None:
    """A library that repeats itself in a loop writes one line, not thousands."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    for attempt in range(50):
        logging.getLogger("aiokafka.conn").error("no broker, attempt %d", attempt)
    assert 1 <= len(_lines(stream)) < 10
