"""JSON Schema patterns are ECMA-262 expressions; Python's differ in a few places that would change verdicts."""

from __future__ import annotations

import re
from typing import Final

_PIECE: Final = re.compile(r"\\.|\(\?<(?=[A-Za-z_$])|.", re.DOTALL)


def python_pattern(pattern: str) -> str:
    r"""The Python expression with ECMA-262's meaning: ``$`` only at the very end, ``\d`` and ``\w`` ASCII only.

    Raises ``ValueError`` for what Python lacks: property escapes such as ``\p{L}`` and the classes ``[]``, ``[^]``.
    """
    pieces: list[str] = []
    open_class = ""
    for piece in _PIECE.findall(pattern):
        if piece in (r"\p", r"\P"):
            raise ValueError(f"{piece} is not supported")
        translated = piece
        if open_class:
            if piece == "]" and open_class in ("[", "[^"):
                raise ValueError(f"the class {open_class}] is not supported")
            open_class = "" if piece == "]" else open_class + piece
            translated = r"\[" if piece == "[" else piece
        elif piece == "[":
            open_class = piece
        else:
            translated = {"$": r"\Z", "(?<": "(?P<"}.get(piece, piece)
        pieces.append(translated)
    return "(?a)" + "".join(pieces)
