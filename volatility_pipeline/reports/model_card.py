"""The model card of a product's champion, or of its challenger where there is no champion.

Its sections are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), section 4;
its numbers are the evaluation's and the decision's. Writing it to a file is the caller's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from volatility_pipeline.domain.evaluation import Evaluation, ModelResult
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.promotion import Decision
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import page, plots
from volatility_pipeline.reports.blocks import (
    SQUARE,
    Context,
    control_blocks,
    cover,
    event,
    interval_note,
    model_notes,
    plot,
    roles_table,
    status,
)
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    Block,
    Bullets,
    Document,
    Heading,
    Plots,
    Section,
    Table,
    Text,
    estimate,
    facts,
    moment,
    number,
    words,
)


@dataclass(frozen=True)
class Registered:
    """What the registry notes of the champion, which may be older than the newest fit.

    Attributes:
        decision_threshold: An alert is a probability at or above it.
        provenance: What it was made from, by name.
    """

    decision_threshold: float
    provenance: Mapping[str, object]


@dataclass(frozen=True)
class Subject:
    """Which model the card is of.

    Attributes:
        standing: What it is: champion, challenger, or the reference where there is neither.
        result: The rung's, on the test rows.
        version: The model's, in the registry; None where it has none.
        measured: The version that the test rows were asked of.
        decision_threshold: The model's own, not that of the version that was measured.
        provenance: What the model was made from, by name.
    """

    standing: str
    result: ModelResult
    version: str | None
    measured: str | None
    decision_threshold: float
    provenance: Mapping[str, object]

    @property
    def name(self) -> str:
        """The model as a person reads it."""
        version = f" (version {self.version})" if self.version else ""
        return f"{title(self.result.name)}{version}"

    @property
    def is_measured(self) -> bool:
        """Whether the evaluation's numbers are this very version's."""
        return self.version == self.measured

    @property
    def measured_name(self) -> str:
        """Whom the numbers are of, where they are not this version's."""
        return f"version {self.measured}" if self.measured else "the newest fit"


def render(
    evaluation: Evaluation,
    context: Context,
    decision: Decision,
    champion: Registered | None = None,
) -> str:
    """Return the card as an HTML page; for the arguments, see `document`."""
    return page.render(document(evaluation, context, decision, champion))


def document(
    evaluation: Evaluation,
    context: Context,
    decision: Decision,
    champion: Registered | None = None,
) -> Document:
    """Put the card together.

    Args:
        evaluation: Of the newest fit of all rungs, on the test rows.
        context: What the report says beside it.
        decision: The newest.
        champion: What is noted of the champion; None where there is none.
    """
    subject = card_subject(evaluation, context, decision, champion)
    is_made_up = context.is_simulated or subject.provenance.get("source") == "simulated"
    context = replace(context, is_simulated=is_made_up, provenance=subject.provenance)
    if not subject.is_measured:  # what is known of the newest fit is not true of this one
        context = replace(context, notes={}, dropped_columns={}, parameters={})
    sections: dict[str, Callable[[], Iterator[Block]]] = {
        "Model details": partial(_details, subject, evaluation, context, decision),
        "Intended use": partial(_intended_use, evaluation, context),
        "Factors": partial(_factors, subject, evaluation, context),
        "Metrics": partial(_metrics, subject, evaluation),
        "Evaluation data": partial(_evaluation_data, evaluation, context),
        "Training data": partial(_training_data, subject, evaluation, context),
        "Quantitative analyses": partial(_analyses, subject, evaluation, context),
        "Ethical considerations": partial(_ethics, subject),
        "Caveats and recommendations": partial(_caveats, subject, evaluation, context),
    }
    return Document(
        title=f"Model card of {subject.name} for {evaluation.product_id}",
        heading=f"Model card: {subject.name} for {evaluation.product_id}",
        lead=_lead(subject, evaluation),
        mark=context.mark,
        verdict=evaluation.verdict,
        status=status(evaluation),
        cover=[("Model", subject.name), *cover(evaluation, context)],
        sections=[Section(name, list(blocks())) for name, blocks in sections.items()],
    )


def card_subject(
    evaluation: Evaluation,
    context: Context,
    decision: Decision,
    champion: Registered | None = None,
) -> Subject:
    """Return which model the card is of: the champion, else the challenger, else the reference."""
    results = {model.name: model for model in evaluation.models}
    for standing, rung, version in (
        ("champion", decision.champion_model, decision.champion),
        ("challenger", decision.challenger_model, decision.challenger),
        ("reference", evaluation.reference, context.versions.get(evaluation.reference)),
    ):
        if rung in results:
            newest = Registered(results[rung].decision_threshold, context.provenance)
            own = champion if champion and standing == "champion" else newest
            return Subject(
                standing,
                results[rung],
                version,
                context.versions.get(rung),
                own.decision_threshold,
                own.provenance,
            )
    raise ValueError(f"{evaluation.reference} was not evaluated.")


