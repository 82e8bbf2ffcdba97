"""What follows from drift: how the deployed champion performed, and what is to be done.

A label is known a minute after its row, so performance is measured and not guessed from features:
it ranks above them. `drift` says how unusual a day's features are; here both become one action, by
the matrix in `decide`. Alerts, retraining and pages do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from volatility_pipeline.domain import metrics
from volatility_pipeline.domain import verdict as claims
from volatility_pipeline.domain.bootstrap import Ranking, choose_blocks, resample
from volatility_pipeline.domain.drift import Drift, Severity
from volatility_pipeline.domain.evaluation import (
    Estimate,
    day_rates,
    estimates,
    plain,
    role_summary,
)
from volatility_pipeline.domain.realized import average_precision, measure
from volatility_pipeline.domain.splits import Policy

if TYPE_CHECKING:
    import pandas as pd

State = Literal["holding", "below_floor", "insufficient"]
Action = Literal["none", "watch", "retrain", "retrain_now", "mend", "insufficient"]

STATES: tuple[State, ...] = ("holding", "insufficient", "below_floor")
ACTIONS: Mapping[Action, str] = {
    "none": "Nothing to do",
    "watch": "Watch",
    "retrain": "Retrain with recent data",
    "retrain_now": "Retrain at once and find the cause",
    "mend": "Mend the data first, and judge again",
    "insufficient": "Not judged",
}
"""What is to be done, as a person reads it."""

PERFORMANCE_DAYS = 7
"""One day holds a handful of spike episodes: its average precision is mostly chance."""

STRIDE_SECONDS = 10
"""Intervals take every tenth second: rows between share nine tenths of their minute or more."""


@dataclass(frozen=True)
class DayPerformance:
    """A day of the champion's out-of-sample predictions. What is not defined is None.

    Attributes:
        day: UTC, ISO.
        rows: Predictions whose label is known.
        spikes: Those that came true.
        base_rate: Their share.
        average_precision: PR-AUC; None with fewer than 20 separate spikes or 10 episodes, as is
            all that follows.
        lift: PR-AUC over base rate.
        persistence: PR-AUC of the last minute's volatility over the threshold, on the same rows.
        brier: Mean squared error of the probabilities.
        brier_skill: 1 - Brier score / that of the day's own base rate.
    """

    day: str
    rows: int
    spikes: int
    base_rate: float | None
    average_precision: float | None
    lift: float | None
    persistence: float | None
    brier: float | None
    brier_skill: float | None


@dataclass(frozen=True)
class Performance:
    """The champion's last days, day by day and as one.

    Attributes:
        state: `below_floor` if the interval of its gain on persistence lies below 0, or that of its
            lift below 1; `insufficient` where labels are too few to tell.
        reason: Why, in a sentence.
        days: The last `PERFORMANCE_DAYS` that have rows, in time order.
        lift: Over those days; None where it is not defined or may not be pooled.
        gain: PR-AUC minus persistence's, on the same resamples.
    """

    state: State
    reason: str
    days: tuple[DayPerformance, ...]
    lift: Estimate | None = None
    gain: Estimate | None = None


@dataclass(frozen=True)
class Verdict:
    """What drift and performance of a product's day come to.

    Attributes:
        product: The market.
        day: UTC, ISO.
        severity: Of drift; None where it is not judged.
        performance: The champion's.
        action: What is to be done.
        reasons: Why, a sentence each, the most important first.
        numbers: What the reasons rest on, by name.
    """

    product: str
    day: str
    severity: Severity | None
    performance: State
    action: Action
    reasons: tuple[str, ...]
    numbers: Mapping[str, float | int | None]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, flat: a row of the history."""
        facts: dict[str, Any] = plain(
            {
                "product_id": self.product,
                "day": self.day,
                "severity": self.severity or "insufficient",
                "performance": self.performance,
                "action": self.action,
                "reasons": " ".join(self.reasons),
                **self.numbers,
            }
        )
        return facts


def action(
    severity: Severity | None, performance: State, *, is_data_at_fault: bool = False
) -> Action:
    """The decision matrix: what is to be done about drift of this severity (None: not judged).

    Where the data are at fault, nothing is to be learnt from them: that comes before all else.
    """
    if is_data_at_fault:
        return "mend"
    if performance == "below_floor" or severity == "high":
        return "retrain_now"
    if severity is None:
        return "insufficient"
    if severity == "medium":
        return "retrain"
    return "watch" if severity == "low" else "none"


