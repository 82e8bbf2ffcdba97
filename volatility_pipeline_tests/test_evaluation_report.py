"""The evaluation report: what it says first, what it shows, and that it needs nothing but itself.

The page and the PDF are laid out from one document, so most is asked of the page alone.
"""

import html
import re
from dataclasses import replace

import pandas as pd
import pytest

from volatility_pipeline.domain.evaluation import Evaluation
from volatility_pipeline.domain.ladder import COLOURS, LADDER
from volatility_pipeline.reports import page as html_page
from volatility_pipeline.reports import pdf
from volatility_pipeline.reports.blocks import Context, comparison
from volatility_pipeline.reports.document import Document, Plots
from volatility_pipeline.reports.evaluation import document
from volatility_pipeline.reports.plots import Plot
from volatility_pipeline_tests.report_contexts import (
    full_context,
    judge,
    pages_of,
    plots_of,
    text_of,
)
from volatility_pipeline_tests.split_frames import split_frame

BARE = Context(is_simulated=False, dropped={}, provenance={})


@pytest.fixture(scope="module")
def split() -> pd.DataFrame:
    return split_frame(259_200, seed=3)


@pytest.fixture(scope="module")
def evaluation(split: pd.DataFrame) -> Evaluation:
    return judge(split)


@pytest.fixture(scope="module")
def context(split: pd.DataFrame) -> Context:
    return full_context(split)


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, context: Context) -> str:
    return html_page.render(document(evaluation, context))


@pytest.fixture(scope="module")
def pdf_bytes(evaluation: Evaluation, context: Context) -> bytes:
    return pdf.render(document(evaluation, context), is_compressed=False)


@pytest.fixture(scope="module")
def printed(pdf_bytes: bytes) -> list[str]:
    return pages_of(pdf_bytes)


def plots_in(whole: Document) -> list[Plot]:
    """Every plot of a report, drawn or not."""
    blocks = [block for section in whole.sections for block in section.blocks]
    return [plot for block in blocks if isinstance(block, Plots) for plot in block.plots]


def title_page(evaluation: Evaluation, context: Context = BARE) -> str:
    """The words of the first printed page; nothing is drawn for it."""
    alone = replace(document(evaluation, context), sections=())
    return pages_of(pdf.render(alone, is_compressed=False))[0]


def test_the_verdict_is_the_first_line(evaluation, page):
    assert text_of(page).startswith(f"{evaluation.verdict} ")
    assert 'class="verdict claim"' in page


@pytest.mark.parametrize("status", ["insufficient", "suspicious"])
def test_what_forbids_a_claim_marks_the_verdict(evaluation, status):
    changed = replace(evaluation, verdict="No & no.", **{status: ("a reason",)})
    page = html_page.render(document(changed, BARE))
    assert f'<p class="verdict {status}">No &amp; no.</p>' in page


def test_simulated_data_are_named_in_title_heading_and_every_plot(evaluation, page):
    assert "<title>SIMULATED DATA: Evaluation of BTC-USD</title>" in page
    assert "SIMULATED DATA Will BTC-USD be unusually volatile" in text_of(page)
    assert len(plots_of(page)) == 8
    assert all("<!-- SIMULATED DATA · BTC-USD · " in svg for svg in plots_of(page).values())


def test_real_data_are_not_called_simulated(evaluation, context):
    real = replace(context, is_simulated=False)
    whole = document(evaluation, real)
    page = html_page.render(replace(whole, sections=whole.sections[:1]))
    assert "<title>Evaluation of BTC-USD</title>" in page
    assert "SIMULATED" not in page
    assert not any("SIMULATED" in svg for svg in plots_of(page).values())
    assert not any("SIMULATED" in plot.title for plot in plots_in(whole))
    assert "Data source recorded" in title_page(evaluation, real)


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
    assert "XGBoost: without columns null in all training rows: volume_velocity_30s." in text
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
    every_model = ("PR-AUC of each model", "Precision over", "True positive", "Observed share")
    for alt in plots:
        if alt.startswith(every_model):
            assert all(COLOURS[name] in plots[alt] for name in LADDER), alt
    # The table, the confusion matrix and the walk-forward.
    assert page.count(f"background: {COLOURS['xgboost']}") == 3


def test_a_better_model_is_marked(evaluation):
    models = [replace(model, is_better=model.name == "xgboost") for model in evaluation.models]
    page = html_page.render(document(replace(evaluation, models=tuple(models)), BARE))
    assert re.findall(r'<tr class="shaded">\s*<th[^>]*>.*?</span>([^<]+)', page) == ["XGBoost"]


