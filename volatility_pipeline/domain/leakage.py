"""The leakage audit: the same rows judged honestly, and by the protocols that flatter.

Each flattering protocol is one that published work on this task has used. Nothing that is learnt or
measured here is a result; what holds honest numbers honest stands in `controls`. scikit-learn is
imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.bootstrap import Ranking
from volatility_pipeline.domain.ladder import COLOURS, LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import fit, scores
from volatility_pipeline.domain.splits import (
    LEAKY_LABEL,
    LEAKY_ROLES,
    ROLES,
    THRESHOLD_QUANTILE,
    Policy,
    split,
    stratified_random,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FOREST = "deep_forest"
FOREST_TREES = 50
MODELS = ("persistence", "har_logistic", FOREST)
FOREST_ROWS = 28_000
"""A forest learns from every n-th training row where there are more: a matter of time alone."""

SHUFFLED_ROWS = 40_000
"""The newest rows, which the shuffled split takes: thinned ones would no longer be neighbours."""


@dataclass(frozen=True)
class Protocol:
    """A way to choose labels, and rows to learn from.

    Attributes:
        name: As in files.
        title: As a person reads it.
        is_leaky: Whether the answers leak into it.
        about: What it does, in half a sentence.
    """

    name: str
    title: str
    is_leaky: bool
    about: str


PROTOCOLS = (
    Protocol("honest", "Honest", False, "by time, purged; threshold of the last day"),
    Protocol(
        "honest_constant", "Honest, constant threshold", False, "the same; threshold of training"
    ),
    Protocol(
        "shuffled",
        "Shuffled split",
        True,
        f"the newest {SHUFFLED_ROWS:,} seconds, shuffled: neighbours share their answer",
    ),
    Protocol(
        "next_row", "Next-row label", True, "the next row's trailing minute: 59 of its 60 s known"
    ),
    Protocol(
        "global_threshold", "Threshold over all rows", True, "the test helps to define a spike"
    ),
)


@dataclass(frozen=True)
class LeakageRow:
    """One model under one protocol.

    Attributes:
        protocol: Which.
        model: A rung, or `FOREST`.
        base_rate: Share of spikes among the test rows; None without rows.
        average_precision: PR-AUC; None where no test row is a spike.
        training_rows: Rows it learnt from.
        test_rows: Rows it was judged by.
    """

    protocol: Protocol
    model: str
    base_rate: float | None
    average_precision: float | None
    training_rows: int
    test_rows: int

    @property
    def label(self) -> str:
        """What stands beside every number of it."""
        return LEAKY_LABEL if self.protocol.is_leaky else "honest"

    @property
    def lift(self) -> float | None:
        """PR-AUC over base rate."""
        if self.average_precision is None or not self.base_rate:
            return None
        return self.average_precision / self.base_rate


def title(model: str) -> str:
    """Return a model's name as a person reads it."""
    return LADDER[model].title if model in LADDER else "Deep forest"


def colour(model: str) -> str:
    """Return a model's colour in every plot."""
    return COLOURS.get(model, COLOURS["random_forest"])


