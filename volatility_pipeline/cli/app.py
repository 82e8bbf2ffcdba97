"""The `volatility` command: its sub-commands, and how their faults are said."""

import sys

import typer

from volatility_pipeline.cli import (
    alerts,
    audit,
    champion,
    data,
    exchange,
    feed,
    inference,
    models,
    serve,
    store,
    upkeep,
)
from volatility_pipeline.cli.console import ERRORS
from volatility_pipeline.domain.errors import BadInputError, RefusedError

app = typer.Typer(
    name="volatility",
    help="Will this market be unusually volatile in the next 60 seconds?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for module in (
    data,
    models,
    champion,
    inference,
    serve,
    audit,
    store,
    feed,
    exchange,
    alerts,
    upkeep,
):
    module.register(app)


def main() -> None:
    """Runs the command line; exit code 1 where a check said no, 2 for bad input."""
    try:
        app()
    except BadInputError as error:
        ERRORS.print(f"[bold red]Error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except RefusedError as error:
        ERRORS.print(f"[bold red]Refused:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
