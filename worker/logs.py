"""Log lines of the worker: one event name and fields per line, on stderr.

JSON unless stderr is a terminal. Lines of libraries that use the standard ``logging`` module go the same way,
as the event ``library_message``. Values under names that look secret are masked. Tracebacks show code, never
the values of variables.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]

MASK = "***"
_SECRET_WORDS = ("password", "passwd", "secret", "token", "credential", "authorization")
_REPEAT_INTERVAL_S = 1.0
_LONGEST_WAIT_S = 60.0
_REMEMBERED_MESSAGES = 256


def configure(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send every log line at ``level`` (debug, info, warning, error) or above to ``stream``, by default stderr.

    May be called again; the last call wins. aiokafka tells little of use below warning that our own events do
    not tell: its lines need one level more, and its debug lines, several per request, are never shown.
    """
    stream = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    renderer = _render_json if as_json else _console_renderer(stream)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_library_lines(stream, threshold, shared, renderer)


def mask_secrets(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace each value whose name, at any depth, contains a word such as ``password`` by ``***``."""
    return {name: _masked(name, value) for name, value in event_dict.items()}


class RepeatLimit(logging.Filter):
    """Lets fewer and fewer lines of a repeated message pass, so that a lost broker cannot flood the log.

    The wait after a line is one second, and doubles up to a minute while the message keeps coming. A message is
    its logger, its level and its text before the arguments are filled in. The line that passes after others were
    held back carries their number as ``suppressed``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int, str], _Repeats] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether ``record`` passes; called by ``logging`` under the handler's lock."""
        now = self._clock()
        key = (record.name, record.levelno, str(record.msg))
        repeats = self._seen.get(key)
        if repeats is None:
            if len(self._seen) >= _REMEMBERED_MESSAGES:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = _Repeats(now)
            return True
        if now - repeats.passed_at < repeats.wait_s:
            repeats.held_back += 1
            return False
        if repeats.held_back:
            record.suppressed = repeats.held_back
            repeats.wait_s = min(2 * repeats.wait_s, _LONGEST_WAIT_S)
        else:
            repeats.wait_s = _REPEAT_INTERVAL_S
        repeats.passed_at, repeats.held_back = now, 0
        return True


@dataclass(slots=True)
class _Repeats:
    """When a message passed last, how long it is held back then, and how often it was."""

    passed_at: float
    wait_s: float = _REPEAT_INTERVAL_S
    held_back: int = 0


def _route_library_lines(stream: TextIO, threshold: int, shared: list[Processor], renderer: Processor) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_library_event, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(RepeatLimit())
    root = logging.getLogger()
    for previous in root.handlers[:]:
        if isinstance(previous.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(threshold)
    library_level = logging.INFO if threshold <= logging.DEBUG else max(threshold, logging.WARNING)
    logging.getLogger("aiokafka").setLevel(library_level)
    logging.captureWarnings(True)


def _name_library_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Make the text of a ``logging`` record a field: the event name stays constant."""
    record: logging.LogRecord = event_dict["_record"]
    named = {**event_dict, "event": "library_message", "logger": record.name, "message": event_dict["event"]}
    suppressed = getattr(record, "suppressed", 0)
    return {**named, "suppressed": suppressed} if suppressed else named


def _masked(name: object, value: object) -> object:
    if value is not None and isinstance(name, str) and any(word in name.lower() for word in _SECRET_WORDS):
        return MASK
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(None, item) for item in value]
    return value


def _render_json(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
    """One line of JSON; what is no JSON value becomes its text."""
    front = {name: event_dict.pop(name) for name in ("timestamp", "level", "event") if name in event_dict}
    line = {**front, **event_dict}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
    except orjson.JSONEncodeError:  # a lone surrogate or an integer beyond 64 bits
        return json.dumps(line, default=str)


def _console_renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty() and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
    )
