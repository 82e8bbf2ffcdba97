"""The model card and the selection rationale: of which model, in which sections, whose numbers."""

from dataclasses import asdict, replace

import pandas as pd
import pytest

from volatility_pipeline.domain.evaluation import Estimate, Evaluation
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.promotion import Decision
from volatility_pipeline.reports import model_card, pdf, selection
from volatility_pipeline.reports.blocks import Context
from volatility_pipeline_tests.report_contexts import (
    full_context,
    judge,
    pages_of,
    plots_of,
    text_of,
)
from volatility_pipeline_tests.split_frames import split_frame

SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
)
VALIDATION = {"base_rate": None, "har_logistic": 0.4, "xgboost": 0.45, "ewma": 0.41}
PROMOTED = Decision(
    product="BTC-USD",
    at="2026-03-04T08:00:00",
    outcome="promoted",
    reason="XGBoost (version 8) is better than the champion, HAR-logistic (version 4).",
    challenger="8",
    challenger_model="xgboost",
    champion="8",
    champion_model="xgboost",
    numbers={
        "replaced": "4",
        "latency_ms": 3.25,
        "weaknesses": [],
        "refusal": None,
        "difference": asdict(Estimate(0.03, 0.01, 0.05)),
    },
)
REFUSED = replace(
    PROMOTED,
    outcome="refused",
    reason="The data is insufficient: <few> spikes.",
    champion=None,
    champion_model=None,
)


@pytest.fixture(scope="module")
def split() -> pd.DataFrame:
    return split_frame(172_800, seed=3)


@pytest.fixture(scope="module")
def evaluation(split: pd.DataFrame) -> Evaluation:
    return judge(split)


@pytest.fixture(scope="module")
def context(split: pd.DataFrame) -> Context:
    return full_context(split)


@pytest.fixture(scope="module")
def card(evaluation: Evaluation, context: Context) -> str:
    return model_card.render(evaluation, context, PROMOTED)


@pytest.fixture(scope="module")
def rationale(evaluation: Evaluation, context: Context) -> str:
    return selection.render(evaluation, context, PROMOTED, VALIDATION)


def lead_of(evaluation: Evaluation, context: Context, decision: Decision) -> str:
    return model_card.document(evaluation, context, decision).lead


def test_the_card_has_the_sections_of_mitchell_in_their_order(evaluation, context):
    made = model_card.document(evaluation, context, PROMOTED)
    assert tuple(section.title for section in made.sections) == SECTIONS
    assert all(section.blocks for section in made.sections)


def test_the_card_says_that_the_data_is_simulated_and_what_follows(card, evaluation):
    text = text_of(card)
    assert "<title>SIMULATED DATA: Model card of XGBoost (version 8) for BTC-USD</title>" in card
    assert text.startswith(evaluation.verdict)
    assert "SIMULATED DATA Model card: XGBoost (version 8) for BTC-USD" in text
    assert "Not for any real market: it has seen made-up data alone." in text
    assert all("SIMULATED DATA · BTC-USD" in svg for svg in plots_of(card).values())
    assert len(plots_of(card)) == 2


def test_the_cards_numbers_are_those_of_its_model(card, evaluation, context):
    text, found = text_of(card), evaluation.models[7]
    estimate = found.average_precision
    alerts = found.episodes
    missed = alerts.episodes - alerts.caught
    assert found.name == "xgboost"
    for fact in (
        f"PR-AUC {estimate.value:.3f}",
        f"ROC-AUC {found.roc_auc:.3f}",
        f"Brier score; skill {found.brier:.4f}; {found.brier_skill:+.3f}",
        f"Alerts at a probability of {found.decision_threshold:.3f} or more",
        f"Episodes caught {alerts.caught} of {alerts.episodes}, {alerts.warned} of them",
        f"missed {missed} of {alerts.episodes} episodes and gave "
        f"{alerts.false_alarms_per_hour:.1f} false alarms an hour",
        "Chosen by its search model__max_depth 2",
        "without columns null in all training rows: volume_velocity_30s.",
        f"Decided 2026-03-04 08:00:00: promoted. {PROMOTED.reason}",
        "future truncation FAILS",
        "embargo after a cut: 12,600",
    ):
        assert fact in text
    folds = [fold.models[7].average_precision.value for fold in context.folds.folds]
    assert f"PR-AUC runs from {min(folds):.2f} to {max(folds):.2f} over 2 folds" in text


