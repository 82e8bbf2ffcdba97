"""The command `serve`: the REST API, with live features from Kafka, from Coinbase, or without."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from volatility_pipeline.cli.console import ERRORS, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError

if TYPE_CHECKING:
    from volatility_pipeline.resources.lake import Lake
    from volatility_pipeline.resources.warehouse import Warehouse
    from volatility_pipeline.serving.live import LiveFeatures
    from volatility_pipeline.serving.predictor import Predictor
    from volatility_pipeline.settings import Settings

LOCAL = ("127.0.0.1", "::1", "localhost")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 8000,
    products: Annotated[
        str | None, typer.Option(help="Comma-separated (default: all that have training rows).")
    ] = None,
    source: Annotated[
        Literal["kafka", "coinbase", "none"],
        typer.Option(
            help="Of live rows: `kafka`, the topic ticks.raw; `coinbase`, the exchange itself; "
            "`none`: POST /predict alone."
        ),
    ] = "kafka",
    feed: Annotated[
        Literal["advanced", "exchange"],
        typer.Option(help="Of Coinbase: `advanced` (Advanced Trade) or `exchange` (Exchange)."),
    ] = "advanced",
    url: Annotated[
        str | None, typer.Option(help="Another address, as of `volatility exchange`.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Serve the champions' predictions over HTTP, and a live page on `/`.

    A new champion is loaded without a restart. VOLATILITY_API_KEY asks for a key. With `--source
    kafka` the rows go to the topic ticks.features, too.

    Example: `volatility serve --port 8000`, then `curl localhost:8000/predict/BTC-USD`
    """
    settings = load_settings(data)
    names = None
    if products is not None:
        names = tuple(name.strip() for name in products.split(",") if name.strip())
        if not names:
            raise BadInputError("--products names none; it reads like BTC-USD,ETH-USD.")
    if url is not None and source != "coinbase":
        raise BadInputError(f"--url is for `--source coinbase`, not for `{source}`.")
    from volatility_pipeline.resources.lake import Lake

    lake = Lake(settings.data)
    lake.check_writable()
    if source == "coinbase" and names is None:
        names = tuple(lake.products("splits")) or settings.volatility_products
    live = None
    if source == "kafka":
        live = _from_kafka(settings, lake, names)
    elif source == "coinbase" and names is not None:
        live = _from_coinbase(settings, lake, names, feed, url)
    with _listening(host, port) as listener:
        _serve(settings, listener, lake, names, live)


def _serve(
    settings: "Settings",
    listener: socket.socket,
    lake: "Lake",
    names: tuple[str, ...] | None,
    live: "LiveFeatures | None",
) -> None:
    from volatility_pipeline.cli.services import say
    from volatility_pipeline.cli.services import serve as run
    from volatility_pipeline.resources.champions import Champions
    from volatility_pipeline.resources.tracking import Tracking
    from volatility_pipeline.serving.answer_log import AnswerLog
    from volatility_pipeline.serving.api import Service, create_app
    from volatility_pipeline.serving.predictor import Predictor
    from volatility_pipeline.serving.server import make_server, settle

    tracking = Tracking(settings.tracking_uri, str(settings.data / "mlflow" / "artifacts"))
    predictor = Predictor(
        Champions(lake, tracking, settings.volatility_model_days),
        AnswerLog(lake, say),
        say,
        products=names,
        max_age_seconds=settings.volatility_max_age_seconds,
    )
    with ERRORS.status("Loading the champions"):
        predictor.start()
        settle()
    stopping = threading.Event()
    service = Service(
        predictor, lake, status=live.status if live else lambda: None, stopping=stopping
    )
    secret = settings.volatility_api_key
    key = secret.get_secret_value() if secret else None
    app = create_app(service, key=key, rate=settings.volatility_rate_limit)
    server = make_server(app)

    async def work() -> None:
        _introduce(predictor, listener, live, is_open=not key)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        taking = asyncio.ensure_future(_taking(live, predictor) if live else asyncio.Event().wait())
        try:
            await asyncio.wait({serving, taking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.set()
            server.should_exit = True
            if live is not None:
                live.stop()
            else:
                taking.cancel()
            await asyncio.wait({serving, taking})
        for ended in (serving, taking):
            if not ended.cancelled():
                ended.result()  # what ended the live features ends the service

    async def close() -> None:
        await asyncio.to_thread(predictor.stop)

    def status() -> str:
        counted = service.metrics.answered
        ready = sum(service.state(name).live is not None for name in predictor.products)
        return f"{counted:,} requests answered · {ready} of {len(predictor.products)} products live"

    run(work, status=status, close=close)


async def _taking(live: "LiveFeatures", predictor: "Predictor") -> None:
    """Live rows, in a thread with a loop of its own: requests do not wait for them."""
    await asyncio.to_thread(lambda: asyncio.run(live.run(predictor.take)))


def _from_kafka(
    settings: "Settings", lake: "Lake", names: tuple[str, ...] | None
) -> "LiveFeatures":
    from volatility_pipeline.feed.kafka import Cluster
    from volatility_pipeline.serving.feature_topic import FeatureTopic
    from volatility_pipeline.serving.kafka_source import KafkaSource
    from volatility_pipeline.serving.live import LiveFeatures

    cluster = Cluster(
        settings.kafka_bootstrap_servers,
        settings.volatility_topic_partitions,
        settings.volatility_topic_retention_hours,
    )
    return LiveFeatures(
        lake,
        _warehouse(settings, lake),
        KafkaSource(cluster, lake),
        products=names,
        publish=FeatureTopic(cluster),
    )


def _from_coinbase(
    settings: "Settings", lake: "Lake", names: tuple[str, ...], feed: str, url: str | None
) -> "LiveFeatures":
    from volatility_pipeline.cli.services import say
    from volatility_pipeline.feed.coinbase import Feed
    from volatility_pipeline.serving.live import LiveFeatures
    from volatility_pipeline.serving.websocket_source import WebSocketSource

    source = WebSocketSource(Feed(feed), names, say, url=url)
    return LiveFeatures(lake, _warehouse(settings, lake), source, products=names)


def _warehouse(settings: "Settings", lake: "Lake") -> "Warehouse":
    """The batch's settings; DuckDB gets one thread, so that requests find another core free."""
    from volatility_pipeline.resources.warehouse import Warehouse

    return Warehouse(lake, settings.volatility_max_gap_seconds, threads=1)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, made here so that a port in use is said in words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise BadInputError(f"{host}:{port}: {why}; --host or --port names another.") from error
    # asyncio does that only for sockets that name TCP; without it an answer waits for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


def _introduce(
    predictor: "Predictor", listener: socket.socket, live: "LiveFeatures | None", *, is_open: bool
) -> None:
    """Says where the API is, and what it lacks."""
    from volatility_pipeline.cli.services import say

    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    say(f"Serving on http://{address}:{port} (the API: /docs); Ctrl+C stops.")
    if not predictor.products:
        say("No product is known yet: `volatility run` makes models.")
    if live is None:
        say("Without live rows: POST /predict answers for rows that are sent.")
    if is_open and host not in LOCAL:
        say("Whoever reaches this address may ask: VOLATILITY_API_KEY is not set.")
