"""Models: fitting a rung of the ladder, calibrating it, asking it, and reading one that was stored.

No metrics (`evaluation`), no files; storing is `resources/tracking`. The rungs stand in `ladder`.
scikit-learn and skops are imported where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.decisions import best_f1, within_alert_budget
from volatility_pipeline.domain.ladder import BALANCED, LADDER, MODEL_INPUTS, Rung
from volatility_pipeline.domain.search import ON_VALIDATION, Found, Trial, search
from volatility_pipeline.domain.splits import Policy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.tree._tree.Tree",
    "volatility_pipeline.domain.estimators.ConstantRate",
    "volatility_pipeline.domain.estimators.EwmaInputs",
    "volatility_pipeline.domain.estimators.FixedScore",
    "volatility_pipeline.domain.estimators.MarketInputs",
    "volatility_pipeline.domain.estimators.ZScore",
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
        decision_threshold: The validation probability with the best F1 or within the alert budget,
            or that at which the rung's own rule alerts.
        parameters: What was set beyond the rung as it stands, by parameter of its pipeline; `fit`
            takes them again.
        trials: What was tried to find them.
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
    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...]
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
    name: str,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    *,
    policy: Policy,
    seed: int,
    search_seconds: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    alerts_per_hour: float | None = None,
) -> FittedModel:
    """Fit a rung on training rows; calibrate it and choose its threshold on validation rows.

    Too little data is no error: the model falls back to something simpler and its notes say so.

    Args:
        name: A key of `LADDER`.
        train: Rows of `MODEL_INPUTS` and `is_spike`, in time order; for a search `ts` too.
        validation: Likewise, later; for an alert budget `ts` too.
        policy: How the labels' threshold was made.
        seed: For what is random.
        search_seconds: Time budget of a search over the rung's grid, on training rows; 0 for none.
        parameters: Those of a model fitted on earlier rows, instead of a search and a choice.
        alerts_per_hour: The alert budget that chooses the decision threshold; None for best F1.

    Raises:
        ValueError: A frame has a `role` column that says it is another role's rows.
    """
    from threadpoolctl import threadpool_limits

    started = time.perf_counter()
    _require_role(train, "train")
    _require_role(validation, "validation")
    rung = LADDER[name]
    notes: list[str] = []
    found = Found(dict(parameters or {}), ())
    # The matrices are small: more threads only wait for each other, and give other last bits.
    with threadpool_limits(1, "blas"):
        if search_seconds > 0 and parameters is None:
            found = search(rung, train, policy=policy, seed=seed, seconds=search_seconds)
            notes += [found.note] if found.note else []
        pipeline, dropped, found = _fit_best_variant(
            rung, train, validation, found, policy=policy, seed=seed, notes=notes
        )
    estimator = _calibrate(pipeline, validation, rung, notes)
    return FittedModel(
        name=name,
        estimator=estimator,
        decision_threshold=_decision_threshold(
            estimator, validation, rung, alerts_per_hour=alerts_per_hour, notes=notes
        ),
        parameters=found.parameters,
        trials=found.trials,
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
    inputs = frame[list(MODEL_INPUTS)]
    if hasattr(pipeline, "decision_function"):
        values = pipeline.decision_function(inputs)
    elif hasattr(pipeline[-1], "estimators_"):
        values = _votes(pipeline[-1], pipeline[:-1].transform(inputs))
    else:
        values = pipeline.predict_proba(inputs)[:, 1]
    return np.asarray(values, dtype=float)


def probabilities(estimator: Any, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the calibrated probabilities of a spike, shape (rows,).

    The sigmoid is asked by itself: the same bits as by way of the calibrated classifier, which
    spends a third of a single row's time on finding out what it wraps.
    """
    if not len(frame):
        return np.empty(0)
    if hasattr(estimator, "calibrated_classifiers_"):
        return np.asarray(_sigmoid(estimator).predict(scores(estimator, frame)), dtype=float)
    return np.asarray(estimator.predict_proba(frame[list(MODEL_INPUTS)])[:, 1], dtype=float)


