"""Commands of the model stages: train, and run, the main job."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.table import Table

from volatility_pipeline.cli.console import ERRORS, OUT, DataOption, chosen_products, load_settings
from volatility_pipeline.cli.data import build_days, simulate_market
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.splits import LEAKY_PROTOCOL, Policy
from volatility_pipeline.resources.lake import Lake

if TYPE_CHECKING:
    from volatility_pipeline.cli.orchestrator import Orchestrator

ProductsOption = Annotated[
    str | None, typer.Option("--products", help="Comma-separated (default: all that have ticks).")
]
PolicyOption = Annotated[
    Policy,
    typer.Option(help="Unusual against the last day (trailing) or the training rows (training)."),
]
SplitOption = Annotated[
    Literal["chronological", "stratified-random"],
    typer.Option(
        "--split",
        help="stratified-random shuffles: it LEAKS, is printed for comparison and keeps nothing.",
    ),
]
# What the report shows and a terminal's width does not.
REPORT_ONLY = (
    "ROC-AUC",
    "Brier",
    "Skill",
    "F1",
    "Precision",
    "Recall",
    "Alerts/h",
    "Episodes caught",
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(train)
    app.command()(run)


def train(
    products: ProductsOption = None,
    threshold_policy: PolicyOption = "trailing",
    split: SplitOption = "chronological",
    data: DataOption = None,
) -> None:
    """Split, fit every model and evaluate, per product.

    Example: `volatility train --products BTC-USD --threshold-policy training`
    """
    settings = load_settings(data)
    from volatility_pipeline.cli.orchestrator import orchestrator

    with orchestrator(settings) as running:
        for product in _chosen(running, products):
            if split == LEAKY_PROTOCOL:
                _show_shuffled(running, product, threshold_policy)
            else:
                running.train(product, threshold_policy)
                _show(running, product)


def run(
    products: ProductsOption = None,
    threshold_policy: PolicyOption = "trailing",
    data: DataOption = None,
) -> None:
    """The main job: build what changed, train what is stale, report, predict.

    Where there is no data yet, three days of a simulated market come first.

    Example: `volatility run`
    """
    settings = load_settings(data)
    lake = Lake(settings.data)
    if not lake.raw_days():
        OUT.print(f"{lake.root} holds no data yet: simulating three days first.", soft_wrap=True)
        simulate_market(settings, settings.volatility_products)
    from volatility_pipeline.cli.inference import predict_days
    from volatility_pipeline.cli.orchestrator import orchestrator

    with orchestrator(settings) as running:
        build_days(running)
        untrainable = []
        for product in _chosen(running, products):
            if running.is_trained(product, threshold_policy):
                OUT.print(f"{product}: splits, models, evaluation and champion are current.")
            else:
                try:
                    running.train(product, threshold_policy)
                except BadInputError as error:
                    untrainable.append(str(error))
                    continue
            _show(running, product)
        OUT.print()
        predict_days(running)
    for reason in untrainable:
        OUT.print(f"[yellow]INSUFFICIENT[/] {reason}", soft_wrap=True)
    OUT.print(
        "Next: open the report; [bold]make ui[/] shows the lineage; "
        '[bold]volatility query "show tables"[/] asks the feature store.'
    )


def _chosen(running: "Orchestrator", products: str | None) -> list[str]:
    known = running.training.warehouse.products()
    if not known:
        raise BadInputError(
            f"{running.lake.root / 'ticks'}: no ticks yet; `volatility build` makes them."
        )
    seen = f"never seen; there are ticks of {', '.join(known)}"
    return chosen_products(products, known, otherwise=seen)


def _show_shuffled(running: "Orchestrator", product: str, policy: Policy) -> None:
    """Prints what shuffling a product's rows would make of every rung; nothing of it is kept."""
    from volatility_pipeline.cli.audit import show_leakage
    from volatility_pipeline.domain.leakage import PROTOCOLS, leakage_audit

    rows = running.training.warehouse.labelled_rows(product).to_pandas()
    shuffled = [protocol for protocol in PROTOCOLS if protocol.name == "shuffled"]
    with ERRORS.status(f"Shuffling {product}") as status:
        found = leakage_audit(
            rows,
            policy=policy,
            models=tuple(LADDER),
            protocols=shuffled,
            progress=lambda text: status.update(f"{product} · {text}"),
        )
    OUT.print(
        f"\n[bold red]LEAKY[/] [bold]{product}[/], split {LEAKY_PROTOCOL}: test rows stand beside "
        "training rows that share their answer. No model is kept, and nothing may be claimed.",
        soft_wrap=True,
    )
    show_leakage(found)


def _show(running: "Orchestrator", product: str) -> None:
    """Prints a product's comparison table, its verdict first, and where its report is."""
    record = running.lake.record("evaluation", product) or {}
    OUT.print(f"\n[bold]{product}[/]: {record['verdict']}", soft_wrap=True)
    rows = [dict(row) for row in record["comparison"]]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in rows[0]:
        if name not in REPORT_ONLY:
            table.add_column(name.removesuffix(" rate"), no_wrap=name != "Model")
    for row in rows:
        row["Lift"] = row["Lift"].split(" [")[0]
        table.add_row(*(text for name, text in row.items() if name not in REPORT_ONLY))
    OUT.print(table)
    report = running.evaluations.report(product)
    described = running.champions.describe(product, datetime.now(UTC))
    OUT.print(f"Champion: {described}", soft_wrap=True)
    OUT.print(f"Report: {report} (and .pdf, model_card.html, selection.html)", soft_wrap=True)
