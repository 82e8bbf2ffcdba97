"""Decision thresholds: from which probability on a model alerts, chosen on validation rows.

Two ways: the best F1, or a fixed budget of alerts per hour. How alerts are counted is said in
`episodes`, what they are worth is measured in `evaluation`; a rung whose rule is fixed
(`Rung.alert_score`) has nothing to choose.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from volatility_pipeline.domain import episodes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def best_f1(target: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """Return the probability that gives the best F1 when alerts start there.

    Args:
        target: 1 for a spike, shape (rows,), with at least one spike.
        probability: Shape (rows,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(target, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def within_alert_budget(
    ts: NDArray[np.datetime64], probability: NDArray[np.float64], *, alerts_per_hour: float
) -> float:
    """Return the lowest probability from which on at most so many alerts an hour are raised.

    Alerts are counted as `episodes` counts them, one that stays on each minute anew. So lowering
    the threshold never raises fewer, and the lowest is found by bisection; from a budget of 60 an
    hour on, it may be to alert always.

    Args:
        ts: Decision times, rising, shape (rows,).
        probability: Shape (rows,).
        alerts_per_hour: The budget, per hour that the rows cover.

    Returns:
        The threshold; just above every probability where the budget allows no alert, and a half
        without rows.
    """
    if not len(ts):
        return 0.5
    thresholds = np.unique(probability)

    def is_within(threshold: float) -> bool:
        rate = episodes.alerts_per_hour(ts, probability >= threshold)
        return rate is not None and rate <= alerts_per_hour

    lowest = bisect_left(thresholds, True, key=is_within)
    if lowest == len(thresholds):
        return float(np.nextafter(thresholds[-1], np.inf))
    return float(thresholds[lowest])
