"""The analysis of a product's features and thresholds: what it says, in which order.

The numbers come from `domain.feature_analysis` and `domain.threshold_analysis`; `page` lays the
report out. Its own plots are drawn here, in the style of `plots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from volatility_pipeline.domain.ablation import GROUPS, Ablation
from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.feature_analysis import NO_ABLATION, Correlations, FeatureAnalysis
from volatility_pipeline.domain.importance import Importance
from volatility_pipeline.domain.ladder import COLOURS
from volatility_pipeline.domain.threshold_analysis import (
    LABEL_PERCENTILE,
    PercentileRate,
    ThresholdAnalysis,
)
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import plots
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    SIMULATED,
    Block,
    Bullets,
    Document,
    Heading,
    Plots,
    Section,
    Table,
    Terms,
    Text,
    estimate,
    moment,
    number,
)
from volatility_pipeline.reports.plots import Plot

WIDE = 8.6
POLICY_COLOURS = {"trailing": plots.NEUTRAL, "training": "#999933"}
OTHERS = "all other columns"


def document(
    features: FeatureAnalysis, thresholds: ThresholdAnalysis, *, is_simulated: bool
) -> Document:
    """Put the report together."""
    mark = SIMULATED if is_simulated else ""

    def plot(
        heading: str,
        description: str,
        draw: Callable[[Any], None],
        *,
        height: float,
        panels: tuple[int, int] = (1, 1),
    ) -> Plots:
        names = filter(None, (mark, features.product_id, heading))
        return Plots([Plot(" · ".join(names), description, draw, (WIDE, height), panels)])

    sections = {
        "What groups of features add, and what is lost without them": _groups(features, plot),
        "Importance: columns one by one": _importance(features, plot),
        "Correlation and redundancy": _correlation(features.correlations, plot),
        "Threshold: other percentiles, both policies": _thresholds(thresholds, plot),
        "How to read this": _glossary(),
    }
    return Document(
        title=f"Feature analysis of {features.product_id}",
        heading=f"What are the features of {features.product_id} worth?",
        lead=f"Judged on {features.judged_rows:,} of {features.test_rows:,} test rows, evenly "
        f"spaced, at base rate {number(features.base_rate)} under the {features.policy} threshold. "
        "This describes: it chooses no feature, no model and no label.",
        mark=mark,
        verdict=features.headline,
        status="insufficient" if features.insufficient else "claim",
        cover=(),
        sections=[Section(name, list(blocks)) for name, blocks in sections.items()],
    )


def _groups(features: FeatureAnalysis, plot: Callable[..., Plots]) -> Iterator[Block]:
    ablations = features.ablations
    if not ablations:
        yield Text(NO_ABLATION)
        return
    yield plot(
        "Groups of features",
        "Change of PR-AUC by group of columns: added to HAR, and taken from all",
        partial(_draw_groups, ablations=ablations),
        height=3.4,
        panels=(1, 2),
    )
    yield Text(_intervals(features), is_note=True)
    learners = [title(each.learner) for each in ablations]
    yield Table(
        head=(
            "Group",
            "Columns",
            *(f"{name}: added to HAR" for name in learners),
            *(f"{name}: lost without" for name in learners),
        ),
        rows=[
            (
                group,
                _columns(group, ablations[0]),
                *(estimate(each.groups[place].added, "+.3f") for each in ablations),
                *(estimate(each.groups[place].lost, "+.3f") for each in ablations),
            )
            for place, group in enumerate(GROUPS)
        ],
        words={1},
        is_wide=True,
    )
    yield Table(
        head=("PR-AUC of", *learners),
        rows=[
            ("HAR's columns", *(estimate(each.har) for each in ablations)),
            ("all columns", *(estimate(each.everything) for each in ablations)),
            ("the difference", *(estimate(each.beyond, "+.3f") for each in ablations)),
        ],
    )
    yield Text(
        f"Both learners are fitted anew on the {features.training_rows:,} training rows for each "
        "set of columns, with the settings found for all of them. HAR's columns are volatility's "
        "and the two of the slow regime that end in 900s and 3600s, so volatility adds nothing to "
        "them.",
        is_note=True,
    )
    yield Heading("In words")
    yield Bullets([(f"{title(each.learner)}:", each.sentence) for each in features.findings])


def _intervals(features: FeatureAnalysis) -> str:
    blocks = features.blocks
    if blocks.refusal:
        return f"No interval is shown: {blocks.refusal}."
    return (
        f"In brackets and as bars: 95 % intervals from {features.resamples:,} block "
        f"resamples, the same for all; {blocks.count} blocks of {blocks.seconds:,} s, "
        f"{blocks.with_spike} of them with a spike. One in twenty such intervals misses the truth "
        "by chance, and there are many on this page."
    )


def _columns(group: str, ablation: Ablation) -> str:
    """A group's columns, and which of them hold nothing."""
    absent = next(worth.absent for worth in ablation.groups if worth.group == group)
    names = [name for name in GROUPS[group] if name not in absent]
    missing = f"null in training: {_stems(absent)}" if absent else ""
    return "; ".join(filter(None, (_stems(names), missing)))


