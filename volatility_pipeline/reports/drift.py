"""The drift pages: the verdict on a product's day with what it rests on, and Evidently's page.

The verdict's page is put together as every report is (`document`) and needs nothing but itself.
Evidently's shows every column's distribution beside the reference's; its limits are ours, and its
headline is none. Nothing is judged here, and writing pages to files is the caller's work. Evidently
is imported where its page is made.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.day_sketch import model_scale
from volatility_pipeline.domain.drift import FACTORS, SEVERITIES, Drift, Effect, Severity
from volatility_pipeline.domain.drift_verdict import (
    ACTIONS,
    STATES,
    DayPerformance,
    Performance,
    Verdict,
    action,
)
from volatility_pipeline.reports import page
from volatility_pipeline.reports.document import (
    RIGHT,
    SIMULATED,
    Block,
    Document,
    Plots,
    Section,
    Table,
    Terms,
    Text,
    estimate,
    number,
)
from volatility_pipeline.reports.plots import Plot

if TYPE_CHECKING:
    import pandas as pd

SHOWN_EFFECTS = 12
SAMPLED_ROWS = 5_000
MOST_COLUMNS = 30
NOT_JUDGED = 1e6
"""A limit that nothing exceeds, for columns without one of their own."""

COLOURS = {
    "insufficient": "#d9d9d9",
    "none": "#9ecae1",
    "low": "#fee0b6",
    "medium": "#fdb863",
    "high": "#ef6548",  # black text has to be read on it
}
_STATE_TITLES = {
    "holding": "Performance holds",
    "insufficient": "Too few labels to tell",
    "below_floor": "Below its floor",
}
_CONVENTIONS = "Customary readings: PSI 0.1 is small, 0.25 large; the distances 0.1."


@dataclass(frozen=True)
class Context:
    """What the page says beside the verdict.

    Attributes:
        is_simulated: Whether any of the days is made up; title and plot then say so.
        history: `Verdict.to_dict` of this and earlier days, in time order.
        train_against_test: What `drift.compare` says of test days against training days.
        early_against_late: Likewise of the later half of all days against the earlier.
        evidently: Where Evidently's page is, relative to this one; None where there is none.
    """

    is_simulated: bool
    history: Sequence[Mapping[str, Any]] = ()
    train_against_test: Sequence[Effect] = ()
    early_against_late: Sequence[Effect] = ()
    evidently: str | None = None


def render(verdict: Verdict, drift: Drift, performance: Performance, context: Context) -> str:
    """Return the verdict's page as HTML."""
    return page.render(document(verdict, drift, performance, context))


def document(
    verdict: Verdict, drift: Drift, performance: Performance, context: Context
) -> Document:
    """Put the verdict's page together."""
    mark = SIMULATED if context.is_simulated else ""
    is_quiet = verdict.action in ("none", "watch")
    return Document(
        title=f"Drift of {verdict.product}",
        heading=f"Has {verdict.product} drifted from what its champion learnt?",
        lead=f"{verdict.day} (UTC) against {drift.reference_days} whole reference days.",
        mark=mark,
        verdict=f"{ACTIONS[verdict.action]}: {' '.join(verdict.reasons)}",
        status="insufficient"
        if verdict.action == "insufficient"
        else "claim"
        if is_quiet
        else "suspicious",
        cover=[("Product", verdict.product), ("Day", verdict.day)],
        sections=[
            Section("What to do", _matrix(verdict)),
            Section("What was judged", _findings(drift, context)),
            Section("Columns, widest first", _effects(drift)),
            Section("Performance of the champion", _performance(performance)),
            Section("Day by day", _trend(verdict.product, mark, context.history)),
            Section("Training against test rows", _compared(context.train_against_test)),
            Section("Early against late days", _compared(context.early_against_late)),
            Section("How to read this", [_terms()]),
        ],
    )


def trend(product: str, mark: str, history: Sequence[Mapping[str, Any]]) -> Plot:
    """Return the plot of severity, counts and performance by day, from `Verdict.to_dict` rows."""
    heading = " · ".join(filter(None, [mark, f"{product} · Drift and performance by day"]))
    return Plot(
        heading,
        "Columns beyond their limit and PR-AUC beside persistence and base rate, by day",
        partial(_draw_trend, history=history),
        (8.6, 5.0),
        (2, 1),
    )