def _lead(subject: Subject, evaluation: Evaluation) -> str:
    standing = {
        "champion": f"It is the champion of {evaluation.product_id}.",
        "challenger": f"{evaluation.product_id} has no champion: this is the challenger, and "
        "nothing answers by it.",
        "reference": f"{evaluation.product_id} has neither champion nor challenger: this is the "
        "model that others are compared with, and nothing answers by it.",
    }[subject.standing]
    if subject.is_measured:
        return standing
    return (
        f"{standing} The numbers on test rows and folds are those of {subject.measured_name} of "
        "the same rung, fitted later; the champion's own, where it was tested, stand in the "
        "selection rationale."
    )


def _details(
    subject: Subject, evaluation: Evaluation, context: Context, decision: Decision
) -> Iterator[Block]:
    rung, made_from = LADDER[subject.result.name], context.provenance
    known = {
        "Model": subject.name,
        "Standing": subject.standing,
        "Decided": f"{moment(decision.at)}: {decision.outcome}. {decision.reason}",
        "What it does": f"{rung.about}.",
        "Answers": f"the probability of a spike of {evaluation.product_id} in the next "
        f"{HORIZON_SECONDS} seconds",
        "Inputs": ", ".join(rung.columns) or "none",
        "Chosen by its search": words(context.parameters.get(rung.name) or "nothing")
        if subject.is_measured
        else "see its run in MLflow",
        "Calibration": "sigmoid, fitted on validation rows",
        "Alerts at": f"a probability of {subject.decision_threshold:.3f} or more",
        "Trained": f"on rows from {words(made_from.get('trained_from'))} to "
        f"{words(made_from.get('trained_until'))} UTC",
        "Seed": words(made_from.get("seed")),
        "Code": words(made_from.get("code")),
        "Libraries": words(made_from.get("libraries")),
        "Licence": "MIT, as the code",
    }
    yield facts(list(known.items()), ("What", "Value"))


