"""Decision thresholds: from which probability on a model alerts, chosen on validation rows.

Two ways: the best F1, or a fixed budget of alerts per hour. What alerts are worth is measured in
`evaluation`; a rung whose rule is fixed (`Rung.alert_score`) has nothing to choose.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from volatility_pipeline.domain.metrics import hours_covered

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALERT_GAP_SECONDS = 60
"""Alerts further apart are two."""


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
    """Return a probability from which on at most so many alerts an hour are raised.

    Alerts at most 60 s apart are one here, however long it stays on (`episodes` repeats it each
    minute). Lowering the threshold raises more of them, until they merge and there is one that
    never ends; so it is lowered from the top, as far as the budget carries, and where the budget
    is never spent, to the first point at which alerts are most numerous.

    Args:
        ts: Decision times, rising, shape (rows,).
        probability: Shape (rows,).
        alerts_per_hour: The budget, per hour that the rows cover.

    Returns:
        The threshold; just above every probability where the budget allows no alert.
    """
    if not len(ts):
        return 0.5
    seconds = ts.astype("datetime64[us]").astype(np.int64) / 1e6
    budget = alerts_per_hour * hours_covered(ts)
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    none = float(np.nextafter(probability.max(), np.inf))
    threshold, most, most_at = none, 0, none
    alerts: list[float] = []  # times of the rows that alert, rising
    count = start = 0
    for end in ends:
        for row in order[start : end + 1]:
            time = float(seconds[row])
            place = bisect_left(alerts, time)
            before = alerts[place - 1] if place else -np.inf
            after = alerts[place] if place < len(alerts) else np.inf
            joins = (time - before <= ALERT_GAP_SECONDS) + (after - time <= ALERT_GAP_SECONDS)
            count += 1 - joins + (after - before <= ALERT_GAP_SECONDS)
            alerts.insert(place, time)
        if count > budget:
            return threshold
        start, threshold = int(end) + 1, float(probability[order[end]])
        if count > most:
            most, most_at = count, threshold
    return most_at
