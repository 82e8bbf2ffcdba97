"""The ladder of models: what each rung is, what it reads, and the pipeline that it builds.

How a rung is fitted, calibrated, stored and asked is said in `models`. scikit-learn and XGBoost are
imported where they are used. A new rung is one entry of `LADDER`, in the order in which it is
climbed, and, if it brings a type that skops does not trust by itself, one of `TRUSTED_TYPES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.domain.splits import Policy

MODEL_INPUTS = (*FEATURE_COLUMNS, "threshold")
"""The columns of every frame that a model is asked about, in the order of its signature."""

REFERENCE = "har_logistic"
"""The rung that another must beat to be called better."""

ALERT_DEVIATIONS = 2.0
"""Where the z-score rule alerts: its users' mean + 2 sigma."""

HALF_LIFE_SECONDS = 120.0
"""Of the EWMA's weights where no search chose another: two of the horizons that are asked about."""

BALANCED = "balanced"
"""As a `scale_pos_weight`: quiet training rows over spikes, whatever they are."""

COLOURS = {
    "base_rate": "#7f7f7f",
    "persistence": "#56b4e9",
    "ewma": "#009e73",
    "har_logistic": "#0072b2",
    "z_score": "#cc79a7",
    "logistic_regression": "#e69f00",
    "random_forest": "#8c564b",
    "xgboost": "#d55e00",
}
"""One colour a model, in every plot; told apart by the colour-blind too (Okabe and Ito, 2008)."""


