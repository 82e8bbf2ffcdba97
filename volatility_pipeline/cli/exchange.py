"""The command `exchange`: a stand-in for Coinbase on this machine."""

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volatility_pipeline.cli.console import ERRORS, OUT, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.settings import product_names

if TYPE_CHECKING:
    from volatility_pipeline.feed.exchange import StandIn

GRACE = 1.0  # seconds in which clients may read what was sent last


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(exchange)


def exchange(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Recordings, played one after the other (default: a simulation)."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 8765,
    speed: Annotated[
        float, typer.Option(help="1 is the market's own pace, 20 faster, 0 flat out.")
    ] = 1.0,
    rate: Annotated[
        float | None, typer.Option(help="Tickers per second, whatever their times.")
    ] = None,
    max_pause: Annotated[
        float, typer.Option(help="The longest wait between two tickers, in seconds.")
    ] = 5.0,
    now: Annotated[
        bool, typer.Option("--now", help="Shift times to now; a simulation's always are.")
    ] = False,
    repeat: Annotated[int, typer.Option(min=1, help="How often to play.")] = 1,
    exit_at_end: Annotated[bool, typer.Option("--exit-at-end", help="Stop after it.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="kind=rate per 10,000 messages, repeatable: drop, repeat, reorder, rubbish, "
            "disconnect, freeze, refuse, throttle, stall."
        ),
    ] = None,
    products: Annotated[
        str | None,
        typer.Option(help="A simulation's, comma-separated (default: VOLATILITY_PRODUCTS)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation and of the faults.")] = 0,
    data: DataOption = None,
) -> None:
    """Stand in for Coinbase: a local WebSocket server that speaks both its public protocols.

    It plays recordings or a made-up market to whoever subscribes, and makes faults on demand.
    The play begins with the first subscription to tickers.

    Example: `volatility exchange recordings/btc.ndjson --speed 20 --now --fault disconnect=2`
    """
    from volatility_pipeline.feed.exchange import StandIn
    from volatility_pipeline.feed.faults import parse_faults
    from volatility_pipeline.feed.market_source import Play, recording, simulation

    settings = load_settings(data)
    faults = parse_faults(fault or [], seed=seed)
    for name, value in (("--speed", speed), ("--max-pause", max_pause)):
        if not 0 <= value < math.inf:
            raise BadInputError(f"{name} {value:g}: give a number that is not negative.")
    if rate is not None and not 0 < rate < math.inf:
        raise BadInputError(f"--rate {rate:g}: give a positive number of tickers per second.")
    if files and products is not None:
        raise BadInputError("--products is for a simulation; leave it out, or the recordings.")
    names = settings.volatility_products if products is None else product_names(products)
    with ERRORS.status("Reading"):
        source = recording(files) if files else simulation(names, seed=seed)
    play = Play(source, speed, rate, max_pause, is_now=now or not files, repeat=repeat)
    stand_in = StandIn(play, faults=faults)
    _serve(stand_in, host, port, is_ending=exit_at_end)


def _serve(stand_in: "StandIn", host: str, port: int, *, is_ending: bool) -> None:
    """Serves until a signal, or the end of the play."""
    from volatility_pipeline.cli.services import Rate, listed, serve

    source = stand_in.play.source
    what = "a made-up market" if source.is_simulated else "recorded messages"

    async def work() -> None:
        async with stand_in.serve(host, port) as url:
            OUT.print(
                f"[bold]This is a stand-in, not Coinbase:[/] {url} plays {what} of "
                f"{listed(tuple(source.firsts))}, in the Exchange's and in Advanced Trade's "
                "protocol.",
                soft_wrap=True,
            )
            OUT.print("It begins with the first subscription to tickers; Ctrl+C stops it.")
            await stand_in.played()
            await asyncio.sleep(GRACE if is_ending else math.inf)

    rate = Rate()
    serve(work, status=lambda: _described(stand_in, rate(sum(stand_in.outcomes.values()))))


def _described(stand_in: "StandIn", rate: float) -> str:
    """What has happened so far, as a person would say it."""
    from volatility_pipeline.feed.faults import KINDS, REACHES_CLIENT

    counts = stand_in.outcomes
    faults = [f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind]]
    return ", ".join(
        (
            f"{sum(counts[outcome] for outcome in REACHES_CLIENT):,} messages",
            f"{rate:,.0f}/s",
            f"{stand_in.clients} clients",
            *([f"{counts['unheard']:,} tickers to nobody"] if counts["unheard"] else []),
            f"faults: {' '.join(faults)}" if faults else "no faults",
        )
    )