def test_the_card_is_of_the_champion_else_of_the_challenger_and_says_which(evaluation, context):
    assert lead_of(evaluation, context, PROMOTED) == "It is the champion of BTC-USD."
    assert lead_of(evaluation, context, REFUSED).startswith(
        "BTC-USD has no champion: this is the challenger"
    )
    kept = replace(REFUSED, champion="2", champion_model="persistence")
    subject = model_card.card_subject(evaluation, context, kept)
    assert (subject.standing, subject.result.name) == ("champion", "persistence")
    by_hand = replace(REFUSED, outcome="removed", challenger=None, challenger_model=None)
    subject = model_card.card_subject(evaluation, context, by_hand)
    assert (subject.standing, subject.name) == ("reference", "HAR-logistic (version 4)")
    assert "neither champion nor challenger" in lead_of(evaluation, context, by_hand)


def test_numbers_of_another_version_than_the_champions_are_called_so(evaluation, context):
    older = replace(PROMOTED, outcome="refused", champion="3", champion_model="har_logistic")
    lead = lead_of(evaluation, context, older)
    assert "The numbers on test rows and folds are those of version 4 of the same rung" in lead


def test_an_older_champion_is_described_by_its_own_facts_alone(evaluation, context):
    decision = replace(PROMOTED, outcome="refused", champion="3", champion_model="xgboost")
    own = {"source": "simulated", "days": "2026-02-01 to 2026-02-03", "seed": 7, "code": "ab12"}
    own |= {"trained_from": "2026-02-01 00:05:00", "trained_until": "2026-02-02 09:00:00"}
    now_recorded = replace(context, is_simulated=False, provenance={"source": "recorded"})
    champion = model_card.Registered(0.123, own)
    text = text_of(model_card.render(evaluation, now_recorded, decision, champion))
    for fact in (
        "SIMULATED DATA Model card: XGBoost (version 3) for BTC-USD",
        "Alerts at a probability of 0.123 or more",
        "on rows from 2026-02-01 00:05:00 to 2026-02-02 09:00:00 UTC",
        "A simulated market, 2026-02-01 to 2026-02-03.",
        "Chosen by its search see its run in MLflow",
        "On the test rows version 8 missed",
    ):
        assert fact in text
    assert "volume_velocity_30s." not in text  # which the newest fit does without


def test_a_card_without_walk_forward_controls_or_spikes_has_no_empty_number(context):
    small = split_frame(6_000, seed=1).query("role == 'test'").head(5).assign(is_spike=False)
    bare = Context(is_simulated=False, dropped={}, provenance={})
    for page in (
        model_card.render(judge(small), bare, REFUSED),
        selection.render(judge(small), bare, REFUSED, {}),
    ):
        text = text_of(page)
        assert "SIMULATED" not in page
        assert not any(word in text.split() for word in ("nan", "None", "inf"))


def test_the_rationale_says_what_was_chosen_on_what_and_what_was_decided(rationale, evaluation):
    text = text_of(rationale)
    assert text.startswith(PROMOTED.reason)
    assert "SIMULATED DATA Why BTC-USD is answered by XGBoost" in text
    for fact in (
        "Outcome promoted",
        "Challenger XGBoost (version 8)",
        "difference 0.030 [0.010, 0.050]",
        "latency ms 3.25",
        "replaced 4",
        "The challenger is XGBoost: the rung that ranks the validation rows best",
        "XGBoost 0.450 EWMA 0.410 HAR-logistic 0.400 Base rate –",
        "exceeds this champion's by an interval above zero",
    ):
        assert fact in text
    assert "refusal" not in text
    for model in evaluation.models:
        assert f"{LADDER[model.name].title} {model.average_precision.value:.3f}" in text


def test_without_a_champion_the_rationale_says_why_and_escapes_the_reason(evaluation, context):
    page = selection.render(evaluation, context, REFUSED, VALIDATION)
    assert text_of(page).startswith("The data is insufficient: <few> spikes.")
    assert "&lt;few&gt;" in page
    assert "Why BTC-USD has no champion" in text_of(page)
    assert "Champion from now on –" in text_of(page)


def test_a_decision_by_hand_names_no_challenger(evaluation, context):
    decision = replace(
        PROMOTED,
        outcome="set by hand",
        reason="I looked for a leak.",
        challenger=None,
        challenger_model=None,
        numbers={},
    )
    text = text_of(selection.render(evaluation, context, decision, {}))
    assert "No challenger was chosen: this was decided by hand." in text
    assert "Another decision by hand" in text


def test_card_and_rationale_can_be_printed(evaluation, context):
    for made in (
        model_card.document(evaluation, context, PROMOTED),
        selection.document(evaluation, context, PROMOTED, VALIDATION),
    ):
        text = " ".join(pages_of(pdf.render(made, is_compressed=False)))
        assert made.heading in text
        assert all(section.title in text for section in made.sections)
