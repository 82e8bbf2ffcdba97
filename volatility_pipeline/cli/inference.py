"""Commands that ask the models: predict, and benchmark-inference."""

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from volatility_pipeline.cli.console import ERRORS, OUT, DataOption, chosen_products, load_settings
from volatility_pipeline.cli.models import ProductsOption
from volatility_pipeline.domain.errors import BadInputError, RefusedError

if TYPE_CHECKING:
    from volatility_pipeline.cli.orchestrator import Orchestrator
    from volatility_pipeline.resources.predictions import Predictions

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="A rung, or a version's number, in the champion's place.", metavar="MODEL"
    ),
]

MET = {True: "[green]met[/]", False: "[bold red]not met[/]", None: ""}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(predict)
    app.command()(benchmark_inference)


def predict(
    products: ProductsOption = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="Predict anew from this day."),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="… to this day.")
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
) -> None:
    """Ask each product's champion about the days that are not predicted yet, or changed.

    A day keeps the predictions that it has until its features or labels change, and one that is
    over keeps the model that made them, whoever is champion now. `--from` and `--to` give the days
    to the present champion. A named model takes the champion's place in the table, for
    `--products` alone and in all days unless `--from` and `--to` narrow them.

    Example: `volatility predict --products BTC-USD --from 2026-04-01 --to 2026-04-04 --model ewma`
    """
    settings = load_settings(data)
    from volatility_pipeline.cli.orchestrator import orchestrator

    with orchestrator(settings) as running:
        chosen = _chosen_products(running.predictions, products)
        asked = _asked_days(running.predictions, first, last, is_all=model is not None)
        predict_days(running, asked, model=model, products=chosen)


def predict_days(
    running: "Orchestrator",
    asked: list[date] | None = None,
    *,
    model: str | None = None,
    products: list[str] | None = None,
) -> None:
    """Predicts the days that were asked for, or what is stale, publishes, and says what came of it.

    Args:
        running: The orchestrator.
        asked: Days to predict anew; None for those that are not current.
        model: A rung or version in the champion's place.
        products: Those to predict anew and to show; None for all.
    """
    from volatility_pipeline.partitions import is_partition
    from volatility_pipeline.resources.feature_store import publish

    predictions = running.predictions
    if asked is None:
        known = predictions.days(is_partition)
        days = [day for day in known if not predictions.is_current(day)]
        if not days:
            OUT.print("Every day is predicted already.")
    else:
        days = asked
    if days:
        running.predict(days, model=model, products=products or (), force=asked is not None)
        running.prune_runs()
        _show_days(running, days, products)
    publish(running.lake)


def _show_days(running: "Orchestrator", days: list[date], products: list[str] | None) -> None:
    """Prints what the days' predictions came to, and who has no champion."""
    from volatility_pipeline.domain.ladder import LADDER
    from volatility_pipeline.domain.verdict import MINIMUM_EPISODES, MINIMUM_SPIKES

    records = {day: running.lake.record("predictions", day) or {} for day in days}
    is_simulated = any(record.get("is_simulated") for record in records.values())
    title = "SIMULATED DATA: predictions" if is_simulated else "Predictions"
    table = Table(title=title, box=box.SIMPLE, padding=0)  # as wide as a terminal can be narrow
    for head in ("Day", "Product"):
        table.add_column(head, no_wrap=True)
    table.add_column("Model")
    for head in ("Rows", "Alerts", "Unseen", "Base", "PR-AUC", "Brier"):
        table.add_column(head, justify="right", no_wrap=True)
    silent, unknown = set(), 0
    for day, record in records.items():
        for product, found in record.get("products", {}).items():
            if products is not None and product not in products:
                continue
            if found["model"] is None:
                silent.add(product)
                continue
            unknown += found["threshold_unknown"]
            table.add_row(
                str(day),
                product,
                f"{LADDER[found['model']].title} v{found['version']}",
                f"{found['rows']:,}",
                f"{found['alerts']:,}",
                f"{found['out_of_sample_rows']:,}",
                *(_number(found[fact]) for fact in ("base_rate", "average_precision", "brier")),
            )
    if table.row_count:
        OUT.print(table)
        OUT.print(
            "Unseen: out-of-sample rows. Base rate, PR-AUC and Brier score are of those whose "
            f"60 s are known; the latter two need {MINIMUM_SPIKES} non-overlapping spikes in "
            f"{MINIMUM_EPISODES} episodes.",
            soft_wrap=True,
        )
    if unknown:
        OUT.print(
            f"{unknown:,} rows are not predicted: their threshold is not known, for want of an "
            "hour of volatilities before them, or of training rows.",
            soft_wrap=True,
        )
    for product in sorted(silent):
        reason = running.predictions.no_champion(product)
        OUT.print(f"[yellow]No predictions:[/] {reason}", soft_wrap=True)


def _chosen_products(predictions: "Predictions", products: str | None) -> list[str] | None:
    if products is None:
        return None
    known = predictions.warehouse.products()
    seen = f"there are ticks of {', '.join(known)}" if known else "there are no ticks yet"
    return chosen_products(products, known, otherwise=f"never seen; {seen}")


