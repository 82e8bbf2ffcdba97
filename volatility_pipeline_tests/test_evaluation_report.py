"""The evaluation page: what it says first, what it shows, and that it needs nothing but itself."""

import base64
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.evaluation import Evaluation, evaluate
from volatility_pipeline.domain.ladder import COLOURS, LADDER
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.reports.evaluation import Context, comparison, render
from volatility_pipeline_tests.split_frames import role, split_frame

CONTEXT = Context(
    is_simulated=True,
    dropped={"embargo after a cut": 12_600, "future unknown": 412},
    provenance={
        "source": "simulated",
        "days": ["2026-03-01", "2026-03-02"],
        "library versions": {"xgboost": "3.2.0"},
        "fingerprint": "<b>9f86</b>",
    },
    notes={"har_logistic": ["Not calibrated: 3 of 100 validation rows are spikes."]},
    dropped_columns={"xgboost": ["volume_velocity_30s"]},
)


def judge(split: pd.DataFrame) -> Evaluation:
    """Every rung answers with persistence, more or less blurred."""
    rows, rng = role(split, "test"), np.random.default_rng(1)
    ratio = np.log(rows["realized_volatility_60s"] / rows["threshold"]).to_numpy()
    answers = []
    for name, blur in zip(LADDER, (0, 0.5, 0.4, 0.1, 0.6, 0.2, 0.25, 0.3), strict=True):
        score = ratio + blur * rng.normal(size=len(rows)) if blur else 0 * ratio
        answers.append(Forecast(name, score, 1 / (1 + np.exp(-score)), 0.4))
    return evaluate(split, answers, product_id="BTC-USD", policy="trailing", seed=1, resamples=50)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return judge(split_frame(259_200, seed=3))


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render(evaluation, CONTEXT)


def text_of(page: str) -> str:
    """The words that a reader sees, on one line."""
    body = re.sub(r"<style>.*?</style>", "", page[page.index("<body>") :], flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def plots_of(page: str) -> dict[str, str]:
    """The SVG of each plot, by its alternative text."""
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page)
    return {alt: base64.b64decode(data).decode() for data, alt in images}


def test_the_verdict_is_the_first_line(evaluation, page):
    assert text_of(page).startswith(f"{evaluation.verdict} ")
    assert 'class="verdict claim"' in page


@pytest.mark.parametrize("status", ["insufficient", "suspicious"])
def test_what_forbids_a_claim_marks_the_verdict(evaluation, status):
    changed = replace(evaluation, verdict="No & no.", **{status: ("a reason",)})
    page = render(changed, CONTEXT)
    assert f'<p class="verdict {status}">No &amp; no.</p>' in page


def test_simulated_data_are_named_in_title_heading_and_every_plot(evaluation, page):
    assert "<title>SIMULATED DATA: Evaluation of BTC-USD</title>" in page
    assert "SIMULATED DATA Will BTC-USD be unusually volatile" in text_of(page)
    assert len(plots_of(page)) == 5
    assert all("<!-- SIMULATED DATA · BTC-USD · " in svg for svg in plots_of(page).values())


def test_real_data_are_not_called_simulated(evaluation):
    page = render(evaluation, replace(CONTEXT, is_simulated=False))
    assert "<title>Evaluation of BTC-USD</title>" in page
    assert "SIMULATED" not in page
    assert not any("SIMULATED" in svg for svg in plots_of(page).values())


def test_the_page_needs_nothing_but_itself(page):
    assert not re.findall(r"<(?:script|link|iframe|object)\b|@import|url\(|https?://", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))


def test_the_table_shows_every_model_with_every_number(evaluation, page):
    text = text_of(page)
    for row in comparison(evaluation):
        for cell in row.values():
            assert cell in text
    har = comparison(evaluation)[3]
    found = evaluation.models[3]
    assert har["Model"] == "HAR-logistic"
    assert har["Base rate"] == f"{evaluation.base_rate:.3f}"
    assert har["Δ HAR-logistic"] == "–"
    estimate = found.average_precision
    assert har["PR-AUC"] == f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
    assert comparison(evaluation)[7]["Δ HAR-logistic"][0] in "+-"


