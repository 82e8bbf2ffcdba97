"""The command that shows a product's champion, and changes it by hand."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from volatility_pipeline.cli.console import (
    ERRORS,
    OUT,
    DataOption,
    load_settings,
    quiet_dagster,
)
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.resources.lake import Lake

if TYPE_CHECKING:
    from volatility_pipeline.resources.champions import Champions

SHOWN_DECISIONS = 5


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(champion)


def champion(
    product: Annotated[
        str | None, typer.Argument(help="Which (default: all that have models).")
    ] = None,
    appointed: Annotated[
        str | None,
        typer.Option("--set", help="Make a version, or a rung's newest, the champion."),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the champion before it the champion again.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Leave it without a champion.")] = False,
    reason: Annotated[
        str, typer.Option(help="Why; required for a change, and recorded.", show_default=False)
    ] = "",
    data: DataOption = None,
) -> None:
    """Show the champion and the last decisions, or change it by hand.

    Of a named product, its challenger's live answers too. A running `volatility serve` follows a
    change within five seconds.

    Example: `volatility champion BTC-USD --rollback --reason "false alarms since noon"`
    """
    settings = load_settings(data)
    changes = [appointed is not None, rollback, remove]
    if sum(changes) > 1:
        raise BadInputError("--set, --rollback and --remove exclude each other; give one of them.")
    if reason and not any(changes):
        raise BadInputError("--reason is for a change; give --set, --rollback or --remove with it.")
    if any(changes) and product is None:
        raise BadInputError("Name the product to change, like BTC-USD.")
    quiet_dagster()
    from volatility_pipeline.definitions import resources

    made = resources(settings)
    lake, champions, evaluations = made["lake"], made["champions"], made["evaluations"]
    chosen = _chosen(lake, product)
    now = datetime.now(UTC)
    with ERRORS.status("Asking the registry"):
        for name in chosen if any(changes) else ():
            if appointed is not None:
                decision = champions.appoint(name, appointed, reason=reason, now=now)
            elif rollback:
                decision = champions.roll_back(name, reason=reason, now=now)
            else:
                decision = champions.remove(name, reason=reason, now=now)
            if evaluations.report(name).exists():
                try:
                    evaluations.introduce(name, decision, champions.find)
                except BadInputError as error:  # the change is made all the same
                    ERRORS.print(f"The model card stays as it was: {error}", soft_wrap=True)
    for name in chosen:
        with ERRORS.status("Asking the registry"):
            text = champions.describe(name, now)
            OUT.print(f"[bold]{escape(name)}[/]: {escape(text)}", soft_wrap=True, highlight=False)
            _show(champions, name)
    if product is not None and not any(changes):  # it takes seconds: a roll-back does not wait
        _show_shadow(champions, product)


def _chosen(lake: Lake, product: str | None) -> list[str]:
    paths = (lake.root / "models").glob("product=*.json")
    known = sorted(path.stem.removeprefix("product=") for path in paths)
    if not known:
        raise BadInputError(f"{lake.root / 'models'}: no models; `volatility train` makes them.")
    if product is None:
        return known
    if product not in known:
        raise BadInputError(f"{product}: no models; there are those of {', '.join(known)}.")
    return [product]


def _show(champions: "Champions", product: str) -> None:
    """Prints what was measured of the champion, and the last decisions, the newest first."""
    from volatility_pipeline.domain.promotion import last_measured, show

    history, served = champions.history(product), champions.find(product)
    measured = last_measured(champions.standing(product), served.version) if served else None
    lines = [
        f"{decision.at}  [bold]{decision.outcome}[/]: {escape(decision.reason)}"
        for decision in history[: -SHOWN_DECISIONS - 1 : -1]
    ]
    if measured is not None:
        precision = escape(show(measured.average_precision, ".3f"))
        lines.insert(
            0,
            f"PR-AUC {precision} at base rate {measured.base_rate:.3f}, on test rows up to "
            f"{measured.tested_until}",
        )
    for line in lines:
        OUT.print(f"  {line}", soft_wrap=True, highlight=False)


def _show_shadow(champions: "Champions", product: str) -> None:
    """Prints champion and challenger on what both answered live, if there is a challenger."""
    from volatility_pipeline.reports import shadow
    from volatility_pipeline.resources import live_answers

    with ERRORS.status(f"{escape(product)}: comparing what was answered live"):
        found = live_answers.shadow(champions, product)
    if found is None:
        return
    OUT.print(
        f"  Challenger: {escape(found.challenger)}. {escape(found.verdict)}",
        soft_wrap=True,
        highlight=False,
    )
    if not found.rows.rows:
        return
    OUT.print(f"  {escape(shadow.span(found))}", soft_wrap=True, highlight=False)
    rows = shadow.table(found)
    table = Table(*rows[0], box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    OUT.print(table)
