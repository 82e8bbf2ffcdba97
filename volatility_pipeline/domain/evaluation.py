"""The evaluation of one product: every model on the same test rows, and what came out.

Measures stand in `metrics`, resampling in `bootstrap`, what may be claimed in `verdict`. Fitting
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
    confidence_intervals,
    no_resamples,
    resample,
)
from volatility_pipeline.domain.episodes import EpisodeResult, judge_alerts
from volatility_pipeline.domain.ladder import REFERENCE
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.splits import ROLES, Policy, require_honest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

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
        episodes: The alerts at that threshold against spike episodes, and how many an hour.
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
    episodes: EpisodeResult
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
        facts: dict[str, Any] = plain(asdict(self))
        return facts


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
        LeakyRowsError: Rows of a leaky split.
    """
    require_honest(split["role"].unique())
    test = split[split["role"] == "test"]
    ts = test["ts"].to_numpy(dtype="datetime64[us]")
    target = test["is_spike"].to_numpy(dtype=bool)
    require_fitting(ts, forecasts, reference)

    rankings = [Ranking(forecast.score, target) for forecast in forecasts]
    observed = np.array(
        [ranking.average_precision(np.ones_like(target, int)) for ranking in rankings]
    )
    blocks = choose_blocks(ts, target, [target - forecast.probability for forecast in forecasts])
    draws = no_resamples(len(rankings))
    if blocks.refusal is None:
        draws = resample(rankings, target, block_rows=blocks.rows, resamples=resamples, seed=seed)

    roles = tuple(role_summary(split, role) for role in ROLES)
    days = day_rates(split)
    insufficient = claims.shortages(roles)
    lift_refusal = claims.lift_refusal(days) if policy == "training" else None

    base_rate = roles[-1].base_rate or np.nan
    compared = [forecast.name for forecast in forecasts].index(reference)
    drawn = draws.average_precision
    precisions = estimates(observed, drawn, blocks, highest=1.0)
    lifts = estimates(
        observed / base_rate, drawn / draws.base_rate[:, None], blocks, highest=1 / base_rate
    )
    gains = estimates(observed - observed[compared], drawn - drawn[:, [compared]], blocks)
    models = tuple(
        _result(
            forecast,
            ts,
            target,
            average_precision=precisions[index],
            lift=lifts[index] if lift_refusal is None else None,
            gain=gains[index] if index != compared else None,
            is_sufficient=not insufficient,
        )
        for index, forecast in enumerate(forecasts)
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
            models,
            reference,
            base_rate=roles[-1].base_rate,
            refusal=blocks.refusal,
            insufficient=insufficient,
            suspicious=suspicious,
        ),
        insufficient=insufficient,
        suspicious=suspicious,
        lift_refusal=lift_refusal,
        base_rate=roles[-1].base_rate,
        independent_labels=independent,
        independent_spikes=independent * base_rate if independent else None,
        roles=roles,
        days=days,
        blocks=blocks,
        models=models,
    )


def require_fitting(
    ts: NDArray[np.datetime64], forecasts: Sequence[Forecast], reference: str
) -> None:
    """Refuse forecasts that do not fit the test rows at these times, with a ValueError."""
    if (np.diff(ts) <= np.timedelta64(0)).any():
        raise ValueError("The test rows are not in time order, one a second at most.")
    for forecast in forecasts:
        for values in (forecast.score, forecast.probability):
            if values.shape != ts.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{forecast.name} has {values.shape[0]} answers, or one that is no number, "
                    f"for {len(ts)} test rows."
                )
    if reference not in [forecast.name for forecast in forecasts]:
        raise ValueError(f"The models are compared with {reference}, which is not among them.")


def role_summary(split: pd.DataFrame, role: str) -> RoleSummary:
    """Return how much a role knows, of rows with `ts`, `is_spike` and `role` in time order."""
    rows = split[split["role"] == role]
    ts = rows["ts"].to_numpy(dtype="datetime64[us]")
    is_spike = rows["is_spike"].to_numpy(dtype=bool)
    return RoleSummary(
        role=role,
        rows=len(rows),
        spikes=int(is_spike.sum()),
        base_rate=float(is_spike.mean()) if len(rows) else None,
        separate_spikes=metrics.count_apart(ts[is_spike], SPIKE_SECONDS),
        episodes=metrics.count_apart(ts[is_spike], EPISODE_SECONDS),
        start=str(ts[0].astype("datetime64[s]")) if len(rows) else None,
        end=str(ts[-1].astype("datetime64[s]")) if len(rows) else None,
    )


def day_rates(split: pd.DataFrame) -> tuple[DayRate, ...]:
    """Return the base rate by day and role, of rows with `ts`, `is_spike` and `role`."""
    days = split["ts"].dt.floor("D").rename("day")
    counts = split["is_spike"].astype(bool).groupby([days, split["role"]]).agg(["size", "sum"])
    rates = [
        DayRate(f"{day:%Y-%m-%d}", role, int(rows), int(spikes), float(spikes / rows))
        for (day, role), rows, spikes in counts.itertuples()
    ]
    return tuple(sorted(rates, key=lambda rate: (rate.day, ROLES.index(rate.role))))


def estimates(
    observed: NDArray[np.float64],
    drawn: NDArray[np.float64],
    blocks: Blocks,
    *,
    highest: float | None = None,
) -> list[Estimate | None]:
    """Join each model's value, shape (models,), with its draws, shape (resamples, models), if any.

    None where the value is not finite; no interval where there are no draws. `highest` is the most
    that a ratio can be, and None for a difference.
    """
    bounds: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(observed)
    if len(drawn):
        bounds = confidence_intervals(observed, drawn, blocks=blocks, highest=highest)
    return [
        Estimate(float(value), low, high) if np.isfinite(value) else None
        for value, (low, high) in zip(observed, bounds, strict=True)
    ]


def _result(
    forecast: Forecast,
    ts: NDArray[np.datetime64],
    target: NDArray[np.bool_],
    *,
    average_precision: Estimate | None,
    lift: Estimate | None,
    gain: Estimate | None,
    is_sufficient: bool,
) -> ModelResult:
    is_alert = forecast.probability >= forecast.decision_threshold
    confusion = metrics.confusion(target, is_alert)
    return ModelResult(
        name=forecast.name,
        average_precision=average_precision,
        lift=lift,
        gain=gain,
        is_better=is_sufficient and gain is not None and gain.low is not None and gain.low > 0,
        skill=_skill(average_precision, target),
        roc_auc=metrics.roc_auc(target, forecast.score),
        brier=metrics.brier(target, forecast.probability),
        brier_skill=metrics.brier_skill(target, forecast.probability),
        decision_threshold=forecast.decision_threshold,
        confusion=confusion,
        precision=confusion.precision,
        recall=confusion.recall,
        f1=confusion.f1,
        episodes=judge_alerts(ts, target, is_alert),
        precision_recall_curve=metrics.precision_recall(target, forecast.score),
        roc_curve=metrics.roc(target, forecast.score),
        reliability=metrics.reliability(target, forecast.probability),
    )


def _skill(average_precision: Estimate | None, target: NDArray[np.bool_]) -> float | None:
    if average_precision is None or target.all():
        return None
    return float((average_precision.value - target.mean()) / (1 - target.mean()))


def plain(value: Any) -> Any:
    """Return facts as plain JSON: None for what is no number, lists for tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
