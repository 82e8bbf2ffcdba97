"""Hyperparameter search: the settings of a rung's grid, judged on folds of its training rows.

The folds follow each other in time (scikit-learn's `TimeSeriesSplit`) with a gap that no label's 60
seconds and no embargo crosses. Validation and test rows are never seen here. What is fitted in the
end, and what validation rows decide, is said in `models`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.ladder import MODEL_INPUTS, Rung
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS, Policy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Fold = tuple[NDArray[np.int64], NDArray[np.int64]]

FOLDS = 3
FOLD_MINIMUM = 5
SEARCH_ROWS = 6_000
"""More training rows are thinned evenly: what is compared are settings a good way apart."""

ON_TRAINING_FOLDS = "training folds"
ON_VALIDATION = "validation"


@dataclass(frozen=True)
class Trial:
    """One setting and how well it ranked.

    Attributes:
        parameters: What was set, by parameter of the pipeline; empty for the rung as it stands.
        average_precision: The mean over the folds, or that on the validation rows.
        judged_on: `ON_TRAINING_FOLDS` or `ON_VALIDATION`.
    """

    parameters: Mapping[str, Any]
    average_precision: float
    judged_on: str


@dataclass(frozen=True)
class Found:
    """What a search chose, from what, and a sentence where it could not do all of its work."""

    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...]
    note: str | None = None


def search(rung: Rung, train: pd.DataFrame, *, policy: Policy, seed: int, seconds: float) -> Found:
    """Return the setting of the rung's grid with the best mean average precision over the folds.

    The rung as it stands is tried first and wins ties; the others follow in an order drawn from
    the seed. Once `seconds` are spent no further setting is begun, and the note says so: the same
    rows and seed give the same choice unless that happens.

    Args:
        rung: The rung; without a grid there is nothing to search.
        train: Rows of `MODEL_INPUTS`, `ts` and `is_spike`, in time order.
        policy: How the labels' threshold was made.
        seed: For the order and for the rung's own randomness.
        seconds: The time budget.
    """
    from sklearn.model_selection import ParameterGrid

    started = time.perf_counter()
    if not rung.grid:
        return Found({}, ())
    rows = train.iloc[:: max(1, math.ceil(len(train) / SEARCH_ROWS))]
    folds = time_folds(
        rows["ts"].to_numpy(dtype="datetime64[us]"), rows["is_spike"].to_numpy(dtype=bool)
    )
    if not folds:
        return Found({}, (), "Not searched: too few training rows for folds with both classes.")
    own = rung.build(policy=policy, seed=seed).get_params()
    grid = [
        setting
        for setting in ParameterGrid(dict(rung.grid))
        if any(own[name] != value for name, value in setting.items())
    ]
    others = [grid[place] for place in np.random.default_rng(seed).permutation(len(grid))]
    trials: list[Trial] = []
    for parameters in ({}, *others):
        if trials and time.perf_counter() - started >= seconds:
            break
        precision = _mean_precision(rung, parameters, rows, folds, policy=policy, seed=seed)
        trials.append(Trial(parameters, precision, ON_TRAINING_FOLDS))
    note = None
    if len(trials) < 1 + len(others):
        note = (
            f"Search cut short: {len(trials)} of {1 + len(others)} settings were tried in the "
            f"{seconds:g} s it had."
        )
    best = max(trials, key=lambda trial: trial.average_precision)  # the first of equals
    return Found(best.parameters, tuple(trials), note)


def time_folds(ts: NDArray[np.datetime64], is_spike: NDArray[np.bool_]) -> list[Fold]:
    """Return the row numbers to learn from and to judge on, fold by fold, later after earlier.

    Between the two lie at least a label's horizon and the embargo, in time. A fold whose either
    part has fewer than `FOLD_MINIMUM` rows of a class is left out.
    """
    from sklearn.model_selection import TimeSeriesSplit

    if len(ts) < 2:
        return []
    step = np.diff(ts).min() / np.timedelta64(1, "s")
    gap = math.ceil((HORIZON_SECONDS + EMBARGO_SECONDS) / step)
    if len(ts) - FOLDS * (len(ts) // (FOLDS + 1)) <= gap or len(ts) <= FOLDS:
        return []
    folds = TimeSeriesSplit(FOLDS, gap=gap).split(ts)
    return [fold for fold in folds if all(_has_both(is_spike[part]) for part in fold)]


def _has_both(is_spike: NDArray[np.bool_]) -> bool:
    return min(int(is_spike.sum()), int((~is_spike).sum())) >= FOLD_MINIMUM


def _mean_precision(
    rung: Rung,
    parameters: Mapping[str, Any],
    rows: pd.DataFrame,
    folds: list[Fold],
    *,
    policy: Policy,
    seed: int,
) -> float:
    """Return the mean over the folds; 0 for one in which every input is null."""
    from sklearn.metrics import get_scorer

    from volatility_pipeline.domain.estimators import NoInputsError

    score = get_scorer("average_precision")
    inputs, target = rows[list(MODEL_INPUTS)], rows["is_spike"].to_numpy(dtype=np.int64)
    precisions = []
    for learnt, judged in folds:
        pipeline = rung.build(policy=policy, seed=seed).set_params(**parameters)
        try:
            pipeline.fit(inputs.iloc[learnt], target[learnt])
        except NoInputsError:
            precisions.append(0.0)
        else:
            precisions.append(float(score(pipeline, inputs.iloc[judged], target[judged])))
    return float(np.mean(precisions))
