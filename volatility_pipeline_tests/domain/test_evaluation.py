"""What is measured on test rows, what interval it gets, and what may be claimed from it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from volatility_pipeline.domain import verdict
from volatility_pipeline.domain.episodes import judge_alerts
from volatility_pipeline.domain.evaluation import DayRate, Evaluation, RoleSummary, evaluate
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.models import Forecast, fit
from volatility_pipeline.domain.splits import LeakyRowsError
from volatility_pipeline_tests.split_frames import role, split_frame

SECOND = np.timedelta64(1, "s")


def forecast(name: str, score: np.ndarray, threshold: float = 0.5) -> Forecast:
    """A forecast whose probability is the score's rank, from 0 to 1; equal scores have one."""
    rank = np.searchsorted(np.sort(score), score)
    return Forecast(name, score, rank / max(len(score), 1), threshold)


def har(split: pd.DataFrame) -> np.ndarray:
    rows = role(split, "test")
    logs = np.log(rows[["realized_volatility_60s", "realized_volatility_300s"]]).mean(axis=1)
    return (logs - np.log(rows["threshold"])).to_numpy()


def judge(split: pd.DataFrame, *forecasts: Forecast, policy="trailing", seed=1, **options):
    return evaluate(split, forecasts, product_id="BTC-USD", policy=policy, seed=seed, **options)


@pytest.fixture(scope="module")
def split() -> pd.DataFrame:
    return split_frame(259_200, seed=3)


@pytest.fixture(scope="module")
def evaluation(split: pd.DataFrame) -> Evaluation:
    """HAR, the truth blurred (better), noise (worse) and a constant, on three days."""
    rng, rows, base = np.random.default_rng(0), role(split, "test"), har(split)
    future = np.log(rows["future_volatility_60s"] / rows["threshold"]).to_numpy()
    return judge(
        split,
        forecast("base_rate", np.zeros(len(base))),
        forecast("har_logistic", base),
        forecast("xgboost", base + 0.12 * future),
        forecast("logistic_regression", rng.normal(size=len(base))),
    )


def result(evaluation: Evaluation, name: str):
    return next(model for model in evaluation.models if model.name == name)