def _stems(names: Sequence[str]) -> str:
    """Columns' names, those of several windows said once: `spread_mean_30s, 60s, 300s`."""
    said: list[str] = []
    last = ""
    for name in names:
        stem, _, window = name.rpartition("_")
        said.append(window if stem == last and window[:-1].isdigit() else name)
        last = stem
    return ", ".join(said)


def _importance(features: FeatureAnalysis, plot: Callable[..., Plots]) -> Iterator[Block]:
    found = features.importances
    if not found:
        yield Text("No importance is measured: the test has no spike.")
        return
    by_place = {(each.feature, each.model): each for each in found}
    models = list(dict.fromkeys(each.model for each in found))
    names = list(dict.fromkeys(each.feature for each in plots.strongest(found)))
    yield plot(
        "Permutation importance",
        "Fall of test PR-AUC when a column is shuffled, the strongest columns first",
        partial(plots.draw_importances, importances=found),
        height=1.2 + 0.22 * min(len(names), plots.SHOWN_FEATURES),
        panels=plots.importance_panels(found),
    )
    yield Text(
        "Drop: the fall of PR-AUC when the column's blocks of time are shuffled, as the model "
        "reads it. Share: of the model's own importance (split gain of trees, magnitude of "
        "standardized coefficients). Shown are the reference and the learner that is best on "
        "validation rows. Columns that say the same stand in for each other: a small drop proves "
        "no column useless.",
        is_note=True,
    )

    def cells(importance: Importance | None) -> tuple[str, str]:
        if importance is None:
            return NOT_DEFINED, NOT_DEFINED
        return estimate(importance.drop, "+.4f"), number(importance.gain)

    yield Table(
        head=(
            "Column",
            *(f"{title(name)}: {what}" for name in models for what in ("drop", "share")),
        ),
        rows=[
            (name, *(text for model in models for text in cells(by_place.get((name, model)))))
            for name in names
        ],
    )


def _correlation(found: Correlations, plot: Callable[..., Plots]) -> Iterator[Block]:
    if not found.columns:
        yield Text("There are no training rows to correlate.")
        return
    yield plot(
        "Rank correlation",
        "Spearman's rank correlation of the learners' columns, by group",
        partial(_draw_correlations, found=found),
        height=7.4,
    )
    yield Text(
        f"Spearman's rho over {found.rows:,} training rows, evenly spaced, of the columns as the "
        "learners read them; volatilities relative to the threshold where that is trailing. White "
        "lines part the groups.",
        is_note=True,
    )
    yield Heading("Redundant pairs: |rho| above 0.95")
    if found.redundant:
        yield Table(
            head=("Column", "Says nearly what this one says", "rho"),
            rows=[(pair.first, pair.second, f"{pair.rho:+.3f}") for pair in found.redundant],
            words={1},
        )
        clusters = "; ".join(_stems(names) for names in found.clusters)
        yield Text(f"Joined by such pairs: {clusters}.")
    else:
        yield Text("There are none.")
    yield Heading("Missing values")
    shares = {name: share for name, share in found.missing.items() if share > 0}
    if shares:
        yield Table(
            head=("Column", "Share of training rows without a value"),
            rows=[(name, f"{share:.1%}") for name, share in shares.items()],
        )
    else:
        yield Text("No column lacks a value in any training row.")


