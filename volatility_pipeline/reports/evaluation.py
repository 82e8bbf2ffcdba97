"""The evaluation report: one HTML page that needs nothing but itself, and its table as text.

The numbers come from `domain.evaluation` and are only laid out here. matplotlib is imported where a
plot is drawn. Writing the page to a file is the caller's work.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from volatility_pipeline.domain.evaluation import Estimate, Evaluation, ModelResult
from volatility_pipeline.domain.ladder import COLOURS, LADDER
from volatility_pipeline.domain.verdict import title

NOT_DEFINED = "–"
BASE_RATE = "base_rate"

_STYLE = {
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
    environment.filters |= {"model": title, "number": _number, "plain": _plain_text}
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
            "Alert at": _number(model.decision_threshold),
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


def _number(value: float | None, style: str = ".3f") -> str:
    return NOT_DEFINED if value is None else f"{value:{style}}"


def _plain_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain_text(item) for item in value)
    return str(value)


def _plots(evaluation: Evaluation, *, is_simulated: bool) -> dict[str, str]:
    """Draw every plot; return each as a data URI of an SVG."""
    from matplotlib import rc_context

    draw: dict[str, tuple[Callable[[Any, Evaluation], None], str]] = {
        "comparison": (_draw_comparison, "PR-AUC with 95 % intervals"),
        "precision_recall": (_draw_precision_recall, "Precision and recall"),
        "roc": (_draw_roc, "ROC"),
        "calibration": (_draw_calibration, "Calibration"),
        "days": (_draw_days, "Base rate by day"),
    }
    plots = {}
    with rc_context(_STYLE):
        for name, (function, heading) in draw.items():
            with _figure(plots, name, wide=name in ("comparison", "days")) as axes:
                function(axes, evaluation)
                mark = "SIMULATED DATA · " if is_simulated else ""
                axes.set_title(f"{mark}{evaluation.product_id} · {heading}")
    return plots
