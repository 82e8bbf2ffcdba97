"""What several reports say of a product's evaluation: the same tables, notes and plots in each.

What stands in a report, and in which order, is its own; the numbers come from `domain`, the
drawings from `plots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from volatility_pipeline.domain.controls import Control
from volatility_pipeline.domain.evaluation import Evaluation, ModelResult
from volatility_pipeline.domain.fold_results import FoldResult, WalkForwardResult
from volatility_pipeline.domain.importance import Importance
from volatility_pipeline.domain.ladder import COLOURS
from volatility_pipeline.domain.shadow import Shadow
from volatility_pipeline.domain.timeline import Timeline
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import plots
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    SIMULATED,
    WRONG,
    Block,
    Heading,
    Plots,
    Status,
    Table,
    Text,
    estimate,
    moment,
    number,
    words,
)
from volatility_pipeline.reports.plots import Plot

WIDE = 8.6
SQUARE = (4.6, 4.8)
OUTCOMES = {True: "holds", False: "FAILS", None: "not judged"}


@dataclass(frozen=True)
class Context:
    """What the report says beside the results.

    Attributes:
        is_simulated: Whether the data is made up; the page and every plot then say so.
        dropped: Rows that were dropped, by reason.
        provenance: Where the data came from and what it was made with, by name.
        notes: Per model, what fell back and why.
        dropped_columns: Per model, inputs null in all training rows.
        parameters: Per model, what its search chose.
        versions: Per model, its version in the registry.
        folds: The walk-forward; None where none was run.
        controls: What has to hold before any number may be believed.
        importances: What the inputs are worth, of a model or a few.
        timeline: The test rows over time; None where there is none.
        shadow: Champion and challenger on what both answered live; None where there is nothing.
    """

    is_simulated: bool
    dropped: Mapping[str, int]
    provenance: Mapping[str, object]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dropped_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    folds: WalkForwardResult | None = None
    controls: Sequence[Control] = ()
    importances: Sequence[Importance] = ()
    timeline: Timeline | None = None
    shadow: Shadow | None = None

    @property
    def mark(self) -> str:
        """What stands before every title."""
        return SIMULATED if self.is_simulated else ""


def status(evaluation: Evaluation) -> Status:
    """Return how a verdict is coloured."""
    if evaluation.insufficient:
        return "insufficient"
    return "suspicious" if evaluation.suspicious else "claim"


def cover(evaluation: Evaluation, context: Context) -> list[tuple[str, str]]:
    """Return what a printed title page says of the data and what read it."""
    test, made_from = evaluation.roles[-1], context.provenance
    span = f", {moment(test.start)} to {moment(test.end)}" if test.rows else ""
    known = {
        "Product": evaluation.product_id,
        "Data source": "simulated, no market" if context.is_simulated else "recorded",
        "Days (UTC)": made_from.get("days"),
        "Models trained until": made_from.get("trained_until"),
        "Test rows": f"{test.rows:,}{span}",
        "Base rate of the test": number(evaluation.base_rate),
        "Label policy": evaluation.policy,
        "Data fingerprint (SHA-256)": made_from.get("data_fingerprint"),
        "Python": made_from.get("python"),
        "Libraries": made_from.get("libraries"),
    }
    return [(name, words(value)) for name, value in known.items() if value is not None]


def comparison(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return the comparison table: a row a model, text by column name, intervals in brackets."""
    base_rate = number(evaluation.base_rate)
    return [
        {
            "Model": title(model.name),
            "PR-AUC": estimate(model.average_precision),
            "Base rate": base_rate,
            "Lift": estimate(model.lift, ".2f"),
            f"Δ {title(evaluation.reference)}": estimate(model.gain, "+.3f"),
            "ROC-AUC": number(model.roc_auc),
            "Brier": number(model.brier, ".4f"),
            "Skill": number(model.brier_skill, "+.3f"),
            "F1": number(model.f1),
            "Precision": number(model.precision),
            "Recall": number(model.recall),
            "Alerts/h": number(model.episodes.alerts_per_hour, ".1f"),
            "Episodes caught": caught(model),
        }
        for model in evaluation.models
    ]


def comparison_blocks(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    """Yield the comparison table, what its intervals are, and its plot."""
    rows = comparison(evaluation)
    yield Table(
        head=list(rows[0]),
        rows=[list(row.values()) for row in rows],
        colours=[COLOURS.get(model.name, "#000000") for model in evaluation.models],
        shaded={place for place, model in enumerate(evaluation.models) if model.is_better},
        is_wide=True,
    )
    yield Text(interval_note(evaluation), is_note=True)
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "PR-AUC",
                "PR-AUC of each model with its interval, beside the base rate",
                partial(plots.draw_comparison, evaluation=evaluation),
            )
        ]
    )


def interval_note(evaluation: Evaluation) -> str:
    """Return what the intervals are, or why there are none, and what the rows are worth."""
    blocks = evaluation.blocks
    said = f"No interval is shown: {blocks.refusal}."
    if not blocks.refusal:
        said = (
            f"In brackets: 95 % intervals from {evaluation.resamples:,} moving-block resamples, "
            f"the same for all models; {blocks.count} blocks of {blocks.seconds:,} s, "
            f"{blocks.with_spike} of them with a spike."
        )
    if evaluation.lift_refusal:
        said += f" No lift is pooled: {evaluation.lift_refusal}."
    if evaluation.independent_labels is not None:
        said += (
            f" The test rows overlap: they are worth about {evaluation.independent_labels:.0f} "
            f"independent labels, {number(evaluation.independent_spikes, '.0f')} of them spikes."
        )
    return said


