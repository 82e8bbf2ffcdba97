"""The command that lists alerts."""

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from volatility_pipeline.cli.console import OUT, DataOption, load_settings

if TYPE_CHECKING:
    from volatility_pipeline.resources.alerts import Entry

COLORS = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
SHOWN_ALERTS = 50


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(alerts)


def alerts(
    is_open: Annotated[
        bool, typer.Option("--open", help="Only those that have not recovered.")
    ] = False,
    product: Annotated[str | None, typer.Option(help="Only this product's.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Only those noticed, told again or over since then, UTC.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of them as JSON, one object a line.")
    ] = False,
    data: DataOption = None,
) -> None:
    """List what was raised, what recovered, and what could not be delivered; newest first.

    Example: `volatility alerts --open --product BTC-USD`
    """
    settings = load_settings(data)
    from volatility_pipeline.domain.alerts import as_json as said
    from volatility_pipeline.resources.alerts import Alerts

    ledger = Alerts(settings.data)
    chosen = [
        entry
        for entry in (ledger.open() if is_open else ledger.history())
        if (product is None or entry.alert.product == product)
        and (since is None or entry.alert.noticed_at >= since.replace(tzinfo=UTC))
    ]
    if as_json:
        for entry in chosen:
            deliveries = [vars(delivery) for delivery in entry.deliveries]
            line = {**said(entry.alert), "deliveries": deliveries}
            sys.stdout.write(json.dumps(line) + "\n")
        return
    if not chosen:
        OUT.print("No alerts." if not is_open else "No open alerts.")
        return
    table = Table("since (UTC)", "kind", "product", "what", "state", "what to do", box=box.SIMPLE)
    for column in table.columns[3:]:
        column.overflow = "fold"
    for entry in chosen[:SHOWN_ALERTS]:
        alert, color = entry.alert, COLORS[entry.alert.severity]
        table.add_row(
            f"{alert.since:%Y-%m-%d %H:%M:%S}",
            f"[{color}]{alert.kind}[/]\n{alert.severity}",
            alert.product or "–",
            escape(f"{alert.partition}: {alert.title}" if alert.partition else alert.title),
            escape("\n".join(_state(entry))),
            alert.runbook,
        )
    OUT.print(table)
    if len(chosen) > SHOWN_ALERTS:
        OUT.print(f"… and {len(chosen) - SHOWN_ALERTS:,} older ones (--json gives all).")


def _state(entry: "Entry") -> list[str]:
    """Whether an alert is over, and what of it was not delivered, and why."""
    end = entry.alert.recovered_at
    return [
        "open" if end is None else f"recovered {end:%Y-%m-%d %H:%M:%S}",
        *(
            f"{delivery.channel}: {delivery.state.replace('_', ' ')}"
            + (f", {delivery.attempts} attempts; {delivery.reason}" if delivery.reason else "")
            for delivery in entry.deliveries
            if delivery.state != "sent"
        ),
    ]