def _intended_use(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    product = evaluation.product_id
    uses = [
        (
            "For",
            f"telling each second how likely the next {HORIZON_SECONDS} seconds of {product} are "
            "to be unusually volatile: to alert a person, or to make a system of one's own more "
            "careful.",
        ),
        ("By", "engineers and analysts who read its evaluation beside its answers."),
        (
            "Not for",
            f"the direction of the price, other markets than {product} on Coinbase, other "
            "horizons, or trading without limits of one's own.",
        ),
    ]
    if context.is_simulated:
        uses.append(("Not for", "any real market: it has seen made-up data alone."))
    yield Bullets(uses)


def _factors(subject: Subject, evaluation: Evaluation, context: Context) -> Iterator[Block]:
    rates = [rate.base_rate for rate in evaluation.days]
    spread = f"{min(rates):.2f} to {max(rates):.2f}" if rates else NOT_DEFINED
    yield Bullets(
        [
            (
                "Relevant:",
                "how calm the market is (its regime), the time of day, how many trades there are, "
                "and how whole the feed is.",
            ),
            ("Evaluated by:", f"day; the base rate runs from {spread} over days and roles."),
            ("Evaluated by:", f"fold of a walk-forward; {_fold_span(subject, context)}."),
            ("Not evaluated by:", "time of day or regime: the test holds too few of either."),
        ]
    )


def _fold_span(subject: Subject, context: Context) -> str:
    folds = context.folds.folds if context.folds else ()
    values = [
        model.average_precision.value
        for fold in folds
        for model in fold.models
        if model.name == subject.result.name and model.average_precision
    ]
    if not values:
        return "none was run" if context.folds is None else f"{context.folds.shortage}"
    return f"PR-AUC runs from {min(values):.2f} to {max(values):.2f} over {len(values)} folds"


def _metrics(subject: Subject, evaluation: Evaluation) -> Iterator[Block]:
    yield Bullets(
        [
            (
                "Ranking:",
                "PR-AUC (average precision), since spikes are rare; beside it the base rate, which "
                "guessing gives, and lift, their ratio.",
            ),
            (
                "Probabilities:",
                "the Brier score, and skill over knowing the base rate in hindsight.",
            ),
            (
                "Decisions:",
                f"at a probability of {subject.result.decision_threshold:.3f}, chosen on "
                "validation rows: precision, recall, alerts an hour, episodes caught."
                if LADDER[subject.result.name].alert_score is None
                else f"at a probability of {subject.result.decision_threshold:.3f}, where the rule "
                "alerts: precision, recall, alerts an hour, episodes caught.",
            ),
            ("Uncertainty:", interval_note(evaluation)),
        ]
    )


def _evaluation_data(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    yield Text(
        "The newest 15 % of the labelled rows, one a second; none was fitted to. "
        f"{event(evaluation)} "
        f"Rows whose {HORIZON_SECONDS} seconds cross a cut are purged, and the first "
        f"{EMBARGO_SECONDS} s after it are left out, so that no training label reaches into the "
        "test."
    )
    yield roles_table(evaluation, "test")
    if context.dropped:
        dropped = "; ".join(f"{reason}: {rows:,}" for reason, rows in context.dropped.items())
        yield Text(f"Rows dropped, of all roles: {dropped}.", is_note=True)


def _training_data(subject: Subject, evaluation: Evaluation, context: Context) -> Iterator[Block]:
    is_simulated = subject.provenance.get("source") == "simulated"
    source = "A simulated market" if is_simulated else "Coinbase's public ticker, recorded"
    yield Text(
        f"{source}, {words(context.provenance.get('days'))}. Models are fitted on training rows, "
        "every fifth second; calibrated, and their thresholds chosen, on validation rows. Missing "
        "inputs are filled with training medians, and flagged."
    )
    if subject.is_measured:
        yield roles_table(evaluation, "train", "validation")
    fingerprint = words(context.provenance.get("data_fingerprint"))
    yield Text(f"SHA-256 of the rows: {fingerprint}", is_note=True)


def _analyses(subject: Subject, evaluation: Evaluation, context: Context) -> Iterator[Block]:
    found, alerts = subject.result, subject.result.episodes
    caught = f"{alerts.caught} of {alerts.episodes}"
    yield Heading("Unitary results: the test rows")
    known = {
        "PR-AUC": estimate(found.average_precision),
        "Base rate": number(evaluation.base_rate),
        "Lift": estimate(found.lift, ".2f"),
        f"PR-AUC less {title(evaluation.reference)}'s": estimate(found.gain, "+.3f"),
        "ROC-AUC": number(found.roc_auc),
        "Brier score; skill": f"{number(found.brier, '.4f')}; {number(found.brier_skill, '+.3f')}",
        "Precision; recall; F1": "; ".join(map(number, (found.precision, found.recall, found.f1))),
        "Alerts an hour": number(alerts.alerts_per_hour, ".1f"),
        "False alarms an hour": number(alerts.false_alarms_per_hour, ".1f"),
        "Episodes caught": f"{caught}, {alerts.warned} of them by a new alert",
        "Median lead of those": f"{number(alerts.median_lead_seconds, '.0f')} s",
    }
    yield facts(list(known.items()), ("Measure", "Value"))
    own = replace(evaluation, models=(found,))
    yield Plots(
        [
            plot(
                own,
                context,
                "Precision and recall",
                "Precision over recall, with the base rate as a line",
                partial(plots.draw_precision_recall, evaluation=own),
                size=SQUARE,
            ),
            plot(
                own,
                context,
                "Calibration",
                "Observed share of spikes over predicted probability",
                partial(plots.draw_calibration, evaluation=own),
                size=SQUARE,
            ),
        ]
    )
    yield from _by_fold(subject, context)
    yield Heading("Intersectional results")
    yield Text("None: days and folds hold too few separate spikes to be split again.")


def _by_fold(subject: Subject, context: Context) -> Iterator[Block]:
    if context.folds is None or context.folds.pooled is None:
        return
    yield Heading("Unitary results: fold by fold")
    rows = []
    for fold in (*context.folds.folds, context.folds.pooled):
        found = next(model for model in fold.models if model.name == subject.result.name)
        rows.append(
            (
                f"Fold {fold.number}" if fold.number else "Pooled",
                f"{fold.roles[-1].rows:,}",
                number(fold.base_rate),
                estimate(found.average_precision),
                estimate(found.lift, ".2f"),
                estimate(found.gain, "+.3f"),
            )
        )
    compared = f"Δ {title(context.folds.reference)}"
    yield Table(head=("Fold", "Test rows", "Base rate", "PR-AUC", "Lift", compared), rows=rows)


def _ethics(subject: Subject) -> Iterator[Block]:
    alerts = subject.result.episodes
    missed = alerts.episodes - alerts.caught
    who = "it" if subject.is_measured else subject.measured_name
    alarms = number(alerts.false_alarms_per_hour, ".1f")
    yield Bullets(
        [
            ("Data:", "public prices and sizes; nothing of a person, no account, no order."),
            ("Human life:", "no decision on anybody's is meant to rest on it."),
            (
                "Harm:",
                f"whoever trusts it can lose money. On the test rows {who} missed "
                f"{missed} of {alerts.episodes} episodes and gave {alarms} false alarms an hour.",
            ),
            (
                "Mitigation:",
                "probabilities rather than orders, intervals beside every number, no claim where "
                "the data cannot carry one, and a person's recorded reason before a result that "
                "looks too good is used.",
            ),
        ]
    )


def _caveats(subject: Subject, evaluation: Evaluation, context: Context) -> Iterator[Block]:
    said = [("Verdict:", evaluation.verdict)]
    if context.is_simulated:
        said.append(
            ("Simulated:", "the numbers say how the pipeline works, not how a market does.")
        )
    said += [("Note:", note) for note in model_notes(subject.result.name, context)]
    said += [
        (
            "Regime:",
            "the test is one stretch of time; a market that changes leaves the numbers behind. "
            "Watch drift and realized performance, and train again.",
        ),
        ("Read also:", "the evaluation report, and the selection rationale."),
    ]
    yield Bullets(said)
    yield Heading("Controls")
    yield from control_blocks(evaluation, context)