@dataclass(frozen=True)
class Rung:
    """One model of the ladder.

    Attributes:
        name: As in tables, files and the registry.
        title: As a person reads it.
        about: What it does, in half a sentence.
        columns: What it reads; `()` for nothing.
        knows_threshold: Whether the log threshold is a column of its own under `trailing`.
        classifier: Builds the last step of the pipeline from a seed.
        is_scaled: Whether the classifier wants standardized columns.
        is_ewma: Whether its columns, nested volatilities, are joined into one by an EWMA.
        alert_score: The score at which it alerts, come what may; None where that is chosen.
        grid: What a search tries, by parameter of the pipeline.
        variants: Parameters of which those that rank validation rows best are taken.
    """

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    classifier: Callable[[int], Any]
    knows_threshold: bool = False
    is_scaled: bool = False
    is_ewma: bool = False
    alert_score: float | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    variants: Sequence[Mapping[str, Any]] = ({},)

    @property
    def colour(self) -> str:
        """The rung's colour in every plot."""
        return COLOURS[self.name]

    def build(self, *, policy: Policy, seed: int) -> Any:
        """Return the unfitted scikit-learn `Pipeline` over a frame with `MODEL_INPUTS`."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        from volatility_pipeline.domain.estimators import EwmaInputs, MarketInputs

        is_trailing = policy == "trailing"
        threshold = ("threshold",) if self.knows_threshold and is_trailing else ()
        steps: list[tuple[str, Any]] = []
        if self.columns:
            inputs = MarketInputs([*self.columns, *threshold], is_trailing)
            if self.is_ewma:
                inputs = EwmaInputs(self.columns, is_trailing, HALF_LIFE_SECONDS)
            steps = [
                ("inputs", inputs),
                ("impute", SimpleImputer(strategy="median", add_indicator=True)),
            ]
        if self.is_scaled:
            steps.append(("scale", StandardScaler()))
        return Pipeline([*steps, ("model", self.classifier(seed))])


def _constant_rate(seed: int) -> Any:  # noqa: ARG001
    from volatility_pipeline.domain.estimators import ConstantRate

    return ConstantRate()


def _fixed_score(seed: int) -> Any:  # noqa: ARG001
    from volatility_pipeline.domain.estimators import FixedScore

    return FixedScore()


def _z_score(seed: int) -> Any:  # noqa: ARG001
    from volatility_pipeline.domain.estimators import ZScore

    return ZScore(ALERT_DEVIATIONS)


def _logistic(seed: int) -> Any:  # noqa: ARG001
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _balanced_logistic(seed: int) -> Any:  # noqa: ARG001
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", max_iter=1000)


def _random_forest(seed: int) -> Any:
    """Capped: 100 trees (Breiman, Machine Learning 2001) of depth 6, each on 10,000 rows drawn.

    Thirty-six thousand training rows then take three seconds. A leaf holds at least 0.5 % of the
    rows: neighbours share their label's minute, so smaller ones would learn single episodes. One
    thread: two add the trees' votes as they come, which gives other last bits.
    """
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        n_estimators=100,
        max_depth=6,
        min_samples_leaf=0.005,
        max_features="sqrt",
        max_samples=10_000,
        n_jobs=1,
        random_state=seed,
    )


def _xgboost(seed: int) -> Any:
    """Small and fixed: labels overlap, so thousands of rows hold few independent examples.

    One thread: two give the same bits in the same half second, and in 14 s where others keep both
    cores busy.
    """
    from xgboost import XGBClassifier

    return XGBClassifier(
        n_estimators=200,
        max_depth=2,
        learning_rate=0.05,
        min_child_weight=20,
        subsample=0.8,
        colsample_bytree=0.5,
        tree_method="hist",
        n_jobs=1,
        random_state=seed,
    )


# The price level is no input: it names the day, and a tree would learn it.
_LEARNER_COLUMNS = tuple(name for name in FEATURE_COLUMNS if name != "mid")
_HAR_COLUMNS = tuple(f"realized_volatility_{seconds}s" for seconds in (30, 60, 300, 900, 3600))

LADDER = {
    rung.name: rung
    for rung in (
        Rung(
            name="base_rate",
            title="Base rate",
            about="the share of spikes in training, always",
            columns=(),
            classifier=_constant_rate,
        ),
        Rung(
            name="persistence",
            title="Persistence",
            about="the last minute's volatility, relative to the threshold",
            columns=("realized_volatility_60s",),
            classifier=_fixed_score,
        ),
        Rung(
            name="ewma",
            title="EWMA",
            about="exponentially weighted variance of the last hour (RiskMetrics 1996), relative "
            "to the threshold",
            columns=_HAR_COLUMNS,
            classifier=_fixed_score,
            is_ewma=True,
            grid={"inputs__half_life_seconds": (30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)},
        ),
        Rung(
            name="har_logistic",
            title="HAR-logistic",
            about="volatility at five horizons (Corsi, J. Financial Econometrics 2009)",
            columns=_HAR_COLUMNS,
            classifier=_logistic,
            is_scaled=True,
        ),
        Rung(
            name="z_score",
            title="Z-score rule",
            about="ranks as persistence does; alerts where the last minute's volatility is two "
            "standard deviations above its training mean",
            columns=("realized_volatility_60s",),
            classifier=_z_score,
            alert_score=ALERT_DEVIATIONS,
        ),
        Rung(
            name="logistic_regression",
            title="Logistic regression",
            about="all features, linear, classes balanced",
            columns=_LEARNER_COLUMNS,
            classifier=_balanced_logistic,
            knows_threshold=True,
            is_scaled=True,
            grid={"model__C": (0.001, 0.01, 0.1, 1.0)},
        ),
        Rung(
            name="random_forest",
            title="Random forest",
            about="all features, capped at 100 shallow trees, each grown on 10,000 rows drawn",
            columns=_LEARNER_COLUMNS,
            classifier=_random_forest,
            knows_threshold=True,
            grid={"model__max_depth": (4, 6, 8), "model__min_samples_leaf": (0.005, 0.02)},
        ),
        Rung(
            name="xgboost",
            title="XGBoost",
            about="all features, boosted trees",
            columns=_LEARNER_COLUMNS,
            classifier=_xgboost,
            knows_threshold=True,
            grid={"model__max_depth": (1, 2, 3), "model__n_estimators": (100, 200)},
            variants=({"model__scale_pos_weight": 1.0}, {"model__scale_pos_weight": BALANCED}),
        ),
    )
}
"""The rungs in the order in which they are climbed and shown."""
