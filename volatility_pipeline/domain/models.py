"""Models: fitting a rung of the ladder, calibrating it, storing it and asking it.

No metrics (`evaluation`), no tracking, no files: bytes in, bytes out. The rungs stand in `ladder`.
scikit-learn and skops are imported where they are used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS, Rung
from volatility_pipeline.domain.splits import Policy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "volatility_pipeline.domain.estimators.ConstantRate",
    "volatility_pipeline.domain.estimators.FixedScore",
    "volatility_pipeline.domain.estimators.MarketInputs",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
)
"""What a stored model may hold beyond what skops trusts by itself; nothing else is loaded."""

CALIBRATION_MINIMUM = 5


@dataclass(frozen=True)
class Forecast:
    """What a model says about some rows.

    Attributes:
        name: The rung.
        score: Uncalibrated, for ranking; shape (rows,).
        probability: Calibrated; shape (rows,).
        decision_threshold: An alert is a probability at or above it.
    """

    name: str
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    decision_threshold: float


@dataclass(frozen=True)
class FittedModel:
    """A rung fitted on training rows and calibrated on validation rows.

    Attributes:
        name: The rung.
        estimator: One scikit-learn estimator; `predict_proba` gives the calibrated probability.
        decision_threshold: The validation probability with the best F1.
        dropped_columns: Inputs null in all training rows.
        notes: What fell back and why, one sentence each; empty where nothing did.
        policy: The threshold policy of the labels it was fitted on.
        seed: What its randomness started from.
        training_rows: How many rows it was fitted on.
        validation_rows: How many rows it was calibrated on.
        seconds: How long that took.
    """

    name: str
    estimator: Any
    decision_threshold: float
    dropped_columns: tuple[str, ...]
    notes: tuple[str, ...]
    policy: Policy
    seed: int
    training_rows: int
    validation_rows: int
    seconds: float = field(compare=False)

    def forecast(self, frame: pd.DataFrame) -> Forecast:
        """Ask the model about rows of `MODEL_INPUTS`, in their order."""
        return Forecast(
            name=self.name,
            score=scores(self.estimator, frame),
            probability=probabilities(self.estimator, frame),
            decision_threshold=self.decision_threshold,
        )


class UntrustedModelError(ValueError):
    """Bytes that are no model of this project; the message says what is wrong."""


def fit(
    name: str, train: pd.DataFrame, validation: pd.DataFrame, *, policy: Policy, seed: int
) -> FittedModel:
    """Fit a rung on training rows; calibrate it and choose its threshold on validation rows.

    Too little data is no error: the model falls back to something simpler and its notes say so.

    Args:
        name: A key of `LADDER`.
        train: Rows of `MODEL_INPUTS` and `is_spike`, in time order.
        validation: Likewise, later.
        policy: How the labels' threshold was made.
        seed: For what is random.

    Raises:
        ValueError: A frame has a `role` column that says it is another role's rows.
    """
    started = time.perf_counter()
    _require_role(train, "train")
    _require_role(validation, "validation")
    notes: list[str] = []
    pipeline, dropped = _fit_on_training(LADDER[name], train, policy=policy, seed=seed, notes=notes)
    estimator = _calibrate(pipeline, validation, notes)
    return FittedModel(
        name=name,
        estimator=estimator,
        decision_threshold=_best_threshold(estimator, validation, notes),
        dropped_columns=dropped,
        notes=tuple(notes),
        policy=policy,
        seed=seed,
        training_rows=len(train),
        validation_rows=len(validation),
        seconds=time.perf_counter() - started,
    )


def scores(estimator: Any, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the uncalibrated scores by which rows are ranked, shape (rows,)."""
    pipeline = estimator.estimator.estimator if hasattr(estimator, "estimator") else estimator
    if not len(frame):
        return np.empty(0)
    if hasattr(pipeline, "decision_function"):
        values = pipeline.decision_function(frame[list(MODEL_INPUTS)])
    else:
        values = pipeline.predict_proba(frame[list(MODEL_INPUTS)])[:, 1]
    return np.asarray(values, dtype=float)