def walk_forward_blocks(evaluation: Evaluation, context: Context) -> Iterator[Block]:
    """Yield the folds, every model in each and over all, and their plot; or why there are none."""
    folds = context.folds
    if folds is None or folds.pooled is None:
        why = folds.shortage if folds else None
        yield Text(f"There is no walk-forward: {why or 'none was run'}.")
        return
    span = "all of the past" if folds.window == "expanding" else "the last few pieces of the past"
    yield Text(
        f"Every model fitted anew in each fold, on {span}; none was chosen by these numbers.",
        is_note=True,
    )
    shown = [*folds.folds, folds.pooled]
    yield Table(
        head=("Fold", "Training from (UTC)", "Test from", "Test to", "Test rows", "Base rate"),
        rows=[
            (
                _fold_name(fold),
                moment(fold.roles[0].start) if fold.number else "",
                moment(fold.roles[-1].start),
                moment(fold.roles[-1].end),
                f"{fold.roles[-1].rows:,}",
                number(fold.base_rate),
            )
            for fold in shown
        ],
        words={1, 2, 3},
    )
    yield Heading("PR-AUC by fold")
    gains = f"Δ {title(folds.reference)}, pooled"
    yield Table(
        head=("Model", *(_fold_name(fold) for fold in shown), "Lift, pooled", gains),
        rows=[
            (
                title(pooled.name),
                *(estimate(fold.models[place].average_precision) for fold in shown),
                estimate(pooled.lift, ".2f"),
                estimate(pooled.gain, "+.3f"),
            )
            for place, pooled in enumerate(folds.pooled.models)
        ],
        colours=[COLOURS.get(model.name, "#000000") for model in folds.pooled.models],
        shaded={place for place, model in enumerate(folds.pooled.models) if model.is_better},
        is_wide=True,
    )
    yield Text(_fold_note(folds), is_note=True)
    yield Plots(
        [
            plot(
                evaluation,
                context,
                "Walk-forward",
                "PR-AUC of each model by fold and over all, each beside its base rate",
                partial(plots.draw_folds, folds=folds),
                size=(WIDE, 4.0),
            )
        ]
    )


def _fold_name(fold: FoldResult) -> str:
    return f"Fold {fold.number}" if fold.number else "Pooled"


def _fold_note(folds: WalkForwardResult) -> str:
    """What is missing of the walk-forward, and why."""
    lacks: dict[str, list[str]] = {}
    for fold in (*folds.folds, *([folds.pooled] if folds.pooled else [])):
        reasons = [*fold.insufficient]
        reasons += [f"no interval, because {fold.blocks.refusal}"] if fold.blocks.refusal else []
        reasons += [f"no lift, because {fold.lift_refusal}"] if fold.lift_refusal else []
        for reason in reasons:
            lacks.setdefault(reason, []).append(_fold_name(fold))
    said = ["Pooled: the folds' mean by test rows, since two folds' scores lie on two scales."]
    said += [f"Fewer folds than asked for: {folds.shortage}."] if folds.shortage else []
    said += [f"{', '.join(names)}: {reason}." for reason, names in lacks.items()]
    return " ".join(said)


def control_blocks(_: Evaluation, context: Context) -> Iterator[Block]:
    """Yield the controls, each with its finding."""
    if not context.controls:
        yield Text("No control was run with this evaluation.")
        return
    yield Table(
        head=("Control", "Result", "Finding"),
        rows=[(each.name, OUTCOMES[each.passed], each.sentence) for each in context.controls],
        words={1, 2},
        marked={
            (row, 1): WRONG for row, each in enumerate(context.controls) if each.passed is False
        },
    )


def roles_table(evaluation: Evaluation, *names: str) -> Table:
    """Return how much each role knows; of some roles alone where they are named."""
    return Table(
        head=(
            "Role",
            "From (UTC)",
            "To",
            "Rows",
            "Spikes",
            "Base rate",
            "Non-overlapping spikes",
            "Episodes",
        ),
        rows=[
            (
                role.role,
                moment(role.start),
                moment(role.end),
                f"{role.rows:,}",
                f"{role.spikes:,}",
                number(role.base_rate),
                f"{role.separate_spikes}",
                f"{role.episodes}",
            )
            for role in evaluation.roles
            if not names or role.role in names
        ],
        words={1, 2},
    )


def model_notes(name: str, context: Context) -> list[str]:
    """Return what fell back in a model, and what it does without."""
    columns = context.dropped_columns.get(name)
    return [
        *context.notes.get(name, ()),
        *([f"without columns null in all training rows: {', '.join(columns)}."] if columns else []),
    ]


def event(evaluation: Evaluation) -> str:
    """Return what a spike is, under the evaluation's policy."""
    of = (
        "the last 24 hours, known when the question is asked"
        if evaluation.policy == "trailing"
        else "the training rows, one constant; the base rate then moves with the market"
    )
    return (
        "A spike: realized volatility over the next 60 seconds at or above the threshold, the "
        f"90th percentile of {of}."
    )


def plot(
    evaluation: Evaluation,
    context: Context,
    heading: str,
    description: str,
    draw: Callable[[Any], None],
    *,
    size: tuple[float, float] = (WIDE, 3.2),
    panels: tuple[int, int] = (1, 1),
) -> Plot:
    """Return a plot whose title says of which product it is, and whether that is simulated."""
    marks = [context.mark, evaluation.product_id, heading]
    return Plot(" · ".join(filter(None, marks)), description, draw, size, panels)


def caught(model: ModelResult) -> str:
    """Return the share of episodes that a model caught, and how many that are."""
    found = model.episodes
    if found.share_caught is None:
        return NOT_DEFINED
    return f"{found.share_caught:.0%} {found.caught} of {found.episodes}"
