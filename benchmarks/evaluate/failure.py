"""What ends an evaluation early."""

from __future__ import annotations


class EvaluationError(Exception):
    """The evaluation cannot go on; the text is one sentence for the terminal."""