class TestEvaluation:
    def test_numbers_are_those_of_scikit_learn_on_test_rows_alone(self, split, evaluation):
        rows = role(split, "test")
        found = result(evaluation, "har_logistic")
        precision = average_precision_score(rows["is_spike"], har(split))
        base_rate = rows["is_spike"].mean()
        assert found.average_precision.value == pytest.approx(precision)
        assert found.lift.value == pytest.approx(precision / base_rate)
        assert found.skill == pytest.approx((precision - base_rate) / (1 - base_rate))
        assert found.roc_auc == pytest.approx(roc_auc_score(rows["is_spike"], har(split)))
        assert evaluation.base_rate == pytest.approx(base_rate)

    def test_a_constant_model_has_lift_one_on_every_resample(self, evaluation):
        lift = result(evaluation, "base_rate").lift
        assert (lift.value, lift.low, lift.high) == pytest.approx((1, 1, 1))

    def test_intervals_hold_their_value_and_the_blocks_are_stated(self, evaluation):
        for model in evaluation.models:
            for estimate in (model.average_precision, model.lift, model.gain):
                assert estimate is None or estimate.low <= estimate.value <= estimate.high
        assert evaluation.blocks.seconds == 1800
        assert evaluation.blocks.count == 21

    def test_differences_are_paired(self, split):
        score = har(split)
        same = judge(split, forecast("har_logistic", score), forecast("xgboost", 2 * score))
        gain = result(same, "xgboost").gain
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)
        assert not result(same, "xgboost").is_better

    def test_better_means_an_interval_above_zero(self, evaluation):
        better = [model.name for model in evaluation.models if model.is_better]
        assert better == ["xgboost"]
        assert result(evaluation, "har_logistic").gain is None
        assert result(evaluation, "logistic_regression").gain.high < 0

    def test_the_verdict_claims_what_the_numbers_show(self, evaluation):
        assert evaluation.verdict.startswith("HAR-logistic has PR-AUC 0.")
        assert f"at base rate {evaluation.base_rate:.2f} (lift " in evaluation.verdict
        assert "; better: XGBoost (+0." in evaluation.verdict
        assert "Logistic regression" not in evaluation.verdict

    def test_overlapping_labels_are_worth_far_fewer(self, evaluation):
        rows = evaluation.roles[2].rows
        assert 20 < evaluation.independent_labels < rows / 60
        spikes = evaluation.independent_labels * evaluation.base_rate
        assert evaluation.independent_spikes == pytest.approx(spikes)

    def test_alerts_are_held_against_episodes(self, split, evaluation):
        rows = role(split, "test")
        ts, target = rows["ts"].to_numpy(), rows["is_spike"].to_numpy()
        found = result(evaluation, "har_logistic")
        answer = forecast("har_logistic", har(split))
        assert found.episodes == judge_alerts(ts, target, answer.probability >= 0.5)
        assert 10 < found.episodes.caught <= found.episodes.episodes
        assert 0 < found.episodes.false_alarms_per_hour < found.episodes.alerts_per_hour < 60
        assert found.episodes.hours == pytest.approx(len(rows) / 3600)

    def test_rows_of_a_leaky_split_are_refused(self, split):
        leaky = split.assign(role="LEAKY " + split["role"])
        with pytest.raises(LeakyRowsError, match="for the leakage audit alone"):
            judge(leaky, forecast("har_logistic", har(split)))
        parts = (role(leaky, f"LEAKY {name}") for name in ("train", "validation"))
        with pytest.raises(ValueError, match="LEAKY train were given as train rows"):
            fit("har_logistic", *parts, policy="trailing", seed=1)

    def test_the_same_seed_gives_the_same_numbers_and_another_only_other_intervals(self, split):
        def run(seed: int) -> Evaluation:
            return judge(split, forecast("har_logistic", har(split)), seed=seed, resamples=50)

        assert run(1) == run(1)
        first, second = (result(run(seed), "har_logistic") for seed in (1, 2))
        assert first.average_precision.value == second.average_precision.value
        assert first.average_precision.low != second.average_precision.low
        assert first.confusion == second.confusion

    def test_the_labels_of_no_other_role_change_a_test_number(self, split):
        answer = forecast("har_logistic", har(split))
        flipped = split.assign(is_spike=split["is_spike"] ^ (split["role"] == "train"))
        assert judge(split, answer).models == judge(flipped, answer).models

    @pytest.mark.parametrize(
        ("score", "message"),
        [
            (np.zeros(3), "har_logistic has 3 answers"),
            (None, "or one that is no number"),
        ],
    )
    def test_a_forecast_that_does_not_fit_is_refused(self, split, score, message):
        score = np.append(har(split)[1:], np.nan) if score is None else score
        with pytest.raises(ValueError, match=message):
            judge(split, Forecast("har_logistic", score, score, 0.5))

    def test_rows_out_of_order_and_a_missing_reference_are_refused(self, split):
        with pytest.raises(ValueError, match="not in time order"):
            judge(split[::-1], forecast("har_logistic", har(split)))
        with pytest.raises(ValueError, match="compared with har_logistic, which is not among"):
            judge(split, forecast("xgboost", har(split)))


class TestJson:
    def test_an_evaluation_is_plain_json(self, evaluation):
        plain = evaluation.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert plain["models"][1]["average_precision"]["low"] > 0
        assert plain["models"][1]["gain"] is None
        assert plain["models"][1]["episodes"]["alerts_per_hour"] > 0

    def test_what_is_no_number_becomes_none(self, evaluation):
        broken = replace(evaluation, base_rate=float("nan"), independent_labels=float("inf"))
        plain = broken.to_dict()
        assert (plain["base_rate"], plain["independent_labels"]) == (None, None)