def probabilities(estimator: Any, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the calibrated probabilities of a spike, shape (rows,)."""
    if not len(frame):
        return np.empty(0)
    return np.asarray(estimator.predict_proba(frame[list(MODEL_INPUTS)])[:, 1], dtype=float)


def dump(estimator: Any) -> bytes:
    """Return the estimator as a skops archive."""
    import zipfile

    import skops.io

    data: bytes = skops.io.dumps(estimator, compression=zipfile.ZIP_DEFLATED)
    return data


def load(data: bytes) -> Any:
    """Return the estimator in a skops archive, if it holds trusted types alone.

    Raises:
        UntrustedModelError: It holds others, or is no such archive.
    """
    import zipfile

    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise UntrustedModelError(f"The model holds types that are not trusted: {error}") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UntrustedModelError(f"The model is no skops archive: {error}") from error


def _require_role(frame: pd.DataFrame, role: str) -> None:
    others = set(frame["role"]) - {role} if "role" in frame else set()
    if others:
        raise ValueError(f"Rows of role {', '.join(sorted(others))} were given as {role} rows.")


def _target(frame: pd.DataFrame) -> NDArray[np.int64]:
    target: NDArray[np.int64] = frame["is_spike"].to_numpy(dtype=np.int64)
    return target


def _fit_on_training(
    rung: Rung, train: pd.DataFrame, *, policy: Policy, seed: int, notes: list[str]
) -> tuple[Any, tuple[str, ...]]:
    """Return the fitted pipeline, or a constant where that cannot be, and the columns dropped."""
    from sklearn.pipeline import Pipeline

    from volatility_pipeline.domain.estimators import ConstantRate, NoInputsError

    rows, target = train[list(MODEL_INPUTS)], _target(train)
    dropped: tuple[str, ...] = ()
    if len(np.unique(target)) == 2:
        pipeline = rung.build(policy=policy, seed=seed)
        inputs = pipeline.named_steps.get("inputs")
        try:
            pipeline.fit(rows, target)
        except NoInputsError:
            notes.append("Answers the constant training spike rate: all its inputs are null there.")
        else:
            return pipeline, tuple(inputs.dropped_) if inputs else ()
        dropped = tuple(inputs.dropped_)
    elif rung.columns or not len(target):
        notes.append(
            f"Answers the constant training spike rate: {target.sum()} of {len(target)} training "
            "rows are spikes."
        )
    return Pipeline([("model", ConstantRate())]).fit(rows, target), dropped


def _calibrate(pipeline: Any, validation: pd.DataFrame, notes: list[str]) -> Any:
    """Return the pipeline with a sigmoid fitted on the validation rows, or as it is.

    The sigmoid is Platt's (Advances in Large Margin Classifiers, 1999), by scikit-learn.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    from volatility_pipeline.domain.estimators import ConstantRate

    target = _target(validation)
    if isinstance(pipeline[-1], ConstantRate):
        return pipeline
    if min(target.sum(), (1 - target).sum()) < CALIBRATION_MINIMUM:
        notes.append(
            f"Not calibrated: {target.sum()} of {len(target)} validation rows are spikes; "
            f"{CALIBRATION_MINIMUM} of either kind are needed."
        )
        return pipeline
    calibrated = CalibratedClassifierCV(FrozenEstimator(pipeline), method="sigmoid")
    calibrated.fit(validation[list(MODEL_INPUTS)], target)
    if calibrated.calibrated_classifiers_[0].calibrators[0].a_ >= 0:
        notes.append("On the validation rows a higher score means fewer spikes.")
    return calibrated


def _best_threshold(estimator: Any, validation: pd.DataFrame, notes: list[str]) -> float:
    """Return the validation probability that gives the best F1 when alerts start there."""
    from sklearn.metrics import precision_recall_curve

    target = _target(validation)
    if not target.any():
        notes.append("Decision threshold 0.5: no validation row is a spike.")
        return 0.5
    precision, recall, thresholds = precision_recall_curve(
        target, probabilities(estimator, validation)
    )
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])