def _thresholds(found: ThresholdAnalysis, plot: Callable[..., Plots]) -> Iterator[Block]:
    if not found.percentiles:
        yield Text("No row has a label.")
        return
    yield plot(
        "Spike rate by percentile",
        "Share of rows that are spikes, by percentile and policy",
        partial(_draw_percentiles, found=found),
        height=3.0,
    )
    yield plot(
        f"Spike rate by day at the {LABEL_PERCENTILE}th percentile",
        "Share of rows that are spikes, by day and policy",
        partial(_draw_days, found=found),
        height=2.6,
    )
    span = (
        f"{moment(found.training_from)} to {moment(found.training_until)} UTC"
        if found.training_from
        else "of which there is none"
    )
    yield Text(
        "Trailing: quantiles of the last 24 hours' volatilities, known when the question is "
        "asked. Training: one constant, of the future volatility of the training rows alone "
        f"({span}). All rows with a label count, training rows too; lowest and highest are of "
        "days with an hour of rows. The label is the 90th percentile's, and stays so: another "
        "would be another question, not a better answer.",
        is_note=True,
    )
    yield Table(
        head=(
            "Percentile",
            "Policy",
            "Constant, bp per √s",
            "Rows",
            "Spikes",
            "Spike rate",
            "Lowest day",
            "Highest day",
        ),
        rows=[
            (
                f"{each.percentile}th",
                each.policy,
                number(None if each.threshold is None else 1e4 * each.threshold, ".4f"),
                f"{each.rows:,}",
                f"{each.spikes:,}",
                number(each.rate),
                number(each.lowest),
                number(each.highest),
            )
            for each in found.percentiles
        ],
        words={1},
        shaded={
            row for row, each in enumerate(found.percentiles) if each.percentile == LABEL_PERCENTILE
        },
    )


def _glossary() -> Iterator[Block]:
    yield Terms(
        [
            (
                "HAR",
                "Realized volatility at five horizons (Corsi, J. Financial Econometrics 2009), "
                "the reference that more columns have to beat.",
            ),
            (
                "Added, lost",
                "Added: PR-AUC with HAR's columns and the group's, minus that with HAR's alone. "
                "Lost: PR-AUC with all columns, minus that without the group's. Both on the same "
                "resamples of the test rows; below zero, the learner does better without.",
            ),
            (
                "What was fitted where",
                "Models on training rows alone; which learner is looked into was chosen on "
                "validation rows; test rows are read to describe, and nothing is chosen by them.",
            ),
            (
                "When to doubt it",
                "An interval that holds zero is no proof that a group is worthless: with few "
                "blocks only large changes can be told from none.",
            ),
        ]
    )


def _draw_groups(panels: Any, ablations: Sequence[Ablation]) -> None:
    """Draw the change of PR-AUC by group: added to HAR, and lost without."""
    names = [*GROUPS, OTHERS]
    for axes, heading, attribute in zip(
        panels[0], ("Added to HAR", "Lost without"), ("added", "lost"), strict=True
    ):
        for index, ablation in enumerate(ablations):
            changes: dict[str, Estimate | None] = {
                worth.group: getattr(worth, attribute) for worth in ablation.groups
            }
            changes[OTHERS] = ablation.beyond
            offset = 0.26 * ((len(ablations) - 1) / 2 - index)
            colour = COLOURS[ablation.learner]
            shown = [(names.index(name), change) for name, change in changes.items() if change]
            axes.plot(
                [change.value for _, change in shown],
                [len(names) - 1 - place + offset for place, _ in shown],
                "o",
                markersize=4.5,
                color=colour,
                label=None if attribute == "lost" else title(ablation.learner),
            )
            for place, change in shown:
                if change.low is not None:
                    height = len(names) - 1 - place + offset
                    axes.hlines(height, change.low, change.high, color=colour, linewidth=2)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_yticks(range(len(names)), names[::-1] if attribute == "added" else [])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=6)
        axes.set_title(heading, fontsize=9)
        axes.set_xlabel("Change of test PR-AUC")
    axes.figure.legend(loc="outside lower center", ncols=len(ablations))


