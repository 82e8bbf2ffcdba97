"""The three scikit-learn classes of our own that stand inside a model's `Pipeline`.

Importing this module imports scikit-learn: `models` does so where it builds or loads a model. What
is saved names these classes by their place here (`models.TRUSTED_TYPES`): moving one of them makes
every stored model unreadable. Which rung uses which columns is said in `models`, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        has_values = {name: not np.isnan(self._input(frame, name)).all() for name in self.columns}
        self.kept_ = [name for name in self.columns if has_values[name]]
        self.dropped_ = [name for name in self.columns if not has_values[name]]
        if not self.kept_:
            raise NoInputsError(f"{', '.join(self.dropped_)}: null in all training rows.")
        return self

    def transform(self, frame: pd.DataFrame) -> Floats:
        """Return the matrix, shape (rows, kept columns)."""
        return np.column_stack([self._input(frame, name) for name in self.kept_])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the matrix's columns, for importances."""
        return np.asarray(self.kept_, dtype=object)

    def _input(self, frame: pd.DataFrame, name: str) -> Floats:
        values = _floats(frame, name)
        if name == "threshold":
            return _log(values)
        if name.startswith("realized_volatility_"):
            reference = _log(_floats(frame, "threshold")) if self.relative_to_threshold else 0.0
            return _log(values) - reference
        if name.startswith(("price_velocity_", "spread_mean_")):
            basis_points: Floats = 1e4 * values / _floats(frame, "mid")
            return np.log1p(basis_points)
        if name.startswith(("trade_intensity_", "volume_velocity_")):
            return np.log1p(values)
        return values


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


def _floats(frame: pd.DataFrame, name: str) -> Floats:
    values: Floats = frame[name].to_numpy(dtype=float, na_value=np.nan)
    return values


def _log(volatility: Floats) -> Floats:
    return np.log(np.maximum(volatility, VOLATILITY_FLOOR))
