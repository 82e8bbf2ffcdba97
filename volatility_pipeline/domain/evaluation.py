"""The evaluation of one product: every model on the same test rows, and what came out.

Measures stand in `metrics`, resampling in `bootstrap`, and what may be claimed in `verdict`. Fitting
models, storing results and showing them do not belong here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain import metrics
from volatility_pipeline.domain import verdict as claims
from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
    choose_blocks,
    interval,
    resample,
)
from volatility_pipeline.domain.ladder import REFERENCE, Policy
from volatility_pipeline.domain.models import Forecast

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ROLES = ("train", "validation", "test")
SPIKE_SECONDS = 60
EPISODE_SECONDS = 900


@dataclass(frozen=True)
class RoleSummary:
    """How much one role of the split knows.

    Attributes:
        role: `train`, `validation` or `test`.
        rows: Its rows.
        spikes: Rows that are spikes.
        base_rate: Their share; None without rows.
        separate_spikes: Spikes whose 60 seconds do not overlap.
        episodes: Spikes at least 15 minutes apart.
        start: First decision time, ISO; None without rows.
        end: Last decision time.
    """

    role: str
    rows: int
    spikes: int
    base_rate: float | None
    separate_spikes: int
    episodes: int
    start: str | None
    end: str | None


@dataclass(frozen=True)
class DayRate:
    """The base rate of one role on one UTC day."""

    day: str
    role: str
    rows: int
    spikes: int
    base_rate: float


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % block bootstrap interval, which is None where none may be shown."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ModelResult:
    """One model on the test rows. What is not defined, or may not be shown, is None.

    Attributes:
        name: The rung.
        average_precision: PR-AUC, on uncalibrated scores.
        lift: PR-AUC over base rate.
        gain: PR-AUC minus the reference's, on the same resamples; None for the reference itself.
        is_better: Whether the gain's interval lies above zero, on sufficient data.
        skill: (PR-AUC - base rate) / (1 - base rate).
        roc_auc: Area under the ROC curve.
        brier: Mean squared error of the calibrated probabilities.
        brier_skill: 1 - Brier score / that of the test's own base rate.
        decision_threshold: An alert is a probability at or above it; chosen on validation rows.
        confusion: Counts at that threshold.
        precision: Spikes among alerts, at that threshold.
        recall: Alerts among spikes, at that threshold.
        f1: Their harmonic mean.
        precision_recall_curve: Precision over recall.
        roc_curve: True positive rate over false positive rate.
        reliability: Observed spike rates by probability.
    """

    name: str
    average_precision: Estimate | None
    lift: Estimate | None
    gain: Estimate | None
    is_better: bool
    skill: float | None
    roc_auc: float | None
    brier: float | None
    brier_skill: float | None
    decision_threshold: float
    confusion: metrics.Confusion
    precision: float | None
    recall: float | None
    f1: float | None
    precision_recall_curve: metrics.Curve
    roc_curve: metrics.Curve
    reliability: tuple[metrics.ReliabilityBin, ...]


@dataclass(frozen=True)
class Evaluation:
    """Every model of one product on the same test rows.

    Attributes:
        product_id: The market.
        policy: How the labels' threshold was made.
        reference: The rung that others must beat.
        seed: What the resamples were drawn from.
        resamples: How many were drawn.
        verdict: One sentence to put first.
        insufficient: Why nothing may be claimed, one reason a role; empty where there is enough.
        suspicious: What is too good to be true; empty where nothing is.
        lift_refusal: Why no lift is pooled; None where it is.
        base_rate: Share of spikes in the test; None without rows.
        independent_labels: How many independent labels the test is worth.
        independent_spikes: Likewise, times the base rate.
        roles: How much each role knows.
        days: The base rate by day and role.
        blocks: How the test falls into blocks.
        models: The results, in the order of the forecasts.
    """

    product_id: str
    policy: Policy
    reference: str
    seed: int
    resamples: int
    verdict: str
    insufficient: tuple[str, ...]
    suspicious: tuple[str, ...]
    lift_refusal: str | None
    base_rate: float | None
    independent_labels: float | None
    independent_spikes: float | None
    roles: tuple[RoleSummary, ...]
    days: tuple[DayRate, ...]
    blocks: Blocks
    models: tuple[ModelResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: no NaN and no infinity, None instead."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def evaluate(
    split: pd.DataFrame,
    forecasts: Sequence[Forecast],
    *,
    product_id: str,
    policy: Policy,
    seed: int,
    resamples: int = 1000,
    reference: str = REFERENCE,
) -> Evaluation:
    """Measure every forecast of the test rows, and say what may be claimed.

    Args:
        split: Rows of every role with `ts`, `is_spike` and `role`, in time order.
        forecasts: One a model, for the rows of role `test` in their order.
        product_id: The market.
        policy: How the labels' threshold was made.
        seed: For the resamples.
        resamples: How many to draw.
        reference: The model that others are compared with.

    Raises:
        ValueError: Rows out of order, a forecast that does not fit them, or no reference.
    """
    test = split[split["role"] == "test"]
    ts = test["ts"].to_numpy(dtype="datetime64[us]")
    target = test["is_spike"].to_numpy(dtype=bool)
    _require_fitting(ts, forecasts, reference)

    blocks = choose_blocks(ts, target, [target - forecast.probability for forecast in forecasts])
    roles = tuple(_role_summary(split, role) for role in ROLES)
    days = _day_rates(split)
    base_rate = float(target.mean()) if len(target) else None
    insufficient = claims.shortages(roles)
    lift_refusal = claims.lift_refusal(days) if policy == "training" else None
    models = _results(
        target,
        forecasts,
        reference=reference,
        blocks=blocks,
        resamples=resamples,
        seed=seed,
        is_lift_pooled=lift_refusal is None,
        is_sufficient=not insufficient,
    )
    suspicious = claims.too_good(models, reference)
    independent = metrics.independent_labels(target, lags=blocks.rows)
    return Evaluation(
        product_id=product_id,
        policy=policy,
        reference=reference,
        seed=seed,
        resamples=resamples,
        verdict=claims.verdict(
            {model.name: model for model in models},
            reference,
            base_rate=base_rate,
            refusal=blocks.refusal,
            insufficient=insufficient,
            suspicious=suspicious,
        ),
        insufficient=insufficient,
        suspicious=suspicious,
        lift_refusal=lift_refusal,
        base_rate=base_rate,
        independent_labels=independent,
        independent_spikes=independent * float(target.mean()) if independent else None,
        roles=roles,
        days=days,
        blocks=blocks,
        models=models,
    )


def _results(
    target: NDArray[np.bool_],
    forecasts: Sequence[Forecast],
    *,
    reference: str,
    blocks: Blocks,
    resamples: int,
    seed: int,
    is_lift_pooled: bool,
    is_sufficient: bool,
) -> tuple[ModelResult, ...]:
    rankings = [Ranking(forecast.score, target) for forecast in forecasts]
    once = np.ones(len(target), dtype=np.int64)
    observed = np.array([ranking.average_precision(once) for ranking in rankings])
    base_rate = target.mean() if len(target) else np.nan
    drawn, drawn_base_rate = np.empty((0, len(forecasts))), np.empty(0)
    if blocks.refusal is None:
        drawn, drawn_base_rate = resample(
            rankings, target, block_rows=blocks.rows, resamples=resamples, seed=seed
        )
    compared = [forecast.name for forecast in forecasts].index(reference)

    def result(index: int, forecast: Forecast) -> ModelResult:
        precision, draws = observed[index], drawn[:, index]
        confusion = metrics.confusion(target, forecast.probability >= forecast.decision_threshold)
        gain = None
        if index != compared:
            gain = _estimate(precision - observed[compared], draws - drawn[:, compared])
        lift = _estimate(precision / base_rate, draws / drawn_base_rate) if is_lift_pooled else None
        return ModelResult(
            name=forecast.name,
            average_precision=_estimate(precision, draws),
            lift=lift,
            gain=gain,
            is_better=is_sufficient and gain is not None and (gain.low or 0) > 0,
            skill=_skill(precision, base_rate),
            roc_auc=metrics.roc_auc(target, forecast.score),
            brier=metrics.brier(target, forecast.probability),
            brier_skill=metrics.brier_skill(target, forecast.probability),
            decision_threshold=forecast.decision_threshold,
            confusion=confusion,
            precision=confusion.precision,
            recall=confusion.recall,
            f1=confusion.f1,
            precision_recall_curve=metrics.precision_recall(target, forecast.score),
            roc_curve=metrics.roc(target, forecast.score),
            reliability=metrics.reliability(target, forecast.probability),
        )

    return tuple(result(index, forecast) for index, forecast in enumerate(forecasts))