def leakage_audit(
    rows: pd.DataFrame,
    *,
    policy: Policy = "trailing",
    seed: int = 0,
    models: Sequence[str] = MODELS,
    protocols: Sequence[Protocol] = PROTOCOLS,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[LeakageRow, ...]:
    """Judge every model under every protocol.

    Args:
        rows: A product's feature rows with `future_volatility_60s` and `trailing_threshold`, in
            time order, every second.
        policy: How the threshold of shuffled and next-row labels is made.
        seed: For the shuffle and the forest.
        models: Rungs, or `FOREST`.
        protocols: Some of `PROTOCOLS`.
        progress: Told what begins.

    Returns:
        A row for each protocol and model, in the order of both.
    """
    found = []
    for protocol in protocols:
        known, frame = labelled(rows, protocol.name, policy=policy, seed=seed)
        roles = LEAKY_ROLES if protocol.name == "shuffled" else ROLES
        train, validation, test = (frame[frame["role"] == role] for role in roles)
        target = test["is_spike"].to_numpy(dtype=bool)
        for model in models:
            progress(f"{protocol.title}: {title(model)}")
            score = rank(model, train, validation, test, policy=known, seed=seed)
            weights = np.ones(len(test), dtype=np.int64)
            found.append(
                LeakageRow(
                    protocol=protocol,
                    model=model,
                    base_rate=float(target.mean()) if len(target) else None,
                    average_precision=Ranking(score, target).average_precision(weights)
                    if target.any()
                    else None,
                    training_rows=len(thinned(train)) if model == FOREST else len(train),
                    test_rows=len(test),
                )
            )
    return tuple(found)


def labelled(
    rows: pd.DataFrame, protocol: str, *, policy: Policy, seed: int = 0
) -> tuple[Policy, pd.DataFrame]:
    """Return labels and roles as a protocol makes them, rows without a role left out.

    Args:
        rows: As for `leakage_audit`.
        protocol: A name in `PROTOCOLS`.
        policy: How the threshold is made where the protocol leaves that open.
        seed: For the shuffle.

    Returns:
        What models are told of the threshold (its own column under `trailing`), and the rows.
    """
    if protocol == "shuffled":
        rows = rows.tail(SHUFFLED_ROWS)
    future = rows["future_volatility_60s"].to_numpy(dtype=float)
    trailing = rows["trailing_threshold"].to_numpy(dtype=float)
    if protocol in ("honest_constant", "global_threshold"):
        policy = "training"
    if protocol == "next_row":
        future = np.append(rows["realized_volatility_60s"].to_numpy(dtype=float)[1:], np.nan)
    made = split(rows["ts"].to_numpy(), future, trailing, policy=policy)
    threshold, is_spike, role = made.threshold, made.is_spike, made.role
    if protocol == "global_threshold":
        known = future[~np.isnan(future)]
        constant = np.quantile(known, THRESHOLD_QUANTILE) if len(known) else np.nan
        threshold = np.full(len(rows), constant)
        with np.errstate(invalid="ignore"):
            is_spike = (future >= constant) & (future > 0)
    if protocol == "shuffled":
        is_known = ~np.isnan(future) & ~np.isnan(threshold)
        role = stratified_random(is_spike, is_known, seed=seed).role
    frame = rows.assign(threshold=threshold, is_spike=is_spike, role=role)
    return policy, frame[role != ""].reset_index(drop=True)


def rank(
    model: str,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    test: pd.DataFrame,
    *,
    policy: Policy,
    seed: int,
) -> NDArray[np.float64]:
    """Fit a model on rows of any protocol and return its scores of the test rows.

    Args:
        model: A rung, as it stands, or `FOREST`: deep trees with leaves of one row, as published
            examples fit them and as remember best.
        train: Rows of `MODEL_INPUTS` and `is_spike`; their `role` is not looked at.
        validation: Likewise.
        test: Rows of `MODEL_INPUTS`.
        policy: Whether the threshold is an input.
        seed: For what is random.
    """
    if model != FOREST:
        train, validation = (part.drop(columns="role") for part in (train, validation))
        fitted = fit(model, train, validation, policy=policy, seed=seed)
        return scores(fitted.estimator, test)
    train = thinned(train)
    target = train["is_spike"].to_numpy(dtype=bool)
    if not len(test) or len(np.unique(target)) < 2:
        return np.zeros(len(test))
    forest = _forest(policy=policy, seed=seed).fit(train[list(MODEL_INPUTS)], target)
    return np.asarray(forest.predict_proba(test[list(MODEL_INPUTS)])[:, 1], dtype=float)


def thinned(train: pd.DataFrame) -> pd.DataFrame:
    """Return the training rows that a forest learns from, at most `FOREST_ROWS`."""
    return train.iloc[:: max(1, math.ceil(len(train) / FOREST_ROWS))]


def _forest(*, policy: Policy, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import Pipeline

    pipeline = LADDER["xgboost"].build(policy=policy, seed=seed)
    forest = RandomForestClassifier(n_estimators=FOREST_TREES, n_jobs=1, random_state=seed)
    return Pipeline([*pipeline.steps[:-1], ("model", forest)])