class TestTooLittleData:
    @pytest.mark.parametrize("rows", [0, 1, 10])
    @pytest.mark.parametrize("label", [False, True])
    def test_few_rows_of_one_class_claim_nothing_and_fail_nowhere(self, split, rows, label):
        small = split[split["role"] == "test"].head(rows).assign(is_spike=label)
        answers = [forecast(name, np.zeros(rows)) for name in ("har_logistic", "xgboost")]
        found = judge(small, *answers)
        assert found.verdict.startswith("INSUFFICIENT: train has 0 non-overlapping spikes in 0 ")
        assert [reason.split()[0] for reason in found.insufficient] == [
            "train",
            "validation",
            "test",
        ]
        assert all(model.roc_auc is None and not model.is_better for model in found.models)
        assert found.models[0].average_precision is None or label
        json.dumps(found.to_dict(), allow_nan=False)

    def test_a_short_test_has_numbers_but_neither_interval_nor_claim(self, split):
        short = split[
            (split["role"] != "test") | (split["ts"] < split["ts"].max() - 20_000 * SECOND)
        ]
        found = judge(short, forecast("har_logistic", har(short)), forecast("xgboost", har(short)))
        assert not found.insufficient
        assert found.models[0].average_precision.value > found.base_rate
        assert found.models[0].average_precision.low is None
        assert found.models[1].gain.high is None
        assert "no interval and no comparison is shown, because the test has 10" in found.verdict

    @pytest.mark.parametrize(
        ("spikes", "episodes", "reason"),
        [
            (20, 10, None),
            (19, 10, "test has 19 non-overlapping spikes in 10 episodes (20 in 10 are needed)"),
            (20, 9, "test has 20 non-overlapping spikes in 9 episodes (20 in 10 are needed)"),
            (1, 1, "test has 1 non-overlapping spike in 1 episode (20 in 10 are needed)"),
        ],
    )
    def test_twenty_spikes_in_ten_episodes_are_enough(self, spikes, episodes, reason):
        summary = RoleSummary("test", 9000, 900, 0.1, spikes, episodes, None, None)
        assert verdict.shortages([summary]) == ((reason,) if reason else ())

    def test_a_role_is_counted_from_its_own_spikes(self, split):
        lone = split.assign(is_spike=split["is_spike"] & (split["role"] != "validation"))
        first = lone.index[lone["role"] == "validation"][[0, 59, 60, 899, 900]]
        lone.loc[first, "is_spike"] = True
        found = judge(lone, forecast("har_logistic", har(lone)), resamples=10)
        summary = found.roles[1]
        assert (summary.spikes, summary.separate_spikes, summary.episodes) == (5, 3, 2)
        assert len(found.insufficient) == 1
        assert found.insufficient[0].startswith("validation has 3 non-overlapping spikes in 2 ")
        assert not any(model.is_better for model in found.models)


class TestTooGood:
    def test_a_perfect_score_is_suspicious_before_anything_else(self, split):
        truth = role(split, "test")["is_spike"].to_numpy(dtype=float)
        found = judge(split, forecast("har_logistic", har(split)), forecast("xgboost", truth))
        assert found.verdict.startswith("SUSPICIOUS: XGBoost covers 100% of the way")
        assert "XGBoost gains +0." in found.suspicious[1]

    def test_the_limits_themselves_are_not_suspicious(self, evaluation):
        model, gain = result(evaluation, "xgboost"), result(evaluation, "xgboost").gain
        for skill, low, reasons in ((0.72, 0.1, 0), (0.721, 0.1, 1), (0.72, 0.101, 1)):
            changed = replace(model, skill=skill, gain=replace(gain, low=low))
            assert len(verdict.too_good([changed], "har_logistic")) == reasons

    def test_too_little_data_is_said_before_too_good(self, split):
        few = split[split["role"] == "test"]
        truth = few["is_spike"].to_numpy(dtype=float)
        found = judge(few, forecast("har_logistic", truth))
        assert found.verdict.startswith("INSUFFICIENT: ")
        assert "SUSPICIOUS: HAR-logistic covers" in found.verdict


