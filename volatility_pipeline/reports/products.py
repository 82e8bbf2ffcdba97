"""The comparison over products: one line each, from what their evaluations left on disk.

Products are told side by side, never pooled or ranked: their base rates and days are their own.
Writing the page to a file is the caller's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.reports import page, plots
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    SIMULATED,
    WRONG,
    Block,
    Document,
    Plots,
    Section,
    Table,
    Text,
    estimate,
    number,
)
from volatility_pipeline.reports.plots import Plot

WAITING = "#fdf6e3"
"""The ground of what is insufficient."""


@dataclass(frozen=True)
class Product:
    """What the comparison says of one product.

    Attributes:
        name: The market.
        is_simulated: Whether its data is made up.
        days: UTC days with labelled rows, in order.
        base_rate: Share of spikes in the test; None without rows.
        verdict: Its evaluation's.
        is_insufficient: Whether nothing may be claimed.
        is_suspicious: Whether something is too good to be true.
        reference: The rung that others are compared with.
        precision: The reference's PR-AUC.
        lift: The reference's.
        best: The other rung with the best PR-AUC; None where none has one.
        best_precision: Its PR-AUC.
        gain: Its PR-AUC minus the reference's.
        is_better: Whether the gain's interval lies above zero, on sufficient data.
        champion: What answers for the product; None where nothing does.
        report: Where its report is, relative to the page; None where there is none.
    """

    name: str
    is_simulated: bool
    days: tuple[str, ...]
    base_rate: float | None
    verdict: str
    is_insufficient: bool
    is_suspicious: bool
    reference: str
    precision: Estimate | None
    lift: Estimate | None
    best: str | None
    best_precision: Estimate | None
    gain: Estimate | None
    is_better: bool
    champion: str | None
    report: str | None

    @property
    def mark(self) -> str:
        """What stands before a claim, in one word."""
        found = [
            *(["INSUFFICIENT"] if self.is_insufficient else []),
            *(["SUSPICIOUS"] if self.is_suspicious else []),
        ]
        return ", ".join(found) or ("better" if self.is_better else "not better")


def product(
    evaluation: Mapping[str, Any],
    *,
    is_simulated: bool,
    champion: str | None = None,
    report: str | None = None,
) -> Product:
    """Return what the comparison says of a product.

    Args:
        evaluation: As `Evaluation.to_dict` gives it, and `evaluation.json` holds it.
        is_simulated: Whether the data is made up.
        champion: What answers for it, as a person reads it.
        report: Where its report is, relative to the page, as a URL.
    """
    models = {model["name"]: model for model in evaluation["models"]}
    reference = evaluation["reference"]
    values = {
        name: model["average_precision"]["value"]
        for name, model in models.items()
        if model["average_precision"] and name != reference
    }
    best = max(values, key=values.__getitem__) if values else None
    own, other = models[reference], models.get(best or "", {})
    return Product(
        name=evaluation["product_id"],
        is_simulated=is_simulated,
        days=tuple(sorted({rate["day"] for rate in evaluation["days"]})),
        base_rate=evaluation["base_rate"],
        verdict=evaluation["verdict"],
        is_insufficient=bool(evaluation["insufficient"]),
        is_suspicious=bool(evaluation["suspicious"]),
        reference=reference,
        precision=_estimate(own["average_precision"]),
        lift=_estimate(own["lift"]),
        best=best,
        best_precision=_estimate(other.get("average_precision")),
        gain=_estimate(other.get("gain")),
        is_better=bool(other.get("is_better")),
        champion=champion,
        report=report,
    )


def render(products: Sequence[Product]) -> str:
    """Return the comparison as an HTML page, the products in the order given."""
    return page.render(document(products))


def document(products: Sequence[Product]) -> Document:
    """Put the comparison together."""
    claiming = [each for each in products if not (each.is_insufficient or each.is_suspicious)]
    better = [each.name for each in claiming if each.is_better]
    found = f"better than the reference in {', '.join(better)}" if better else "better in none"
    return Document(
        title="Comparison over products",
        heading=f"{len(products)} {'product' if len(products) == 1 else 'products'} side by side",
        lead="Each is judged on its own newest rows. Base rates and days differ, so numbers are "
        "compared within a line and not down a column.",
        mark=_mark(products),
        verdict=f"Of {len(products)}, {len(claiming)} can carry a claim; the best other model is "
        f"{found}."
        if products
        else "No product has been evaluated.",
        status="claim" if claiming else "insufficient",
        cover=[("Products", ", ".join(each.name for each in products))],
        sections=[
            Section("Comparison", _comparison(products)),
            Section("Verdicts", _verdicts(products)),
        ],
    )


def _comparison(products: Sequence[Product]) -> list[Block]:
    if not products:
        return [Text("There is nothing to compare; `volatility train` evaluates a product.")]
    mark = _mark(products)
    heading = " · ".join(filter(None, [mark, "PR-AUC by product"]))
    table = Table(
        head=(
            "Product",
            "Source",
            "Days (UTC)",
            "Base rate",
            "Reference PR-AUC",
            "Lift",
            "Best other",
            "Gain",
            "Claim",
            "Champion",
        ),
        rows=[_row(each) for each in products],
        words={1, 6, 8, 9},
        shaded={place for place, each in enumerate(products) if each.is_better},
        marked={
            (place, 8): WRONG if each.is_suspicious else WAITING
            for place, each in enumerate(products)
            if each.is_suspicious or each.is_insufficient
        },
        links={place: each.report for place, each in enumerate(products) if each.report},
        is_wide=True,
    )
    drawn = Plot(
        heading,
        "PR-AUC of the reference and of the best other model by product, beside the base rate",
        partial(plots.draw_products, rows=[_drawn(each) for each in products]),
        (8.6, 1.5 + 0.34 * len(products)),
    )
    references = dict.fromkeys(title(each.reference) for each in products)
    note = Text(
        f"Reference: {' or '.join(references)}. In brackets: 95 % intervals, where they may be "
        "shown. Gain: the best other's PR-AUC less the reference's, on the same resamples; "
        "“better” means that its whole interval lies above zero. The best of several "
        "is best by luck too: the walk-forward of each report says more.",
        is_note=True,
    )
    return [table, note, Plots([drawn])]


def _row(each: Product) -> tuple[str, ...]:
    days = dict.fromkeys([*each.days[:1], *each.days[-1:]])
    return (
        each.name,
        "simulated" if each.is_simulated else "recorded",
        f"{len(each.days)} {' to '.join(days)}".strip(),
        number(each.base_rate),
        estimate(each.precision),
        estimate(each.lift, ".2f"),
        title(each.best) if each.best else NOT_DEFINED,
        estimate(each.gain, "+.3f"),
        each.mark,
        each.champion or "none",
    )


def _drawn(each: Product) -> tuple[str, list[tuple[str, Estimate]], float | None]:
    name = f"{each.name} (simulated)" if each.is_simulated else each.name
    known = [(each.reference, each.precision), (each.best or "", each.best_precision)]
    return name, [(model, found) for model, found in known if found], each.base_rate


def _verdicts(products: Sequence[Product]) -> list[Block]:
    rows = [(each.name, each.verdict) for each in products]
    return [Table(head=("Product", "Verdict"), rows=rows, words={1})] if rows else []


def _mark(products: Sequence[Product]) -> str:
    simulated = [each.is_simulated for each in products]
    if not any(simulated):
        return ""
    return SIMULATED if all(simulated) else f"PARTLY {SIMULATED}"


def _estimate(facts: Mapping[str, Any] | None) -> Estimate | None:
    return Estimate(**facts) if facts else None
