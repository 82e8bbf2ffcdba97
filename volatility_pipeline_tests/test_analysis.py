"""Feature and threshold analysis over lakes: simulated rows against pandas, and the page."""

import json
import re
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.bootstrap import count_blocks
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.feature_analysis import (
    ANALYSED,
    NO_ABLATION,
    Correlations,
    FeatureAnalysis,
    analyse,
)
from volatility_pipeline.domain.models import fit
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.domain.splits import ROLES
from volatility_pipeline.domain.threshold_analysis import PERCENTILES, ThresholdAnalysis
from volatility_pipeline.reports.analysis import document
from volatility_pipeline.reports.page import render
from volatility_pipeline.resources.analysis import Analysis
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse, sql_text
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.registered_models import register, tracking
from volatility_pipeline_tests.report_contexts import text_of
from volatility_pipeline_tests.tick_lake import build_all

START = datetime(2026, 3, 1, 22, tzinfo=UTC)


def analysis_of(lake: Lake) -> Analysis:
    warehouse = Warehouse(lake)
    return Analysis(lake, warehouse, Training(lake, warehouse, tracking(lake.root), 0))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Four simulated hours of two products over midnight, with the models that are analysed."""
    lake = Lake(tmp_path_factory.mktemp("analysed"))
    land_simulation(lake, Market(("BTC-USD", "ETH-USD"), START, 4, seed=1))
    build_all(lake)
    register(lake.root, "BTC-USD", ANALYSED)
    return lake


@pytest.fixture(scope="module")
def thresholds(simulated: Lake) -> ThresholdAnalysis:
    return analysis_of(simulated).thresholds("BTC-USD")


def own_rows(lake: Lake, stage: str) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(path) for path in lake.files(stage)], ignore_index=True)
    return rows[rows["product_id"] == "BTC-USD"].set_index("ts")


def test_trailing_rates_are_those_of_pandas_over_the_features(
    simulated: Lake, thresholds: ThresholdAnalysis
) -> None:
    volatility_60s = own_rows(simulated, "features")["realized_volatility_60s"]
    future = own_rows(simulated, "labels")["future_volatility_60s"].dropna()
    whole = volatility_60s.where(volatility_60s.index.second == 0)
    minutes = whole.groupby(whole.index.floor("min")).max()  # a gap may hide the whole minute
    window = minutes.rolling("1440min", min_periods=60)
    found = {
        (each.percentile, each.day): (each.rows, each.spikes)
        for each in thresholds.days
        if each.policy == "trailing"
    }
    assert len(found) == 2 * len(PERCENTILES)
    for percentile in PERCENTILES:
        at_minute = window.quantile(percentile / 100).dropna()
        threshold = at_minute.reindex(future.index.floor("min")).to_numpy()
        known = pd.Series(future.to_numpy() >= threshold, index=future.index)[~pd.isna(threshold)]
        known &= future[known.index] > 0
        for day, rows in known.groupby(known.index.date):
            assert found[percentile, f"{day}"] == (len(rows), rows.sum())


def test_the_labels_own_percentile_counts_the_labels_own_spikes(
    simulated: Lake, thresholds: ThresholdAnalysis
) -> None:
    labels = own_rows(simulated, "labels").dropna()
    spikes = (labels["future_volatility_60s"] >= labels["trailing_threshold"]).sum()
    pooled = next(
        each
        for each in thresholds.percentiles
        if (each.policy, each.percentile) == ("trailing", 90)
    )
    assert (pooled.rows, pooled.spikes) == (len(labels), spikes)


def test_the_query_is_one_that_an_analyst_can_run_over_the_feature_store(simulated: Lake) -> None:
    assert volatility("publish", data=simulated.root).code == 0
    sql = sql_text("analysis/spike_rate_by_percentile.sql")
    answer = volatility("query", f"\n{sql}", "--json", data=simulated.root)
    assert answer.code == 0, answer.errors
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert {row["product_id"] for row in rows} == {"BTC-USD", "ETH-USD"}
    assert {row["percentile"] for row in rows} == set(PERCENTILES)


@pytest.fixture(scope="module")
def page(simulated: Lake) -> str:
    analysis = analysis_of(simulated)
    analysis.write("BTC-USD")
    return analysis.report("BTC-USD").read_text()


def test_the_page_says_first_that_so_little_claims_nothing_and_is_simulated(page: str) -> None:
    assert text_of(page).startswith("INSUFFICIENT: ")
    assert "SIMULATED DATA What are the features of BTC-USD worth?" in text_of(page)
    assert "<title>SIMULATED DATA: Feature analysis of BTC-USD</title>" in page
    plots = [b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    assert len(plots) == 5
    assert all("SIMULATED DATA · BTC-USD · " in svg for svg in plots)
    assert not re.findall(r"<(?:script|link|iframe)\b|@import|url\(|https?://", page)


def test_the_page_shows_the_numbers_that_lie_beside_it(simulated: Lake, page: str) -> None:
    path = analysis_of(simulated).report("BTC-USD")
    facts = json.loads(path.with_suffix(".json").read_text())
    text = text_of(page)
    assert facts["features"]["headline"] in text
    for finding in facts["features"]["findings"]:
        assert finding["sentence"] in text
    for importance in facts["features"]["importances"]:
        assert importance["feature"] in text
        assert f"{importance['drop']['value']:+.4f}" in text
    for found in facts["thresholds"]["percentiles"]:
        shown = f"{found['percentile']}th {found['policy']} "
        assert re.search(rf"{shown}\S+ {found['rows']:,} {found['spikes']:,} ", text)
    assert f"No interval is shown: {facts['features']['blocks']['refusal']}." in text
    assert "null in training: volume_velocity_30s, 60s, 300s" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_writing_again_changes_no_byte(simulated: Lake, page: str) -> None:
    analysis = analysis_of(simulated)
    before = analysis.report("BTC-USD").with_suffix(".json").read_bytes()
    found = analysis.write("BTC-USD")
    assert analysis.report("BTC-USD").read_text() == page
    assert analysis.report("BTC-USD").with_suffix(".json").read_bytes() == before
    assert found.product_id == "BTC-USD"


def test_a_product_without_models_is_bad_input(simulated: Lake) -> None:
    with pytest.raises(BadInputError, match="ETH-USD: no models; `volatility train` makes them"):
        analysis_of(simulated).write("ETH-USD")
    assert not analysis_of(simulated).report("ETH-USD").exists()


def test_two_real_hours_give_numbers_and_claim_nothing(tmp_path: Path, recordings: Path) -> None:
    recording = recordings / "flat_btc_eth_20260404_2h.ndjson"
    assert volatility("import", recording, data=tmp_path).code == 0
    assert volatility("build", data=tmp_path).code == 0
    analysis = analysis_of(Lake(tmp_path))
    analysis.training.split("BTC-USD", "training")
    frame = analysis.training.frame("BTC-USD")
    train, validation = (frame[frame["role"] == role] for role in ROLES[:2])
    models = {name: fit(name, train, validation, policy="training", seed=0) for name in ANALYSED}
    found = analyse(
        frame,
        {name: model.estimator for name, model in models.items()},
        product_id="BTC-USD",
        policy="training",
        seed=0,
    )
    assert found.headline.startswith("INSUFFICIENT: ")
    assert found.importances
    assert all(each.drop.low is None for each in found.importances)
    assert {each.learner for each in found.ablations} == {"logistic_regression", "xgboost"}
    said = {each.group: each.sentence for each in found.findings}
    assert "none of its columns has a value" in said["book"]  # the recording has no sizes
    page = render(document(found, analysis.thresholds("BTC-USD"), is_simulated=False))
    assert text_of(page).startswith("INSUFFICIENT: ")
    assert "SIMULATED" not in page
    assert f"No interval is shown: {found.blocks.refusal}." in text_of(page)


def test_a_product_without_a_row_makes_a_page_that_says_so(lake: Lake) -> None:
    thresholds = analysis_of(lake).thresholds("BTC-USD")
    nothing = Correlations((), (), 0, (), (), {})
    blocks = count_blocks([np.zeros(0, bool)], rows=1800, seconds=1800)
    features = FeatureAnalysis(
        product_id="<b>",
        policy="trailing",
        headline="INSUFFICIENT: nothing.",
        insufficient=("nothing",),
        training_rows=0,
        test_rows=0,
        judged_rows=0,
        base_rate=None,
        blocks=blocks,
        resamples=0,
        seed=0,
        correlations=nothing,
        importances=(),
        ablations=(),
        findings=(),
    )
    page = render(document(features, thresholds, is_simulated=False))
    for sentence in (
        NO_ABLATION,
        "No importance is measured: the test has no spike.",
        "There are no training rows to correlate.",
        "No row has a label.",
        "What are the features of <b> worth?",
    ):
        assert sentence in text_of(page)
    assert "What are the features of &lt;b&gt; worth?" in page
    assert "<img" not in page
