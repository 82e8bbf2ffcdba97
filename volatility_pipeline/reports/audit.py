"""The audit's picture: the same rows judged honestly and by protocols that flatter.

What was found is `domain/controls` and `domain/leakage`; only the drawing is here.
"""

import io
from collections.abc import Sequence
from typing import Any

from volatility_pipeline.domain.controls import AuditSection
from volatility_pipeline.domain.leakage import PROTOCOLS, colour, title

_LEAKY_SHADE = "#fbe9e7"


def draw(sections: Sequence[AuditSection]) -> bytes:
    """Return the picture as a PNG: a panel a section that has a leakage audit."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from volatility_pipeline.reports.plots import STYLE

    shown = [section for section in sections if section.leakage]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.9 + 2.7 * max(len(shown), 1)))
        panels = figure.subplots(max(len(shown), 1), squeeze=False)[:, 0]
        for axes, section in zip(panels, shown, strict=False):
            _draw_section(axes, section)
        if shown:
            panels[-1].set_xlabel("PR-AUC (average precision) on the protocol's own test rows")
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        else:
            panels[0].text(0.5, 0.5, "no leakage audit was run", ha="center", va="center")
            panels[0].set_axis_off()
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return png.getvalue()


def _draw_section(axes: Any, section: AuditSection) -> None:
    mark = "SIMULATED DATA · " if section.is_simulated else ""
    axes.set_title(f"{mark}{section.subject} · the same market, honest and leaky protocols")
    models = list(dict.fromkeys(row.model for row in section.leakage))
    names = []
    for height, protocol in enumerate(reversed(PROTOCOLS)):
        names.append(f"LEAKY: {protocol.title}" if protocol.is_leaky else protocol.title)
        if protocol.is_leaky:
            axes.axhspan(height - 0.5, height + 0.5, color=_LEAKY_SHADE, linewidth=0)
        rows = [row for row in section.leakage if row.protocol == protocol]
        is_first = not height
        if rows and rows[0].base_rate is not None:
            axes.vlines(
                rows[0].base_rate,
                height - 0.5,
                height + 0.5,
                color=colour("base_rate"),
                linestyle="--",
                linewidth=1.2,
                label="Base rate" if is_first else None,
            )
        for row in rows:
            offset = 0.22 * ((len(models) - 1) / 2 - models.index(row.model))
            axes.plot(
                [] if row.average_precision is None else [row.average_precision],
                [] if row.average_precision is None else [height + offset],
                "o",
                color=colour(row.model),
                markersize=5.5,
                label=title(row.model) if is_first else None,
            )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlim(0, 1.02)
    axes.grid(axis="y", visible=False)