def _votes(forest: Any, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a forest's mean probability of a spike: the same bits as its `predict_proba`.

    That starts a job for each tree, and takes a single row fifteen times as long.
    """
    narrow = matrix.astype(np.float32)
    votes: NDArray[np.float64] = sum(
        tree.tree_.predict(narrow)[:, 1] for tree in forest.estimators_
    )
    return votes / len(forest.estimators_)


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


def _fit_best_variant(
    rung: Rung,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    found: Found,
    *,
    policy: Policy,
    seed: int,
    notes: list[str],
) -> tuple[Any, tuple[str, ...], Found]:
    """Return the rung fitted in the variant that ranks validation rows best, the first of equals.

    Also the columns dropped, and what was found with the variant in it.
    """
    from sklearn.metrics import average_precision_score

    settings = [found.parameters]
    if not set(rung.variants[0]) & set(found.parameters):
        settings = [{**found.parameters, **variant} for variant in rung.variants]
    if any(len(np.unique(_target(frame))) < 2 for frame in (train, validation)):
        settings = settings[:1]
    fits = []
    for parameters in settings:
        said: list[str] = []
        fitted = _fit_on_training(rung, train, parameters, policy=policy, seed=seed, notes=said)
        fits.append((*fitted, said))
    trials: list[Trial] = []
    if len(settings) > 1:
        precisions = [
            float(average_precision_score(_target(validation), scores(pipeline, validation)))
            for pipeline, *_ in fits
        ]
        trials = [Trial(*t, ON_VALIDATION) for t in zip(settings, precisions, strict=True)]
    best = int(np.argmax([trial.average_precision for trial in trials])) if trials else 0
    pipeline, dropped, said = fits[best]
    notes += said
    return pipeline, dropped, Found(settings[best], (*found.trials, *trials))


def _fit_on_training(
    rung: Rung,
    train: pd.DataFrame,
    parameters: Mapping[str, Any],
    *,
    policy: Policy,
    seed: int,
    notes: list[str],
) -> tuple[Any, tuple[str, ...]]:
    """Return the fitted pipeline, or a constant where that cannot be, and the columns dropped."""
    from sklearn.pipeline import Pipeline

    from volatility_pipeline.domain.estimators import ConstantRate, NoInputsError

    rows, target = train[list(MODEL_INPUTS)], _target(train)
    dropped: tuple[str, ...] = ()
    if len(np.unique(target)) == 2:
        balance = float((1 - target).sum() / target.sum())
        values = {name: balance if v == BALANCED else v for name, v in parameters.items()}
        pipeline = rung.build(policy=policy, seed=seed).set_params(**values)
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


def _calibrate(pipeline: Any, validation: pd.DataFrame, rung: Rung, notes: list[str]) -> Any:
    """Return the pipeline with a sigmoid fitted on the validation rows, or as it is.

    The sigmoid is Platt's (Advances in Large Margin Classifiers, 1999), by scikit-learn. A rung
    with a rule of its own is left as it is where the sigmoid falls: at no probability would it
    alert by its rule.
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
    if _sigmoid(calibrated).a_ >= 0:
        notes.append("On the validation rows a higher score means fewer spikes.")
        if rung.alert_score is not None:
            notes.append("Not calibrated: its alert rule would be turned round.")
            return pipeline
    return calibrated


def _sigmoid(calibrated: Any) -> Any:
    return calibrated.calibrated_classifiers_[0].calibrators[0]


def _decision_threshold(
    estimator: Any,
    validation: pd.DataFrame,
    rung: Rung,
    *,
    alerts_per_hour: float | None,
    notes: list[str],
) -> float:
    """Return the probability from which on the model alerts, as `decisions` chooses it.

    A rung's own rule is one about its score; the probability there is the same rule.
    """
    from volatility_pipeline.domain.estimators import ConstantRate

    is_calibrated = hasattr(estimator, "calibrated_classifiers_")
    if rung.alert_score is not None and is_calibrated:
        return float(_sigmoid(estimator).predict(np.array([rung.alert_score]))[0])
    if rung.alert_score is not None and not isinstance(estimator[-1], ConstantRate):
        return 0.5
    target, probability = _target(validation), probabilities(estimator, validation)
    if alerts_per_hour is not None and len(target):
        ts = validation["ts"].to_numpy(dtype="datetime64[us]")
        return within_alert_budget(ts, probability, alerts_per_hour=alerts_per_hour)
    if not target.any():
        notes.append("Decision threshold 0.5: no validation row is a spike.")
        return 0.5
    return best_f1(target, probability)
