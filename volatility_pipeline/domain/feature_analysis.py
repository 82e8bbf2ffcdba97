"""Feature analysis: what the models' inputs are worth, one by one and group by group.

Everything here describes; nothing chooses a feature, and no stored model is changed by it. How a
column is shuffled is `importance`, how a group is left out `ablation`, drawing `reports.analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain import verdict as claims
from volatility_pipeline.domain.ablation import (
    ABLATED,
    GROUPS,
    Ablation,
    Finding,
    ablate,
    beyond_har,
)
from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
    choose_blocks,
)
from volatility_pipeline.domain.evaluation import plain, role_summary
from volatility_pipeline.domain.importance import (
    Importance,
    importances,
    pipeline_of,
    target_of,
)
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS, REFERENCE, Rung
from volatility_pipeline.domain.models import probabilities, scores
from volatility_pipeline.domain.splits import ROLES, Policy, require_honest

if TYPE_CHECKING:
    import pandas as pd

LEARNERS = ("logistic_regression", "random_forest", "xgboost")
"""The rungs that read all columns; of these, the best on validation rows is looked into."""

ANALYSED = (REFERENCE, *LEARNERS)
"""The rungs whose fitted models `analyse` asks for."""

NO_ABLATION = (
    "No group of features is judged: the training rows are all alike, or the test has no spike."
)

TEST_ROWS = 20_000

CORRELATION_ROWS = 10_000

REDUNDANT = 0.95


@dataclass(frozen=True)
class Redundancy:
    """Two columns of nearly the same order: Spearman's rho beyond ±0.95."""

    first: str
    second: str
    rho: float


@dataclass(frozen=True)
class Correlations:
    """Rank correlations of what the learners read, on training rows.

    Attributes:
        columns: Those with a value in the training rows.
        rho: Spearman's, shape (columns, columns), over rows that have both; None where a column is
            constant.
        rows: The training rows looked at.
        redundant: The pairs beyond ±0.95, strongest first.
        clusters: Columns joined by such pairs, two or more.
        missing: Share of all training rows without a value, by column.
    """

    columns: tuple[str, ...]
    rho: tuple[tuple[float | None, ...], ...]
    rows: int
    redundant: tuple[Redundancy, ...]
    clusters: tuple[tuple[str, ...], ...]
    missing: Mapping[str, float]