def _asked_days(
    predictions: "Predictions", first: datetime | None, last: datetime | None, *, is_all: bool
) -> list[date] | None:
    """The days to predict anew; None where only those that are not current are asked for."""
    from volatility_pipeline.partitions import is_partition

    known = predictions.days(is_partition)
    if not known:
        raise BadInputError(
            f"{predictions.lake.root / 'features'}: no features to predict from; "
            "`volatility build` makes them."
        )
    if first is None and last is None and not is_all:
        return None
    start = first.date() if first else known[0]
    end = last.date() if last else known[-1]
    if start > end:
        raise BadInputError(f"--from {start} lies after --to {end}; exchange the two.")
    days = [day for day in known if start <= day <= end]
    if not days:
        raise BadInputError(
            f"{start} to {end}: no features; there are those of {known[0]} to {known[-1]}."
        )
    return days


def benchmark_inference(
    products: ProductsOption = None,
    model: ModelOption = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=600, help="For how long, each size of call.")
    ] = 5.0,
    is_json: Annotated[bool, typer.Option("--json", help="One JSON object a product.")] = False,
    data: DataOption = None,
) -> None:
    """Time the champion: calls of 1 to 10,000 rows, one after the other on one thread.

    Budget: 99 of 100 calls of a single row within 10 ms, and of 1,000 rows within 1 s. Exit code 1
    where it is not kept. Other work on the machine counts against it.

    Example: `volatility benchmark-inference --products BTC-USD --model xgboost --seconds 2`
    """
    settings = load_settings(data)
    from volatility_pipeline.resources.champions import Champions
    from volatility_pipeline.resources.lake import Lake
    from volatility_pipeline.resources.predictions import Predictions
    from volatility_pipeline.resources.tracking import Tracking
    from volatility_pipeline.resources.warehouse import Warehouse

    lake = Lake(settings.data)
    tracking = Tracking(settings.tracking_uri, str(settings.data / "mlflow" / "artifacts"))
    predictions = Predictions(lake, Warehouse(lake), Champions(lake, tracking))
    chosen = _chosen_products(predictions, products) or predictions.warehouse.products()
    if not chosen:
        raise BadInputError(
            f"{predictions.lake.root / 'ticks'}: no ticks yet; `volatility build` makes them."
        )
    over = []
    for product in chosen:
        timed = _time(predictions, product, model, seconds)
        if is_json:
            typer.echo(json.dumps(timed))
        else:
            _show_latencies(timed)
        over += [
            f"{product}, {_rows(found['rows'])}"
            for found in timed["calls"]
            if found["is_met"] is False
        ]
    if over:
        machine = _machine()
        load, cores = machine["load_average"], machine["cores"]
        busy = (
            f" The machine is busy (load {load:g} on {cores} cores): measure again when it is not."
        )
        raise RefusedError(f"Over the budget: {'; '.join(over)}.{busy if load > cores else ''}")


def _time(
    predictions: "Predictions", product: str, model: str | None, seconds: float
) -> dict[str, Any]:
    """Times a product's model on its newest rows; returns what is shown."""
    from volatility_pipeline.domain.latency import BATCHES, latency

    served = predictions.champions.find(product, model)
    if served is None:
        raise BadInputError(f"{predictions.no_champion(product)} --model names another.")
    rows = predictions.newest_rows(product, served, max(BATCHES))
    if rows.empty:
        raise BadInputError(f"{product}: no row has its features and its threshold.")
    calls = []
    with ERRORS.status(f"Timing {product}") as shown:
        start = time.perf_counter()
        estimator = predictions.champions.load(served)
        load_seconds = time.perf_counter() - start
        for batch in BATCHES:
            shown.update(f"Timing {product} · {_rows(batch)} a call")
            calls.append(
                latency(
                    estimator,
                    rows,
                    rows=batch,
                    seconds=seconds,
                    decision_threshold=served.decision_threshold,
                )
            )
    return {
        "product": product,
        "model": served.model,
        "version": served.version,
        "source": served.source,
        "machine": _machine(),
        "load_seconds": load_seconds,
        "calls": [asdict(call) | {"is_met": call.is_met} for call in calls],
    }


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "architecture": platform.machine(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def _show_latencies(timed: Mapping[str, Any]) -> None:
    from volatility_pipeline.domain.ladder import LADDER

    machine = timed["machine"]
    mark = "SIMULATED DATA: " if timed["source"] == "simulated" else ""
    title = f"{mark}{timed['product']}, {LADDER[timed['model']].title} v{timed['version']}"
    table = Table(title=title, box=box.SIMPLE, padding=0)
    for head in ("A call of", "Calls", "CPU ms", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("Rows a second", "Budget ms", ""):
        table.add_column(head, justify="right")
    for call in timed["calls"]:
        budget = call["budget"]
        table.add_row(
            _rows(call["rows"]),
            f"{call['calls']:,}",
            *(f"{1e3 * call[fact]:,.2f}" for fact in ("cpu", "p50", "p95", "p99")),
            f"{call['rows_per_second']:,.0f}",
            "" if budget is None else f"{1e3 * budget:,.0f}",
            MET[call["is_met"]],
        )
    OUT.print(table)
    OUT.print(
        f"One thread of {machine['cores']} cores ({machine['architecture']}), load average "
        f"{machine['load_average']}, Python {machine['python']}; the model was loaded in "
        f"{timed['load_seconds']:.1f} s.",
        soft_wrap=True,
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count != 1 else ''}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
