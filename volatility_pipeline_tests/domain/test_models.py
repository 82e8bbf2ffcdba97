"""The ladder: what rungs read, what is fitted where, what little data does, how it is stored."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.metrics import f1_score

from volatility_pipeline.domain import models
from volatility_pipeline.domain.estimators import MarketInputs, NoInputsError
from volatility_pipeline.domain.ladder import COLOURS, LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import FittedModel, dump, fit, load, probabilities, scores
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
            "har_logistic",
            "logistic_regression",
            "xgboost",
        ]

    def test_every_rung_of_the_design_has_a_colour_of_its_own(self):
        assert {*LADDER, "ewma", "z_score", "random_forest"} == set(COLOURS)
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
        assert fitted["logistic_regression"].dropped_columns == never
        assert fitted["xgboost"].dropped_columns == never
        assert fitted["har_logistic"].dropped_columns == ()

    @pytest.mark.parametrize("name", LADDER)
    def test_fitting_twice_gives_equal_bits(self, frame, fitted, name):
        again = fit_on(frame, name)
        rows = role(frame, "test")
        first, second = fitted[name].forecast(rows), again.forecast(rows)
        np.testing.assert_array_equal(first.score, second.score)
        np.testing.assert_array_equal(first.probability, second.probability)
        assert replace(fitted[name], estimator=None) == replace(again, estimator=None)


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
        model = fit(name, role(frame, "train"), changed, policy="trailing", seed=SEED)
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

    @pytest.mark.parametrize("name", LADDER)
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
        if not spikes:
            assert model.decision_threshold == 0.5
            assert model.notes[-1] == "Decision threshold 0.5: no validation row is a spike."

    @pytest.mark.parametrize("name", LADDER)
    def test_ten_rows_of_each_role_are_enough_to_go_on(self, frame, name):
        parts = tiny(frame, "train", 10, 3), tiny(frame, "validation", 10, 5)
        model = fit(name, *parts, policy="trailing", seed=SEED)
        assert np.isfinite(model.forecast(parts[1]).probability).all()
        assert hasattr(model.estimator, "calibrated_classifiers_") == (name != "base_rate")

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
        copy = load(dump(model.estimator))
        np.testing.assert_array_equal(scores(copy, rows), scores(model.estimator, rows))
        np.testing.assert_array_equal(
            probabilities(copy, rows), probabilities(model.estimator, rows)
        )

    def test_the_trusted_types_are_those_that_the_ladder_needs_and_no_more(self, fitted):
        needed: set[str] = set()
        for model in fitted.values():
            needed |= set(skops.io.get_untrusted_types(data=dump(model.estimator)))
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

    @pytest.mark.parametrize("data", [b"", b"no archive", pickle.dumps(Bomb())])
    def test_what_is_no_archive_is_refused_and_never_unpickled(self, data):
        with pytest.raises(models.UntrustedModelError, match="no skops archive"):
            load(data)