def test_a_lift_that_is_not_pooled_says_why(evaluation):
    models = tuple(replace(model, lift=None) for model in evaluation.models)
    page = html_page.render(
        document(replace(evaluation, models=models, lift_refusal="it varies"), BARE)
    )
    assert "No lift is pooled: it varies." in text_of(page)
    assert comparison(replace(evaluation, models=models))[0]["Lift"] == "–"


@pytest.mark.parametrize("rows", [0, 5])
def test_hardly_any_rows_make_a_page_without_numbers(rows):
    small = split_frame(6_000, seed=1).query("role == 'test'").head(rows).assign(is_spike=False)
    evaluation = judge(small)
    page = html_page.render(document(evaluation, BARE))
    text = text_of(page)
    assert text.startswith("INSUFFICIENT: train has 0 non-overlapping spikes")
    assert "No interval is shown: the test has 0 blocks" in text
    assert "No row was dropped." in text
    assert comparison(evaluation)[2]["PR-AUC"] == "–"
    curves = plots_of(page)["Precision over recall, with the base rate as a line"]
    assert "<!-- not defined on these rows -->" in curves
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert "INSUFFICIENT: train has 0 non-overlapping spikes" in title_page(evaluation)


def test_the_same_results_make_the_same_bytes(evaluation, context, page):
    assert html_page.render(document(evaluation, context)) == page
    first, second = (document(evaluation, context) for _ in range(2))
    made = [pdf.render(replace(each, sections=each.sections[:4])) for each in (first, second)]
    assert made[0] == made[1]


def test_a_packed_pdf_is_a_pdf_and_smaller(evaluation, pdf_bytes):
    few = replace(evaluation, models=evaluation.models[:4])
    packed = pdf.render(document(few, BARE))
    assert packed.startswith(b"%PDF-")
    assert len(packed) < len(pdf_bytes)
    assert b"Evaluation of BTC-USD Page" not in packed


def test_alerts_an_hour_and_episodes_caught_stand_in_the_table(evaluation):
    found, row = evaluation.models[3].episodes, comparison(evaluation)[3]
    assert row["Alerts/h"] == f"{found.alerts_per_hour:.1f}"
    share = f"{found.share_caught:.0%}"
    assert row["Episodes caught"] == f"{share} {found.caught} of {found.episodes}"
    still = replace(evaluation.models[3], episodes=replace(found, share_caught=None))
    changed = replace(evaluation, models=(still,))
    assert comparison(changed)[0]["Episodes caught"] == "–"


def test_the_folds_stand_in_a_table_beside_their_base_rates(context, page):
    text, folds = text_of(page), context.folds
    for fold in (*folds.folds, folds.pooled):
        name, test = f"Fold {fold.number}" if fold.number else "Pooled", fold.roles[-1]
        shown = f"{test.start} {test.end} {test.rows:,} {fold.base_rate:.3f}".replace("T", " ")
        assert re.search(rf"{name} .*{re.escape(shown)}", text)
    for place, model in enumerate(folds.pooled.models):
        values = [f"{fold.models[place].average_precision.value:.3f}" for fold in folds.folds]
        pooled = model.average_precision
        values.append(f"{pooled.value:.3f} [{pooled.low:.3f}, {pooled.high:.3f}]")
        assert " ".join([LADDER[model.name].title, *values]) in text
    assert "Fewer folds than asked for: 2 of 3 folds: the rest is short." in text
    assert "Fold 1, Fold 2: no interval, because the test has 10 blocks of 1800 s" in text


def test_a_plot_of_the_folds_has_the_models_colours_and_every_base_rate(context, page):
    svg = plots_of(page)["PR-AUC of each model by fold and over all, each beside its base rate"]
    for label in ("Fold 1", "Fold 2", "Pooled", "Base rate", "PR-AUC (average precision)"):
        assert f"<!-- {label}" in svg
    assert all(COLOURS[name] in svg for name in LADDER)
    dashed = re.findall(r"stroke-dasharray[^>]*stroke: #7f7f7f", svg)
    assert len(dashed) >= len(context.folds.folds) + 1


def test_each_control_says_whether_it_holds(page):
    text = text_of(page)
    assert "permuted labels holds The lift is 1 & no more." in text
    assert "future truncation FAILS 3 rows changed." in text
    assert "boundary not judged Not judged: too few rows." in text
    assert len(re.findall(r'<td class="words" style="background: #fbdcd7">FAILS', page)) == 1


