"""The test rows over time, binned so that a plot can show them.

What the bins hold is chosen so that what a person sees is what was counted: a bin's volatility
reaches its threshold exactly where one of its rows is a spike, and a model's probability reaches
the decision threshold exactly where one of its rows is an alert. No measuring, no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from volatility_pipeline.domain.evaluation import ModelResult
    from volatility_pipeline.domain.models import Forecast

POINTS = 720
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
"""Bin lengths in seconds that a person can read off an axis; longer ones are whole days."""


@dataclass(frozen=True)
class Timeline:
    """Bins of equal length, side by side; None where a bin has no row.

    Attributes:
        start: When the first begins, ISO, UTC.
        step_seconds: How long each is.
        volatility: `future_volatility_60s` of the bin's row that exceeds its threshold most, or
            falls short of it least.
        threshold: That row's.
        probabilities: By model, the highest of the bin's.
    """

    start: str
    step_seconds: int
    volatility: tuple[float | None, ...]
    threshold: tuple[float | None, ...]
    probabilities: Mapping[str, tuple[float | None, ...]]


def timeline(
    ts: NDArray[np.datetime64],
    future_volatility: NDArray[np.float64],
    threshold: NDArray[np.float64],
    forecasts: Sequence[Forecast],
    *,
    points: int = POINTS,
) -> Timeline | None:
    """Return the rows in bins that begin at whole multiples of their length; None without rows.

    Args:
        ts: Decision times, rising, shape (rows,).
        future_volatility: Standard deviation of the next 60 one-second log returns, shape (rows,).
        threshold: At or above which it is a spike, shape (rows,).
        forecasts: Of these rows; which models to show is the caller's choice.
        points: The most bins, but for one more where the first and the last are cut.

    Raises:
        ValueError: Fewer than one bin is asked for.
    """
    if points < 1:
        raise ValueError("A timeline has at least one bin.")
    if not len(ts):
        return None
    seconds = ts.astype("datetime64[s]").astype(np.int64)
    step = _step(int(seconds[-1] - seconds[0]) + 1, points)
    bins = seconds // step - seconds[0] // step
    first = np.flatnonzero(np.diff(bins, prepend=-1))
    count = int(bins[-1]) + 1

    def spread(values: NDArray[np.float64]) -> tuple[float | None, ...]:
        """Put one value a bin that has rows into its place."""
        placed: list[float | None] = [None] * count
        for place, value in zip(bins[first].tolist(), values.tolist(), strict=True):
            placed[place] = value
        return tuple(placed)

    # Rows by bin and then by excess: the last of each bin is the one that is shown.
    order = np.lexsort((future_volatility - threshold, bins))
    shown = order[np.append(first[1:], len(bins)) - 1]
    return Timeline(
        start=str(np.datetime64(int(seconds[0] // step * step), "s")),
        step_seconds=step,
        volatility=spread(future_volatility[shown]),
        threshold=spread(threshold[shown]),
        probabilities={
            forecast.name: spread(np.maximum.reduceat(forecast.probability, first))
            for forecast in forecasts
        },
    )


def compared_models(models: Sequence[ModelResult], reference: str) -> tuple[str, ...]:
    """Return the reference and, of the others, the one with the best PR-AUC, if any has one."""
    values = {
        model.name: model.average_precision.value
        for model in models
        if model.average_precision and model.name != reference
    }
    return (reference, max(values, key=values.__getitem__)) if values else (reference,)


def _step(span: int, points: int) -> int:
    """Return the shortest bin that covers so many seconds in so many bins."""
    day = 86_400
    whole_days = day * math.ceil(span / points / day)
    return next((step for step in STEPS if step * points >= span), whole_days)
