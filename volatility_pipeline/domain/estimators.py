"""The scikit-learn classes of our own that stand inside a model's `Pipeline`.

Importing this module imports scikit-learn: `models` does so where it builds or loads a model. What
is saved names these classes by their place here (`models.TRUSTED_TYPES`): moving one of them makes
every stored model unreadable. Which rung uses which columns is said in `ladder`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

Floats = NDArray[np.float64]

VOLATILITY_FLOOR = 1e-7


class NoInputsError(ValueError):
    """Every column that a model reads is null in all of its training rows."""


class MarketInputs(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Feature rows to the matrix that a classifier sees, missing values still missing (NaN).

    Volatilities and the threshold become log(max(v, 1e-7)), volatilities as the log ratio to the
    threshold where asked; dollar quantities log(1 + basis points of `mid`); counts and volumes
    log(1 + v). The rest passes as it is.

    Args:
        columns: The columns to read, in the order of the matrix.
        relative_to_threshold: Whether volatilities are taken relative to `threshold`.

    Attributes:
        kept_: The columns of the matrix, those with any value in the training rows.
        dropped_: The columns null in all training rows.
    """

    def __init__(self, columns: Sequence[str] = (), relative_to_threshold: bool = False) -> None:
        self.columns = columns
        self.relative_to_threshold = relative_to_threshold

    def fit(self, frame: pd.DataFrame, target: object = None) -> Self:  # noqa: ARG002
        """Note which columns hold any value.

        Raises:
            NoInputsError: None of them does.
        """
        known = self._read(frame)
        has_values = {name: not np.isnan(self._input(known, name)).all() for name in self.columns}
        self.kept_ = [name for name in self.columns if has_values[name]]
        self.dropped_ = [name for name in self.columns if not has_values[name]]
        if not self.kept_:
            raise NoInputsError(f"{', '.join(self.dropped_)}: null in all training rows.")
        return self

    def transform(self, frame: pd.DataFrame) -> Floats:
        """Return the matrix, shape (rows, kept columns)."""
        known = self._read(frame)
        return np.column_stack([self._input(known, name) for name in self.kept_])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the matrix's columns, for importances."""
        return np.asarray(self.kept_, dtype=object)

    def _read(self, frame: pd.DataFrame) -> dict[str, Floats]:
        """Return all that is read at once: asked one by one, a frame takes longer than the rest."""
        asked = {*self.columns, "mid", "threshold"}
        names = [name for name in frame.columns if name in asked]
        matrix = np.ascontiguousarray(frame[names].to_numpy(dtype=float, na_value=np.nan).T)
        return dict(zip(names, matrix, strict=True))

    def _input(self, known: Mapping[str, Floats], name: str) -> Floats:
        values = known[name]
        if name == "threshold":
            return _log(values)
        if name.startswith("realized_volatility_"):
            reference = _log(known["threshold"]) if self.relative_to_threshold else 0.0
            return _log(values) - reference
        if name.startswith(("price_velocity_", "spread_mean_")):
            basis_points: Floats = 1e4 * values / known["mid"]
            return np.log1p(basis_points)
        if name.startswith(("trade_intensity_", "volume_velocity_")):
            return np.log1p(values)
        return values