def test_confusion_threshold_days_and_roles_are_shown(evaluation, page):
    text, counts = text_of(page), evaluation.models[5].confusion
    shown = f"Spike {counts.true_positives:,} {counts.false_negatives:,} Quiet"
    assert f"Logistic regression at 0.400 Alert No alert {shown}" in text
    day = evaluation.days[-1]
    assert f"{day.day} test {day.rows:,} {day.spikes:,} {day.base_rate:.3f}" in text
    assert "21 blocks of 1,800 s" in text
    assert f"about {evaluation.independent_labels:.0f} independent labels" in text


def test_drops_notes_and_provenance_are_shown_and_escaped(page):
    text = text_of(page)
    assert "embargo after a cut 12,600" in text
    assert "HAR-logistic: Not calibrated: 3 of 100" in text
    assert re.search(r"XGBoost does without columns .*: volume_velocity_30s\.", text)
    assert "days 2026-03-01, 2026-03-02 library versions xgboost 3.2.0" in text
    assert "&lt;b&gt;9f86&lt;/b&gt;" in page


def test_plots_have_labelled_axes_the_base_rate_and_one_colour_a_model(evaluation, page):
    plots = plots_of(page)
    curves = plots["Precision over recall, with the base rate as a line"]
    for label in (
        "Recall: share of spikes alerted",
        "Precision: share of alerts that are spikes",
        f"Base rate ({evaluation.base_rate:.2f})",
        f"HAR-logistic ({evaluation.models[3].average_precision.value:.2f})",
    ):
        assert f"<!-- {label} -->" in curves
    for svg in list(plots.values())[:4]:
        for name in LADDER:
            assert COLOURS[name] in svg
    assert page.count(f"background: {COLOURS['xgboost']}") == 2


def test_a_better_model_is_marked(evaluation):
    models = [replace(model, is_better=model.name == "xgboost") for model in evaluation.models]
    page = render(replace(evaluation, models=tuple(models)), CONTEXT)
    assert re.findall(r'<tr class="better">\s*<th[^>]*>.*?</span>([^<]+)', page) == ["XGBoost"]


def test_a_lift_that_is_not_pooled_says_why(evaluation):
    models = tuple(replace(model, lift=None) for model in evaluation.models)
    page = render(replace(evaluation, models=models, lift_refusal="it varies"), CONTEXT)
    assert "No lift is pooled: it varies." in text_of(page)
    assert comparison(replace(evaluation, models=models))[0]["Lift"] == "–"


@pytest.mark.parametrize("rows", [0, 5])
def test_hardly_any_rows_make_a_page_without_numbers(rows):
    small = split_frame(6_000, seed=1).query("role == 'test'").head(rows).assign(is_spike=False)
    evaluation = judge(small)
    page = render(evaluation, Context(is_simulated=False, dropped={}, provenance={}))
    text = text_of(page)
    assert text.startswith("INSUFFICIENT: train has 0 non-overlapping spikes")
    assert "No interval is shown: the test has 0 blocks" in text
    assert "No row was dropped." in text
    assert comparison(evaluation)[2]["PR-AUC"] == "–"
    curves = plots_of(page)["Precision over recall, with the base rate as a line"]
    assert "<!-- not defined on these rows -->" in curves
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_the_same_results_make_the_same_bytes(evaluation, page):
    assert render(evaluation, CONTEXT) == page


def test_alerts_an_hour_and_episodes_caught_stand_in_the_table(evaluation):
    found, row = evaluation.models[3].episodes, comparison(evaluation)[3]
    assert row["Alerts/h"] == f"{found.alerts_per_hour:.1f}"
    share = f"{found.share_caught:.0%}"
    assert row["Episodes caught"] == f"{share} {found.caught} of {found.episodes}"
    still = replace(evaluation.models[3], episodes=replace(found, share_caught=None))
    changed = replace(evaluation, models=(still,))
    assert comparison(changed)[0]["Episodes caught"] == "–"
