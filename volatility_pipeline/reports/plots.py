"""The plots of the reports: one style, and one colour a model everywhere.

A plot is drawn from results and nothing else, as SVG for a page or as PNG for print. Where it
stands, and what is written beside it, is the report's own. matplotlib is imported where a plot is
drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from volatility_pipeline.domain.evaluation import Estimate, Evaluation, ModelResult
from volatility_pipeline.domain.fold_results import WalkForwardResult
from volatility_pipeline.domain.importance import Importance
from volatility_pipeline.domain.ladder import COLOURS
from volatility_pipeline.domain.timeline import Timeline
from volatility_pipeline.domain.verdict import title

BASE_RATE = "base_rate"
SHOWN_FEATURES = 12
BASIS_POINTS = 1e4

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "volatility",
    # A dollar in a product's name begins no formula.
    "text.parse_math": False,
}
ROLE_COLOURS = {"train": "#bdbdbd", "validation": "#807dba", "test": "#252525"}
NEUTRAL = "#252525"
"""What is no model's: a market's volatility."""

PRINT_DPI = 200


@dataclass(frozen=True)
class Plot:
    """A plot yet to be drawn.

    Attributes:
        title: Stands above it; says so where the data is simulated.
        description: What it shows, for whoever cannot see it.
        draw: Draws it, onto axes of shape `panels`.
        size: Width and height in inches.
        panels: Rows and columns of axes.
    """

    title: str
    description: str
    draw: Callable[[Any], None]
    size: tuple[float, float]
    panels: tuple[int, int] = (1, 1)

    @cached_property
    def svg(self) -> bytes:
        """It as SVG, the same bytes for the same numbers."""
        return self._drawn(format="svg", metadata={"Date": None, "Creator": None})

    @cached_property
    def png(self) -> bytes:
        """It as PNG, fine enough for print, the same bytes for the same numbers."""
        return self._drawn(format="png", dpi=PRINT_DPI, metadata={"Software": None})

    def _drawn(self, **options: Any) -> bytes:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        drawn = io.BytesIO()
        with rc_context(STYLE):
            figure = Figure(figsize=self.size)
            figure.suptitle(self._fitted_title(), x=0.01, horizontalalignment="left")
            self.draw(figure.subplots(*self.panels, squeeze=False, sharex="col"))
            figure.savefig(drawn, **options)
        return drawn.getvalue()

    def _fitted_title(self) -> str:
        """The title, in two lines where one would be cut."""
        is_long = len(self.title) > 11 * self.size[0]
        return "\n".join(self.title.rsplit(" · ", 1)) if is_long else self.title


def draw_comparison(panels: Any, evaluation: Evaluation) -> None:
    """Draw every model's PR-AUC with its interval, beside the base rate."""
    axes = panels[0, 0]
    shown = [(m.name, m.average_precision) for m in evaluation.models if m.average_precision]
    shown.reverse()
    for height, (name, estimate) in enumerate(shown):
        _draw_estimate(axes, estimate, height, name)
    _name_rows(axes, [title(name) for name, _ in shown])
    axes.set_xlim(0, 1)
    axes.set_xlabel("PR-AUC (average precision); bars: 95 % intervals, where they may be shown")
    _mark_base_rate(axes.axvline, evaluation)
    _finish(axes, shown)


def draw_precision_recall(panels: Any, evaluation: Evaluation) -> None:
    """Draw precision over recall, with the base rate as a line."""
    axes = panels[0, 0]
    shown = [m for m in _judges(evaluation) if m.precision_recall_curve.x]
    for model in shown:
        curve, estimate = model.precision_recall_curve, model.average_precision
        label = f"{title(model.name)} ({estimate.value:.2f})" if estimate else title(model.name)
        axes.plot(
            curve.x, curve.y, label=label, color=COLOURS.get(model.name), drawstyle="steps-pre"
        )
    _mark_base_rate(axes.axhline, evaluation)
    _square(axes, "Recall: share of spikes alerted", "Precision: share of alerts that are spikes")
    _finish(axes, shown)


def draw_roc(panels: Any, evaluation: Evaluation) -> None:
    """Draw the true positive rate over the false positive rate, with chance as a line."""
    axes = panels[0, 0]
    shown = [model for model in _judges(evaluation) if model.roc_curve.x]
    for model in shown:
        area = "" if model.roc_auc is None else f" ({model.roc_auc:.2f})"
        label = f"{title(model.name)}{area}"
        axes.plot(model.roc_curve.x, model.roc_curve.y, label=label, color=COLOURS.get(model.name))
    axes.plot([0, 1], [0, 1], "--", color=COLOURS[BASE_RATE], linewidth=1.2, label="Chance (0.50)")
    _square(axes, "False positive rate: share of quiet rows alerted", "True positive rate: recall")
    _finish(axes, shown)