def test_importances_stand_by_falling_drop_with_interval_and_the_models_own_share(page):
    text = text_of(page)
    assert "Column HAR-logistic: drop share XGBoost: drop share" in text
    both = "+0.0200 [+0.0100, +0.0300] – +0.0100 [+0.0050, +0.0150] 0.125"
    assert f"realized_volatility_30s {both}" in text
    assert "log_return_30s – – +0.0200 [+0.0100, +0.0300] 0.125" in text
    assert text.index("Column HAR-logistic") < text.index("+0.0200") < text.index("+0.0100 [")
    svg = plots_of(page)[
        "Fall of test PR-AUC when a column is permuted, the strongest columns first"
    ]
    assert {COLOURS[name] in svg for name in ("har_logistic", "xgboost")} == {True}
    assert "<!-- log_return_30s -->" in svg
    assert "<!-- time_of_day_cos -->" not in svg


def test_the_timeline_names_its_units_and_the_length_of_its_bins(page):
    svg = plots_of(page)[
        "Realized volatility and its threshold over time, above the models' probabilities"
    ]
    for label in ("(bp per √s)", "Decision time (UTC)", "Threshold", "HAR-logistic", "XGBoost"):
        assert label in svg
    assert "Each point is 10 minutes." in text_of(page)


def test_what_is_not_there_says_why(evaluation, context):
    text = text_of(html_page.render(document(evaluation, BARE)))
    for sentence in (
        "There is no timeline: the test has no row, or none was made of it.",
        "There is no walk-forward: none was run.",
        "There are no importances: none were measured on these rows.",
        "No control was run with this evaluation.",
    ):
        assert sentence in text
    short = replace(context.folds, folds=(), pooled=None, shortage="0 of 5 folds: too little")
    text = text_of(html_page.render(document(evaluation, replace(BARE, folds=short))))
    assert "There is no walk-forward: 0 of 5 folds: too little." in text


def test_the_title_page_has_question_source_verdict_and_record(evaluation, printed):
    first = printed[0]
    assert "SIMULATED DATA Will BTC-USD be unusually volatile in the next 60 seconds?" in first
    assert evaluation.verdict in first
    for fact in (
        "Data source simulated, no market",
        "Days (UTC) 2026-03-01, 2026-03-02",
        "Data fingerprint (SHA-256) 49f55a22",
        "Models trained until 2026-03-02 10:00:00",
        f"Base rate of the test {evaluation.base_rate:.3f}",
    ):
        assert fact in first


def test_every_printed_page_has_its_number_and_says_that_the_data_is_simulated(printed):
    assert len(printed) > 4
    for number, words in enumerate(printed, 1):
        assert f"SIMULATED DATA: Evaluation of BTC-USD Page {number} of {len(printed)}" in words


def test_the_print_has_every_section_every_model_and_every_number(evaluation, context, printed):
    text = " ".join(printed)
    for section in document(evaluation, context).sections:
        assert section.title in text
    for row in comparison(evaluation):
        cells = [cell.replace("–", "").split(maxsplit=1) for cell in row.values()]
        assert all(part in text for cell in cells for part in cell)
    for fold in context.folds.folds:
        for model in fold.models:
            assert f"{model.average_precision.value:.3f}" in text
    assert "3 rows changed." in text
    assert "volume_velocity_300s" in text


def test_a_long_table_repeats_its_head_on_every_printed_page(evaluation):
    days = pd.date_range("2026-01-01", periods=168).strftime("%Y-%m-%d")
    many = replace(evaluation, days=tuple(replace(evaluation.days[-1], day=day) for day in days))
    whole = document(many, BARE)
    labels = [part for part in whole.sections if part.title == "Labels: base rate per day"]
    pages = pages_of(pdf.render(replace(whole, sections=labels), is_compressed=False))
    with_days = [words for words in pages if re.search(r"2026-\d\d-\d\d test ", words)]
    assert len(with_days) > 2
    assert all("Day (UTC) Role Rows Spikes Base rate" in words for words in with_days)


def test_a_hostile_name_is_shown_and_changes_nothing(split):
    name = "<script>alert(1)</script> & $x_1$ <b>"
    evaluation = judge(split, name)
    whole = document(evaluation, BARE)
    first = replace(whole, sections=whole.sections[:1])
    page = html_page.render(first)
    assert "<script" not in page
    assert f"Will {name} be unusually volatile" in text_of(page)
    (svg,) = plots_of(page).values()
    assert f"<!-- {name} · PR-AUC -->" in html.unescape(svg)
    words = pages_of(pdf.render(first, is_compressed=False))[0]
    assert f"Will {name} be unusually volatile".replace(" ", "") in words.replace(" ", "")
