"""The evaluation report: one HTML page that needs nothing but itself, and its table as text.

The numbers come from `domain.evaluation` and are only laid out here. matplotlib is imported where a
plot is drawn. Writing the page to a file is the caller's work.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from volatility_pipeline.domain.evaluation import Estimate, Evaluation, ModelResult
from volatility_pipeline.domain.ladder import COLOURS, LADDER
from volatility_pipeline.domain.verdict import title

NOT_DEFINED = "–"
BASE_RATE = "base_rate"

_STYLE: Any = {
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
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "volatility",
}
_ROLE_COLOURS = {"train": "#bdbdbd", "validation": "#807dba", "test": "#252525"}


@dataclass(frozen=True)
class Context:
    """What the report says beside the results.

    Attributes:
        is_simulated: Whether the data is made up; the page and every plot then say so.
        dropped: Rows that were dropped, by reason.
        provenance: Where the data came from and what it was made with, by name.
        notes: Per model, what fell back and why.
        dropped_columns: Per model, inputs null in all training rows.
    """

    is_simulated: bool
    dropped: Mapping[str, int]
    provenance: Mapping[str, object]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dropped_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


def render(evaluation: Evaluation, context: Context) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("volatility_pipeline", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "model": title,
        "number": _number,
        "plain": _plain_text,
        "moment": _moment,
    }
    return environment.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        context=context,
        comparison=comparison(evaluation),
        ladder=LADDER,
        colours=COLOURS,
        plots=_plots(evaluation, is_simulated=context.is_simulated),
    )


def comparison(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return the comparison table: a row a model, text by column name, intervals in brackets."""
    base_rate = _number(evaluation.base_rate)
    return [
        {
            "Model": title(model.name),
            "PR-AUC": _estimate(model.average_precision),
            "Base rate": base_rate,
            "Lift": _estimate(model.lift, ".2f"),
            f"Δ {title(evaluation.reference)}": _estimate(model.gain, "+.3f"),
            "ROC-AUC": _number(model.roc_auc),
            "Brier": _number(model.brier, ".4f"),
            "Skill": _number(model.brier_skill, "+.3f"),
            "F1": _number(model.f1),
            "Precision": _number(model.precision),
            "Recall": _number(model.recall),
            "Alerts/h": _number(model.episodes.alerts_per_hour, ".1f"),
            "Episodes caught": _caught(model),
        }
        for model in evaluation.models
    ]


def _estimate(estimate: Estimate | None, style: str = ".3f") -> str:
    if estimate is None:
        return NOT_DEFINED
    value = f"{estimate.value:{style}}"
    if estimate.low is None:
        return value
    return f"{value} [{estimate.low:{style}}, {estimate.high:{style}}]"


def _caught(model: ModelResult) -> str:
    found = model.episodes
    if found.share_caught is None:
        return NOT_DEFINED
    return f"{found.share_caught:.0%} {found.caught} of {found.episodes}"


def _number(value: float | None, style: str = ".3f") -> str:
    return NOT_DEFINED if value is None else f"{value:{style}}"


def _moment(time: str | None) -> str:
    return NOT_DEFINED if time is None else time.replace("T", " ")


def _plain_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain_text(item) for item in value)
    return str(value)


def _plots(evaluation: Evaluation, *, is_simulated: bool) -> dict[str, str]:
    """Draw every plot; return each as a data URI of an SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawings = {
        "comparison": (_draw_comparison, "PR-AUC", (8.6, 3.2)),
        "precision_recall": (_draw_precision_recall, "Precision and recall", (4.6, 4.8)),
        "roc": (_draw_roc, "ROC", (4.6, 4.8)),
        "calibration": (_draw_calibration, "Calibration", (4.6, 4.8)),
        "days": (_draw_days, "Base rate by day", (8.6, 2.6)),
    }
    mark = "SIMULATED DATA · " if is_simulated else ""
    plots = {}
    with rc_context(_STYLE):
        for name, (draw, heading, size) in drawings.items():
            figure = Figure(figsize=size)
            axes = figure.subplots()
            axes.set_title(f"{mark}{evaluation.product_id} · {heading}")
            draw(axes, evaluation)
            svg = io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            plots[name] = f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
    return plots


def _draw_comparison(axes: Any, evaluation: Evaluation) -> None:
    shown = [(m.name, m.average_precision) for m in evaluation.models if m.average_precision]
    shown.reverse()
    for height, (name, estimate) in enumerate(shown):
        colour = COLOURS.get(name)
        axes.plot(estimate.value, height, "o", color=colour)
        if estimate.low is not None:
            axes.hlines(height, estimate.low, estimate.high, color=colour, linewidth=2.5)
    axes.set_yticks(range(len(shown)), [title(name) for name, _ in shown])
    axes.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("PR-AUC (average precision); bars: 95 % intervals, where they may be shown")
    _mark_base_rate(axes.axvline, evaluation)
    _finish(axes, shown)


def _draw_precision_recall(axes: Any, evaluation: Evaluation) -> None:
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


def _draw_roc(axes: Any, evaluation: Evaluation) -> None:
    shown = [model for model in _judges(evaluation) if model.roc_curve.x]
    for model in shown:
        label = f"{title(model.name)} ({_number(model.roc_auc, '.2f')})"
        axes.plot(model.roc_curve.x, model.roc_curve.y, label=label, color=COLOURS.get(model.name))
    axes.plot([0, 1], [0, 1], "--", color=COLOURS[BASE_RATE], linewidth=1.2, label="Chance (0.50)")
    _square(axes, "False positive rate: share of quiet rows alerted", "True positive rate: recall")
    _finish(axes, shown)


def _draw_calibration(axes: Any, evaluation: Evaluation) -> None:
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


def _draw_days(axes: Any, evaluation: Evaluation) -> None:
    days = sorted({rate.day for rate in evaluation.days})
    for offset, (role, colour) in zip((-0.27, 0, 0.27), _ROLE_COLOURS.items(), strict=True):
        rates = [rate for rate in evaluation.days if rate.role == role]
        positions = [days.index(rate.day) + offset for rate in rates]
        axes.bar(positions, [r.base_rate for r in rates], width=0.25, color=colour, label=role)
    axes.grid(axis="x", visible=False)
    labelled = range(0, len(days), max(1, len(days) // 8))
    axes.set_xticks(labelled, [days[position] for position in labelled])
    axes.set_xlim(-0.6, max(len(days), 1) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Day (UTC)")
    axes.set_ylabel("Share of rows that are spikes")
    _finish(axes, days, ncols=3)


def _judges(evaluation: Evaluation) -> list[ModelResult]:
    """The models whose curves say more than the base-rate line does."""
    return [model for model in evaluation.models if model.name != BASE_RATE]


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
    """Add the legend under the plot, or say that there is nothing to show."""
    if not shown:
        axes.text(
            0.5,
            0.5,
            "not defined on these rows",
            transform=axes.transAxes,
            ha="center",
            va="center",
        )
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside lower center", ncols=ncols)
