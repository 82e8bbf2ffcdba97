"""What features are worth: planted truths are found, and nothing is said where nothing is known."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from volatility_pipeline.domain.ablation import (
    ALL,
    GROUPS,
    Ablation,
    GroupWorth,
    ablate,
    beyond_har,
)
from volatility_pipeline.domain.bootstrap import Blocks
from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.feature_analysis import (
    ANALYSED,
    LEARNERS,
    NO_ABLATION,
    analyse,
    best_on_validation,
    correlate,
    thinned,
)
from volatility_pipeline.domain.importance import Importance, importances, shuffled_blocks
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import fit, scores
from volatility_pipeline.domain.splits import LeakyRowsError
from volatility_pipeline_tests.split_frames import role, split_frame, tiny

BLOCKS = Blocks(seconds=150, rows=150, count=20, with_spike=12, effective=10.0, refusal=None)
REFUSED = replace(BLOCKS, refusal="the test has 3 blocks of 1800 s, 20 are needed")


def fitted(frame: pd.DataFrame, names: tuple[str, ...], **options: Any) -> dict[str, Any]:
    train, validation = role(frame, "train"), role(frame, "validation")
    return {
        name: fit(name, train, validation, policy="trailing", seed=0, **options).estimator
        for name in names
    }


def planted(frame: pd.DataFrame, column: str, *, seed: int = 1) -> pd.DataFrame:
    """The frame with a column that knows the label, but for a little noise."""
    noise = np.random.default_rng(seed).normal(scale=0.3, size=len(frame))
    return frame.assign(**{column: frame["is_spike"] + noise})


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    return split_frame(26_000, seed=3)


@pytest.fixture(scope="module")
def models(market: pd.DataFrame) -> dict[str, Any]:
    return fitted(market, ("base_rate", "ewma", *ANALYSED))


def by_feature(found: tuple[Importance, ...], model: str) -> dict[str, Importance]:
    return {each.feature: each for each in found if each.model == model}


# Importance.


@pytest.mark.parametrize("name", ["logistic_regression", "xgboost"])
def test_a_column_that_knows_the_label_ranks_first(market, name):
    frame = planted(market, "spread_bps")
    found = importances(
        fitted(frame, (name,)), role(frame, "test"), blocks=BLOCKS, seed=0, resamples=100
    )
    first, second = found[:2]
    assert first.feature == "spread_bps"
    assert first.drop.low > 0.3
    assert first.drop.value > 10 * second.drop.value
    assert first.gain == max(each.gain for each in found) > 0.1


def test_the_interval_of_a_column_of_noise_holds_zero(market, models):
    found = importances(
        {name: models[name] for name in LEARNERS},
        role(market, "test"),
        blocks=BLOCKS,
        seed=0,
        resamples=100,
    )
    for name in LEARNERS:
        noise = by_feature(found, name)["microprice_gap_bps"].drop
        assert noise.low <= 0 <= noise.high
        assert abs(noise.value) < 0.01


def test_a_drop_is_that_of_average_precision_with_the_column_shuffled_in_the_frame(market, models):
    test = role(market, "test")
    found = importances(
        {"logistic_regression": models["logistic_regression"]},
        test,
        blocks=BLOCKS,
        seed=7,
        repeats=2,
        resamples=20,
    )
    rng = np.random.default_rng(7)
    orders = [shuffled_blocks(len(test), BLOCKS.count, rng) for _ in range(2)]
    target, estimator = test["is_spike"].to_numpy(), models["logistic_regression"]

    def precision(frame: pd.DataFrame) -> float:
        return average_precision_score(target, scores(estimator, frame))

    for name in ("microprice_gap_bps", "order_book_imbalance_30s"):
        shuffled = [test.assign(**{name: test[name].to_numpy()[order]}) for order in orders]
        expected = precision(test) - np.mean([precision(frame) for frame in shuffled])
        drop = by_feature(found, "logistic_regression")[name].drop.value
        assert drop == pytest.approx(expected, abs=1e-12)


def test_a_model_has_an_importance_for_each_column_that_it_reads_and_no_other(market, models):
    found = importances(models, role(market, "test"), blocks=REFUSED, seed=0, repeats=1)
    learnt = [name for name in LADDER["xgboost"].columns if "volume" not in name]
    expected = {
        "ewma": {"ewma_volatility"},
        "har_logistic": set(LADDER["har_logistic"].columns),
        **{name: {*learnt, "threshold"} for name in LEARNERS},
    }
    assert {each.model: set(by_feature(found, each.model)) for each in found} == expected


def test_gains_are_shares_and_none_where_the_model_has_none(market, models):
    found = importances(models, role(market, "test"), blocks=REFUSED, seed=0, repeats=1)
    for name in ANALYSED:
        gains = [each.gain for each in found if each.model == name]
        assert sum(gains) == pytest.approx(1)
        assert min(gains) >= 0
    assert by_feature(found, "ewma")["ewma_volatility"].gain is None
    har = models["har_logistic"].estimator.estimator
    weights = np.abs(har[-1].coef_[0])
    own = by_feature(found, "har_logistic")["realized_volatility_60s"].gain
    # its own coefficient alone: nothing is missing in that column
    assert own == pytest.approx(weights[1] / weights.sum())


def test_a_missing_indicator_counts_for_its_column(market):
    hidden = market["is_spike"].to_numpy() & (np.arange(len(market)) % 5 > 0)
    frame = market.assign(spread_bps=np.where(hidden, np.nan, 1.0))
    found = importances(
        fitted(frame, ("logistic_regression", "random_forest")),
        role(frame, "test"),
        blocks=BLOCKS,
        seed=0,
        resamples=20,
    )
    for name in ("logistic_regression", "random_forest"):
        own = by_feature(found, name)
        assert next(iter(own)) == "spread_bps"
        # the column itself is constant: all that it gains is its indicator's
        assert own["spread_bps"].gain == max(each.gain for each in own.values())


def test_importances_have_no_interval_where_blocks_refuse_it(market, models):
    found = importances(models, role(market, "test"), blocks=REFUSED, seed=0, repeats=1)
    assert found
    assert all(each.drop.low is None and each.drop.high is None for each in found)


def test_importances_need_a_spike_and_a_row_or_two_will_do(market, models):
    test = role(market, "test")
    quiet = test.assign(is_spike=False)
    assert importances(models, quiet, blocks=REFUSED, seed=0) == ()
    assert importances(models, test.head(0), blocks=REFUSED, seed=0) == ()
    one = replace(REFUSED, count=0, with_spike=0)
    found = importances(models, tiny(market, "test", 1, 1), blocks=one, seed=0)
    assert {each.drop.value for each in found} == {0.0}


def test_the_same_seed_gives_the_same_importances(market, models):
    test = thinned(role(market, "test"), 1_000)
    first, again, other = (
        importances({"xgboost": models["xgboost"]}, test, blocks=BLOCKS, seed=seed, resamples=20)
        for seed in (1, 1, 2)
    )
    assert first == again != other


@given(rows=st.integers(0, 500), parts=st.integers(2, 40), seed=st.integers(0, 99))
def test_shuffled_blocks_are_whole_each_once_and_none_in_its_place(rows, parts, seed):
    order = shuffled_blocks(rows, parts, np.random.default_rng(seed))
    assert sorted(order) == list(range(rows))
    length, longer = divmod(rows, parts)
    assert np.count_nonzero(np.diff(order) != 1) <= parts - 1
    if not longer and length:
        assert (order // length != np.arange(rows) // length).all()


# Ablation.


def test_every_column_of_the_learners_is_in_exactly_one_group():
    grouped = [name for columns in GROUPS.values() for name in columns]
    assert sorted(grouped) == sorted({*LADDER["xgboost"].columns, "threshold"})
    assert set(MODEL_INPUTS) - set(grouped) == {"mid"}


@pytest.fixture(scope="module")
def book_market() -> pd.DataFrame:
    """Nothing but the book can be known."""
    return planted(split_frame(20_000, seed=5, is_noise=True), "order_book_imbalance_30s")


@pytest.mark.parametrize("name", ["logistic_regression", "xgboost"])
def test_a_group_with_the_only_signal_shows_it(book_market, name):
    found = ablate(
        LADDER[name],
        role(book_market, "train"),
        role(book_market, "test"),
        policy="trailing",
        seed=0,
        blocks=BLOCKS,
        resamples=100,
    )
    worth = {each.group: each for each in found.groups}
    assert worth["book"].added.low > 0.4
    assert worth["book"].lost.low > 0.4
    assert found.beyond.value == pytest.approx(found.everything.value - found.har.value)
    for group in GROUPS.keys() - {"book"}:
        assert abs(worth[group].lost.value) < 0.05
    assert worth["volatility"].added is None  # HAR has its columns already
    said = {
        each.group: each.sentence for each in beyond_har(found, refusal=None, is_sufficient=True)
    }
    assert said["book"].startswith("adding the book to HAR changes PR-AUC by +0.")
    assert said["book"].endswith("the interval lies above zero.")


def test_a_group_without_a_value_in_training_is_no_other_model(market):
    frame = market.assign(**dict.fromkeys(GROUPS["book"], np.nan))
    found = ablate(
        LADDER["logistic_regression"],
        role(frame, "train"),
        role(frame, "test"),
        policy="trailing",
        seed=0,
        blocks=REFUSED,
    )
    book = next(each for each in found.groups if each.group == "book")
    assert book == GroupWorth("book", None, None, GROUPS["book"])
    said = {
        each.group: each.sentence for each in beyond_har(found, refusal="x", is_sufficient=True)
    }
    assert said["book"] == (
        "adding the book to HAR adds nothing: none of its columns has a value in training."
    )


def test_under_the_training_policy_the_threshold_is_no_column():
    frame = split_frame(16_000, seed=4, policy="training")
    found = ablate(
        LADDER["logistic_regression"],
        role(frame, "train"),
        role(frame, "test").assign(threshold=np.nan),
        policy="training",
        seed=0,
        blocks=REFUSED,
    )
    slow = next(each for each in found.groups if each.group == "slow regime")
    assert slow.added is not None  # the time of day
    assert "threshold" not in correlate(role(frame, "train"), policy="training").columns


def test_parameters_given_are_those_that_are_fitted(market):
    options: Mapping[str, Any] = {
        "policy": "trailing",
        "seed": 0,
        "blocks": REFUSED,
    }
    train, test = role(market, "train"), role(market, "test")
    rung = LADDER["xgboost"]
    stumps = ablate(rung, train, test, parameters={"model__n_estimators": 3}, **options)
    own = rung.build(policy="trailing", seed=0).set_params(model__n_estimators=3)
    own.fit(train[list(MODEL_INPUTS)], train["is_spike"].astype(int))
    expected = average_precision_score(test["is_spike"], scores(own, test))
    assert stumps.everything == Estimate(pytest.approx(expected), None, None)


def test_nothing_is_ablated_without_both_classes_or_a_spike_to_judge(market):
    train, test = role(market, "train"), role(market, "test")
    for learnt, judged in (
        (train.assign(is_spike=False), test),
        (train.head(0), test),
        (train, test.assign(is_spike=False)),
        (train, test.head(0)),
    ):
        assert (
            ablate(
                LADDER["logistic_regression"],
                learnt,
                judged,
                policy="trailing",
                seed=0,
                blocks=REFUSED,
            )
            is None
        )


@pytest.mark.parametrize(
    ("change", "refusal", "is_sufficient", "ending"),
    [
        (
            Estimate(0.012, -0.004, 0.027),
            None,
            True,
            "changes PR-AUC by +0.012 [-0.004, +0.027]: not distinguishable from nothing.",
        ),
        (
            Estimate(0.012, 0.004, 0.027),
            None,
            True,
            "changes PR-AUC by +0.012 [+0.004, +0.027]: the interval lies above zero.",
        ),
        (
            Estimate(-0.012, -0.027, -0.004),
            None,
            True,
            "changes PR-AUC by -0.012 [-0.027, -0.004]: the interval lies below zero.",
        ),
        (
            Estimate(0.012, 0.004, 0.027),
            None,
            False,
            "changes PR-AUC by +0.012 [+0.004, +0.027]: nothing is claimed from so few spikes.",
        ),
        (
            Estimate(0.012, None, None),
            "3 blocks",
            True,
            "changes PR-AUC by +0.012; no interval is shown and nothing is claimed, because "
            "3 blocks.",
        ),
    ],
)
def test_a_finding_claims_what_its_interval_allows(change, refusal, is_sufficient, ending):
    level = Estimate(0.4, None, None)
    made = Ablation("xgboost", level, level, change, (GroupWorth("book", change, None, ()),))
    found = beyond_har(made, refusal=refusal, is_sufficient=is_sufficient)
    assert [(each.learner, each.group) for each in found] == [("xgboost", ALL), ("xgboost", "book")]
    assert found[0].sentence == f"adding all other columns to HAR {ending}"
    assert found[1].sentence == f"adding the book to HAR {ending}"


# Correlations.


def test_a_duplicate_column_is_found_redundant_and_a_mirrored_one_too(market):
    train = role(market, "train")
    frame = train.assign(
        spread_bps=np.exp(train["log_return_30s"] * 1e3),  # the same order
        time_of_day_sin=-train["log_return_30s"],
        time_of_day_cos=0.0,
        microprice_gap_bps=train["microprice_gap_bps"].where(np.arange(len(train)) % 4 > 0),
    )
    found = correlate(frame, policy="trailing")
    pairs = {(pair.first, pair.second): pair.rho for pair in found.redundant}
    assert pairs["log_return_30s", "spread_bps"] == pytest.approx(1)
    assert pairs["log_return_30s", "time_of_day_sin"] == pytest.approx(-1)
    assert ("log_return_30s", "spread_bps", "time_of_day_sin") in found.clusters
    place = found.columns.index("time_of_day_cos")
    assert set(found.rho[place]) == {None}
    assert found.missing["microprice_gap_bps"] == pytest.approx(0.25, abs=0.02)
    assert found.missing["volume_velocity_30s"] == 1
    assert "volume_velocity_30s" not in found.columns


def test_correlations_are_scipys_over_the_rows_that_have_both(market):
    from scipy.stats import spearmanr

    train = role(market, "train")
    found = correlate(train, policy="trailing")
    assert found.rows == len(train) <= 10_000
    first, second = "realized_volatility_3600s", "microprice_gap_bps"
    ratio = (train[first] / train["threshold"]).to_numpy()
    expected = spearmanr(ratio, train[second], nan_policy="omit").statistic
    rho = found.rho[found.columns.index(first)][found.columns.index(second)]
    assert rho == pytest.approx(expected)


# All together.


def test_an_analysis_is_plain_json_and_says_what_the_book_adds(market, models):
    found = analyse(
        market, models, product_id="BTC-USD", policy="trailing", seed=0, repeats=1, resamples=20
    )
    assert found.headline.startswith("INSUFFICIENT: ")
    assert found.headline.endswith(". Nothing is claimed of any feature.")
    assert found.blocks.refusal
    assert {each.learner for each in found.ablations} == {"logistic_regression", "xgboost"}
    assert all("no interval is shown" in each.sentence for each in found.findings)
    shown = {each.model for each in found.importances}
    assert shown == {"har_logistic", best_on_validation(models, role(market, "validation"))}
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["importances"][0]["drop"]["low"] is None
    assert facts["judged_rows"] == len(role(market, "test"))


def test_a_long_test_has_intervals_and_a_headline_of_the_book(models):
    long = split_frame(500_000, seed=2)
    earlier = [thinned(role(long, name), 4_000) for name in ("train", "validation")]
    frame = pd.concat([*earlier, role(long, "test")], ignore_index=True)
    balanced = fitted(frame, ("xgboost",), parameters={"model__scale_pos_weight": "balanced"})
    found = analyse(
        frame,
        {**models, **balanced},
        product_id="BTC-USD",
        policy="trailing",
        seed=0,
        repeats=1,
        resamples=20,
    )
    assert found.blocks.refusal is None
    assert found.judged_rows <= 20_000 < found.test_rows
    assert all(each.drop.low <= each.drop.high for each in found.importances)
    assert found.headline.startswith("Logistic regression: adding the book to HAR changes PR-AUC")
    assert "XGBoost: adding the book to HAR changes PR-AUC by" in found.headline
    assert "INSUFFICIENT" not in found.headline


@pytest.mark.parametrize("left_out", [("test",), ("validation", "test"), ("train", "test")])
def test_roles_without_rows_give_no_numbers_and_say_so(market, models, left_out):
    rows = market[~market["role"].isin(left_out)]
    found = analyse(rows, models, product_id="BTC-USD", policy="trailing", seed=0)
    assert found.headline.startswith("INSUFFICIENT: ")
    assert found.importances == found.ablations == found.findings == ()
    assert found.base_rate is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_training_rows_all_alike_leave_importances_and_no_ablation(market, models):
    frame = market.assign(is_spike=market["is_spike"] | (market["role"] == "train"))
    constant = fitted(frame, ANALYSED)
    found = analyse(frame, constant, product_id="BTC-USD", policy="trailing", seed=0)
    assert found.ablations == found.importances == ()
    assert NO_ABLATION.startswith("No group of features is judged: the training rows")


def test_rows_of_a_leaky_split_are_refused(market, models):
    with pytest.raises(LeakyRowsError):
        analyse(market.assign(role="LEAKY test"), models, product_id="X", policy="trailing", seed=0)


def test_of_learners_that_rank_alike_the_first_is_looked_into(market, models):
    quiet = role(market, "validation").assign(is_spike=False)
    assert best_on_validation(models, quiet) == LEARNERS[0]
    rows = role(market, "validation")
    precisions = {
        name: average_precision_score(rows["is_spike"], scores(models[name], rows))
        for name in LEARNERS
    }
    assert best_on_validation(models, rows) == max(precisions, key=precisions.get)