def evidently_page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    title: str,
    limits: Mapping[str, float],
    is_simulated: bool,
) -> str:
    """Return Evidently's page of two stretches of feature rows: one file that opens offline.

    Columns stand on the models' scale, in standard deviations of the reference: Evidently divides
    a Wasserstein distance by no less than 0.001, which is ten times any realized volatility. Rows
    are every n-th, so that all hours are there.

    Args:
        reference: Feature rows in time order, with `FEATURE_COLUMNS`.
        current: Likewise.
        title: What is compared, in words.
        limits: Of the Wasserstein distance, by column (`Scale.wasserstein_limits`); a column
            without one is shown and not judged.
        is_simulated: Whether any row is made up; the title then says so.

    Raises:
        ValueError: The two have no column with values in common.
    """
    with warnings.catch_warnings():
        # Evidently's own, from its import: names of NumPy's that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

    stretches = _standardized(reference, current)
    names = [str(name) for name in stretches[0]]
    definition = DataDefinition(numerical_columns=names)
    known, new = (Dataset.from_pandas(each, data_definition=definition) for each in stretches)
    preset = DataDriftPreset(
        columns=names,
        method="wasserstein",
        per_column_threshold={name: limits.get(name, NOT_JUDGED) for name in names},
    )
    html: str = Report([preset]).run(new, known).get_html_str(as_iframe=False)
    full = escape(f"{SIMULATED}: {title}" if is_simulated else title)
    note = (
        "Columns on the models' scale, in standard deviations of the reference; drift score: "
        "Wasserstein distance, against the limits that the reference days set. "
    )
    if not any(name in limits for name in names):
        note += "The reference has set none: nothing is called drift, whatever it looks like. "
    note += "The verdict stands on the product's drift page, not here."
    banner = f'<h1 style="font: bold 1.3rem sans-serif">{full}</h1><p>{escape(note)}</p>'
    html = html.replace("<head>", f"<head><title>{full}</title>", 1)
    opened = f'\\g<0><div style="margin: 1rem; font-family: sans-serif">{banner}</div>'
    return re.sub("<body[^>]*>", opened, html, count=1)


def _standardized(reference: pd.DataFrame, current: pd.DataFrame) -> list[pd.DataFrame]:
    """The columns that both have, thinned, in standard deviations of the reference."""
    import pandas as pd

    thinned = [
        model_scale(rows.iloc[:: max(1, math.ceil(len(rows) / SAMPLED_ROWS))]) if len(rows) else {}
        for rows in (reference, current)
    ]
    names = [name for name in thinned[0] if name in thinned[1]][:MOST_COLUMNS]
    if not names:
        raise ValueError("The two stretches have no column with values in common.")
    frames = [pd.DataFrame({name: columns[name] for name in names}) for columns in thinned]
    deviation = frames[0].std(ddof=0)
    deviation = deviation.where(deviation > 0, 1.0)
    middle = frames[0].mean()
    return [(frame - middle) / deviation for frame in frames]


def _matrix(verdict: Verdict) -> list[Block]:
    severities: list[Severity | None] = [None, *SEVERITIES]
    here = (severities.index(verdict.severity), 1 + STATES.index(verdict.performance))
    return [
        Table(
            head=("Drift", *(_STATE_TITLES[state] for state in STATES)),
            rows=[
                (
                    severity or "not judged",
                    *(ACTIONS[action(severity, state)] for state in STATES),
                )
                for severity in severities
            ],
            words={1, 2, 3},
            marked={here: RIGHT},
        ),
        Text(
            "The shaded cell is this day's. Performance is measured and ranks above drift, which "
            "is a reason to look. Where a fault of the data is behind it, mend the data first: a "
            "model trained on the fault learns it.",
            is_note=True,
        ),
    ]


def _findings(drift: Drift, context: Context) -> list[Block]:
    rows = [(found.subject, found.severity, found.sentence) for found in drift.findings]
    blocks: list[Block] = []
    if drift.insufficient:
        blocks.append(Text(f"Nothing: {drift.insufficient}."))
    else:
        blocks.append(Table(head=("Subject", "Severity", "Finding"), rows=rows, words={1, 2}))
    if context.evidently:
        shown = [
            ("Distributions", "every column beside the reference's, by Evidently (about 6 MB)")
        ]
        blocks.append(
            Table(head=("More", "What"), rows=shown, words={1}, links={0: context.evidently})
        )
    return blocks


def _effects(drift: Drift) -> list[Block]:
    if not drift.effects:
        return [Text("No effect is shown without a limit to hold it against.")]
    over = sum((effect.excess or 0) > 1 for effect in drift.effects)
    shown = drift.effects[: max(SHOWN_EFFECTS, over)]
    return [
        Table(
            head=("Column", "Times its limit", "PSI", "Wasserstein", "Jensen-Shannon"),
            rows=[(each.column, number(each.excess, ".2f"), *_sizes(each)) for each in shown],
            marked={
                (place, 1): COLOURS[
                    SEVERITIES[sum((each.excess or 0) > times for times in FACTORS)]
                ]
                for place, each in enumerate(shown)
                if (each.excess or 0) > 1
            },
        ),
        Text(
            f"{over} of {len(drift.effects)} columns lie beyond their limit. {_CONVENTIONS} "
            "Here they only set the least limit: what is unusual is what the reference days say.",
            is_note=True,
        ),
    ]