@dataclass(frozen=True)
class FeatureAnalysis:
    """What one product's features are worth.

    Attributes:
        product_id: The market.
        policy: How the labels' threshold was made.
        headline: What the book adds beyond HAR, or why nothing may be said of it.
        insufficient: Why nothing may be claimed, one reason a role; empty where there is enough.
        training_rows: Rows that the ablation learns from.
        test_rows: Rows of the test.
        judged_rows: Those that are judged here: every k-th.
        base_rate: Share of spikes in these; None without rows.
        blocks: How they fall into blocks.
        resamples: How many were drawn.
        seed: What they were drawn from.
        correlations: Of the training rows.
        importances: By model, largest drop first; none without a spike in the judged rows.
        ablations: One a learner; none without both classes in training, or a spike to judge.
        findings: What the groups add beyond HAR, by learner.
    """

    product_id: str
    policy: Policy
    headline: str
    insufficient: tuple[str, ...]
    training_rows: int
    test_rows: int
    judged_rows: int
    base_rate: float | None
    blocks: Blocks
    resamples: int
    seed: int
    correlations: Correlations
    importances: tuple[Importance, ...]
    ablations: tuple[Ablation, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: no NaN and no infinity, None instead."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts


def analyse(
    split: pd.DataFrame,
    models: Mapping[str, Any],
    *,
    product_id: str,
    policy: Policy,
    seed: int,
    repeats: int = 3,
    resamples: int = 500,
) -> FeatureAnalysis:
    """Describe a product's features: correlations, importances, ablation by group.

    Args:
        split: Rows of every role of `MODEL_INPUTS`, `ts`, `is_spike` and `role`, in time order.
        models: The fitted estimators of `ANALYSED`, by rung.
        product_id: The market.
        policy: How the labels' threshold was made.
        seed: For shuffles, resamples and what is random in fitting.
        repeats: How often each column is shuffled.
        resamples: How many to draw.

    Raises:
        LeakyRowsError: Rows of a leaky split.
    """
    require_honest(split["role"].unique())
    train, validation, test = (split[split["role"] == role] for role in ROLES)
    judged = thinned(test, TEST_ROWS)
    shown = {name: models[name] for name in (REFERENCE, best_on_validation(models, validation))}
    blocks = _blocks(judged, shown.values())
    found = [
        ablate(
            LADDER[name],
            train,
            judged,
            policy=policy,
            seed=seed,
            blocks=blocks,
            resamples=resamples,
            parameters=_searched(LADDER[name], models[name]),
        )
        for name in ABLATED
    ]
    ablations = tuple(ablation for ablation in found if ablation)
    insufficient = claims.shortages([role_summary(split, role) for role in ROLES])
    findings = tuple(
        finding
        for ablation in ablations
        for finding in beyond_har(ablation, refusal=blocks.refusal, is_sufficient=not insufficient)
    )
    return FeatureAnalysis(
        product_id=product_id,
        policy=policy,
        headline=_headline(findings, insufficient),
        insufficient=insufficient,
        training_rows=len(train),
        test_rows=len(test),
        judged_rows=len(judged),
        base_rate=role_summary(judged, ROLES[-1]).base_rate,
        blocks=blocks,
        resamples=resamples,
        seed=seed,
        correlations=correlate(train, policy=policy),
        importances=importances(
            shown, judged, blocks=blocks, seed=seed, repeats=repeats, resamples=resamples
        ),
        ablations=ablations,
        findings=findings,
    )


def thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return every k-th row, at most so many: neighbours overlap, so little is lost."""
    return rows.iloc[:: max(1, math.ceil(len(rows) / most))]


def best_on_validation(models: Mapping[str, Any], validation: pd.DataFrame) -> str:
    """Return the learner with the best average precision on validation rows.

    The first of equals, and where there is no spike.
    """
    target = target_of(validation)
    once = np.ones(len(target), dtype=np.int64)
    precisions = {
        name: Ranking(scores(models[name], validation), target).average_precision(once)
        for name in LEARNERS
        if target.any()
    }
    return max(precisions, key=lambda name: precisions[name], default=LEARNERS[0])


def correlate(train: pd.DataFrame, *, policy: Policy) -> Correlations:
    """Correlate the learners' columns, as they read them, over at most `CORRELATION_ROWS` rows.

    Args:
        train: Training rows of `MODEL_INPUTS`.
        policy: Whether volatilities are read relative to the threshold.
    """
    import pandas as pd
    from scipy.sparse.csgraph import connected_components

    from volatility_pipeline.domain.estimators import MarketInputs

    missing = {name: float(train[name].isna().mean()) for name in MODEL_INPUTS if len(train)}
    columns = [name for group in GROUPS.values() for name in group]
    if policy == "training":
        columns.remove("threshold")
    columns = [name for name in columns if missing.get(name, 1.0) < 1]
    rows = thinned(train, CORRELATION_ROWS)
    if not columns:
        return Correlations((), (), 0, (), (), missing)
    matrix = MarketInputs(columns, policy == "trailing").fit(rows).transform(rows)
    rho = pd.DataFrame(matrix).corr(method="spearman").to_numpy()
    is_redundant = np.abs(np.nan_to_num(rho)) > REDUNDANT
    pairs = [
        Redundancy(columns[first], columns[second], float(rho[first, second]))
        for first, second in np.argwhere(np.triu(is_redundant, 1))
    ]
    _, cluster = connected_components(is_redundant, directed=False)
    clusters = [np.flatnonzero(cluster == number) for number in np.unique(cluster)]
    return Correlations(
        columns=tuple(columns),
        rho=tuple(
            tuple(float(value) if np.isfinite(value) else None for value in row) for row in rho
        ),
        rows=len(rows),
        redundant=tuple(sorted(pairs, key=lambda pair: -abs(pair.rho))),
        clusters=tuple(
            tuple(columns[member] for member in members) for members in clusters if len(members) > 1
        ),
        missing=missing,
    )


def _headline(findings: Sequence[Finding], insufficient: Sequence[str]) -> str:
    if insufficient:
        return f"INSUFFICIENT: {'; '.join(insufficient)}. Nothing is claimed of any feature."
    said = [
        f"{claims.title(finding.learner)}: {finding.sentence}"
        for finding in findings
        if finding.group == "book"
    ]
    return " ".join(said) or NO_ABLATION


def _searched(rung: Rung, estimator: Any) -> dict[str, Any]:
    """Return what was chosen for a fitted rung; nothing where it fell back to a constant."""
    own = pipeline_of(estimator).get_params()
    names = {*rung.grid, *(name for variant in rung.variants for name in variant)}
    return {name: own[name] for name in sorted(names) if name in own}


def _blocks(test: pd.DataFrame, estimators: Iterable[Any]) -> Blocks:
    target = target_of(test)
    residuals = [target - probabilities(estimator, test) for estimator in estimators]
    return choose_blocks(test["ts"].to_numpy(dtype="datetime64[us]"), target, residuals)
