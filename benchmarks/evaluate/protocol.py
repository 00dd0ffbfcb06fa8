"""The published protocol: which test rows count, and the three metrics.

A card is a customer: in this data set each customer has one card.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

DELAY_DAYS = 7
CARDS_PER_DAY = 100


@dataclass(frozen=True, slots=True)
class Labels:
    """Who paid, on which day, and whether it was fraud: ``int64[n]``, ``int64[n]``, ``bool[n]``."""

    card: NDArray[np.int64]
    day: NDArray[np.int64]
    fraud: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.card)

    def rows(self, chosen: NDArray[np.bool_]) -> Labels:
        """The rows where ``chosen`` is true."""
        return Labels(self.card[chosen], self.day[chosen], self.fraud[chosen])


@dataclass(frozen=True, slots=True)
class Metrics:
    """Area under the ROC curve, average precision, card precision among the first 100."""

    auc: float
    average_precision: float
    card_precision: float

    def furthest_from(self, other: Metrics) -> float:
        """The largest absolute difference of the three."""
        pairs = zip(self.values(), other.values(), strict=True)
        return max(abs(mine - theirs) for mine, theirs in pairs)

    def values(self) -> tuple[float, float, float]:
        """The three, in the order of the published tables."""
        return self.auc, self.average_precision, self.card_precision


def counted_rows(training: Labels, delay: Labels, test: Labels) -> NDArray[np.bool_]:
    """Which test rows count, ``bool[len(test)]``.

    A row of day d is left out if its card was defrauded in the training week, or later, but by day d - 8: such a
    card is blocked by then, because a fraud is known a week after its day.
    """
    blocked_from_start = _defrauded(training)
    later = Labels(*(np.concatenate(pair) for pair in _columns(delay, test)))
    counted = np.zeros(len(test), dtype=np.bool_)
    for day in np.unique(test.day):
        known = _defrauded(later.rows(later.day < day - DELAY_DAYS))
        counted |= (test.day == day) & ~_is_any(test.card, blocked_from_start | known)
    return counted


def card_precision(labels: Labels, score: NDArray[np.floating], cards_per_day: int = CARDS_PER_DAY) -> float:
    """Mean over the days of the share of defrauded cards among the ``cards_per_day`` most suspicious ones.

    A card's suspicion is its highest score of the day. Equal ones are ordered by card number, so that the result
    does not depend on the order of rows. A card found defrauded is blocked: later days leave it out.
    """
    found: set[int] = set()
    shares = []
    for day in np.unique(labels.day):
        today = (labels.day == day) & ~_is_any(labels.card, found)
        cards, row_card = np.unique(labels.card[today], return_inverse=True)
        suspicion = np.full(len(cards), -np.inf)
        np.maximum.at(suspicion, row_card, score[today])
        first = cards[np.lexsort((cards, -suspicion))[:cards_per_day]]
        hits = _defrauded(labels.rows(today)) & set(first.tolist())
        shares.append(len(hits) / cards_per_day)
        found |= hits
    return float(np.mean(shares))


def measure(labels: Labels, score: NDArray[np.floating]) -> Metrics:
    """The three metrics of ``score``, one finite number per row of ``labels``."""
    return Metrics(
        auc=float(roc_auc_score(labels.fraud, score)),
        average_precision=float(average_precision_score(labels.fraud, score)),
        card_precision=card_precision(labels, score),
    )


def _defrauded(labels: Labels) -> set[int]:
    return set(labels.card[labels.fraud].tolist())


def _is_any(card: NDArray[np.int64], cards: AbstractSet[int]) -> NDArray[np.bool_]:
    return np.isin(card, np.fromiter(cards, dtype=np.int64, count=len(cards)))


def _columns(first: Labels, second: Labels) -> list[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    return [(first.card, second.card), (first.day, second.day), (first.fraud, second.fraud)]
