"""The timeline: what a bin shows is what was counted, and gaps stay gaps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.timeline import compared_models, timeline

START = np.datetime64("2026-03-01T10:00:00", "us")


def at(seconds: Any) -> np.ndarray:
    return START + np.asarray(seconds) * np.timedelta64(1, "s")


def forecast(probability: Any, name: str = "xgboost") -> Forecast:
    values = np.asarray(probability, dtype=float)
    return Forecast(name, values, values, 0.5)


@st.composite
def markets(draw: st.DrawFn) -> dict[str, np.ndarray]:
    seconds = draw(st.lists(st.integers(0, 100_000), min_size=1, max_size=60, unique=True))
    size = len(seconds)
    numbers = st.lists(st.floats(0, 1), min_size=size, max_size=size)
    return {
        "ts": at(sorted(seconds)),
        "future_volatility": np.array(draw(numbers)),
        "threshold": np.array(draw(numbers)),
        "probability": np.array(draw(numbers)),
    }


@given(markets(), st.integers(1, 50), st.floats(0, 1))
def test_a_bin_shows_a_spike_or_an_alert_exactly_where_one_of_its_rows_is_one(
    market, points, decision
):
    rows = {name: market[name] for name in ("ts", "future_volatility", "threshold")}
    line = timeline(**rows, forecasts=[forecast(market["probability"])], points=points)
    assert line is not None
    step = np.timedelta64(line.step_seconds, "s")
    bins = (market["ts"] - np.datetime64(line.start, "us")) // step
    assert len(line.volatility) == bins[-1] + 1 <= points + 1
    is_spike = market["future_volatility"] >= market["threshold"]
    is_alert = market["probability"] >= decision
    for place, (volatility, threshold, probability) in enumerate(
        zip(line.volatility, line.threshold, line.probabilities["xgboost"], strict=True)
    ):
        within = bins == place
        if not within.any():
            assert (volatility, threshold, probability) == (None, None, None)
        else:
            assert (volatility >= threshold) == is_spike[within].any()
            assert (probability >= decision) == is_alert[within].any()
            shown = (market["future_volatility"] == volatility) & (market["threshold"] == threshold)
            assert (shown & within).any()


def test_a_gap_stays_a_gap():
    seconds = [0, 1, 59, 60, 300, 301]
    line = timeline(
        at(seconds),
        np.array([1.0, 5.0, 2.0, 3.0, 4.0, 1.0]),
        np.array([2.0, 4.0, 3.0, 3.5, 9.0, 2.0]),
        [forecast([0.1, 0.2, 0.9, 0.3, 0.4, 0.5]), forecast([0.0] * 6, "ewma")],
        points=6,
    )
    assert (line.start, line.step_seconds) == ("2026-03-01T10:00:00", 60)
    assert line.volatility == (5.0, 3.0, None, None, None, 1.0)
    assert line.threshold == (4.0, 3.5, None, None, None, 2.0)
    assert line.probabilities == {
        "xgboost": (0.9, 0.3, None, None, None, 0.5),
        "ewma": (0.0, 0.0, None, None, None, 0.0),
    }


@pytest.mark.parametrize(
    ("hours", "step"), [(0.1, 1), (10, 60), (20, 120), (200, 1800), (24 * 720, 86_400)]
)
def test_bins_are_lengths_that_a_person_reads_off_an_axis(hours, step):
    ends = at([0, int(3600 * hours) - 1])
    line = timeline(ends, np.zeros(2), np.ones(2), [])
    assert line.step_seconds == step
    assert np.datetime64(line.start, "s").astype(int) % step == 0


def test_no_row_is_no_timeline_and_no_bin_is_refused():
    none = np.array([])
    assert timeline(at(none.astype(int)), none, none, [forecast(none)]) is None
    with pytest.raises(ValueError, match="at least one bin"):
        timeline(at([0]), np.zeros(1), np.ones(1), [], points=0)


def test_the_reference_is_compared_with_the_best_of_the_others():
    def model(name: str, value: float | None) -> Any:
        return SimpleNamespace(name=name, average_precision=value and SimpleNamespace(value=value))

    models = [model("har_logistic", 0.5), model("ewma", 0.3), model("xgboost", 0.4)]
    assert compared_models(models, "har_logistic") == ("har_logistic", "xgboost")
    assert compared_models(models, "xgboost") == ("xgboost", "har_logistic")
    undefined = [model("har_logistic", None), model("ewma", None)]
    assert compared_models(undefined, "har_logistic") == ("har_logistic",)
