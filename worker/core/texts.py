"""Numbers that travel inside a JSON string: separated by commas, base64 of raw float32, or a point in time."""

from __future__ import annotations

import binascii
import math
import re
from datetime import datetime
from typing import Final

import msgspec
import simdjson

# Where msgspec and Python's own int() stop, against quadratic conversion times.
_MAX_DIGITS: Final = 4300
_BLANKS: Final = " \t\r\n"
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_NOT_FINITE: Final = frozenset(["nan", "inf", "infinity"])
_FLOATS: Final = msgspec.json.Decoder(list[float])
_INTEGERS: Final = msgspec.json.Decoder(list[int])


class Unusable(Exception):
    """A value that cannot become numbers: dead-letter ``reason`` and a phrase that completes ``field x ...``."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        self.text = text
        super().__init__(text)


def number_from(text: str, *, integer: bool) -> float:
    """Value of a well-formed JSON number; one written with a fraction or an exponent is a 64-bit float first.

    Raises ``Unusable`` for overflow, and for an ``integer`` that is not whole.
    """
    if text.lstrip("-").isdigit():
        return _whole_number(text, integer=integer)
    approximate = float(text)
    if math.isinf(approximate):
        raise Unusable("out_of_range", "is too large for a 64-bit float")
    if not integer:
        return approximate
    if not approximate.is_integer():
        raise Unusable("wrong_type", "must be an integer, not a number")
    return int(approximate)


def _whole_number(text: str, *, integer: bool) -> float:
    if len(text) > _MAX_DIGITS:
        raise Unusable("out_of_range", f"is an integer of more than {_MAX_DIGITS} digits")
    value = int(text)
    try:
        return value if integer else float(value)
    except OverflowError:
        raise Unusable("out_of_range", "is too large for a 64-bit float") from None


def numbers_from_csv(text: str, *, integer: bool) -> list[float]:
    """Numbers written as in JSON, separated by commas, one comma allowed at the end; blanks as JSON allows.

    Raises ``Unusable``.
    """
    body = text.rstrip(_BLANKS).removesuffix(",")
    try:
        if integer:
            return [*_INTEGERS.decode(f"[{body}]")]
        return _FLOATS.decode(f"[{body}]")
    except (msgspec.DecodeError, UnicodeEncodeError):
        return [_number_in_csv(part, place, integer=integer) for place, part in enumerate(body.split(","))]


class FloatPacker:
    """Reads comma-separated numbers without making an object of each. Not for several threads at once."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def packed(self, text: str) -> bytes:
        """The numbers as 64-bit floats in the machine's byte order, the same that ``numbers_from_csv`` gives.

        Raises ``Unusable`` for any text that it cannot read, of which ``numbers_from_csv`` knows what to say.
        """
        body = text.rstrip(_BLANKS).removesuffix(",")
        if "[" not in body:
            try:
                # The parser flattens what is nested. It is free for the next text when its array is gone, so no name
                # may hold that: an error's traceback would hold the name.
                return bytes(self._parser.parse(f"[{body}]").as_buffer(of_type="d"))  # type: ignore[union-attr]
            except (ValueError, TypeError, RuntimeError):
                pass
        raise Unusable("wrong_type", "holds something other than plain numbers")


def _number_in_csv(part: str, place: int, *, integer: bool) -> float:
    token = part.strip(_BLANKS)
    if token.lstrip("+-").lower() in _NOT_FINITE:
        raise Unusable("not_finite", f"holds NaN or infinity at position {place}")
    if not _NUMBER.fullmatch(token):
        raise Unusable("wrong_type", f"holds something other than a number at position {place}")
    try:
        return number_from(token, integer=integer)
    except Unusable as error:
        raise Unusable(error.reason, f"at position {place} {error.text}") from None


def bytes_from_base64(text: str) -> bytes:
    """Raw bytes of strict, padded base64 (RFC 4648 section 4, no line breaks). Raises ``Unusable``."""
    # Python's strict mode leaves surplus padding to its version.
    if len(text) % 4 or text.endswith("==="):
        raise Unusable("wrong_type", "is not base64")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Unusable("wrong_type", "is not base64") from None


def seconds_from_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with offset, microseconds kept. Raises ``Unusable``.

    A leap second (``:60``) counts as the second after ``:59``.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unusable("wrong_type", "is not an RFC 3339 time with offset")
    day, clock, second, fraction, offset = match.groups()
    leap = second == "60"
    zone = "+00:00" if offset in ("Z", "z") else offset
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}:{'59' if leap else second}{zone}").timestamp()
    except ValueError:
        raise Unusable("out_of_range", "is a time that no calendar has") from None
    return whole + leap + (float(fraction) if fraction else 0.0)
