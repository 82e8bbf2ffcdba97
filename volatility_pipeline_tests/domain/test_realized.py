"""What a day's predictions came to, and when nothing is claimed of them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss

from volatility_pipeline.domain.realized import RealizedDay, realized_day


def predictions(spike_starts: list[int], *, rows: int = 20_000) -> pd.DataFrame:
    """Rows of every second; a spike lasts 30 s from each start."""
    rng = np.random.default_rng(0)
    seconds = np.arange(rows)
    is_spike = np.zeros(rows, dtype=bool)
    for start in spike_starts:
        is_spike[start : start + 30] = True
    probability = np.clip(0.3 * is_spike + rng.uniform(0, 0.7, rows), 0, 1).round(2)
    return pd.DataFrame(
        {
            "ts": pd.Timestamp("2026-03-01") + pd.to_timedelta(seconds, unit="s"),
            "probability": probability,
            "is_alert": probability >= 0.6,
            "out_of_sample": True,
            "is_spike": is_spike.astype(object),
        }
    )


APART = [*range(500, 20_000, 950), *range(560, 20_000, 950)]
"""Two spikes in each of twenty episodes."""


def test_counts_and_measures_are_of_out_of_sample_rows_with_known_labels_alone() -> None:
    rows = predictions(APART)
    rows.loc[:399, "out_of_sample"] = False
    rows.loc[:399, "is_spike"] = True
    rows.loc[rows.index[-60:], "is_spike"] = None
    found = realized_day(rows)
    judged = rows.iloc[400:-60]
    target = judged["is_spike"].astype(bool)
    assert found.rows == 20_000
    assert found.alerts == rows["is_alert"].sum()
    assert found.out_of_sample_rows == 19_600
    assert found.judged_rows == 19_540
    assert found.base_rate == target.mean()
    assert found.average_precision == pytest.approx(
        average_precision_score(target, judged["probability"]), abs=1e-12
    )
    assert found.brier == pytest.approx(brier_score_loss(target, judged["probability"]))


@pytest.mark.parametrize(
    "starts",
    [
        APART[:9],  # nine spikes in nine episodes
        [*range(500, 8_000, 950), *range(560, 8_000, 70)],  # many spikes, eight episodes
        [*range(500, 17_000, 950)],  # eighteen episodes of one spike each
    ],
)
def test_too_few_spikes_or_episodes_give_a_base_rate_and_no_claim(starts: list[int]) -> None:
    found = realized_day(predictions(starts))
    assert found.base_rate is not None
    assert found.base_rate > 0
    assert found.average_precision is None
    assert found.brier is None


@pytest.mark.parametrize("column", ["out_of_sample", "is_spike"])
def test_nothing_unseen_or_nothing_known_gives_no_number(column: str) -> None:
    rows = predictions(APART).assign(**{column: False if column == "out_of_sample" else None})
    found = realized_day(rows)
    assert found.judged_rows == 0
    assert (found.base_rate, found.average_precision, found.brier) == (None, None, None)


def test_no_row_is_a_day_of_nothing() -> None:
    assert realized_day(predictions([]).head(0)) == RealizedDay(0, 0, 0, 0, None, None, None)
