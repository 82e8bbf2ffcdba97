"""What a product's predictions of a day came to: counts, and what the out-of-sample rows show.

How probabilities come about is `models`; whether a fall is drift is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from volatility_pipeline.domain import metrics
from volatility_pipeline.domain.bootstrap import Ranking
from volatility_pipeline.domain.evaluation import EPISODE_SECONDS, SPIKE_SECONDS
from volatility_pipeline.domain.verdict import MINIMUM_EPISODES, MINIMUM_SPIKES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RealizedDay:
    """A day's predictions in numbers.

    Attributes:
        rows: Predictions.
        alerts: Those at or above their decision threshold.
        out_of_sample_rows: Those later than all that their model had seen.
        judged_rows: Out-of-sample rows whose 60 seconds are known; the rest speaks of them alone.
        base_rate: Their share of spikes; None without such a row.
        average_precision: Of the probabilities on them; None where they hold fewer than 20
            non-overlapping spikes or 10 episodes, as everywhere.
        brier: Mean squared error of the probabilities; None likewise.
    """

    rows: int
    alerts: int
    out_of_sample_rows: int
    judged_rows: int
    base_rate: float | None
    average_precision: float | None
    brier: float | None


def realized_day(predictions: pd.DataFrame) -> RealizedDay:
    """Summarize one product's predictions.

    Args:
        predictions: Rows of the table, in time order, `is_spike` null where it is unknown.
    """
    judged = predictions[predictions["out_of_sample"] & predictions["is_spike"].notna()]
    ts = judged["ts"].to_numpy(dtype="datetime64[us]")
    target = judged["is_spike"].to_numpy(dtype=bool)
    probability = judged["probability"].to_numpy(dtype=float)
    is_enough = (
        metrics.count_apart(ts[target], SPIKE_SECONDS) >= MINIMUM_SPIKES
        and metrics.count_apart(ts[target], EPISODE_SECONDS) >= MINIMUM_EPISODES
    )
    average_precision = None
    if is_enough:
        once = np.ones(len(target), dtype=np.int64)
        average_precision = Ranking(probability, target).average_precision(once)
    return RealizedDay(
        rows=len(predictions),
        alerts=int(predictions["is_alert"].sum()),
        out_of_sample_rows=int(predictions["out_of_sample"].sum()),
        judged_rows=len(judged),
        base_rate=float(target.mean()) if len(target) else None,
        average_precision=average_precision,
        brier=metrics.brier(target, probability) if is_enough else None,
    )