def draw_calibration(panels: Any, evaluation: Evaluation) -> None:
    """Draw the observed share of spikes over the predicted probability."""
    axes = panels[0, 0]
    shown = [model for model in evaluation.models if model.reliability]
    top = 0.05
    for model in shown:
        predicted = [bin_.probability for bin_ in model.reliability]
        observed = [bin_.spike_rate for bin_ in model.reliability]
        axes.plot(
            predicted,
            observed,
            "o-",
            markersize=3.5,
            label=title(model.name),
            color=COLOURS.get(model.name),
        )
        top = max(top, *predicted, *observed)
    axes.plot([0, 1], [0, 1], "--", color="#444444", linewidth=1, label="Perfect")
    _square(axes, "Predicted probability", "Observed share of spikes")
    axes.set(xlim=(0, min(1, 1.05 * top)), ylim=(0, min(1, 1.05 * top)))
    _finish(axes, shown)


def draw_days(panels: Any, evaluation: Evaluation) -> None:
    """Draw the share of spikes by day and role."""
    axes = panels[0, 0]
    days = sorted({rate.day for rate in evaluation.days})
    for offset, (role, colour) in zip((-0.27, 0, 0.27), ROLE_COLOURS.items(), strict=True):
        rates = [rate for rate in evaluation.days if rate.role == role]
        positions = [days.index(rate.day) + offset for rate in rates]
        axes.bar(positions, [r.base_rate for r in rates], width=0.25, color=colour, label=role)
    axes.grid(axis="x", visible=False)
    labelled = range(0, len(days), max(1, len(days) // 8))
    axes.set_xticks(labelled, [days[position] for position in labelled])
    axes.set_xlim(-0.6, max(len(days), 1) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Day (UTC)")
    axes.set_ylabel("Share of spikes")
    _finish(axes, days, ncols=3)


def draw_folds(panels: Any, folds: WalkForwardResult) -> None:
    """Draw every model's PR-AUC in each fold and over all, each beside its base rate."""
    axes = panels[0, 0]
    shown = [*folds.folds, *([folds.pooled] if folds.pooled else [])]
    names = [m.name for m in shown[0].models if m.name != BASE_RATE] if shown else []
    width = 0.8 / max(len(names), 1)
    for place, fold in enumerate(shown):
        if fold.number is None:
            axes.axvspan(place - 0.5, place + 0.5, color="#f1f3f6", linewidth=0)
        axes.hlines(
            fold.base_rate,
            place - 0.45,
            place + 0.45,
            color=COLOURS[BASE_RATE],
            linestyle="--",
            linewidth=1.2,
            label=None if place else "Base rate",
        )
        for index, name in enumerate(names):
            found = next(model for model in fold.models if model.name == name)
            estimate, colour = found.average_precision, COLOURS.get(name)
            where = place + width * (index - (len(names) - 1) / 2)
            values = [estimate.value] if estimate else []
            label = None if place else title(name)
            axes.plot([where] * len(values), values, "o", markersize=4, color=colour, label=label)
            if estimate and estimate.low is not None:
                axes.vlines(where, estimate.low, estimate.high, color=colour, linewidth=1.8)
    axes.grid(axis="x", visible=False)
    ticks = [
        f"Fold {fold.number}\n{_short(fold.roles[-1].start)}" if fold.number else "Pooled"
        for fold in shown
    ]
    axes.set_xticks(range(len(shown)), ticks)
    axes.set_xlim(-0.5, max(len(shown), 1) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Fold, and when its test begins (UTC)")
    axes.set_ylabel("PR-AUC (average precision)")
    _finish(axes, shown, ncols=4)


def draw_importances(panels: Any, importances: Sequence[Importance]) -> None:
    """Draw, for each model in a panel of its own, the columns whose permutation costs most."""
    for axes, name in zip(panels[0], _models_of(importances), strict=True):
        shown = strongest([each for each in importances if each.model == name])[:SHOWN_FEATURES]
        shown.reverse()
        axes.barh(
            range(len(shown)),
            [each.drop.value for each in shown],
            height=0.6,
            color=COLOURS.get(name),
            alpha=0.45,
        )
        for height, each in enumerate(shown):
            if each.drop.low is not None:
                axes.hlines(height, each.drop.low, each.drop.high, color=NEUTRAL, linewidth=1.2)
        axes.axvline(0, color="#888888", linewidth=0.8)
        _name_rows(axes, [each.feature for each in shown])
        axes.tick_params(axis="y", labelsize=7.5)
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(title(name), fontsize=9)
        axes.set_xlabel("Fall of test PR-AUC when permuted")


def draw_timeline(panels: Any, line: Timeline, alert_thresholds: Mapping[str, float]) -> None:
    """Draw volatility and its threshold above, what the models said below."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    start = np.datetime64(line.start, "s")
    edges = start + line.step_seconds * np.arange(len(line.volatility) + 1)
    volatility, threshold = (
        BASIS_POINTS * np.array(values, dtype=float) for values in (line.volatility, line.threshold)
    )
    market, said = panels[:, 0]
    market.stairs(
        np.maximum(volatility, threshold),
        edges,
        baseline=threshold,
        fill=True,
        color="#c23b22",
        alpha=0.35,
        label="Spike",
    )
    market.stairs(volatility, edges, baseline=None, color=NEUTRAL, linewidth=0.9, label="Next 60 s")
    market.stairs(
        threshold, edges, baseline=None, color="#c23b22", linewidth=1.1, label="Threshold"
    )
    market.set_ylabel("Realized volatility\n(bp per √s)")
    market.set_ylim(bottom=0)
    for name, probability in line.probabilities.items():
        colour = COLOURS.get(name)
        said.stairs(
            np.array(probability, dtype=float),
            edges,
            baseline=None,
            color=colour,
            linewidth=0.9,
            label=title(name),
        )
        if name in alert_thresholds:
            said.axhline(alert_thresholds[name], color=colour, linestyle=":", linewidth=1.1)
    said.set_ylabel("Probability\n(dotted: alert)")
    said.set_ylim(0, 1)
    said.set_xlabel("Decision time (UTC)")
    locator = AutoDateLocator(maxticks=10)  # type: ignore[no-untyped-call]
    said.xaxis.set_major_locator(locator)
    written = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    said.xaxis.set_major_formatter(written)
    _finish(said, line.volatility, ncols=5)


def draw_products(
    panels: Any, rows: Sequence[tuple[str, Sequence[tuple[str, Estimate]], float | None]]
) -> None:
    """Draw the PR-AUC of a few models a product, beside its base rate.

    Args:
        panels: One panel.
        rows: Per product, its name, PR-AUC by model, and its base rate.
    """
    axes = panels[0, 0]
    labelled: set[str] = set()
    for height, (_, estimates, base_rate) in enumerate(reversed(rows)):
        if base_rate is not None:
            axes.vlines(
                base_rate,
                height - 0.4,
                height + 0.4,
                color=COLOURS[BASE_RATE],
                linestyle="--",
                linewidth=1.2,
                label=None if BASE_RATE in labelled else "Base rate",
            )
            labelled.add(BASE_RATE)
        for index, (name, estimate) in enumerate(estimates):
            offset = 0.24 * ((len(estimates) - 1) / 2 - index)
            _draw_estimate(
                axes,
                estimate,
                height + offset,
                name,
                label=None if name in labelled else title(name),
            )
            labelled.add(name)
    _name_rows(axes, [name for name, _, _ in reversed(rows)])
    axes.set_xlim(0, 1)
    axes.set_xlabel("PR-AUC (average precision); bars: 95 % intervals, where they may be shown")
    _finish(axes, rows, ncols=4)


def strongest(importances: Sequence[Importance]) -> list[Importance]:
    """Return them by falling drop."""
    return sorted(importances, key=lambda each: -each.drop.value)


def _models_of(importances: Sequence[Importance]) -> list[str]:
    return list(dict.fromkeys(each.model for each in importances))


def importance_panels(importances: Sequence[Importance]) -> tuple[int, int]:
    """Return the panels that `draw_importances` needs."""
    return (1, len(_models_of(importances)))


def _judges(evaluation: Evaluation) -> list[ModelResult]:
    """The models whose curves say more than the base-rate line does."""
    return [model for model in evaluation.models if model.name != BASE_RATE]


def _draw_estimate(
    axes: Any, estimate: Estimate, height: float, name: str, *, label: str | None = None
) -> None:
    colour = COLOURS.get(name)
    axes.plot(estimate.value, height, "o", color=colour, label=label)
    if estimate.low is not None:
        axes.hlines(height, estimate.low, estimate.high, color=colour, linewidth=2.5)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.grid(axis="y", visible=False)


def _short(moment: str | None) -> str:
    """A moment without its year and seconds."""
    return "" if moment is None else moment[5:16].replace("T", " ")


def _mark_base_rate(draw_line: Callable[..., object], evaluation: Evaluation) -> None:
    if evaluation.base_rate is not None:
        label = f"Base rate ({evaluation.base_rate:.2f})"
        draw_line(
            evaluation.base_rate,
            color=COLOURS[BASE_RATE],
            linestyle="--",
            linewidth=1.2,
            label=label,
        )


def _square(axes: Any, x_label: str, y_label: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x_label, ylabel=y_label)


def _finish(axes: Any, shown: Sequence[object], *, ncols: int = 2) -> None:
    """Add the legend of all panels under the plot, or say that there is nothing to show."""
    if not shown:
        axes.text(
            0.5,
            0.5,
            "not defined on these rows",
            transform=axes.transAxes,
            ha="center",
            va="center",
        )
    figure = axes.figure
    if any(panel.get_legend_handles_labels()[0] for panel in figure.axes):
        figure.legend(loc="outside lower center", ncols=ncols)
