"""Feature analysis: what the models' inputs are worth, one by one and group by group.

Everything here describes; nothing chooses a feature, and no stored model is changed by it. Fitting
and asking models is `models`, resampling `bootstrap`, drawing `reports.analysis`.

Columns say much the same as each other: shuffled alone, one is missed only for what no other says.
So importances rank what a model relies on, and the ablation, which fits again without a whole
group, says what the group is worth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from volatility_pipeline.domain import verdict as claims
from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
    choose_blocks,
    no_resamples,
    resample,
)
from volatility_pipeline.domain.evaluation import Estimate, estimates, plain, role_summary
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS, REFERENCE, Rung
from volatility_pipeline.domain.models import probabilities, scores
from volatility_pipeline.domain.splits import ROLES, Policy, require_honest

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
    target = _target(validation)
    once = np.ones(len(target), dtype=np.int64)
    precisions = {
        name: Ranking(scores(models[name], validation), target).average_precision(once)
        for name in LEARNERS
        if target.any()
    }
    return max(precisions, key=lambda name: precisions[name], default=LEARNERS[0])


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
    target = _target(test)
    if not target.any():
        return ()
    found: list[Importance] = []
    for name, estimator in models.items():
        pipeline = _pipeline(estimator)
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
        observed, drawn = _precisions(
            rankings, target, blocks=blocks, resamples=resamples, seed=seed
        )
        drops = _finite(_drops(observed, repeats)[0], _drops(drawn, repeats), blocks)
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
    target = _target(test)
    if not target.any() or len(np.unique(_target(train))) < 2:
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
    observed, drawn = _precisions(rankings, target, blocks=blocks, resamples=resamples, seed=seed)
    place = {name: models.index(columns) for name, columns in read.items()}
    precisions = _finite(observed[0], drawn, blocks)

    def change(more: str, less: str) -> Estimate | None:
        if read[more] == read[less]:
            return None
        seen, draws = (
            values[:, [place[more]]] - values[:, [place[less]]] for values in (observed, drawn)
        )
        return _finite(seen[0], draws, blocks)[0]

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


# Volatility's columns are HAR's own.
_PHRASES = {
    ALL: "all other columns",
    "returns": "the returns",
    "spread": "the spread",
    "book": "the book",
    "activity": "activity",
    "slow regime": "the slow regime",
}


def _headline(findings: Sequence[Finding], insufficient: Sequence[str]) -> str:
    if insufficient:
        return f"INSUFFICIENT: {'; '.join(insufficient)}. Nothing is claimed of any feature."
    said = [
        f"{claims.title(finding.learner)}: {finding.sentence}"
        for finding in findings
        if finding.group == "book"
    ]
    return " ".join(said) or NO_ABLATION


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


def _target(rows: pd.DataFrame) -> NDArray[np.bool_]:
    target: NDArray[np.bool_] = rows["is_spike"].to_numpy(dtype=bool)
    return target


def _pipeline(estimator: Any) -> Any:
    """Return the pipeline inside its calibration, if any."""
    while hasattr(estimator, "estimator"):
        estimator = estimator.estimator
    return estimator


def _searched(rung: Rung, estimator: Any) -> dict[str, Any]:
    """Return what was chosen for a fitted rung; nothing where it fell back to a constant."""
    own = _pipeline(estimator).get_params()
    names = {*rung.grid, *(name for variant in rung.variants for name in variant)}
    return {name: own[name] for name in sorted(names) if name in own}


def _blocks(test: pd.DataFrame, estimators: Iterable[Any]) -> Blocks:
    target = _target(test)
    residuals = [target - probabilities(estimator, test) for estimator in estimators]
    return choose_blocks(test["ts"].to_numpy(dtype="datetime64[us]"), target, residuals)


def _precisions(
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


def _finite(
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
            pipeline.fit(train[list(MODEL_INPUTS)], _target(train).astype(np.int64))
    except NoInputsError:
        return np.zeros(len(test))
    return scores(pipeline, test)
