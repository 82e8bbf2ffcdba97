"""Ablation: what groups of columns are worth to a learner that is fitted again without them.

Everything here describes; nothing chooses a feature, and no stored model is changed by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
)
from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.importance import finite, resampled, target_of
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS, REFERENCE, Rung
from volatility_pipeline.domain.models import scores
from volatility_pipeline.domain.splits import Policy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

GROUPS = {
    "volatility": tuple(f"realized_volatility_{seconds}s" for seconds in (30, 60, 300)),
    "returns": tuple(
        f"{name}_{seconds}s"
        for name in ("log_return", "price_velocity")
        for seconds in (30, 60, 300)
    ),
    "spread": (*(f"spread_mean_{seconds}s" for seconds in (30, 60, 300)), "spread_bps"),
    "book": (
        *(f"order_book_imbalance_{seconds}s" for seconds in (30, 60, 300)),
        "microprice_gap_bps",
    ),
    "activity": (
        *(
            f"{name}_{seconds}s"
            for name in ("trade_intensity", "volume_velocity")
            for seconds in (30, 60, 300)
        ),
        "seconds_since_tick",
    ),
    "slow regime": (
        "realized_volatility_900s",
        "realized_volatility_3600s",
        "threshold",
        "time_of_day_sin",
        "time_of_day_cos",
    ),
}
"""Every column that a learner reads, in exactly one group."""

HAR = "HAR"

ALL = "all"

ABLATED = ("logistic_regression", "xgboost")
"""The rungs that the ablation fits: one linear, one of trees."""


@dataclass(frozen=True)
class GroupWorth:
    """What one group of columns adds to HAR's, and what is lost without it.

    Attributes:
        group: A key of `GROUPS`.
        added: PR-AUC of HAR's columns and the group's, minus that of HAR's alone; None where that
            is no other model.
        lost: PR-AUC of all columns, minus that of all but the group's.
        absent: Its columns that are null in all training rows.
    """

    group: str
    added: Estimate | None
    lost: Estimate | None
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """One learner, fitted anew on subsets of the columns and judged on the same resamples.

    Attributes:
        learner: The rung.
        har: PR-AUC with HAR's columns alone, by this learner.
        everything: PR-AUC with all columns.
        beyond: Their difference; None where HAR's columns alone have values.
        groups: One a group, in the order of `GROUPS`.
    """

    learner: str
    har: Estimate
    everything: Estimate
    beyond: Estimate | None
    groups: tuple[GroupWorth, ...]


@dataclass(frozen=True)
class Finding:
    """What adding a group of columns to HAR's changes, by one learner, in one sentence.

    The group is a key of `GROUPS`, or `ALL`.
    """

    learner: str
    group: str
    sentence: str


def ablate(
    rung: Rung,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    policy: Policy,
    seed: int,
    blocks: Blocks,
    resamples: int = 500,
    parameters: Mapping[str, Any] | None = None,
) -> Ablation | None:
    """Fit a learner on HAR's columns, on more and on fewer, and compare on the same resamples.

    The rung's settings stay as they are for all columns: with fewer, others might do better.

    Args:
        rung: The learner; it reads all columns.
        train: Rows of `MODEL_INPUTS` and `is_spike`.
        test: Likewise, later.
        policy: How the labels' threshold was made.
        seed: For what is random in fitting, and for the resamples.
        blocks: How the test rows fall into blocks; no interval where they refuse it.
        resamples: How many to draw.
        parameters: Of its pipeline, beyond the rung as it stands.

    Returns:
        None without both classes in training, or without a spike in the test.
    """
    target = target_of(test)
    if not target.any() or len(np.unique(target_of(train))) < 2:
        return None
    readable = {*rung.columns, *(("threshold",) if policy == "trailing" else ())}
    absent = {name for name in readable if train[name].isna().all()}
    har = set(LADDER[REFERENCE].columns)
    subsets = {HAR: har, ALL: readable}
    for group, columns in GROUPS.items():
        subsets[_with(group)] = har | readable.intersection(columns)
        subsets[_without(group)] = readable.difference(columns)
    # Subsets that come to the same columns are the same model, fitted once.
    read = {name: frozenset(columns - absent) for name, columns in subsets.items()}
    models = list(dict.fromkeys(read.values()))
    rankings = [
        Ranking(
            _refitted_scores(
                rung, columns, train, test, policy=policy, seed=seed, parameters=parameters or {}
            ),
            target,
        )
        for columns in models
    ]
    observed, drawn = resampled(rankings, target, blocks=blocks, resamples=resamples, seed=seed)
    place = {name: models.index(columns) for name, columns in read.items()}
    precisions = finite(observed[0], drawn, blocks)

    def change(more: str, less: str) -> Estimate | None:
        if read[more] == read[less]:
            return None
        seen, draws = (
            values[:, [place[more]]] - values[:, [place[less]]] for values in (observed, drawn)
        )
        return finite(seen[0], draws, blocks)[0]

    return Ablation(
        learner=rung.name,
        har=precisions[place[HAR]],
        everything=precisions[place[ALL]],
        beyond=change(ALL, HAR),
        groups=tuple(
            GroupWorth(
                group=group,
                added=change(_with(group), HAR),
                lost=change(ALL, _without(group)),
                absent=tuple(name for name in columns if name in absent),
            )
            for group, columns in GROUPS.items()
        ),
    )


def beyond_har(
    ablation: Ablation, *, refusal: str | None, is_sufficient: bool
) -> tuple[Finding, ...]:
    """Say what each group, and all other columns together, add beyond HAR.

    Args:
        ablation: What was measured.
        refusal: Why there is no interval; None where there is.
        is_sufficient: Whether there are spikes enough to claim anything.
    """
    changes = {ALL: ablation.beyond}
    changes |= {worth.group: worth.added for worth in ablation.groups if worth.group in _PHRASES}
    return tuple(
        Finding(
            ablation.learner,
            group,
            f"adding {_PHRASES[group]} to HAR "
            + _judgement(change, refusal=refusal, is_sufficient=is_sufficient),
        )
        for group, change in changes.items()
    )


_PHRASES = {
    ALL: "all other columns",
    "returns": "the returns",
    "spread": "the spread",
    "book": "the book",
    "activity": "activity",
    "slow regime": "the slow regime",
}


def _judgement(change: Estimate | None, *, refusal: str | None, is_sufficient: bool) -> str:
    if change is None:
        return "adds nothing: none of its columns has a value in training."
    said = f"changes PR-AUC by {change.value:+.3f}"
    if change.low is None or change.high is None:
        return f"{said}; no interval is shown and nothing is claimed, because {refusal}."
    said += f" [{change.low:+.3f}, {change.high:+.3f}]"
    if not is_sufficient:
        return f"{said}: nothing is claimed from so few spikes."
    if change.low <= 0 <= change.high:
        return f"{said}: not distinguishable from nothing."
    return f"{said}: the interval lies {'above' if change.low > 0 else 'below'} zero."


def _with(group: str) -> str:
    return f"{HAR} + {group}"


def _without(group: str) -> str:
    return f"{ALL} − {group}"


def _refitted_scores(
    rung: Rung,
    columns: Collection[str],
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    policy: Policy,
    seed: int,
    parameters: Mapping[str, Any],
) -> NDArray[np.float64]:
    """Fit the rung on some columns and return its scores of the test; alike, without a value."""
    from threadpoolctl import threadpool_limits

    from volatility_pipeline.domain.estimators import NoInputsError

    changed = replace(
        rung,
        columns=tuple(name for name in rung.columns if name in columns),
        knows_threshold="threshold" in columns,
    )
    pipeline = changed.build(policy=policy, seed=seed).set_params(**parameters)
    try:
        with threadpool_limits(1, "blas"):
            pipeline.fit(train[list(MODEL_INPUTS)], target_of(train).astype(np.int64))
    except NoInputsError:
        return np.zeros(len(test))
    return scores(pipeline, test)
