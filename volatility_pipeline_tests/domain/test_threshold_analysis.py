"""Spike rates by percentile: constants of training rows alone, counts by day, and no row at all."""

import json

import numpy as np
import pytest

from volatility_pipeline.domain.splits import split
from volatility_pipeline.domain.threshold_analysis import (
    LABEL_PERCENTILE,
    PERCENTILES,
    DaySpikes,
    ThresholdAnalysis,
    analyse_thresholds,
)

START = np.datetime64("2026-03-01T22:30:00", "us")
ROWS = 12_000


def rows(count: int = ROWS, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, future volatilities with some unknown, and trailing thresholds."""
    rng = np.random.default_rng(seed)
    ts = START + np.arange(count).astype("timedelta64[s]")
    future = rng.exponential(1e-5, size=count)
    future[rng.random(count) < 0.1] = np.nan
    future[rng.random(count) < 0.1] = 0
    return ts, future, np.full(count, 2e-5)


def analysed(
    ts: np.ndarray, future: np.ndarray, trailing: np.ndarray, days: tuple[DaySpikes, ...] = ()
) -> ThresholdAnalysis:
    return analyse_thresholds(ts, future, trailing, days, product_id="BTC-USD")


def constants(found: ThresholdAnalysis) -> dict[int, float]:
    return {
        each.percentile: each.threshold
        for each in found.percentiles
        if each.policy == "training" and each.threshold is not None
    }


def test_the_constant_of_the_labels_percentile_is_the_splits_own() -> None:
    made = split(*rows(), policy="training")
    own = constants(analysed(*rows()))
    assert tuple(own) == PERCENTILES
    assert own[LABEL_PERCENTILE] == made.threshold[0]
    assert sorted(own.values()) == list(own.values())


def test_what_comes_after_training_moves_no_constant() -> None:
    ts, future, trailing = rows()
    made = split(ts, future, trailing, policy="training")
    last = np.flatnonzero(made.role == "train")[-1]
    later = np.where(np.arange(ROWS) > last, 100 * future, future)
    assert constants(analysed(ts, later, trailing)) == constants(analysed(ts, future, trailing))
    earlier = np.where(np.arange(ROWS) <= last, 100 * future, future)
    assert constants(analysed(ts, earlier, trailing)) != constants(analysed(ts, future, trailing))


def test_every_labelled_row_counts_on_its_day_and_no_zero_is_a_spike() -> None:
    ts, future, trailing = rows()
    found = analysed(ts, future, trailing)
    threshold = constants(found)[80]
    for day in ("2026-03-01", "2026-03-02"):
        is_day = (ts.astype("datetime64[D]") == np.datetime64(day)) & ~np.isnan(future)
        expected = DaySpikes(
            "training", 80, day, int(is_day.sum()), int((future[is_day] >= threshold).sum())
        )
        assert expected in found.days
    quiet = analysed(ts, np.zeros(ROWS), trailing)
    assert constants(quiet)[99] == 0
    assert {each.rate for each in quiet.percentiles} == {0.0}


def test_pooled_rates_are_of_all_days_and_extremes_of_days_with_an_hour() -> None:
    given = (
        DaySpikes("trailing", 90, "2026-03-01", 5_400, 1_080),
        DaySpikes("trailing", 90, "2026-03-02", 6_600, 660),
        DaySpikes("trailing", 90, "2026-03-03", 100, 100),
    )
    found = analysed(*rows(), given)
    pooled = found.percentiles[0]
    assert (pooled.policy, pooled.percentile, pooled.threshold) == ("trailing", 90, None)
    assert (pooled.rows, pooled.spikes) == (12_100, 1_840)
    assert pooled.rate == pytest.approx(1_840 / 12_100)
    assert (pooled.lowest, pooled.highest) == (0.1, 0.2)
    training = [each.percentile for each in found.percentiles[1:]]
    assert training == list(PERCENTILES)
    assert found.training_from == "2026-03-01T22:30:00"
    assert found.training_until is not None
    assert "2026-03-02T00:" in found.training_until


def test_short_days_alone_have_a_rate_and_no_extremes() -> None:
    found = analysed(*rows(600))
    assert {each.lowest for each in found.percentiles} == {None}
    assert all(0 < each.rate < 0.3 for each in found.percentiles)


@pytest.mark.parametrize("count", [0, 3])
def test_without_a_label_there_is_no_rate(count: int) -> None:
    ts, future, trailing = rows(count)
    found = analysed(ts, np.full_like(future, np.nan), trailing)
    assert found == ThresholdAnalysis("BTC-USD", None, None, (), ())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["percentiles"] == []
