"""The search: folds apart and in order, the same choice twice, a budget that holds."""

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain import search as module
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import fit
from volatility_pipeline.domain.search import search, time_folds
from volatility_pipeline_tests.split_frames import role, split_frame, tiny

SECOND = np.timedelta64(1, "s")
SEARCHED = ("ewma", "logistic_regression", "random_forest", "xgboost")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return split_frame(30_000, seed=4)


def find(name: str, train: pd.DataFrame, *, seconds: float = 60, seed: int = 1):
    return search(LADDER[name], train, policy="trailing", seed=seed, seconds=seconds)


class TestFolds:
    @pytest.mark.parametrize("step", [1, 5, 7])
    def test_each_is_judged_later_than_horizon_and_embargo_after_what_it_learns_from(self, step):
        rng = np.random.default_rng(step)
        seconds = np.arange(0, 60_000, step)
        seconds = seconds[(seconds < 20_000) | (seconds > 23_000)]  # a hole in the recording
        ts = np.datetime64("2026-03-01") + seconds * SECOND
        folds = time_folds(ts, rng.random(len(ts)) < 0.1)
        assert len(folds) == 3
        judged_before = ts[0]
        for learnt, judged in folds:
            assert ts[judged[0]] - ts[learnt[-1]] >= 360 * SECOND
            assert (np.diff(learnt) == 1).all()
            assert learnt[0] == 0
            assert judged[0] > learnt[-1]
            assert ts[judged[0]] > judged_before
            judged_before = ts[judged[-1]]
        assert judged_before == ts[-1]

    def test_without_both_classes_a_fold_is_left_out(self):
        ts = np.datetime64("2026-03-01") + np.arange(0, 40_000, 5) * SECOND
        is_spike = np.arange(len(ts)) % 10 == 0
        assert len(time_folds(ts, is_spike & (np.arange(len(ts)) < 5_000))) == 2
        assert time_folds(ts, np.zeros(len(ts), bool)) == []

    @pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 100, 280])
    def test_too_few_rows_give_none(self, rows):
        ts = np.datetime64("2026-03-01") + np.arange(rows) * 5 * SECOND
        assert time_folds(ts, np.arange(rows) % 2 == 0) == []


class TestSearch:
    @pytest.mark.parametrize("name", SEARCHED)
    def test_the_best_setting_is_chosen_and_every_one_is_recorded(self, frame, name):
        found = find(name, role(frame, "train"))
        best = max(trial.average_precision for trial in found.trials)
        chosen = next(t for t in found.trials if t.average_precision == best)
        assert found.parameters == chosen.parameters
        assert found.trials[0].parameters == {}
        assert {trial.judged_on for trial in found.trials} == {"training folds"}
        tried = [tuple(sorted(trial.parameters.items())) for trial in found.trials]
        assert len(set(tried)) == len(tried)
        assert found.note is None

    def test_the_half_life_of_the_market_is_found(self, frame):
        # Its volatility forgets over a minute: among nested windows the shortest half-life wins.
        assert find("ewma", role(frame, "train")).parameters == {"inputs__half_life_seconds": 30.0}

    def test_the_same_rows_and_seed_choose_the_same(self, frame):
        train = role(frame, "train")
        assert find("xgboost", train) == find("xgboost", train)

    def test_the_order_is_drawn_from_the_seed(self, frame):
        train = role(frame, "train")
        orders = {
            tuple(str(t.parameters) for t in find("ewma", train, seed=seed).trials)
            for seed in range(8)
        }
        assert len(orders) > 1

    def test_a_spent_budget_tries_the_rung_as_it_stands_and_says_so(self, frame):
        found = find("ewma", role(frame, "train"), seconds=1e-9)
        assert [trial.parameters for trial in found.trials] == [{}]
        assert found.parameters == {}
        assert found.note == ("Search cut short: 1 of 6 settings were tried in the 1e-09 s it had.")

    def test_too_few_rows_are_not_searched_and_said(self, frame):
        found = find("ewma", tiny(frame, "train", 10, 3))
        assert (found.parameters, found.trials) == ({}, ())
        assert found.note.startswith("Not searched: too few training rows")

    def test_a_rung_without_a_grid_has_nothing_to_search(self, frame):
        assert find("har_logistic", role(frame, "train")) == module.Found({}, ())

    def test_inputs_null_everywhere_fail_nowhere(self, frame):
        void = role(frame, "train").assign(**dict.fromkeys(MODEL_INPUTS, np.nan))
        assert {t.average_precision for t in find("ewma", void).trials} == {0.0}

    def test_many_rows_are_thinned_evenly(self, frame, monkeypatch):
        seen = []
        monkeypatch.setattr(module, "SEARCH_ROWS", 1_000)
        monkeypatch.setattr(module, "time_folds", lambda ts, _: seen.append(ts) or [])
        train = role(frame, "train")
        find("ewma", train)
        assert len(train) > 3_000
        np.testing.assert_array_equal(seen[0], train["ts"].to_numpy()[:: -(-len(train) // 1_000)])


class TestSearchWithinFit:
    def test_sees_training_rows_alone_and_is_recorded_in_the_model(self, frame):
        train, validation = role(frame, "train"), role(frame, "validation")
        flipped = validation.assign(is_spike=~validation["is_spike"])
        first, second = (
            fit("ewma", train, rows, policy="trailing", seed=1, search_seconds=60)
            for rows in (validation, flipped)
        )
        assert first.parameters == second.parameters == {"inputs__half_life_seconds": 30.0}
        assert first.trials == second.trials == find("ewma", train).trials

    def test_validation_chooses_the_weighting_on_top_of_what_was_found(self, frame):
        parts = role(frame, "train"), role(frame, "validation")
        model = fit("xgboost", *parts, policy="trailing", seed=1, search_seconds=60)
        assert set(find("xgboost", parts[0]).parameters) < set(model.parameters)
        assert [t.judged_on for t in model.trials[-3:]] == ["training folds", *["validation"] * 2]
        rows = role(frame, "test")
        again = fit("xgboost", *parts, policy="trailing", seed=1, parameters=model.parameters)
        np.testing.assert_array_equal(model.forecast(rows).score, again.forecast(rows).score)
