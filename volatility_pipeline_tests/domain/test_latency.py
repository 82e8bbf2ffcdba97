"""How long a model takes: what is timed, and that the quick way gives the slow way's answers."""

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain import latency as module
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.latency import BUDGET_SECONDS, LEAST_CALLS, latency
from volatility_pipeline.domain.models import FittedModel, fit, probabilities, scores
from volatility_pipeline_tests.split_frames import role, split_frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return split_frame(20_000, seed=3)


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame) -> dict[str, FittedModel]:
    parts = role(frame, "train"), role(frame, "validation")
    return {name: fit(name, *parts, policy="trailing", seed=0) for name in LADDER}


@pytest.mark.parametrize("name", LADDER)
def test_answers_are_those_of_the_estimator_itself_to_the_bit(
    name: str, frame: pd.DataFrame, fitted: dict[str, FittedModel]
) -> None:
    estimator, rows = fitted[name].estimator, role(frame, "test")
    assert hasattr(estimator, "calibrated_classifiers_") or name == "base_rate"
    for some in (rows, rows.iloc[[7]]):  # a product of matrices may round a row alone differently
        expected = estimator.predict_proba(some[list(MODEL_INPUTS)])[:, 1]
        np.testing.assert_array_equal(probabilities(estimator, some), expected)


def test_forest_ranks_by_its_trees_mean_vote(
    frame: pd.DataFrame, fitted: dict[str, FittedModel]
) -> None:
    estimator, rows = fitted["random_forest"].estimator, role(frame, "test")
    pipeline = estimator.estimator.estimator
    expected = pipeline.predict_proba(rows[list(MODEL_INPUTS)])[:, 1]
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(scores(estimator, rows), expected)


class Counting:
    """Notes what it is asked; it answers nothing."""

    def __init__(self) -> None:
        self.asked: list[pd.DataFrame] = []

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        self.asked.append(rows)
        return np.zeros((len(rows), 2))

    def __getitem__(self, _: int) -> None:
        """As much of a pipeline as is looked at."""


def test_calls_take_the_rows_in_turn_and_begin_again(frame: pd.DataFrame) -> None:
    asked, three = Counting(), frame.head(3)
    found = latency(asked, three, rows=2, seconds=0, decision_threshold=0.5)
    assert found.rows == 2
    assert found.calls == LEAST_CALLS == len(asked.asked) - 1  # the first is not counted
    taken = [list(rows["mid"]) for rows in asked.asked[:3]]
    first, second, third = three["mid"]
    assert taken == [[first, second], [third, first], [second, third]]
    assert all(list(rows) == list(MODEL_INPUTS) for rows in asked.asked)


def test_measures_are_in_order_and_agree(
    frame: pd.DataFrame, fitted: dict[str, FittedModel]
) -> None:
    estimator = fitted["har_logistic"].estimator
    found = latency(estimator, frame, rows=10, seconds=0.05, decision_threshold=0.5)
    assert 0 < found.p50 <= found.p95 <= found.p99
    assert found.cpu > 0
    assert 10 / found.p99 <= found.rows_per_second * 1.01
    assert found.budget is None
    assert found.is_met is None


def test_budget_is_of_single_rows_and_of_a_thousand(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dict(BUDGET_SECONDS) == {1: 0.010, 1000: 1.0}
    for budget, is_met in ((0.0, False), (60.0, True)):
        monkeypatch.setattr(module, "BUDGET_SECONDS", {1: budget})
        found = latency(Counting(), frame, rows=1, seconds=0, decision_threshold=0.5)
        assert (found.budget, found.is_met) == (budget, is_met)
