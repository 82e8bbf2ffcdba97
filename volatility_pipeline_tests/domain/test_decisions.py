"""Decision thresholds: the best F1, and a budget of alerts per hour."""

import numpy as np
import pytest

from volatility_pipeline.domain.decisions import within_alert_budget
from volatility_pipeline.domain.metrics import hours_covered
from volatility_pipeline.domain.models import fit
from volatility_pipeline_tests.split_frames import role, split_frame

START = np.datetime64("2026-03-01")
SECOND = np.timedelta64(1, "s")


def at(*seconds: int) -> np.ndarray:
    return START + np.array(seconds) * SECOND


def alerts(ts: np.ndarray, is_alert: np.ndarray) -> int:
    """What a person is told, counted from its definition: one that stays on each minute anew."""
    count, until = 0, 0.0
    for second in ((ts[is_alert] - ts[0]) / SECOND).tolist():
        if second >= until:
            count, until = count + 1, second + 60
    return count


@pytest.mark.parametrize(("second", "expected"), [(159, 0.7), (160, 0.9)])
def test_an_alert_less_than_a_minute_after_one_costs_nothing(second, expected):
    ts = START + np.arange(3600) * SECOND
    probability = np.zeros(3600)
    probability[[100, second, 2000]] = [0.9, 0.7, 0.6]
    assert within_alert_budget(ts, probability, alerts_per_hour=1) == expected


@pytest.mark.parametrize(("budget", "expected"), [(1, 0.9), (2, 0.8), (59, 0.8), (60, 0.1)])
def test_an_alert_that_stays_on_costs_one_a_minute(budget, expected):
    ts = START + np.arange(3600) * SECOND
    probability = np.full(3600, 0.1)
    probability[1000:1120] = 0.8
    probability[1000] = 0.9
    assert within_alert_budget(ts, probability, alerts_per_hour=budget) == expected


@pytest.mark.parametrize("budget", [0, 0.4, 1, 2.5, 6, 20, 59, 61])
@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_kept_and_the_next_lower_probability_would_break_it(budget, seed):
    rng = np.random.default_rng(seed)
    ts = START + np.flatnonzero(rng.random(5_000) < 0.8) * SECOND
    wander = np.cumsum(rng.normal(size=len(ts)))
    probability = np.round(1 / (1 + np.exp(-(wander - wander.mean()) / 20)), 2)  # with ties
    threshold = within_alert_budget(ts, probability, alerts_per_hour=budget)
    allowed = budget * hours_covered(ts)
    counts = {p: alerts(ts, probability >= p) for p in np.unique(probability)}
    assert all((count <= allowed) == (p >= threshold) for p, count in counts.items())


def test_no_budget_raises_no_alert_and_no_rows_give_a_half():
    ts, probability = at(0, 1, 2), np.array([0.2, 0.9, 1.0])
    threshold = within_alert_budget(ts, probability, alerts_per_hour=0)
    assert threshold > 1.0
    assert not (probability >= threshold).any()
    assert within_alert_budget(ts[:0], probability[:0], alerts_per_hour=1) == 0.5


@pytest.mark.parametrize("name", ["har_logistic", "xgboost"])
def test_fit_chooses_by_the_budget_where_one_is_given(name):
    frame = split_frame(30_000, seed=5)
    train, validation = role(frame, "train"), role(frame, "validation")
    models = [
        fit(name, train, validation, policy="trailing", seed=1, alerts_per_hour=budget)
        for budget in (1.0, 4.0, None)
    ]
    ts = validation["ts"].to_numpy()
    raised = [
        alerts(ts, model.forecast(validation).probability >= model.decision_threshold)
        / hours_covered(ts)
        for model in models
    ]
    assert raised[0] <= 1.0
    assert raised[1] <= 4.0
    assert models[0].decision_threshold > models[1].decision_threshold
    np.testing.assert_array_equal(
        models[0].forecast(validation).probability, models[2].forecast(validation).probability
    )
