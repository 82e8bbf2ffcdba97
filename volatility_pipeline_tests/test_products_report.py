"""The comparison over products: one line each, from evaluations as they lie on disk."""

import json
from dataclasses import replace

import pytest

from volatility_pipeline.domain.evaluation import Evaluation
from volatility_pipeline.reports.products import Product, product, render
from volatility_pipeline_tests.report_contexts import judge, plots_of, text_of
from volatility_pipeline_tests.split_frames import split_frame


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return judge(split_frame(172_800, seed=3))


@pytest.fixture(scope="module")
def btc(evaluation: Evaluation) -> Product:
    facts = json.loads(json.dumps(evaluation.to_dict()))
    return product(
        facts,
        is_simulated=True,
        champion="XGBoost (version 8)",
        report="product=BTC-USD/report.html",
    )


@pytest.fixture(scope="module")
def empty() -> Product:
    rows = split_frame(6_000, seed=1).query("role == 'test'").head(0).assign(is_spike=False)
    return product(judge(rows, "ETH-USD").to_dict(), is_simulated=False)


def test_a_line_says_source_days_base_rate_claim_numbers_and_champion(evaluation, btc):
    page = render([btc])
    text = text_of(page)
    models = {model.name: model for model in evaluation.models}
    reference, best = models["har_logistic"], models[btc.best]
    others = [m.average_precision.value for m in evaluation.models if m.name != "har_logistic"]
    assert best.average_precision.value == max(others)
    shown = f"{evaluation.base_rate:.3f} {reference.average_precision.value:.3f}"
    assert f"BTC-USD simulated 2 2026-03-01 to 2026-03-02 {shown}" in text
    assert f"{best.gain.value:+.3f}" in text
    assert "XGBoost (version 8)" in text
    assert f"BTC-USD {evaluation.verdict}" in text
    assert '<a href="product=BTC-USD/report.html">BTC-USD</a>' in page
    assert (btc.precision, btc.gain) == (reference.average_precision, best.gain)


def test_the_claim_is_one_word_and_what_forbids_it_comes_first(btc):
    plain = replace(btc, is_insufficient=False, is_suspicious=False, is_better=False)
    assert plain.mark == "not better"
    assert replace(plain, is_better=True).mark == "better"
    assert replace(plain, is_better=True, is_suspicious=True).mark == "SUSPICIOUS"
    both = replace(plain, is_insufficient=True, is_suspicious=True)
    assert both.mark == "INSUFFICIENT, SUSPICIOUS"
    two = render([plain, replace(plain, name="SOL-USD", is_better=True)])
    assert text_of(two).startswith(
        "Of 2, 2 can carry a claim; the best other model is better than the reference in SOL-USD."
    )
    none = render([both])
    assert text_of(none).startswith("Of 1, 0 can carry a claim;")
    assert 'class="verdict insufficient"' in none


def test_a_product_without_test_rows_has_dashes_and_no_link(empty):
    page = render([empty])
    text = text_of(page)
    assert "ETH-USD recorded 0 – – – – – INSUFFICIENT none" in text
    assert "<a " not in page
    assert "INSUFFICIENT: train has 0 non-overlapping spikes" in text


def test_simulated_products_are_named_in_title_and_plot_and_recorded_ones_are_not(btc, empty):
    assert "<title>SIMULATED DATA: Comparison over products</title>" in render([btc])
    assert "SIMULATED" not in render([empty])
    page = render([btc, empty])
    assert "<title>PARTLY SIMULATED DATA: Comparison over products</title>" in page
    (svg,) = plots_of(page).values()
    for label in (
        "PARTLY SIMULATED DATA · PR-AUC by product",
        "BTC-USD (simulated)",
        "ETH-USD",
        "HAR-logistic",
        "Base rate",
    ):
        assert f"<!-- {label} -->" in svg


def test_no_product_makes_a_page_that_says_so():
    text = text_of(render([]))
    assert text.startswith("No product has been evaluated.")
    assert "`volatility train` evaluates a product" in text


def test_hostile_names_are_shown_and_escaped(btc):
    page = render([replace(btc, name="<script>x</script>", report='"><script>', champion="<b>")])
    assert "<script" not in page
    assert "<script>x</script>" in text_of(page)