class TestPolicies:
    @staticmethod
    def days(*rates: float, rows: int = 86_400, name: str = "test") -> list[DayRate]:
        return [DayRate(f"2026-03-{i + 1:02}", name, rows, 0, r) for i, r in enumerate(rates)]

    def test_a_base_rate_that_varies_more_than_threefold_is_not_pooled(self):
        assert verdict.lift_refusal(self.days(0.1, 0.3)) is None
        assert "from 0.10 to 0.31" in verdict.lift_refusal(self.days(0.1, 0.31))
        assert verdict.lift_refusal(self.days(0.0, 0.1)) is not None
        assert verdict.lift_refusal([]) is None

    def test_other_roles_and_scraps_of_a_day_do_not_count(self):
        assert verdict.lift_refusal(self.days(0.01, 0.3, name="train")) is None
        assert verdict.lift_refusal(self.days(0.01, rows=3599) + self.days(0.3)) is None

    def test_only_the_training_policy_withholds_the_lift(self, split):
        rows = split["role"] == "test"
        cut = split.loc[rows, "ts"].iloc[20_000]
        moved = split.assign(ts=split["ts"].where(split["ts"] < cut, split["ts"] + 86_400 * SECOND))
        moved["is_spike"] &= ~rows | (moved["ts"] < cut) | (moved.index % 10 == 0)
        answer = forecast("har_logistic", har(moved))
        trailing, training = (
            judge(moved, answer, policy=policy, resamples=20) for policy in ("trailing", "training")
        )
        assert trailing.lift_refusal is None
        assert trailing.models[0].lift is not None
        assert "more than threefold" in training.lift_refusal
        assert training.models[0].lift is None
        assert training.models[0].average_precision == trailing.models[0].average_precision
        assert "lift" not in training.verdict

    def test_base_rates_are_listed_by_day_and_role(self, split, evaluation):
        listed = {(rate.day, rate.role): rate for rate in evaluation.days}
        assert [rate.role for rate in evaluation.days[-3:]] == ["train", "validation", "test"]
        day = split["ts"].dt.strftime("%Y-%m-%d")
        rows = split[(day == "2026-03-02") & (split["role"] == "train")]
        assert listed["2026-03-02", "train"].rows == len(rows)
        assert listed["2026-03-02", "train"].base_rate == pytest.approx(rows["is_spike"].mean())


class TestLadderOnMadeUpMarkets:
    @staticmethod
    def climb(split: pd.DataFrame, names=tuple(LADDER), resamples: int = 10) -> Evaluation:
        parts = role(split, "train"), role(split, "validation")
        fitted = [fit(name, *parts, policy="trailing", seed=1) for name in names]
        answers = [model.forecast(role(split, "test")) for model in fitted]
        return judge(split, *answers, resamples=resamples)

    def test_noise_gives_lift_one_on_every_rung(self):
        markets = [split_frame(50_000, seed=seed, is_noise=True) for seed in range(8)]
        runs = [self.climb(market) for market in markets]
        for name in LADDER:
            lifts = np.array([result(run, name).lift.value for run in runs])
            error = lifts.std(ddof=1) / np.sqrt(len(lifts))
            assert abs(lifts.mean() - 1) <= 3 * error + 1e-9, (name, lifts)
            assert not any(result(run, name).is_better for run in runs)

    def test_clustered_volatility_is_climbed_in_order(self, split):
        found = self.climb(split, resamples=200)
        persistence, reference = (
            result(found, name).average_precision.value for name in ("persistence", "har_logistic")
        )
        assert persistence > 2.5 * found.base_rate
        assert reference > persistence + 0.02
        assert result(found, "persistence").gain.high < 0
        assert found.verdict.startswith("HAR-logistic has PR-AUC")

    def test_the_whole_climb_gives_the_same_evaluation_twice(self):
        market = split_frame(50_000, seed=6)
        assert self.climb(market).to_dict() == self.climb(market).to_dict()
