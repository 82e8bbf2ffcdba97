"""Champion and challenger on made-up live answers, whose better ranking is known."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain import shadow
from volatility_pipeline.domain.bootstrap import Ranking
from volatility_pipeline.domain.shadow import Shadow

STEADY = settings(deadline=None, derandomize=True, database=None)
HOUR = 720
"""Rows, five seconds apart."""


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "RESAMPLES", 100)


def sigmoid(score: Any) -> Any:
    return 1 / (1 + np.exp(-score))


def answers(hours: float, *, champion: float = 1.0, challenger: float = 1.0) -> pd.DataFrame:
    """Rows of a market with two episodes of spikes an hour, ranked with this much noise."""
    count = int(hours * HOUR)
    rng = np.random.default_rng(7)
    is_spike = np.zeros(count, bool)
    for start in rng.integers(count, size=int(2 * hours)):
        is_spike[start : start + 24] = True
    score = np.where(is_spike, 1.5, -1.5)
    return pd.DataFrame(
        {
            "ts": pd.Timestamp("2026-03-01") + pd.to_timedelta(5 * np.arange(count), unit="s"),
            "champion": sigmoid(score + champion * rng.normal(size=count)),
            "challenger": sigmoid(score + challenger * rng.normal(size=count)),
            "is_same_question": True,
            "is_spike": is_spike,
        }
    )


def compare(rows: pd.DataFrame, **changed: Any) -> Shadow:
    given: dict[str, Any] = {
        "champion": "HAR-logistic (version 4)",
        "challenger": "XGBoost (version 16)",
        "decision_thresholds": (0.5, 0.6),
        "product": "BTC-USD",
        "policy": "trailing",
        "seed": 1,
    }
    return shadow.compare(rows, **given | changed)


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ((3.0, 0.5), ("was better than", r"\+")),
        ((0.5, 3.0), ("was worse than", "-")),
        ((1.0, 1.0), ("is not shown to be better than", "[+-]")),
    ],
)
def test_interval_of_the_paired_difference_decides_what_is_said(noise, said) -> None:
    found = compare(answers(24, champion=noise[0], challenger=noise[1]))
    pattern = rf"XGBoost \(version 16\) {said[0]} HAR-logistic \(version 4\): {said[1]}0\.\d"
    assert re.match(pattern, found.verdict), found.verdict
    assert found.insufficient == ()
    gain, (champion, challenger) = found.difference, found.results
    assert gain is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.value < gain.high
    assert champion.average_precision is not None
    assert challenger.average_precision is not None
    assert gain.value == pytest.approx(
        challenger.average_precision.value - champion.average_precision.value
    )


def test_measures_are_those_of_the_rows_that_both_answered() -> None:
    rows = answers(24)
    rows.loc[:9, "champion"] = np.nan  # before the challenger's first, as it were
    rows.loc[1000:1099, "challenger"] = np.nan
    rows.loc[1090:1199, "champion"] = np.nan
    rows.loc[rows.index[-5:], "challenger"] = np.nan
    rows.loc[2000:2009, "is_same_question"] = False
    found = compare(rows)
    used = rows[rows["champion"].notna() & rows["challenger"].notna() & rows["is_same_question"]]
    assert found.rows.rows == len(used) == len(rows) - 10 - 200 - 5 - 10
    assert (found.missed, found.other_questions) == (200, 10)
    assert found.rows.start == str(used["ts"].iloc[0].to_datetime64().astype("datetime64[s]"))
    assert found.rows.spikes == used["is_spike"].sum()
    alerts = (used["champion"] >= 0.5, used["challenger"] >= 0.6)
    assert found.agreement == pytest.approx((alerts[0] == alerts[1]).mean())
    for result, name, is_alert in zip(
        found.results, ("champion", "challenger"), alerts, strict=True
    ):
        assert result.brier == pytest.approx(((used[name] - used["is_spike"]) ** 2).mean())
        assert result.precision == pytest.approx(used["is_spike"][is_alert].mean())
        assert result.recall == pytest.approx(is_alert[used["is_spike"]].mean())


def test_few_episodes_are_insufficient_and_get_no_interval() -> None:
    found = compare(answers(3, challenger=0.1))
    assert found.verdict == (
        "INSUFFICIENT: the live log has 12 non-overlapping spikes in 4 episodes "
        "(20 in 10 are needed). Nothing is claimed of either."
    )
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == (None, None)


def test_blocks_enough_do_not_make_an_interval_of_few_episodes() -> None:
    rows = answers(12).assign(is_spike=False)
    for border in range(2 * 360, 22 * 360, 4 * 360):  # each touches two blocks of half an hour
        rows.loc[border - 12 : border + 12, "is_spike"] = True
    found = compare(rows)
    assert found.blocks.refusal is None
    assert "in 5 episodes" in found.verdict
    assert all(
        estimate is not None and (estimate.low, estimate.high) == (None, None)
        for result in found.results
        for estimate in (result.average_precision, result.lift)
    )


def test_few_blocks_are_no_claim_though_there_are_spikes_enough() -> None:
    found = compare(answers(6))
    assert found.insufficient == ()
    assert found.verdict == (
        "They cannot be told apart: the test has 12 blocks of 1800 s, 20 are needed."
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.head(0), "There is no row yet that both answered live"),
        (lambda rows: rows.assign(champion=np.nan), "There is no row yet that both answered live"),
        (lambda rows: rows.assign(is_same_question=False), "they name different thresholds"),
    ],
    ids=["no_rows", "one_alone", "other_thresholds"],
)
def test_without_a_row_in_common_it_says_why(
    change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    found = compare(change(answers(1)))
    assert said in found.verdict
    assert (found.rows.rows, found.agreement, found.difference) == (0, None, None)


@STEADY
@given(
    st.lists(st.tuples(st.integers(-300, 300), st.booleans()), min_size=2, max_size=60),
    st.floats(0.01, 10),
    st.floats(-3, 3),
)
def test_calibration_leaves_average_precision_as_it_was(rows, slope, shift) -> None:
    score = np.array([value for value, _ in rows]) / 100.0
    target = np.array([spike for _, spike in rows])
    once = np.ones(len(rows), int)
    raw, calibrated = (
        Ranking(values, target).average_precision(once)
        for values in (score, sigmoid(slope * score + shift))
    )
    np.testing.assert_allclose(calibrated, raw)
