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
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Measured:
    """What predictions whose 60 seconds are known show.

    Attributes:
        rows: How many they are.
        spikes: Those that came true.
        base_rate: Their share; None without a row.
        average_precision: PR-AUC of the probabilities; None where the rows hold fewer than 20
            non-overlapping spikes or 10 episodes, as everywhere.
        brier: Mean squared error of the probabilities; None likewise.
    """

    rows: int
    spikes: int
    base_rate: float | None
    average_precision: float | None
    brier: float | None


@dataclass(frozen=True)
class RealizedDay:
    """A day's predictions in numbers.

    Attributes:
        rows: Predictions.
        alerts: Those at or above their decision threshold.
        out_of_sample_rows: Those later than all that their model had seen.
        judged_rows: Out-of-sample rows whose 60 seconds are known; the rest speaks of them alone.
        base_rate: Of these rows, as in `Measured`.
        average_precision: Likewise.
        brier: Likewise.
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
    found = measure(judged)
    return RealizedDay(
        rows=len(predictions),
        alerts=int(predictions["is_alert"].sum()),
        out_of_sample_rows=int(predictions["out_of_sample"].sum()),
        judged_rows=found.rows,
        base_rate=found.base_rate,
        average_precision=found.average_precision,
        brier=found.brier,
    )


def measure(judged: pd.DataFrame) -> Measured:
    """Measure predictions of a product that are to be judged.

    Args:
        judged: In time order, every one of them: `ts`, `probability` and `is_spike`, known.
    """
    ts = judged["ts"].to_numpy(dtype="datetime64[us]")
    target = judged["is_spike"].to_numpy(dtype=bool)
    probability = judged["probability"].to_numpy(dtype=float)
    is_enough = (
        metrics.count_apart(ts[target], SPIKE_SECONDS) >= MINIMUM_SPIKES
        and metrics.count_apart(ts[target], EPISODE_SECONDS) >= MINIMUM_EPISODES
    )
    return Measured(
        rows=len(target),
        spikes=int(target.sum()),
        base_rate=float(target.mean()) if len(target) else None,
        average_precision=average_precision(probability, target) if is_enough else None,
        brier=metrics.brier(target, probability) if is_enough else None,
    )


def average_precision(score: NDArray[np.float64], target: NDArray[np.bool_]) -> float:
    """Return the PR-AUC of scores, ties taken together."""
    return Ranking(score, target).average_precision(np.ones(len(target), dtype=np.int64))
