"""The evaluation report of a product: what it says, and in which order.

The numbers come from `domain`, the drawings from `plots`; what other reports say too stands in
`blocks`; `page` and `pdf` lay the report out. Writing it to a file is the caller's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from volatility_pipeline.domain.evaluation import Evaluation, ModelResult
from volatility_pipeline.domain.ladder import COLOURS, LADDER
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import plots, shadow
from volatility_pipeline.reports.blocks import (
    SQUARE,
    WIDE,
    comparison_blocks,
    control_blocks,
    cover,
    event,
    model_notes,
    plot,
    roles_table,
    status,
    walk_forward_blocks,
)
from volatility_pipeline.reports.blocks import Context as Context
from volatility_pipeline.reports.blocks import comparison as comparison
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    RIGHT,
    Block,
    Bullets,
    Card,
    Cards,
    Document,
    Heading,
    Plots,
    Section,
    Table,
    Terms,
    Text,
    estimate,
    facts,
    moment,
    number,
    words,
)


def document(evaluation: Evaluation, context: Context) -> Document:
    """Put the report together."""
    test = evaluation.roles[-1]
    span = f", {moment(test.start)} to {moment(test.end)} UTC" if test.start else ""
    sections: dict[str, Callable[[Evaluation, Context], Iterator[Block]]] = {
        "Comparison": comparison_blocks,
        "Ranking: PR and ROC curves": _ranking,
        "Score over time": _over_time,
        "Alerts: confusion at the chosen threshold": _alerts,
        "Probabilities: calibration": _calibration,
        "Walk-forward: fold by fold": walk_forward_blocks,
        **({"Live, side by side": _live} if context.shadow else {}),
        "Feature importance": importance_blocks,
        "Labels: base rate per day": _labels,
        "Controls": control_blocks,
        "What was dropped, and what fell back": _dropped,
        "Where the data came from": _provenance,
        "How to read this": _glossary,
    }
    return Document(
        title=f"Evaluation of {evaluation.product_id}",
        heading=f"Will {evaluation.product_id} be unusually volatile in the next 60 seconds?",
        lead=f"{len(evaluation.models)} models on the same {test.rows:,} test rows{span}, under "
        f"the {evaluation.policy} threshold.",
        mark=context.mark,
        verdict=evaluation.verdict,
        status=status(evaluation),
        cover=cover(evaluation, context),
        sections=[
            Section(name, list(blocks(evaluation, context))) for name, blocks in sections.items()
        ],
    )


def _ranking(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    curves = plot(
        evaluation,
        context,
        "Precision and recall",
        "Precision over recall, with the base rate as a line",
        partial(plots.draw_precision_recall, evaluation=evaluation),
        size=SQUARE,
    )
    roc = plot(
        evaluation,
        context,
        "ROC",
        "True positive rate over false positive rate",
        partial(plots.draw_roc, evaluation=evaluation),
        size=SQUARE,
    )
    yield Plots([curves, roc])
    yield Text(
        "In brackets: the area under each curve. Drawn from uncalibrated scores.", is_note=True
    )


def _over_time(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    line = context.timeline
    if line is None:
        yield Text("There is no timeline: the test has no row, or none was made of it.")
        return
    thresholds = {model.name: model.decision_threshold for model in evaluation.models}
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "Score over time",
                "Realized volatility and its threshold over time, above the models' probabilities",
                partial(plots.draw_timeline, line=line, alert_thresholds=thresholds),
                size=(WIDE, 4.4),
                panels=(2, 1),
            )
        ]
    )
    yield Text(
        f"Each point is {_seconds(line.step_seconds)}. Volatility and threshold are those of its "
        "row that comes nearest to a spike or exceeds the threshold most, so the line rises above "
        "the threshold exactly where there is a spike; a probability is the highest of its rows, "
        "so it reaches the dotted line exactly where there is an alert. Where there are no rows "
        "there is no line.",
        is_note=True,
    )


def _alerts(evaluation: Evaluation, _: Context) -> Iterator[Block]:
    yield Text(
        "An alert is a probability at or above the model's threshold, which was chosen for the "
        "best F1 on validation rows; the z-score rule's is fixed, two deviations above the "
        "training mean. Counts are test rows, one a second: neighbours overlap.",
        is_note=True,
    )
    yield Cards([_confusion(model) for model in evaluation.models])


def _confusion(model: ModelResult) -> Card:
    counts = model.confusion
    return Card(
        name=title(model.name),
        remark=f"at {number(model.decision_threshold)}",
        colour=COLOURS.get(model.name, "#000000"),
        table=Table(
            head=("", "Alert", "No alert"),
            rows=[
                ("Spike", f"{counts.true_positives:,}", f"{counts.false_negatives:,}"),
                ("Quiet", f"{counts.false_positives:,}", f"{counts.true_negatives:,}"),
            ],
            marked={(0, 1): RIGHT, (1, 2): RIGHT},
        ),
    )


def _calibration(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "Calibration",
                "Observed share of spikes over predicted probability",
                partial(plots.draw_calibration, evaluation=evaluation),
                size=(WIDE, 4.0),
            )
        ]
    )
    yield Text(
        "Ten bins of about equally many rows a model. On the dashed line, a probability of 0.3 "
        "comes true three times in ten; above it the model says too little, below it too much.",
        is_note=True,
    )


def _live(_: Evaluation, context: Context) -> Iterator[Block]:
    if context.shadow:
        yield from shadow.blocks(context.shadow)


def importance_blocks(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    """Yield what the inputs are worth, as plot and table."""
    found = plots.strongest(context.importances)
    if not found:
        yield Text("There are no importances: none were measured on these rows.")
        return
    models = list(dict.fromkeys(each.model for each in context.importances))
    features = list(dict.fromkeys(each.feature for each in found))
    by_place = {(each.feature, each.model): each for each in found}
    longest = min(len(features), plots.SHOWN_FEATURES)
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "Permutation importance",
                "Fall of test PR-AUC when a column is permuted, the strongest columns first",
                partial(plots.draw_importances, importances=context.importances),
                size=(WIDE, 1.2 + 0.22 * longest),
                panels=plots.importance_panels(context.importances),
            )
        ]
    )
    yield Text(
        "Drop: the fall of test PR-AUC when a column's blocks of time are shuffled, with its 95 % "
        "interval where one may be shown. Share: of the model's own importance (split gain of "
        "trees, magnitude of standardized coefficients). Columns that tell the same stand in for "
        "one another, so a small drop does not prove a column useless.",
        is_note=True,
    )
    rows = []
    for feature in features:
        row = [feature]
        for model in models:
            each = by_place.get((feature, model))
            row += [estimate(each.drop, "+.4f"), number(each.gain)] if each else [NOT_DEFINED] * 2
        rows.append(row)
    head = [text for model in models for text in (f"{title(model)}: drop", "share")]
    yield Table(head=["Column", *head], rows=rows)


def _labels(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "Base rate by day",
                "Share of spikes by day and role",
                partial(plots.draw_days, evaluation=evaluation),
                size=(WIDE, 2.6),
            )
        ]
    )
    yield Table(
        head=("Day (UTC)", "Role", "Rows", "Spikes", "Base rate"),
        rows=[
            (rate.day, rate.role, f"{rate.rows:,}", f"{rate.spikes:,}", number(rate.base_rate))
            for rate in evaluation.days
        ],
        words={1},
    )
    yield Heading("By role")
    yield roles_table(evaluation)
    yield Text(
        "Training rows are every fifth second. Non-overlapping spikes lie at least 60 s apart, "
        "episodes at least 15 minutes.",
        is_note=True,
    )


def _dropped(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    if context.dropped:
        yield Table(
            head=("Rows dropped because", "Rows"),
            rows=[(reason, f"{rows:,}") for reason, rows in context.dropped.items()],
        )
    else:
        yield Text("No row was dropped.")
    notes = [
        (f"{title(model.name)}:", note)
        for model in evaluation.models
        for note in model_notes(model.name, context)
    ]
    if notes:
        yield Bullets(notes)


def _provenance(_: Evaluation, context: Context) -> Iterator[Block]:
    rows = [(name, words(value)) for name, value in context.provenance.items()]
    yield facts(rows, ("What", "Value"))


def _glossary(evaluation: Evaluation, _: Context) -> Iterator[Block]:
    rungs = [LADDER[model.name] for model in evaluation.models if model.name in LADDER]
    yield Terms(
        [
            ("The event", event(evaluation)),
            (
                "PR-AUC, base rate, lift",
                "PR-AUC is average precision. Guessing gives the base rate, so read the two side "
                "by side; lift is their ratio. 0.4 is good at a base rate of 0.1 and worthless at "
                "0.4.",
            ),
            (
                f"Δ {title(evaluation.reference)}",
                "The difference in PR-AUC on the same resamples. A model is better only if its "
                "whole interval lies above zero; such rows are shaded.",
            ),
            (
                "Brier and skill",
                "The Brier score is the mean squared error of the calibrated probabilities, lower "
                "is better. Skill is the share of the base rate's error that is saved; 0 is no "
                "better than knowing the base rate in hindsight.",
            ),
            (
                "Alerts and episodes",
                "An alert holds for 60 seconds and is counted anew each minute that it stays on: "
                "60 an hour is always. Spikes at most 60 seconds apart are one episode; it is "
                "caught if an alert was on at its start or given within it.",
            ),
            (
                "What was fitted where",
                "Models on training rows, probabilities and thresholds on validation rows. Test "
                "rows fit no model and choose no challenger; whether it is promoted is asked of "
                "them.",
            ),
            ("The models", " ".join(f"{rung.title}: {rung.about}." for rung in rungs)),
            (
                "When to doubt it",
                "Too few spikes (INSUFFICIENT) claim nothing, whatever the table says. A result "
                "too good for the literature (SUSPICIOUS) is more likely a leak than a discovery. "
                "With few blocks the intervals are somewhat too narrow.",
            ),
        ]
    )


def _seconds(seconds: int) -> str:
    """A length of time as a person says it."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % unit == 0:
            count = seconds // unit
            return f"one {name}" if count == 1 else f"{count} {name}s"
    raise ValueError(f"{seconds} is no whole number of seconds.")
