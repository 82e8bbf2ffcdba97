"""The ladder: what rungs read, what is fitted where, what little data does, how it is stored."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.metrics import average_precision_score, f1_score

from volatility_pipeline.domain import models
from volatility_pipeline.domain.estimators import (
    EwmaInputs,
    MarketInputs,
    NoInputsError,
    ZScore,
)
from volatility_pipeline.domain.ladder import COLOURS, LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import FittedModel, fit, load, probabilities, scores
from volatility_pipeline_tests.split_frames import role, split_frame, tiny

SEED = 7


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return split_frame(60_000, seed=1)


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame) -> dict[str, FittedModel]:
    return {name: fit_on(frame, name) for name in LADDER}


def fit_on(frame: pd.DataFrame, name: str) -> FittedModel:
    parts = role(frame, "train"), role(frame, "validation")
    return fit(name, *parts, policy="trailing", seed=SEED)


def pipeline_of(model: FittedModel):
    return getattr(getattr(model.estimator, "estimator", None), "estimator", model.estimator)


class TestLadder:
    def test_rungs_stand_in_the_order_in_which_they_are_climbed(self):
        assert list(LADDER) == [
            "base_rate",
            "persistence",
            "ewma",
            "har_logistic",
            "z_score",
            "logistic_regression",
            "random_forest",
            "xgboost",
        ]

    def test_every_rung_of_the_design_has_a_colour_of_its_own(self):
        assert list(LADDER) == list(COLOURS)
        assert len(set(COLOURS.values())) == len(COLOURS)
        assert LADDER["xgboost"].colour == COLOURS["xgboost"]

    def test_importing_the_core_loads_no_heavy_library(self):
        code = (
            "import sys, volatility_pipeline.domain.evaluation, volatility_pipeline.domain.models, "
            "volatility_pipeline.reports.evaluation; "
            "print(sorted({'sklearn', 'xgboost', 'arch', 'skops', 'matplotlib', 'pandas', 'scipy',"
            "'dagster', 'mlflow', 'duckdb'} & set(sys.modules)))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert run.stdout.strip() == b"[]"


class TestInputs:
    ROW = pd.DataFrame(
        {
            "realized_volatility_60s": [4e-5, 0.0, np.nan],
            "price_velocity_60s": [5.0, 0.0, 1.0],
            "spread_mean_30s": [10.0, np.nan, 1.0],
            "trade_intensity_60s": [7, 0, 1],
            "order_book_imbalance_60s": [0.25, np.nan, 0.5],
            "mid": [1e5, 1e5, 1e5],
            "threshold": [1e-5, 1e-5, 0.0],
        }
    )

    def test_each_kind_of_column_is_transformed_as_stated(self):
        columns = [name for name in self.ROW if name != "mid"]
        matrix = MarketInputs(columns, relative_to_threshold=True).fit_transform(self.ROW)
        expected = [
            [np.log(4), np.log1p(0.5), np.log1p(1.0), np.log(8), 0.25, np.log(1e-5)],
            [np.log(1e-2), 0.0, np.nan, 0.0, np.nan, np.log(1e-5)],
            [np.nan, np.log1p(0.1), np.log1p(0.1), np.log(2), 0.5, np.log(1e-7)],
        ]
        np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-15)

    def test_a_volatility_stands_alone_where_the_threshold_is_constant(self):
        inputs = MarketInputs(["realized_volatility_60s"], relative_to_threshold=False)
        matrix = inputs.fit_transform(self.ROW)
        np.testing.assert_allclose(matrix[:2, 0], np.log([4e-5, 1e-7]))

    def test_columns_null_in_all_training_rows_are_dropped_and_named(self):
        columns = ["realized_volatility_60s", "order_book_imbalance_60s"]
        inputs = MarketInputs(columns).fit(self.ROW.assign(order_book_imbalance_60s=np.nan))
        assert inputs.dropped_ == ["order_book_imbalance_60s"]
        assert list(inputs.get_feature_names_out()) == ["realized_volatility_60s"]
        assert inputs.transform(self.ROW).shape == (3, 1)

    def test_no_column_left_is_an_error_that_names_them(self):
        with pytest.raises(NoInputsError, match="spread_mean_30s"):
            MarketInputs(["spread_mean_30s"]).fit(self.ROW.assign(spread_mean_30s=np.nan))

    @pytest.mark.parametrize("name", LADDER)
    def test_the_price_level_changes_no_answer(self, frame, fitted, name):
        rows = role(frame, "test").head(500)
        dollars = [c for c in rows if c.startswith(("mid", "price_velocity", "spread_mean"))]
        doubled = rows.assign(**{column: 2 * rows[column] for column in dollars})
        np.testing.assert_array_equal(
            scores(fitted[name].estimator, rows), scores(fitted[name].estimator, doubled)
        )

    def test_only_the_trailing_policy_makes_the_threshold_an_input(self):
        def columns(policy: str) -> list[str]:
            return LADDER["xgboost"].build(policy=policy, seed=1).named_steps["inputs"].columns

        assert "threshold" in columns("trailing")
        assert "threshold" not in columns("training")


class TestRungs:
    def test_the_base_rate_is_that_of_training(self, frame, fitted):
        forecast = fitted["base_rate"].forecast(role(frame, "test"))
        assert set(forecast.probability) == {role(frame, "train")["is_spike"].mean()}

    def test_persistence_ranks_by_volatility_over_threshold(self, frame, fitted):
        rows = role(frame, "test")
        ratio = rows["realized_volatility_60s"] / rows["threshold"]
        score = scores(fitted["persistence"].estimator, rows)
        np.testing.assert_allclose(score, np.log(ratio), atol=1e-12)

    def test_persistence_ranks_by_volatility_alone_under_the_training_policy(self):
        frame = split_frame(30_000, seed=2, policy="training")
        parts = role(frame, "train"), role(frame, "validation")
        model = fit("persistence", *parts, policy="training", seed=SEED)
        rows = role(frame, "test")
        np.testing.assert_allclose(
            scores(model.estimator, rows), np.log(rows["realized_volatility_60s"]), atol=1e-12
        )

    def test_har_reads_five_horizons_and_nothing_else(self, frame, fitted):
        rows = role(frame, "test").head(300)
        others = [c for c in MODEL_INPUTS if "realized_volatility" not in c and c != "threshold"]
        blind = rows.assign(**dict.fromkeys(others, np.nan))
        model = fitted["har_logistic"]
        np.testing.assert_array_equal(scores(model.estimator, rows), scores(model.estimator, blind))
        assert pipeline_of(model).named_steps["inputs"].kept_ == [
            f"realized_volatility_{seconds}s" for seconds in (30, 60, 300, 900, 3600)
        ]

    def test_columns_that_training_never_saw_are_named_by_every_learner(self, fitted):
        never = tuple(f"volume_velocity_{seconds}s" for seconds in (30, 60, 300))
        for name in ("logistic_regression", "random_forest", "xgboost"):
            assert fitted[name].dropped_columns == never
        assert fitted["har_logistic"].dropped_columns == ()

    @pytest.mark.parametrize("name", LADDER)
    def test_fitting_twice_gives_equal_bits(self, frame, fitted, name):
        again = fit_on(frame, name)
        rows = role(frame, "test")
        first, second = fitted[name].forecast(rows), again.forecast(rows)
        np.testing.assert_array_equal(first.score, second.score)
        np.testing.assert_array_equal(first.probability, second.probability)
        assert replace(fitted[name], estimator=None) == replace(again, estimator=None)


class TestEwma:
    WINDOWS = (30, 60, 300, 900, 3600)
    COLUMNS = tuple(f"realized_volatility_{seconds}s" for seconds in WINDOWS)

    def row(self, returns: np.ndarray) -> pd.DataFrame:
        """The nested volatilities at the end of some returns; null where they are too few."""
        values = {
            column: returns[-seconds:].std(ddof=1) if len(returns) >= seconds else np.nan
            for column, seconds in zip(self.COLUMNS, self.WINDOWS, strict=True)
        }
        return pd.DataFrame([{**values, "threshold": 2e-5}])

    def staircase(self, returns: np.ndarray, half_life: float) -> float:
        """The EWMA of squared returns with the kernel averaged over each ring, from its terms."""
        age = np.arange(len(returns), 0, -1)
        kernel = 0.5 ** ((age - 1) / half_life) - 0.5 ** (age / half_life)
        ring = np.searchsorted(self.WINDOWS, age)
        for number in np.unique(ring):
            kernel[ring == number] = kernel[ring == number].mean()
        return float(np.sqrt(kernel @ returns**2 / kernel.sum()))

    @pytest.mark.parametrize("seconds", [3600, 900, 300])
    @pytest.mark.parametrize("half_life", [30.0, 120.0, 1200.0])
    def test_is_the_staircase_mean_of_squared_returns_over_what_is_there(self, seconds, half_life):
        rng = np.random.default_rng(3)
        returns = rng.normal(size=seconds) * np.linspace(1e-5, 4e-5, seconds)
        for window in self.WINDOWS:  # no drift in any window: its variance is then a mean square
            if window <= seconds:
                returns[-window:] -= returns[-window:].mean()
        inputs = EwmaInputs(self.COLUMNS, False, half_life)
        found = np.exp(inputs.fit(self.row(returns)).transform(self.row(returns)))
        assert found.shape == (1, 1)
        assert found[0, 0] == pytest.approx(self.staircase(returns, half_life), rel=0.02)

    def test_constant_volatility_is_itself_whatever_is_missing(self):
        rows = pd.DataFrame(2e-5, index=range(4), columns=[*self.COLUMNS, "threshold"])
        rows.loc[1, "realized_volatility_3600s"] = np.nan
        rows.loc[2, ["realized_volatility_900s", "realized_volatility_3600s"]] = np.nan
        rows.loc[3, list(self.COLUMNS)] = np.nan
        found = EwmaInputs(self.COLUMNS, True, 120.0).fit(rows).transform(rows)
        np.testing.assert_allclose(found[:, 0], [0, 0, 0, np.nan], atol=1e-12)

    def test_a_shorter_half_life_trusts_shorter_windows(self):
        burst = pd.DataFrame([dict.fromkeys(self.COLUMNS, 1e-5)]).assign(
            realized_volatility_30s=9e-5
        )
        short, long = (
            EwmaInputs(self.COLUMNS, False, half_life).fit(burst).transform(burst)[0, 0]
            for half_life in (30.0, 600.0)
        )
        assert np.log(9e-5) > short > long > np.log(1e-5)

    def test_a_row_s_bits_do_not_depend_on_its_neighbours(self, frame, fitted):
        rows = role(frame, "test").head(200)
        alone = [scores(fitted["ewma"].estimator, rows.iloc[[n]])[0] for n in range(0, 200, 20)]
        np.testing.assert_array_equal(alone, scores(fitted["ewma"].estimator, rows)[::20])


class TestZScore:
    def test_ranks_by_deviations_of_volatility_over_threshold_from_its_training_mean(
        self, frame, fitted
    ):
        train, rows = role(frame, "train"), role(frame, "test")
        known, asked = (f["realized_volatility_60s"] / f["threshold"] for f in (train, rows))
        np.testing.assert_allclose(
            scores(fitted["z_score"].estimator, rows),
            (asked - known.mean()) / known.std(ddof=0),
            atol=1e-9,
        )

    @pytest.mark.parametrize("budget", [None, 3.0])
    def test_alerts_two_deviations_above_the_mean_whatever_is_asked_of_others(self, frame, budget):
        parts = role(frame, "train"), role(frame, "validation")
        model = fit("z_score", *parts, policy="trailing", seed=SEED, alerts_per_hour=budget)
        assert hasattr(model.estimator, "calibrated_classifiers_")
        forecast = model.forecast(role(frame, "test"))
        is_alert = forecast.probability >= forecast.decision_threshold
        np.testing.assert_array_equal(is_alert, forecast.score >= 2)
        assert 0 < is_alert.sum() < len(is_alert)

    def test_a_reversed_ranking_leaves_the_rule_as_it_is(self, frame):
        validation = role(frame, "validation")
        reversed_rows = validation.assign(is_spike=~validation["is_spike"])
        parts = role(frame, "train"), reversed_rows
        model = fit("z_score", *parts, policy="trailing", seed=SEED)
        forecast = model.forecast(role(frame, "test"))
        is_alert = forecast.probability >= forecast.decision_threshold
        np.testing.assert_array_equal(is_alert, forecast.score >= 2)
        assert model.notes[-1] == "Not calibrated: its alert rule would be turned round."

    def test_values_all_alike_in_training_have_a_deviation_of_one(self):
        rule = ZScore(2.0).fit(np.full((5, 1), np.log(3e-5)), None)
        assert rule.decision_function(np.log([[3e-5], [2.0 + 3e-5]])) == pytest.approx([0, 2])


class TestXgboost:
    def test_validation_chooses_the_weighting_and_nothing_else(self, frame, fitted):
        none, balanced = fitted["xgboost"].trials
        assert {none.judged_on, balanced.judged_on} == {"validation"}
        assert none.parameters == {"model__scale_pos_weight": 1.0}
        assert balanced.parameters == {"model__scale_pos_weight": "balanced"}
        best = max(none, balanced, key=lambda trial: trial.average_precision)
        assert fitted["xgboost"].parameters == best.parameters
        rows = role(frame, "validation")
        precision = average_precision_score(
            rows["is_spike"], scores(fitted["xgboost"].estimator, rows)
        )
        assert precision == pytest.approx(best.average_precision)

    def test_balanced_is_quiet_rows_over_spikes_in_training(self, frame):
        parts = role(frame, "train"), role(frame, "validation")
        given = {"model__scale_pos_weight": "balanced"}
        model = fit("xgboost", *parts, policy="trailing", seed=SEED, parameters=given)
        assert model.parameters == given
        assert model.trials == ()
        spikes = parts[0]["is_spike"].sum()
        weight = pipeline_of(model).named_steps["model"].scale_pos_weight
        assert weight == pytest.approx((len(parts[0]) - spikes) / spikes)


class TestForest:
    def test_is_capped(self, fitted):
        forest = pipeline_of(fitted["random_forest"]).named_steps["model"]
        assert len(forest.estimators_) == 100
        assert max(tree.get_depth() for tree in forest.estimators_) <= 6
        smallest = min(
            tree.tree_.n_node_samples[tree.tree_.children_left < 0].min()
            for tree in forest.estimators_
        )
        assert smallest > 5


class TestGivenParameters:
    def test_those_of_an_earlier_fold_are_taken_as_they_are(self, frame):
        parts = role(frame, "train"), role(frame, "validation")
        given = {"inputs__half_life_seconds": 30.0}
        first = fit(
            "ewma", *parts, policy="trailing", seed=SEED, parameters=given, search_seconds=60
        )
        assert (first.parameters, first.trials) == (given, ())
        plain = fit("ewma", *parts, policy="trailing", seed=SEED)
        rows = role(frame, "test")
        assert (first.forecast(rows).score != plain.forecast(rows).score).any()
        assert plain.parameters == {}


class TestWhatIsFittedWhere:
    def test_medians_are_those_of_training_rows_alone(self, frame, fitted):
        pipeline = pipeline_of(fitted["logistic_regression"])
        matrix = pipeline.named_steps["inputs"].transform(role(frame, "train"))
        np.testing.assert_array_equal(
            pipeline.named_steps["impute"].statistics_, np.nanmedian(matrix, axis=0)
        )
        assert np.isnan(matrix).any()

    def test_a_missing_value_is_the_median_with_an_indicator(self, frame):
        gappy = frame.copy()
        gappy.loc[:99, "realized_volatility_3600s"] = np.nan
        pipeline = pipeline_of(fit_on(gappy, "har_logistic"))
        matrix = pipeline[:2].transform(gappy[98:102])
        assert (matrix[:2, 4] == pipeline.named_steps["impute"].statistics_[4]).all()
        assert matrix[:, 5:].tolist() == [[1.0], [1.0], [0.0], [0.0]]

    @pytest.mark.parametrize("name", LADDER)
    def test_validation_rows_change_no_score(self, frame, fitted, name):
        changed = role(frame, "validation").copy()
        changed[list(MODEL_INPUTS)] *= 3
        changed["is_spike"] = ~changed["is_spike"]
        # XGBoost's weighting they may choose: see TestXgboost.
        model = fit(
            name,
            role(frame, "train"),
            changed,
            policy="trailing",
            seed=SEED,
            parameters=fitted[name].parameters,
        )
        rows = role(frame, "test")
        np.testing.assert_array_equal(
            scores(model.estimator, rows), scores(fitted[name].estimator, rows)
        )

    @pytest.mark.parametrize("name", LADDER)
    def test_what_is_no_input_is_not_read(self, frame, fitted, name):
        rows = frame.drop(columns=["future_volatility_60s", "product_id", "ts"])
        model = fit_on(rows, name)
        np.testing.assert_array_equal(
            probabilities(model.estimator, rows.drop(columns=["is_spike", "role"])),
            probabilities(fitted[name].estimator, frame),
        )

    def test_rows_of_another_role_are_refused(self, frame):
        train, test, leaky = (
            role(frame, "train"),
            role(frame, "test"),
            frame[frame["role"] != "train"],
        )
        with pytest.raises(ValueError, match="role test were given as validation"):
            fit("base_rate", train, test, policy="trailing", seed=SEED)
        with pytest.raises(ValueError, match="role test, validation were given as train"):
            fit("base_rate", leaky, leaky, policy="trailing", seed=SEED)

    @pytest.mark.parametrize("name", [name for name in LADDER if name != "base_rate"])
    def test_probabilities_are_calibrated_on_validation_rows(self, frame, fitted, name):
        rows = role(frame, "validation")
        forecast = fitted[name].forecast(rows)
        assert forecast.probability.mean() == pytest.approx(rows["is_spike"].mean(), abs=2e-3)
        order = np.argsort(forecast.score, kind="stable")
        assert (np.diff(forecast.probability[order]) >= 0).all()

    @pytest.mark.parametrize("name", [name for name in LADDER if name != "z_score"])
    def test_the_decision_threshold_has_the_best_f1_on_validation_rows(self, frame, fitted, name):
        rows = role(frame, "validation")
        probability = fitted[name].forecast(rows).probability

        def f1(threshold: float) -> float:
            return f1_score(rows["is_spike"], probability >= threshold)

        best = f1(fitted[name].decision_threshold)
        others = np.quantile(probability, np.linspace(0, 1, 101))
        assert best >= max(f1(threshold) for threshold in others) > 0


class TestTooLittleData:
    """No case fails: each falls back to something simpler, and says so."""

    @pytest.mark.parametrize("name", LADDER)
    @pytest.mark.parametrize("spikes", [0, 10])
    def test_one_class_in_training_gives_the_constant_rate(self, frame, name, spikes):
        train = tiny(frame, "train", 10, spikes)
        validation = tiny(frame, "validation", 100, 30)
        model = fit(name, train, validation, policy="trailing", seed=SEED)
        assert set(model.forecast(validation).probability) == {spikes / 10}
        said = [note for note in model.notes if f"{spikes} of 10 training rows" in note]
        assert len(said) == (name != "base_rate")

    @pytest.mark.parametrize("name", LADDER)
    @pytest.mark.parametrize("spikes", [0, 4, 97])
    def test_few_of_a_class_in_validation_leaves_probabilities_uncalibrated(
        self, frame, name, spikes
    ):
        validation = tiny(frame, "validation", 100, spikes)
        model = fit(name, role(frame, "train"), validation, policy="trailing", seed=SEED)
        probability = model.forecast(validation).probability
        assert ((probability >= 0) & (probability <= 1)).all()
        assert not hasattr(model.estimator, "calibrated_classifiers_")
        if name != "base_rate":
            assert f"Not calibrated: {spikes} of 100 validation rows are spikes" in model.notes[0]
        if name == "z_score":
            assert model.decision_threshold == 0.5  # where its z is 2
        elif not spikes:
            assert model.decision_threshold == 0.5
            assert model.notes[-1] == "Decision threshold 0.5: no validation row is a spike."

    @pytest.mark.parametrize("name", LADDER)
    def test_ten_rows_of_each_role_are_enough_to_go_on(self, frame, name):
        parts = tiny(frame, "train", 10, 3), tiny(frame, "validation", 10, 5)
        model = fit(name, *parts, policy="trailing", seed=SEED)
        assert np.isfinite(model.forecast(parts[1]).probability).all()
        # Here high volatility comes without spikes, and the z-score rule keeps its direction.
        is_calibrated = hasattr(model.estimator, "calibrated_classifiers_")
        assert is_calibrated == (name not in ("base_rate", "z_score"))

    @pytest.mark.parametrize("name", LADDER)
    def test_no_rows_at_all_say_nothing_and_fail_nowhere(self, frame, name):
        empty = frame.head(0)
        model = fit(name, empty, empty, policy="trailing", seed=SEED)
        assert "0 of 0 training rows" in model.notes[0]
        assert model.forecast(empty).probability.shape == (0,)
        assert set(model.forecast(role(frame, "test")).probability) == {0.0}

    @pytest.mark.parametrize("name", [name for name in LADDER if name != "base_rate"])
    def test_no_inputs_at_all_give_the_constant_rate(self, frame, name):
        void = frame.assign(**dict.fromkeys(MODEL_INPUTS, np.nan))
        model = fit_on(void, name)
        rate = role(frame, "train")["is_spike"].mean()
        assert set(model.forecast(role(void, "test")).probability) == {rate}
        assert "all its inputs are null" in model.notes[0]
        assert {"realized_volatility_60s"} <= set(model.dropped_columns) <= set(MODEL_INPUTS)

    def test_a_reversed_ranking_is_said(self, frame):
        validation = role(frame, "validation")
        reversed_rows = validation.assign(is_spike=~validation["is_spike"])
        parts = role(frame, "train"), reversed_rows
        model = fit("persistence", *parts, policy="trailing", seed=SEED)
        assert model.notes == ("On the validation rows a higher score means fewer spikes.",)


class Foreign:
    """No model of ours."""


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a model file was unpickled",))


class TestStorage:
    @pytest.mark.parametrize("name", LADDER)
    def test_a_model_comes_back_with_equal_bits(self, frame, fitted, name):
        model, rows = fitted[name], role(frame, "test")
        copy = load(skops.io.dumps(model.estimator))
        np.testing.assert_array_equal(scores(copy, rows), scores(model.estimator, rows))
        np.testing.assert_array_equal(
            probabilities(copy, rows), probabilities(model.estimator, rows)
        )

    def test_the_trusted_types_are_those_that_the_ladder_needs_and_no_more(self, fitted):
        needed: set[str] = set()
        for model in fitted.values():
            needed |= set(skops.io.get_untrusted_types(data=skops.io.dumps(model.estimator)))
        assert needed == set(models.TRUSTED_TYPES)

    def test_an_untrusted_type_is_refused_by_name(self, fitted):
        estimator = pipeline_of(fitted["har_logistic"])
        estimator.stowaway = Foreign()
        try:
            data = skops.io.dumps(estimator)
        finally:
            del estimator.stowaway
        with pytest.raises(models.UntrustedModelError, match="Foreign"):
            load(data)

    def test_a_tree_with_a_stowaway_is_refused_as_well(self, fitted):
        estimator = pipeline_of(fitted["random_forest"])
        estimator.named_steps["model"].estimators_[0].stowaway = Foreign()
        try:
            data = skops.io.dumps(estimator)
        finally:
            del estimator.named_steps["model"].estimators_[0].stowaway
        with pytest.raises(models.UntrustedModelError, match="Foreign"):
            load(data)

    @pytest.mark.parametrize("data", [b"", b"no archive", pickle.dumps(Bomb())])
    def test_what_is_no_archive_is_refused_and_never_unpickled(self, data):
        with pytest.raises(models.UntrustedModelError, match="no skops archive"):
            load(data)