def _draw_correlations(panels: Any, found: Correlations) -> None:
    """Draw the matrix, its groups apart; a constant column stays empty."""
    axes = panels[0, 0]
    matrix = [[float("nan") if value is None else value for value in row] for row in found.rho]
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    places = range(len(found.columns))
    axes.set_xticks(places, found.columns, rotation=90, fontsize=6.5)
    axes.set_yticks(places, found.columns, fontsize=6.5)
    axes.grid(visible=False)
    sizes = [len(set(names) & set(found.columns)) for names in GROUPS.values()]
    for edge in list(accumulate(sizes))[:-1]:
        axes.axhline(edge - 0.5, color="white", linewidth=2)
        axes.axvline(edge - 0.5, color="white", linewidth=2)
    axes.figure.colorbar(image, ax=axes, shrink=0.6, label="Spearman's rho")


def _draw_percentiles(panels: Any, found: ThresholdAnalysis) -> None:
    """Draw the spike rate by percentile, with the spread of the days."""
    axes = panels[0, 0]
    percentiles = list(dict.fromkeys(each.percentile for each in found.percentiles))
    for index, (policy, colour) in enumerate(POLICY_COLOURS.items()):
        own: list[PercentileRate] = [each for each in found.percentiles if each.policy == policy]
        positions = [percentiles.index(each.percentile) + 0.2 * (index - 0.5) for each in own]
        axes.plot(positions, [each.rate for each in own], "o", color=colour, label=policy)
        for position, each in zip(positions, own, strict=True):
            if each.lowest is not None:
                axes.vlines(position, each.lowest, each.highest, color=colour, linewidth=2)
    axes.hlines(
        [1 - percentile / 100 for percentile in percentiles],
        [place - 0.3 for place in range(len(percentiles))],
        [place + 0.3 for place in range(len(percentiles))],
        linestyle="--",
        linewidth=1.2,
        color=COLOURS["base_rate"],
        label="If nothing changed",
    )
    axes.set_xticks(range(len(percentiles)), [f"{percentile}th" for percentile in percentiles])
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("Percentile; bars: lowest to highest day")
    axes.set_ylabel("Share of rows that are spikes")
    axes.figure.legend(loc="outside lower center", ncols=3)


def _draw_days(panels: Any, found: ThresholdAnalysis) -> None:
    """Draw the spike rate by day at the label's own percentile."""
    axes = panels[0, 0]
    shown = [each for each in found.days if each.percentile == LABEL_PERCENTILE]
    days = sorted({each.day for each in shown})
    for index, (policy, colour) in enumerate(POLICY_COLOURS.items()):
        own = [each for each in shown if each.policy == policy]
        axes.bar(
            [days.index(each.day) + 0.38 * (index - 0.5) for each in own],
            [each.rate for each in own],
            width=0.34,
            color=colour,
            label=policy,
        )
    labelled = range(0, len(days), -(-len(days) // 8))
    axes.set_xticks(labelled, [days[place] for place in labelled])
    axes.set_xlim(-0.6, len(days) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.axhline(
        1 - LABEL_PERCENTILE / 100,
        linestyle="--",
        linewidth=1.2,
        color=COLOURS["base_rate"],
        label="If nothing changed",
    )
    axes.set_xlabel("Day (UTC)")
    axes.set_ylabel("Share of spikes")
    axes.figure.legend(loc="outside lower center", ncols=3)
