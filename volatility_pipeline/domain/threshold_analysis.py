"""Threshold analysis: how often a spike would be, were the threshold another percentile.

It describes: the label stays at the 90th percentile, whatever is found here. The trailing
thresholds of other percentiles are `sql/analysis/spike_rate_by_percentile.sql`; how a split is cut
is `splits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.splits import ROLES, THRESHOLD_QUANTILE, Policy, split
from volatility_pipeline.domain.verdict import MINIMUM_DAY_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILES = (80, 85, 90, 95, 99)
LABEL_PERCENTILE = round(100 * THRESHOLD_QUANTILE)


@dataclass(frozen=True)
class DaySpikes:
    """The spikes of one UTC day at one percentile, under one policy.

    Attributes:
        policy: How the threshold is made.
        percentile: Of which volatilities, the policy says.
        day: ISO.
        rows: Decision times with a label.
        spikes: Those whose future volatility reaches the threshold.
    """

    policy: Policy
    percentile: int
    day: str
    rows: int
    spikes: int

    @property
    def rate(self) -> float:
        """The share of spikes."""
        return self.spikes / self.rows


@dataclass(frozen=True)
class PercentileRate:
    """The spike rate at one percentile over all days, under one policy.

    Attributes:
        policy: How the threshold is made.
        percentile: Likewise.
        threshold: The constant per second, under `training`; None under `trailing`.
        rows: Decision times with a label.
        spikes: Those that are spikes.
        rate: Their share.
        lowest: The lowest rate of a day with an hour of rows; None without such a day.
        highest: The highest.
    """

    policy: Policy
    percentile: int
    threshold: float | None
    rows: int
    spikes: int
    rate: float
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class ThresholdAnalysis:
    """A product's spike rates under both policies.

    Attributes:
        product_id: The market.
        training_from: First training row under the `training` policy, ISO; None without one.
        training_until: The last.
        days: By policy, percentile and day.
        percentiles: Over all days.
    """

    product_id: str
    training_from: str | None
    training_until: str | None
    days: tuple[DaySpikes, ...]
    percentiles: tuple[PercentileRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def analyse_thresholds(
    ts: NDArray[np.datetime64],
    future_volatility: NDArray[np.float64],
    trailing_threshold: NDArray[np.float64],
    trailing: Sequence[DaySpikes],
    *,
    product_id: str,
) -> ThresholdAnalysis:
    """Count spikes by percentile and day under both policies.

    Args:
        ts: Decision times in ascending order, whole seconds, shape (n,).
        future_volatility: Of the 60 seconds after `ts`, shape (n,); NaN where unknown.
        trailing_threshold: Known at `ts`, shape (n,); NaN where unknown.
        trailing: The counts under the trailing policy.
        product_id: The market.

    Returns:
        The analysis; under `training` the constants are of the rows that it would train on, and of
        no others.
    """
    made = split(ts, future_volatility, trailing_threshold, policy="training")
    is_training = made.role == ROLES[0]
    constants: dict[int, float] = {}
    days = list(trailing)
    if is_training.any():
        quantiles = np.array(PERCENTILES) / 100
        values = np.quantile(future_volatility[is_training], quantiles)
        constants = dict(zip(PERCENTILES, values.tolist(), strict=True))
        days += _constant_days(ts, future_volatility, constants)
    training_ts = ts[is_training].astype("datetime64[s]")
    return ThresholdAnalysis(
        product_id=product_id,
        training_from=str(training_ts[0]) if len(training_ts) else None,
        training_until=str(training_ts[-1]) if len(training_ts) else None,
        days=tuple(days),
        percentiles=_pooled(days, constants),
    )


def _constant_days(
    ts: NDArray[np.datetime64], future_volatility: NDArray[np.float64], constants: dict[int, float]
) -> list[DaySpikes]:
    is_known = ~np.isnan(future_volatility)
    days, place = np.unique(ts[is_known].astype("datetime64[D]"), return_inverse=True)
    volatility = future_volatility[is_known]
    rows = np.bincount(place)
    found = []
    for percentile, threshold in constants.items():
        spikes = np.bincount(place, (volatility >= threshold) & (volatility > 0))
        found += [
            DaySpikes("training", percentile, str(day), int(count), int(hits))
            for day, count, hits in zip(days, rows, spikes, strict=True)
        ]
    return found


def _pooled(days: Sequence[DaySpikes], constants: dict[int, float]) -> tuple[PercentileRate, ...]:
    found = []
    keys = {(day.policy, day.percentile) for day in days}
    for policy, percentile in sorted(keys, key=lambda key: (key[0] == "training", key[1])):
        own = [day for day in days if (day.policy, day.percentile) == (policy, percentile)]
        rates = [day.rate for day in own if day.rows >= MINIMUM_DAY_ROWS]
        rows, spikes = sum(day.rows for day in own), sum(day.spikes for day in own)
        found.append(
            PercentileRate(
                policy=policy,
                percentile=percentile,
                threshold=constants[percentile] if policy == "training" else None,
                rows=rows,
                spikes=spikes,
                rate=spikes / rows,
                lowest=min(rates, default=None),
                highest=max(rates, default=None),
            )
        )
    return tuple(found)
