"""Moving-block bootstrap of average precision: many models, the same resamples for all.

Neighbouring rows share their labels' minute and their market's mood, so rows are drawn in blocks
(Künsch, Annals of Statistics 1989). A resample is a vector of integer row weights; each model's
scores are sorted once, and its average precision under any weights is then one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINIMUM_BLOCK_SECONDS = 1800
MINIMUM_BLOCKS = 20
MINIMUM_SPIKE_BLOCKS = 10


@dataclass(frozen=True)
class Blocks:
    """How the test rows fall into blocks, and why no interval is shown where none is.

    Attributes:
        seconds: Length of a block.
        rows: Rows in a block: its length over the usual step between rows.
        count: Whole blocks in the test.
        with_spike: Those that hold a spike.
        effective: How many blocks with equally many spikes tell as much: Kish's effective number
            (Survey Sampling, 1965, section 8.2), 0 without a spike.
        refusal: Why there is no interval; None where there is one.
    """

    seconds: int
    rows: int
    count: int
    with_spike: int
    effective: float
    refusal: str | None


@dataclass(frozen=True)
class Resamples:
    """What the resamples gave.

    Attributes:
        average_precision: Shape (resamples, models); NaN where a resample has no spike.
        base_rate: Shape (resamples,).
    """

    average_precision: NDArray[np.float64]
    base_rate: NDArray[np.float64]


class Ranking:
    """A model's scores, sorted once, to ask for average precision under many weights."""

    def __init__(self, score: NDArray[np.float64], target: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ranked = score[self._order]
        # Rows of equal score enter the curve together, at the last of them.
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        self._spikes = np.flatnonzero(target[self._order])
        self._end = ends[np.searchsorted(ends, self._spikes)]
        self._last_spike = np.searchsorted(self._end, self._end, side="right") - 1

    def average_precision(self, weights: NDArray[np.int64]) -> float:
        """Return scikit-learn's `average_precision_score` with these sample weights.

        Args:
            weights: How often each row counts, shape (rows,), in the rows' own order.

        Returns:
            The average precision; NaN where no spike counts.
        """
        ranked = weights[self._order]
        rows = np.cumsum(ranked)
        weight = ranked[self._spikes]
        spikes = np.cumsum(weight)
        if not len(spikes) or not spikes[-1]:
            return float("nan")
        precision = spikes[self._last_spike] / np.maximum(rows[self._end], 1)
        return float(weight @ precision / spikes[-1])


def choose_blocks(
    ts: NDArray[np.datetime64], target: NDArray[np.bool_], residuals: Sequence[NDArray[np.float64]]
) -> Blocks:
    """Return the blocks for these test rows: max(1800 s, automatic) long.

    The automatic length (Politis and White, Econometric Reviews 2004, corrected 2009) is the
    longest that labels and residuals ask for. It is taken from their means by the minute: of n
    values it is never longer than 3 sqrt(n), which is ten minutes for ten hours of seconds.

    Args:
        ts: Decision times, rising, shape (rows,).
        target: Spikes, shape (rows,).
        residuals: Per model, label minus probability, each of shape (rows,).
    """
    step = float(np.median(np.diff(ts) / np.timedelta64(1, "s"))) if len(ts) > 1 else 1.0
    rows = int(np.ceil(MINIMUM_BLOCK_SECONDS / step))
    if len(ts) // rows >= MINIMUM_BLOCKS:
        from arch.bootstrap import optimal_block_length

        minute = max(1, round(60 / step))
        series = [_means(values, minute) for values in (target, *residuals)]
        automatic = [
            optimal_block_length(values)["circular"].item() * minute
            for values in series
            if np.ptp(values) > 0
        ]
        rows = max([rows, *(int(np.ceil(length)) for length in automatic)])
    return count_blocks([target], rows=rows, seconds=round(rows * step))


def count_blocks(targets: Sequence[NDArray[np.bool_]], *, rows: int, seconds: int) -> Blocks:
    """Return the blocks of this length in stretches of rows, none across two of them.

    Args:
        targets: Spikes, a stretch each, each of shape (its rows,).
        rows: Rows in a block.
        seconds: Their length.
    """
    spikes = np.concatenate(
        [target[: len(target) // rows * rows].reshape(-1, rows).sum(axis=1) for target in targets]
    )
    count, with_spike = len(spikes), int((spikes > 0).sum())
    refusal = None
    if count < MINIMUM_BLOCKS:
        refusal = f"the test has {count} blocks of {seconds} s, {MINIMUM_BLOCKS} are needed"
    elif with_spike < MINIMUM_SPIKE_BLOCKS:
        refusal = f"{with_spike} of {count} blocks hold a spike, {MINIMUM_SPIKE_BLOCKS} are needed"
    return Blocks(
        seconds=seconds,
        rows=rows,
        count=count,
        with_spike=with_spike,
        effective=float(spikes.sum() ** 2 / max((spikes**2).sum(), 1)),
        refusal=refusal,
    )


def _means(values: NDArray[Any], rows: int) -> NDArray[np.float64]:
    """Return the means of so many rows each; the last rows that are fewer are left out."""
    means: NDArray[np.float64] = values[: len(values) // rows * rows].reshape(-1, rows).mean(axis=1)
    return means


def no_resamples(models: int) -> Resamples:
    """Return what stands where no interval may be shown."""
    return Resamples(average_precision=np.empty((0, models)), base_rate=np.empty(0))


def resample(
    rankings: Sequence[Ranking],
    target: NDArray[np.bool_],
    *,
    block_rows: int,
    resamples: int,
    seed: int,
) -> Resamples:
    """Draw blocks of rows and measure every model on each draw."""
    from arch.bootstrap import MovingBlockBootstrap

    rows = np.arange(len(target))
    precision = np.empty((resamples, len(rankings)))
    base_rate = np.empty(resamples)
    draws = MovingBlockBootstrap(block_rows, rows, seed=seed).bootstrap(resamples)
    for number, ((drawn,), _) in enumerate(draws):
        weights = np.bincount(drawn, minlength=len(rows))
        precision[number] = [ranking.average_precision(weights) for ranking in rankings]
        base_rate[number] = weights[target].sum() / len(rows)
    return Resamples(average_precision=precision, base_rate=base_rate)


def confidence_intervals(
    observed: NDArray[np.float64],
    drawn: NDArray[np.float64],
    *,
    blocks: Blocks,
    highest: float | None = None,
) -> list[tuple[float, float]]:
    """Return each model's 95 % interval: its value, and so many of its draws' deviations about it.

    How many is Student's quantile for the effective number of blocks, expanded (Hesterberg,
    American Statistician 2015, section 4.5): precision is averaged over spikes, and one storm holds
    many. A ratio's is taken on its logarithm below and on its reciprocal, which reaches further,
    above: a test without a great storm shows too little of both average precision and its spread.
    What is covered, `test_coverage` measures.

    Args:
        observed: The values, shape (models,).
        drawn: Shape (resamples, models); a resample without a spike is NaN and left out.
        blocks: What the draws were made of.
        highest: The most that a positive ratio can be; None for a difference.
    """
    from scipy.stats import t

    number = max(blocks.effective, 2.0)
    deviations = t.ppf(0.975, number - 1) * np.sqrt(number / (number - 1))
    if highest is None:
        reach = deviations * np.nanstd(drawn, axis=0)
        low, high = observed - reach, observed + reach
    else:
        # The deviation of 1 / x is that of log x, over x.
        reach = deviations * np.nanstd(np.log(drawn), axis=0)
        low = observed * np.exp(-reach)
        high = np.minimum(observed / np.maximum(1 - reach, 1e-9), highest)
    return list(zip(low.tolist(), high.tolist(), strict=True))
