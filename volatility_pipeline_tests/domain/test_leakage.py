"""The leakage audit: how far each protocol flatters, on noise, where there is nothing to find."""

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.leakage import (
    FOREST,
    MODELS,
    PROTOCOLS,
    LeakageRow,
    labelled,
    leakage_audit,
)
from volatility_pipeline_tests.split_frames import market_rows

Found = dict[tuple[str, str], LeakageRow]


def audited(rows: pd.DataFrame) -> Found:
    return {(row.protocol.name, row.model): row for row in leakage_audit(rows)}


def noise_rows(seconds: int, *, seed: int) -> pd.DataFrame:
    """Labelled rows of noise as the warehouse gives them."""
    rows = market_rows(seconds, seed=seed, is_noise=True)
    return rows.rename(columns={"threshold": "trailing_threshold"})


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return noise_rows(22_000, seed=5)


@pytest.fixture(scope="module")
def found(rows: pd.DataFrame) -> Found:
    return audited(rows)


def test_every_protocol_shows_every_model_and_says_whether_it_leaks(found):
    assert list(found) == [(one.name, model) for one in PROTOCOLS for model in MODELS]
    labels = {protocol: row.label for (protocol, _), row in found.items()}
    assert labels == {
        "honest": "honest",
        "honest_constant": "honest",
        "shuffled": "LEAKY",
        "next_row": "LEAKY",
        "global_threshold": "LEAKY",
    }


def test_on_noise_the_honest_protocol_finds_nothing(found):
    for model in MODELS:
        assert found["honest", model].average_precision < 0.25
        assert found["honest", model].lift < 2


def test_on_noise_a_shuffled_split_gives_a_forest_above_four_fifths(found):
    row = found["shuffled", FOREST]
    assert row.average_precision > 0.8
    assert row.base_rate < 0.2
    assert row.lift == row.average_precision / row.base_rate > 4


def test_on_noise_a_next_row_label_needs_no_model_at_all(found):
    assert found["next_row", "persistence"].average_precision > 0.85


def test_honest_training_rows_are_thinned_purged_and_before_the_test(rows, found):
    _, frame = labelled(rows, "honest", policy="trailing")
    train, test = (frame[frame["role"] == name] for name in ("train", "test"))
    assert train["ts"].max() + pd.Timedelta("60s") <= test["ts"].min()
    assert found["honest", FOREST].training_rows == len(train)
    assert found["honest", FOREST].test_rows == len(test)
    assert found["shuffled", FOREST].training_rows > 4 * len(train)


def test_only_the_leaky_threshold_lets_the_test_change_training_labels(rows):
    wilder = rows.copy()
    wilder.loc[len(rows) * 9 // 10 :, "future_volatility_60s"] *= 3

    def training_labels(given: pd.DataFrame, protocol: str) -> np.ndarray:
        _, frame = labelled(given, protocol, policy="trailing")
        return frame.loc[frame["role"] == "train", "is_spike"].to_numpy()

    for protocol in ("honest", "honest_constant"):
        np.testing.assert_array_equal(
            training_labels(rows, protocol), training_labels(wilder, protocol)
        )
    before, after = (training_labels(given, "global_threshold") for given in (rows, wilder))
    assert after.sum() < before.sum() / 2


def test_rows_that_hold_no_spike_or_nothing_fail_nowhere(rows):
    calm = rows.head(3000).assign(future_volatility_60s=0.0)
    for given in (calm, rows.head(0), rows.head(3000).assign(trailing_threshold=np.nan)):
        found = leakage_audit(given)
        assert len(found) == len(PROTOCOLS) * len(MODELS)
    assert all(row.average_precision is None for row in leakage_audit(rows.head(0)))


def test_twice_gives_the_same_numbers(rows):
    some = rows.head(4000)
    assert leakage_audit(some) == leakage_audit(some)