def _sizes(effect: Effect) -> tuple[str, str, str]:
    return (
        number(effect.psi),
        number(effect.wasserstein),
        number(effect.jensen_shannon),
    )


def _performance(performance: Performance) -> list[Block]:
    if not performance.days:
        return [Text(performance.reason)]
    return [
        Text(performance.reason),
        Table(
            head=(
                "Day (UTC)",
                "Rows",
                "Spikes",
                "Base rate",
                "PR-AUC",
                "Persistence",
                "Lift",
                "Brier",
                "Skill",
            ),
            rows=[_performance_row(each) for each in performance.days],
        ),
        Text(
            f"Over these days as one: lift {estimate(performance.lift, '.2f')}, PR-AUC on "
            f"persistence {estimate(performance.gain, '+.3f')}; in brackets 95 % block bootstrap "
            "intervals. Out-of-sample predictions alone, every tenth second.",
            is_note=True,
        ),
    ]


def _performance_row(day: DayPerformance) -> tuple[str, ...]:
    return (
        day.day,
        f"{day.rows:,}",
        f"{day.spikes:,}",
        number(day.base_rate),
        number(day.average_precision),
        number(day.persistence),
        number(day.lift, ".2f"),
        number(day.brier, ".4f"),
        number(day.brier_skill, "+.3f"),
    )


def _trend(product: str, mark: str, history: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not history:
        return [Text("No earlier day was judged.")]
    return [Plots([trend(product, mark, history)])]


def _compared(effects: Sequence[Effect]) -> list[Block]:
    if not effects:
        return [Text("There are no whole days to compare.")]
    return [
        Table(
            head=("Column", "PSI", "Wasserstein", "Jensen-Shannon"),
            rows=[(each.column, *_sizes(each)) for each in effects[:SHOWN_EFFECTS]],
        ),
        Text(
            f"The {min(SHOWN_EFFECTS, len(effects))} widest of {len(effects)}. {_CONVENTIONS} No "
            "verdict is drawn: two long stretches of a market are never alike.",
            is_note=True,
        ),
    ]


def _terms() -> Terms:
    return Terms(
        [
            (
                "Whole days",
                "A day's rows are alike, so a day is one observation: tests over rows call every "
                "day changed. Whole UTC days are held against whole UTC days.",
            ),
            (
                "PSI, Wasserstein, Jensen-Shannon",
                "Population stability index over ten bins; mean distance of the quantiles in "
                "standard deviations of the reference; distance of the binned shares, 0 to 1.",
            ),
            (
                "Limit",
                "What the reference days' effects on each other, and how few they are, leave "
                "unusual. The median of the three measures over their limits has to exceed 1.",
            ),
            (
                "Severity",
                "More columns beyond 1, 1.5 or 2 times their limit than on any reference day: low, "
                "medium, high. A column gone or stuck is high by itself.",
            ),
            (
                "Floor",
                "The champion's PR-AUC on the last days has to be no worse than persistence's, and "
                "its lift no less than 1, as their intervals say.",
            ),
        ]
    )


def _draw_trend(panels: Any, history: Sequence[Mapping[str, Any]]) -> None:
    counts, precision = panels[:, 0]
    places = range(len(history))
    for severity, colour in COLOURS.items():
        chosen = [place for place in places if history[place]["severity"] == severity]
        heights = [max(history[place]["features_low"] or 0, 0.3) for place in chosen]
        counts.bar(chosen, heights, color=colour, label=severity if chosen else None)
    counts.set_ylabel("Columns beyond\ntheir limit")
    counts.grid(axis="x", visible=False)
    counts.legend(loc="upper left", ncols=5)
    counts.set_ylim(0, 1.35 * max([4, *(row["features_low"] or 0 for row in history)]))
    for name, label, style in (
        ("average_precision", "Champion", {"color": "#0072b2", "marker": "o"}),
        ("persistence", "Persistence (the floor)", {"color": "#56b4e9", "marker": "."}),
        ("base_rate", "Base rate", {"color": "#7f7f7f", "linestyle": "--"}),
    ):
        values = [math.nan if row[name] is None else row[name] for row in history]
        precision.plot(places, values, label=label, markersize=4, **style)
    low = [place for place in places if history[place]["performance"] == "below_floor"]
    precision.plot(
        low, [0.02] * len(low), "v", color="#b30000", label="Below floor" if low else None
    )
    precision.set(ylim=(0, 1), ylabel="PR-AUC", xlabel=f"Day (UTC) to {history[-1]['day']}")
    precision.legend(loc="upper left", ncols=4)
    named = places[:: math.ceil(len(places) / 12)]
    precision.set_xticks(named, [history[place]["day"][5:] for place in named])
    precision.set_xlim(-0.7, len(history) - 0.3)
