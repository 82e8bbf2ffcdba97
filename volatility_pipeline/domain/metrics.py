"""Measures of one model's answers and of one role's labels: arrays in, small facts out.

They are put together in `evaluation`; what may be claimed from them is said in `verdict`, and their
intervals come from `bootstrap`. A measure that is not defined (one class, no rows) is None, never a
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CURVE_POINTS = 200
RELIABILITY_BINS = 10


@dataclass(frozen=True)
class Confusion:
    """Counts of rows at a decision threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float | None:
        """Spikes among alerts; None without an alert."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Alerts among spikes; None without a spike."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None without a spike."""
        if self.recall is None:
            return None
        errors = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + errors)


@dataclass(frozen=True)
class Curve:
    """Points of a curve, thinned evenly along its length; empty where it is not defined."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of like probability: how many, their mean probability, and their share of spikes."""

    rows: int
    probability: float
    spike_rate: float


def confusion(target: NDArray[np.bool_], is_alert: NDArray[np.bool_]) -> Confusion:
    """Count alerts against spikes, both of shape (rows,)."""
    return Confusion(
        true_positives=int((target & is_alert).sum()),
        false_positives=int((~target & is_alert).sum()),
        false_negatives=int((target & ~is_alert).sum()),
        true_negatives=int((~target & ~is_alert).sum()),
    )


def roc_auc(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve; None where one class is missing."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(target, score)) if _has_both(target) else None


def brier(target: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the mean squared error of the probabilities (Brier 1950)."""
    return float(np.mean((probability - target) ** 2)) if len(target) else None


def brier_skill(target: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return 1 - Brier score / that of always saying the base rate of these very rows.

    A stricter reference than the training base rate: 0 is what hindsight about the base rate gives.
    """
    score = brier(target, probability)
    return None if score is None or not _has_both(target) else float(1 - score / target.var())


def precision_recall(target: NDArray[np.bool_], score: NDArray[np.float64]) -> Curve:
    """Return precision (y) over recall (x)."""
    from sklearn.metrics import precision_recall_curve

    if not _has_both(target):
        return Curve()
    precision, recall, _ = precision_recall_curve(target, score)
    return _thin(recall[::-1], precision[::-1])


def roc(target: NDArray[np.bool_], score: NDArray[np.float64]) -> Curve:
    """Return the true positive rate (y) over the false positive rate (x)."""
    from sklearn.metrics import roc_curve

    if not _has_both(target):
        return Curve()
    false_positive_rate, true_positive_rate, _ = roc_curve(target, score)
    return _thin(false_positive_rate, true_positive_rate)


def reliability(
    target: NDArray[np.bool_], probability: NDArray[np.float64]
) -> tuple[ReliabilityBin, ...]:
    """Return bins of about equally many rows, by rising probability; equal ones stay together."""
    if not len(target):
        return ()
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, RELIABILITY_BINS + 1)[1:-1]))
    index = np.searchsorted(edges, probability, side="right")
    return tuple(
        ReliabilityBin(
            rows=int(members.sum()),
            probability=float(probability[members].mean()),
            spike_rate=float(target[members].mean()),
        )
        for members in (index == value for value in np.unique(index))
    )


def count_apart(times: NDArray[np.datetime64], seconds: int) -> int:
    """Count the most of these rising times that lie at least so many seconds apart."""
    gap, count, position = np.timedelta64(seconds, "s"), 0, 0
    while position < len(times):
        count += 1
        position = int(np.searchsorted(times, times[position] + gap))
    return count


def hours_covered(ts: NDArray[np.datetime64]) -> float:
    """Return how many hours rows at these rising times cover: their number times the usual step."""
    step = float(np.median(np.diff(ts) / np.timedelta64(1, "s"))) if len(ts) > 1 else 1.0
    return len(ts) * step / 3600


def independent_labels(target: NDArray[np.bool_], *, lags: int) -> float | None:
    """Return how many independent labels would tell the base rate as well as these do.

    Rows / (1 + 2 * the sum of autocorrelations), Bartlett weights to `lags` rows (Newey and West,
    Econometrica 1987); None where all labels are alike.
    """
    rows = len(target)
    if not _has_both(target):
        return None
    lags = min(lags, rows - 1)
    spectrum = np.fft.rfft(target - target.mean(), 2 * rows)
    autocovariance = np.fft.irfft(np.abs(spectrum) ** 2)[: lags + 1]
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    inflation = 1 + 2 * float(weights @ autocovariance[1:]) / float(autocovariance[0])
    return rows / max(inflation, 1.0)


def _has_both(target: NDArray[np.bool_]) -> bool:
    return bool(target.any() and not target.all())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _thin(x: NDArray[Any], y: NDArray[Any]) -> Curve:
    steps = np.abs(np.diff(x)) + np.abs(np.diff(y))
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS))
    kept = np.unique(np.concatenate([[0], np.minimum(wanted, len(x) - 1), [len(x) - 1]]))
    return Curve(x=tuple(x[kept].tolist()), y=tuple(y[kept].tolist()))