def decide(product: str, drift: Drift, performance: Performance) -> Verdict:
    """Return the verdict on a product's day: the matrix, with its reasons and numbers."""
    own = next((each for each in performance.days if each.day == drift.day), None)
    is_low = performance.state == "below_floor"
    is_data_at_fault = any(
        finding.subject == "quality" and finding.severity in ("medium", "high")
        for finding in drift.findings
    )
    found = [finding.sentence for finding in drift.findings if finding.severity != "none"]
    quiet = () if found or drift.insufficient else ("No drift beyond that of the reference days.",)
    drifted = (f"Drift is not judged: {drift.insufficient}.",) if drift.insufficient else ()
    about_drift = (*drifted, *found, *quiet)
    lift, gain = performance.lift, performance.gain
    return Verdict(
        product=product,
        day=drift.day,
        severity=drift.severity,
        performance=performance.state,
        action=action(drift.severity, performance.state, is_data_at_fault=is_data_at_fault),
        reasons=(performance.reason, *about_drift)
        if is_low
        else (*about_drift, performance.reason),
        numbers={
            "reference_days": drift.reference_days,
            **drift.numbers,
            "rows": own.rows if own else None,
            "base_rate": own.base_rate if own else None,
            "average_precision": own.average_precision if own else None,
            "persistence": own.persistence if own else None,
            "brier": own.brier if own else None,
            "pooled_lift": lift.value if lift else None,
            "pooled_lift_high": lift.high if lift else None,
            "pooled_gain": gain.value if gain else None,
            "pooled_gain_high": gain.high if gain else None,
        },
    )


def performance(
    rows: pd.DataFrame, *, policy: Policy, seed: int = 0, resamples: int = 500
) -> Performance:
    """Measure the champion on the last days whose labels are known.

    Args:
        rows: Its predictions in time order, with `ts`, `probability`, `out_of_sample`, `is_spike`
            (null where unknown) and `persistence`, the last minute's volatility over the threshold.
        policy: How the labels' threshold was made.
        seed: For the resamples.
        resamples: How many to draw.
    """
    known = rows[rows["out_of_sample"].astype(bool) & rows["is_spike"].notna()]
    day = known["ts"].dt.floor("D")
    known = known[day.isin(np.sort(day.unique())[-PERFORMANCE_DAYS:])]
    days = tuple(
        _day(f"{date:%Y-%m-%d}", part) for date, part in known.groupby(known["ts"].dt.date)
    )
    known = known[known["ts"].dt.second % STRIDE_SECONDS == 0]
    known = known.assign(role="test").reset_index(drop=True)
    if not len(known):
        return Performance("insufficient", "No out-of-sample prediction has its label yet.", days)

    target = known["is_spike"].to_numpy(dtype=bool)
    ts = known["ts"].to_numpy(dtype="datetime64[us]")
    probability = known["probability"].to_numpy(dtype=float)
    shortages = claims.shortages([role_summary(known, "test")])
    blocks = choose_blocks(ts, target, [target - probability])
    if shortages or blocks.refusal:
        why = shortages[0] if shortages else blocks.refusal
        return Performance(
            "insufficient", f"Performance from {_span(days)} is not judged: {why}.", days
        )

    rankings = [
        Ranking(score, target)
        for score in (probability, known["persistence"].to_numpy(dtype=float))
    ]
    once = np.ones(len(target), dtype=np.int64)
    observed = np.array([ranking.average_precision(once) for ranking in rankings])
    draws = resample(rankings, target, block_rows=blocks.rows, resamples=resamples, seed=seed)
    drawn = draws.average_precision
    (gain,) = estimates(observed[:1] - observed[1], drawn[:, :1] - drawn[:, 1:], blocks)
    (lift,) = estimates(
        observed[:1] / target.mean(), drawn[:, :1] / draws.base_rate[:, None], blocks
    )
    if policy == "training" and claims.lift_refusal(day_rates(known)):
        lift = None
    return _judged(days, lift, gain)


def _day(day: str, rows: pd.DataFrame) -> DayPerformance:
    found = measure(rows)
    if found.average_precision is None or found.base_rate is None:
        unknown = (None,) * 5
        return DayPerformance(day, found.rows, found.spikes, found.base_rate, *unknown)
    target = rows["is_spike"].to_numpy(dtype=bool)
    return DayPerformance(
        day=day,
        rows=found.rows,
        spikes=found.spikes,
        base_rate=found.base_rate,
        average_precision=found.average_precision,
        lift=found.average_precision / found.base_rate,
        persistence=average_precision(rows["persistence"].to_numpy(dtype=float), target),
        brier=found.brier,
        brier_skill=metrics.brier_skill(target, rows["probability"].to_numpy(dtype=float)),
    )


def _judged(
    days: tuple[DayPerformance, ...], lift: Estimate | None, gain: Estimate | None
) -> Performance:
    """Hold the intervals to the floor: 0 for the gain on persistence, 1 for the lift."""
    when = _span(days)
    if gain is not None and gain.high is not None and gain.high < 0:
        shown = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        reason = f"From {when} the champion ranks worse than persistence: {shown} PR-AUC."
        return Performance("below_floor", reason, days, lift, gain)
    if lift is not None and lift.high is not None and lift.high < 1:
        shown = f"{lift.value:.2f} [{lift.low:.2f}, {lift.high:.2f}]"
        reason = f"From {when} the champion ranks worse than chance: lift {shown}."
        return Performance("below_floor", reason, days, lift, gain)
    if gain is None or gain.high is None:
        reason = f"Performance from {when} is not judged: no interval is defined."
        return Performance("insufficient", reason, days, lift, gain)
    shown = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    reason = f"From {when} performance holds: {shown} PR-AUC on persistence."
    return Performance("holding", reason, days, lift, gain)


def _span(days: Sequence[DayPerformance]) -> str:
    return f"{days[0].day} to {days[-1].day}"
