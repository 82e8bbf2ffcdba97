"""Walk-forward results: per fold and pooled, their intervals, and when there are none."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import average_precision_score

from volatility_pipeline.domain.bootstrap import Ranking, resample
from volatility_pipeline.domain.fold_results import FoldResult, WalkForwardResult, judge_folds
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.splits import LeakyRowsError
from volatility_pipeline.domain.walk_forward import FoldForecasts, WalkForward

START = np.datetime64("2026-03-01", "us")
SECOND = np.timedelta64(1, "s")
BLOCK = 1800
WALK = WalkForward("expanding", 3, (), None)


def fold(number: int, *, test_rows: int, rate: float = 0.1, scale: float = 1.0) -> FoldForecasts:
    """Spikes of five minutes; HAR sees them through noise, trees through less, noise not at all.

    `scale` multiplies every score, as another fit might.
    """
    rng = np.random.default_rng(number)
    sizes = {"train": 6000, "validation": 12_000, "test": test_rows}
    role = np.repeat(list(sizes), list(sizes.values()))
    bursts = rng.permutation(np.arange(len(role) // 300 + 1)) < round(rate * len(role) / 300)
    is_spike = np.repeat(bursts, 300)[: len(role)]
    # A day apart, so that folds stay in order.
    ts = START + (86_400 * number + np.arange(len(role))) * SECOND
    rows = pd.DataFrame({"ts": ts, "is_spike": is_spike, "role": role})
    target = is_spike[role == "test"]
    noise = np.repeat(rng.normal(size=test_rows // 60 + 1), 60)[:test_rows]
    scores = {
        "base_rate": np.full(test_rows, rate),
        "har_logistic": target + noise,
        "xgboost": target + 0.5 * noise,
        "noise": noise,
    }
    return FoldForecasts(
        number,
        rows,
        tuple(
            Forecast(name, scale * score, 1 / (1 + np.exp(-score)), 0.5)
            for name, score in scores.items()
        ),
    )


def judge(*runs: FoldForecasts, **options: Any) -> WalkForwardResult:
    return judge_folds(WALK, runs, **{"policy": "trailing", "seed": 1, "resamples": 200, **options})


def score(result: FoldResult | None, name: str) -> Any:
    assert result is not None
    return next(model for model in result.models if model.name == name)


@pytest.fixture(scope="module")
def runs() -> list[FoldForecasts]:
    """Three folds of 20, 20 and 15 blocks whose scores lie on three scales."""
    return [
        fold(1, test_rows=20 * BLOCK, rate=0.1),
        fold(2, test_rows=20 * BLOCK, rate=0.2, scale=100),
        fold(3, test_rows=15 * BLOCK, rate=0.15, scale=0.01),
    ]


@pytest.fixture(scope="module")
def result(runs: list[FoldForecasts]) -> WalkForwardResult:
    return judge(*runs)


def test_each_fold_s_numbers_are_those_of_scikit_learn_on_its_own_test_rows(runs, result):
    for run, found in zip(runs, result.folds, strict=True):
        target = run.rows.loc[run.rows["role"] == "test", "is_spike"]
        assert found.number == run.number
        assert found.base_rate == pytest.approx(target.mean())
        for forecast, model in zip(run.forecasts, found.models, strict=True):
            precision = average_precision_score(target, forecast.score)
            assert model.average_precision.value == pytest.approx(precision)
            assert model.lift.value == pytest.approx(precision / target.mean())


def test_pooled_is_the_mean_of_the_folds_by_test_rows_whatever_the_scales(runs, result):
    weights = np.array([20, 20, 15]) / 55
    for name in ("har_logistic", "xgboost", "noise"):
        values = [score(found, name).average_precision.value for found in result.folds]
        assert score(result.pooled, name).average_precision.value == pytest.approx(weights @ values)
    rows = pd.concat([run.rows for run in runs])
    assert result.pooled.base_rate == pytest.approx(rows.query("role == 'test'").is_spike.mean())


def test_who_always_says_the_same_in_a_fold_has_lift_one_in_every_resample(result):
    for found in (*result.folds, result.pooled):
        lift = score(found, "base_rate").lift
        bounds = [bound for bound in (lift.low, lift.high) if bound is not None]
        assert [lift.value, *bounds] == pytest.approx([1] * (1 + len(bounds)))


def test_intervals_hold_their_value_and_are_paired(result):
    for model in result.pooled.models[1:]:
        for estimate in (model.average_precision, model.lift, model.gain):
            assert estimate is None or estimate.low <= estimate.value <= estimate.high
    assert score(result.pooled, "har_logistic").gain is None
    better = [model.name for model in result.pooled.models if model.is_better]
    assert better == ["xgboost"]
    har, trees = (score(result.pooled, name) for name in ("har_logistic", "xgboost"))
    width = trees.gain.high - trees.gain.low
    own = (model.average_precision for model in (har, trees))
    assert width < sum(estimate.high - estimate.low for estimate in own)


def test_pooled_draws_are_the_folds_draws_of_the_same_number(runs, result):
    """Blocks stay within a fold, and the n-th draws of all folds make the n-th of the whole."""
    draws, shares = [], []
    for run in runs:
        target = run.rows.loc[run.rows["role"] == "test", "is_spike"].to_numpy()
        ranking = Ranking(run.forecasts[1].score, target)
        drawn = resample([ranking], target, block_rows=BLOCK, resamples=200, seed=1 + run.number)
        draws.append(drawn.average_precision[:, 0])
        shares.append(len(target))
    spread = np.log(np.average(draws, axis=0, weights=shares)).std()
    found = score(result.pooled, "har_logistic").average_precision
    blocks = result.pooled.blocks
    assert blocks.rows == BLOCK
    deviations = t.ppf(0.975, blocks.effective - 1)
    deviations *= np.sqrt(blocks.effective / (blocks.effective - 1))
    assert np.log(found.value / found.low) / spread == pytest.approx(deviations)


def test_a_fold_with_few_blocks_shows_no_interval_while_the_pool_does(result):
    shown = [score(found, "xgboost").average_precision.low is not None for found in result.folds]
    assert shown == [True, True, False]
    assert [found.blocks.count for found in (*result.folds, result.pooled)] == [20, 20, 15, 55]
    assert result.folds[2].blocks.refusal == "the test has 15 blocks of 1800 s, 20 are needed"
    assert not any(model.is_better for model in result.folds[2].models)
    assert result.pooled.blocks.refusal is None


def test_too_few_blocks_in_all_show_no_interval_anywhere(runs):
    found = judge(fold(1, test_rows=9 * BLOCK), fold(2, test_rows=10 * BLOCK))
    assert found.pooled.blocks.refusal == "the test has 19 blocks of 1800 s, 20 are needed"
    for part in (*found.folds, found.pooled):
        assert all(model.average_precision.low is None for model in part.models)
        assert all(model.gain is None or model.gain.low is None for model in part.models)
        assert not any(model.is_better for model in part.models)


def test_too_few_blocks_with_a_spike_in_all_are_refused():
    long = fold(1, test_rows=30 * BLOCK)
    is_test = long.rows["role"] == "test"
    first = is_test & (is_test.cumsum() <= 9 * BLOCK)
    found = judge(replace(long, rows=long.rows.assign(is_spike=long.rows["is_spike"] & first)))
    assert "of 30 blocks hold a spike, 10 are needed" in found.pooled.blocks.refusal


def test_a_fold_shorter_than_a_block_leaves_the_pool_without_an_interval():
    found = judge(fold(1, test_rows=30 * BLOCK), fold(2, test_rows=1000))
    assert found.pooled.blocks.refusal == "a fold is shorter than a block of 1800 s"
    assert score(found.pooled, "xgboost").average_precision.low is None
    assert score(found.pooled, "xgboost").average_precision.value > 0.5


def test_a_fold_without_a_spike_adds_nothing_and_breaks_nothing(runs):
    still = replace(runs[1], rows=runs[1].rows.assign(is_spike=False))
    found = judge(runs[0], still)
    assert score(found.folds[1], "xgboost").average_precision is None
    assert score(found.folds[1], "xgboost").lift is None
    alone = score(found.folds[0], "xgboost")
    pooled = score(found.pooled, "xgboost")
    assert pooled.average_precision.value == pytest.approx(alone.average_precision.value / 2)
    assert pooled.lift.value == pytest.approx(alone.lift.value)
    assert score(found.pooled, "base_rate").lift.value == pytest.approx(1)
    assert pooled.average_precision.low is not None


def test_too_few_spikes_claim_nothing(runs):
    short = runs[0].rows["is_spike"] & (runs[0].rows["role"] != "validation")
    found = judge(replace(runs[0], rows=runs[0].rows.assign(is_spike=short)), runs[1])
    assert "validation has 0 non-overlapping spikes" in " ".join(found.folds[0].insufficient)
    assert not any(model.is_better for model in found.folds[0].models)
    assert found.pooled.insufficient == ()  # its test rows are enough
    few = judge(fold(1, test_rows=20 * BLOCK, rate=0.01))
    assert few.pooled.insufficient[0].startswith("test has ")
    assert not any(model.is_better for model in few.pooled.models)


def test_only_the_training_policy_withholds_a_lift_where_the_base_rate_moves(runs):
    wild = fold(2, test_rows=20 * BLOCK, rate=0.5)
    trailing, training = (judge(runs[0], wild, policy=p) for p in ("trailing", "training"))
    assert score(trailing.pooled, "xgboost").lift is not None
    assert "more than threefold" in training.pooled.lift_refusal
    assert score(training.pooled, "xgboost").lift is None
    assert score(training.folds[0], "xgboost").lift is not None


def test_the_same_seed_gives_the_same_and_another_only_other_intervals(runs, result):
    assert judge(*runs) == result
    other = score(judge(*runs, seed=5).pooled, "xgboost").average_precision
    mine = score(result.pooled, "xgboost").average_precision
    assert (other.value, other.low == mine.low) == (mine.value, False)


def test_no_fold_is_no_result_and_no_error():
    found = judge_folds(
        replace(WALK, shortage="0 of 5 folds: too little"), [], policy="trailing", seed=1
    )
    assert (found.folds, found.pooled) == ((), None)
    assert found.shortage == "0 of 5 folds: too little"


def test_the_result_is_plain_json(result):
    facts = result.to_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["pooled"]["models"][1]["gain"] is None


def test_what_does_not_fit_is_refused(runs):
    first, second, _ = runs
    with pytest.raises(ValueError, match="not run with the same models"):
        judge(first, replace(second, forecasts=second.forecasts[:2]))
    with pytest.raises(ValueError, match="overlap, or are not in time order"):
        judge(second, first)
    with pytest.raises(ValueError, match="compared with ewma, which is not among"):
        judge(first, reference="ewma")
    short = replace(first.forecasts[0], score=np.zeros(3))
    with pytest.raises(ValueError, match="base_rate has 3 answers"):
        judge(replace(first, forecasts=(short, *first.forecasts[1:])))


def test_leaky_rows_are_refused(runs):
    leaky = runs[0].rows.assign(role="LEAKY " + runs[0].rows["role"])
    with pytest.raises(LeakyRowsError, match="for the leakage audit alone"):
        judge(replace(runs[0], rows=leaky))
