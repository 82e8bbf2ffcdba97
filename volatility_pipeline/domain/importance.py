"""Permutation importance: what a fitted model loses when one of its columns is shuffled in blocks.

Columns say much the same as each other: shuffled alone, one is missed only for what no other says.
So importances rank what a model relies on; what a whole group is worth says `ablation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
    no_resamples,
    resample,
)
from volatility_pipeline.domain.evaluation import Estimate, estimates
from volatility_pipeline.domain.ladder import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Importance:
    """How much a model relies on one of the columns that it reads.

    Attributes:
        model: The rung.
        feature: The column of its matrix: one of `MODEL_INPUTS`, as the model reads it; the EWMA
            reads one of its own.
        drop: Fall of the test PR-AUC when the column's blocks of time are shuffled.
        gain: Its share of the model's own importance, 0 to 1: split gain of trees, magnitude of
            standardized coefficients; None where the model has neither.
    """

    model: str
    feature: str
    drop: Estimate
    gain: float | None


def importances(
    models: Mapping[str, Any],
    test: pd.DataFrame,
    *,
    blocks: Blocks,
    seed: int,
    repeats: int = 3,
    resamples: int = 500,
) -> tuple[Importance, ...]:
    """Measure how much each model relies on each column of its matrix.

    Permutation importance (Breiman, Machine Learning 2001; Fisher, Rudin and Dominici, JMLR 2019)
    on test rows, the column's blocks of time shuffled whole, so that neighbours stay together and
    none stays in its place. A column is shuffled as the model reads it: a volatility relative to
    the threshold, with its missing values.

    Args:
        models: Fitted estimators, by rung; one without inputs has no importances.
        test: Rows of `MODEL_INPUTS` and `is_spike`, in time order.
        blocks: How these rows fall into blocks; no interval where they refuse it.
        seed: For the shuffles and the resamples.
        repeats: How often each column is shuffled; drops are means over them.
        resamples: How many to draw, the same for all columns and models.

    Returns:
        By model, largest drop first; none without a spike in the test.
    """
    target = target_of(test)
    if not target.any():
        return ()
    found: list[Importance] = []
    for name, estimator in models.items():
        pipeline = pipeline_of(estimator)
        inputs = pipeline.named_steps.get("inputs")
        if inputs is None:
            continue
        features = inputs.get_feature_names_out().tolist()
        gains = _gains(pipeline, len(features))
        scored = _shuffled_scores(
            pipeline[1:],
            inputs.transform(test[list(MODEL_INPUTS)]),
            parts=max(2, blocks.count),
            seed=seed,
            repeats=repeats,
        )
        rankings = [Ranking(score, target) for score in scored]
        observed, drawn = resampled(rankings, target, blocks=blocks, resamples=resamples, seed=seed)
        drops = finite(_drops(observed, repeats)[0], _drops(drawn, repeats), blocks)
        columns = zip(features, drops, gains, strict=True)
        found += sorted(
            (Importance(name, *column) for column in columns),
            key=lambda importance: -importance.drop.value,
        )
    return tuple(found)


def shuffled_blocks(rows: int, parts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return row numbers with blocks of them in another order, none in its own place."""
    blocks = np.array_split(np.arange(rows), parts)
    cycle = rng.permutation(parts)
    source = np.empty(parts, dtype=np.int64)
    source[cycle] = np.roll(cycle, 1)
    return np.concatenate([blocks[place] for place in source])


def target_of(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return the spikes of some rows, shape (rows,)."""
    target: NDArray[np.bool_] = rows["is_spike"].to_numpy(dtype=bool)
    return target


def pipeline_of(estimator: Any) -> Any:
    """Return the pipeline inside its calibration, if any."""
    while hasattr(estimator, "estimator"):
        estimator = estimator.estimator
    return estimator


def resampled(
    rankings: Sequence[Ranking],
    target: NDArray[np.bool_],
    *,
    blocks: Blocks,
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the rows themselves give, shape (1, models), and the draws, if there are any."""
    once = np.ones(len(target), dtype=np.int64)
    observed = np.array([[ranking.average_precision(once) for ranking in rankings]])
    draws = no_resamples(len(rankings))
    if blocks.refusal is None:
        draws = resample(rankings, target, block_rows=blocks.rows, resamples=resamples, seed=seed)
    return observed, draws.average_precision


def finite(
    observed: NDArray[np.float64], drawn: NDArray[np.float64], blocks: Blocks
) -> list[Estimate]:
    """Join values with their draws; with a spike in the test, no value is undefined."""
    return cast("list[Estimate]", estimates(observed, drawn, blocks))


def _shuffled_scores(
    pipeline: Any, matrix: NDArray[np.float64], *, parts: int, seed: int, repeats: int
) -> Iterator[NDArray[np.float64]]:
    """Yield the scores of the matrix, then those with each column shuffled, repeats together."""
    rng = np.random.default_rng(seed)
    orders = [shuffled_blocks(len(matrix), parts, rng) for _ in range(repeats)]
    yield _ask(pipeline, matrix)
    for column in range(matrix.shape[1]):
        for order in orders:
            shuffled = matrix.copy()
            shuffled[:, column] = matrix[order, column]
            yield _ask(pipeline, shuffled)


def _ask(pipeline: Any, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return uncalibrated scores, as `models.scores` does, of a matrix."""
    if hasattr(pipeline, "decision_function"):
        return np.asarray(pipeline.decision_function(matrix), dtype=float)
    return np.asarray(pipeline.predict_proba(matrix)[:, 1], dtype=float)


def _drops(precision: NDArray[np.float64], repeats: int) -> NDArray[np.float64]:
    """Return the fall of the first column, mean over repeats; shape (n, features)."""
    features = (precision.shape[1] - 1) // repeats
    shuffled = precision[:, 1:].reshape(len(precision), features, repeats)
    drops: NDArray[np.float64] = (precision[:, :1, None] - shuffled).mean(axis=2)
    return drops


def _gains(pipeline: Any, features: int) -> list[float | None]:
    """Return each column's share of the model's own importance, its indicator's included."""
    classifier = pipeline[-1]
    indicated = pipeline.named_steps["impute"].indicator_.features_
    owner = np.concatenate([np.arange(features), indicated]).astype(np.int64)
    if hasattr(classifier, "get_booster"):
        gained = classifier.get_booster().get_score(importance_type="total_gain")
        own = np.array([gained.get(f"f{place}", 0.0) for place in range(len(owner))])
    elif hasattr(classifier, "feature_importances_"):
        own = classifier.feature_importances_
    elif hasattr(classifier, "coef_"):
        own = np.abs(classifier.coef_[0])
    else:
        return [None] * features
    if not own.sum():
        return [None] * features
    shares: list[float | None] = (np.bincount(owner, own) / own.sum()).tolist()
    return shares
