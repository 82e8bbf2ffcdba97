"""The selection rationale: which model was chosen, what it was held against, and what was decided.

Choosing and deciding is `domain.promotion`; this says what it did, in its own numbers. Writing it
to a file is the caller's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from volatility_pipeline.domain.evaluation import Evaluation
from volatility_pipeline.domain.ladder import COLOURS, REFERENCE
from volatility_pipeline.domain.promotion import (
    LATENCY_BUDGET_MS,
    NON_INFERIORITY,
    TIE,
    WEEK,
    Decision,
)
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import page
from volatility_pipeline.reports.blocks import (
    Context,
    comparison_blocks,
    control_blocks,
    cover,
    status,
    walk_forward_blocks,
)
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    Block,
    Bullets,
    Document,
    Section,
    Table,
    Text,
    facts,
    moment,
    number,
    words,
)

WHAT_WOULD_CHANGE_IT = {
    "promoted": "A challenger whose PR-AUC, on rows that neither knows, exceeds this champion's by "
    f"an interval above zero; or above {-NON_INFERIORITY} once this champion is stale, below its "
    "floor or in drift.",
    "refused": "What the reason names: more data where it is insufficient or the interval holds "
    "zero, a mended fault or control where one failed, or a better challenger.",
    "deferred": "What the reason names: test rows of a new week, or a person's recorded reason.",
    "unchanged": "A newer fit of any rung, once it ranks validation rows best and is tested.",
    "set by hand": "Another decision by hand, or a challenger that is better than this champion.",
    "rolled back": "Another decision by hand, or a challenger that is better than this champion.",
    "removed": "The next training, whose challenger becomes champion again if its lift interval "
    "lies above 1; or a decision by hand.",
}


def render(
    evaluation: Evaluation,
    context: Context,
    decision: Decision,
    validation: Mapping[str, float | None],
) -> str:
    """Return the rationale as an HTML page; for the arguments, see `document`."""
    return page.render(document(evaluation, context, decision, validation))


def document(
    evaluation: Evaluation,
    context: Context,
    decision: Decision,
    validation: Mapping[str, float | None],
) -> Document:
    """Put the rationale together.

    Args:
        evaluation: Of all rungs, on the test rows.
        context: What the report says beside it.
        decision: The newest.
        validation: PR-AUC on the validation rows by rung, which the challenger was chosen by; None
            where it is not defined.
    """
    product = evaluation.product_id
    return Document(
        title=f"Selection rationale for {product}",
        heading=f"Why {product} is answered by {title(decision.champion_model)}"
        if decision.champion_model
        else f"Why {product} has no champion",
        lead=f"{moment(decision.at)} UTC: {decision.outcome}.",
        mark=context.mark,
        verdict=decision.reason,
        status=status(evaluation),
        cover=[("Decided (UTC)", moment(decision.at)), *cover(evaluation, context)],
        sections=[
            Section("The decision", list(_decision(decision))),
            Section("Chosen on validation rows", list(_chosen(decision, validation))),
            Section("The ladder on the test rows", list(comparison_blocks(evaluation, context))),
            Section("Walk-forward: fold by fold", list(walk_forward_blocks(evaluation, context))),
            Section("The rules", list(_rules())),
            Section("Controls", list(control_blocks(evaluation, context))),
            Section("What would change it", [Text(WHAT_WOULD_CHANGE_IT[decision.outcome])]),
        ],
    )


def _decision(decision: Decision) -> Iterator[Block]:
    known = {
        "Outcome": decision.outcome,
        "Reason": decision.reason,
        "Challenger": _version(decision.challenger_model, decision.challenger),
        "Champion from now on": _version(decision.champion_model, decision.champion),
    }
    yield facts(list(known.items()), ("What", "Value"))
    numbers = [
        (name.replace("_", " "), _value(value))
        for name, value in decision.numbers.items()
        if value is not None and value != []
    ]
    if numbers:
        yield Text("What it was decided by:", is_note=True)
        yield facts(numbers, ("Number", "Value"))


def _chosen(decision: Decision, validation: Mapping[str, float | None]) -> Iterator[Block]:
    if decision.challenger_model is None:
        yield Text("No challenger was chosen: this was decided by hand.")
        return
    yield Text(
        f"The challenger is {title(decision.challenger_model)}: the rung that ranks the "
        f"validation rows best; {title(REFERENCE)} wins where it is within {TIE} of that, "
        "being the simpler. Test rows choose nothing."
    )
    if validation:
        ranked = sorted(validation.items(), key=lambda item: -(item[1] or 0.0))
        yield Table(
            head=("Model", "PR-AUC on validation rows"),
            rows=[(title(name), number(value)) for name, value in ranked],
            colours=[COLOURS.get(name, "#000000") for name, _ in ranked],
            shaded={
                place for place, (name, _) in enumerate(ranked) if name == decision.challenger_model
            },
        )


def _rules() -> Iterator[Block]:
    yield Bullets(
        [
            (
                "First champion:",
                "the interval of its lift lies above 1, and the data is not insufficient. Where "
                "the test is too short for an interval the walk-forward's folds stand in, though "
                "rows of theirs chose the rung, so that its lift there is somewhat flattered.",
            ),
            (
                "Against a champion:",
                "the interval of the paired difference in PR-AUC lies above zero, on rows later "
                "than all that either knows.",
            ),
            (
                "Against a champion that is stale, below its floor or in drift:",
                f"the interval lies above {-NON_INFERIORITY}.",
            ),
            (
                "Always:",
                "the same inputs and label policy, at most "
                f"{LATENCY_BUDGET_MS:g} ms a row (the median), no control failed.",
            ),
            (
                "At most once:",
                f"in {WEEK.days} days of new data, since testing daily would promote by chance.",
            ),
            (
                "Too good for the literature:",
                "waits for a person's recorded reason; on simulated data it only warns.",
            ),
        ]
    )


def _version(model: str | None, version: str | None) -> str:
    if model is None or version is None:
        return NOT_DEFINED
    return f"{title(model)} (version {version})"


def _value(value: Any) -> str:
    """A number of the decision; an estimate with its interval."""
    if isinstance(value, Mapping) and set(value) == {"value", "low", "high"}:
        bounds = [value["low"], value["high"]]
        if None in bounds:
            return f"{value['value']:.3f}"
        return f"{value['value']:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"
    return words(value)