class EwmaInputs(MarketInputs):
    """Nested realized volatilities to one column: the log of an exponentially weighted one.

    RiskMetrics (J.P. Morgan 1996, ch. 5): the variance as a weighted mean of squared returns, the
    weight halved every half-life. The returns are not here, only their variances over nested
    windows, so the kernel is a staircase: constant within each ring between two windows, with the
    mass that the exponential has there. Such a mean is a linear combination of the windows'
    variances, all weights positive. Two approximations: the staircase, and a window's sum of
    squares as W times its sample variance (so on average where returns have no drift; exactly it
    is W - 1 times that, plus the squared mean's share). Beyond the longest window nothing counts;
    where a window is missing, the kernel is spread over the others.

    Args:
        columns: `realized_volatility_{W}s`, W rising.
        relative_to_threshold: Whether volatilities are taken relative to `threshold`.
        half_life_seconds: After how long a squared return counts half.
    """

    def __init__(
        self,
        columns: Sequence[str] = (),
        relative_to_threshold: bool = False,
        half_life_seconds: float = 60.0,
    ) -> None:
        super().__init__(columns, relative_to_threshold)
        self.half_life_seconds = half_life_seconds

    def transform(self, frame: pd.DataFrame) -> Floats:
        """Return the log volatility, shape (rows, 1); NaN where every window is missing."""
        variances = np.exp(2 * super().transform(frame))
        windows = np.array([int(name.split("_")[-1].removesuffix("s")) for name in self.kept_])
        is_known = ~np.isnan(variances)
        result = np.full(len(frame), np.nan)
        for pattern in np.unique(is_known, axis=0):
            if pattern.any():
                rows = (is_known == pattern).all(axis=1)
                places = np.flatnonzero(pattern)
                weights = self._weights(windows[places])
                # One column after the other: a row's bits do not depend on its neighbours.
                result[rows] = sum(
                    weight * variances[rows, place]
                    for weight, place in zip(weights, places, strict=True)
                )
        logs: Floats = np.log(result) / 2
        return logs.reshape(-1, 1)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the name of the one column."""
        return np.asarray(["ewma_volatility"], dtype=object)

    def _weights(self, windows: NDArray[np.int64]) -> Floats:
        """Return the weight of each window's variance; they add to 1."""
        edges = np.concatenate([[0], windows])
        kernel = -np.diff(0.5 ** (edges / self.half_life_seconds)) / np.diff(edges)
        weights = (kernel - np.append(kernel[1:], 0.0)) * windows
        shares: Floats = weights / weights.sum()
        return shares


class FixedScore(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A rule without parameters: the first input column is the score, as it stands."""

    def fit(self, matrix: Floats, target: object) -> Self:  # noqa: ARG002
        """Learn nothing; name the classes."""
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, matrix: Floats) -> Floats:
        """Return the score, shape (rows,)."""
        score: Floats = matrix[:, 0]
        return score

    def predict_proba(self, matrix: Floats) -> Floats:
        """Return 1 / (1 + exp(-score)) as (no spike, spike), shape (rows, 2)."""
        spike = expit(self.decision_function(matrix))
        return np.column_stack([1 - spike, spike])

    def predict(self, matrix: Floats) -> NDArray[np.int64]:
        """Return the likelier class, shape (rows,)."""
        return (self.decision_function(matrix) > 0).astype(np.int64)


class ZScore(FixedScore):
    """Standard deviations above the training mean, of the first input column without its log.

    Args:
        alert_at: The score from which it predicts a spike, with probability 0.5.
    """

    def __init__(self, alert_at: float = 2.0) -> None:
        self.alert_at = alert_at

    def fit(self, matrix: Floats, target: object) -> Self:
        """Learn mean and deviation; where all values are alike, the deviation counts as one."""
        values = np.exp(matrix[:, 0])
        self.mean_ = float(values.mean())
        self.deviation_ = float(values.std()) if np.ptp(values) > 0 else 1.0
        return super().fit(matrix, target)

    def decision_function(self, matrix: Floats) -> Floats:
        """Return the score, shape (rows,)."""
        score: Floats = (np.exp(matrix[:, 0]) - self.mean_) / self.deviation_
        return score

    def predict_proba(self, matrix: Floats) -> Floats:
        """Return 1 / (1 + exp(alert_at - score)) as (no spike, spike), shape (rows, 2)."""
        spike = expit(self.decision_function(matrix) - self.alert_at)
        return np.column_stack([1 - spike, spike])

    def predict(self, matrix: Floats) -> NDArray[np.int64]:
        """Return where the rule alerts, shape (rows,)."""
        return (self.decision_function(matrix) >= self.alert_at).astype(np.int64)


class ConstantRate(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Answers the training spike rate, whatever it is asked; 0 where there were no rows.

    Unlike scikit-learn's `DummyClassifier` it keeps both classes when training saw one of them.
    """

    def fit(self, rows: pd.DataFrame, target: NDArray[np.int64]) -> Self:  # noqa: ARG002
        """Learn the share of spikes in `target`."""
        self.classes_ = np.array([0, 1])
        self.rate_ = float(target.mean()) if len(target) else 0.0
        return self

    def predict_proba(self, rows: pd.DataFrame) -> Floats:
        """Return the rate as (no spike, spike), shape (rows, 2)."""
        return np.tile([1 - self.rate_, self.rate_], (len(rows), 1))

    def predict(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Return the likelier class, shape (rows,)."""
        return np.full(len(rows), self.rate_ > 0.5, dtype=np.int64)


def _log(volatility: Floats) -> Floats:
    return np.log(np.maximum(volatility, VOLATILITY_FLOOR))
