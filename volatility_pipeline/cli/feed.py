"""Commands of the feed: record, land, replay, check-kafka."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volatility_pipeline.cli.console import OUT, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.settings import Settings, product_names

if TYPE_CHECKING:
    from volatility_pipeline.cli.services import Rate
    from volatility_pipeline.feed.kafka import Cluster
    from volatility_pipeline.feed.recorder import Recorder
    from volatility_pipeline.feed.sinks import Sink

ROLL_SECONDS = 15.0
ROLL_MB = 64.0
DISK_HEADROOM = 64 << 20


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(record)
    app.command()(land)
    app.command()(replay)
    app.command("check-kafka")(check_kafka)


def record(
    products: Annotated[
        str | None, typer.Option(help="Comma-separated (default: VOLATILITY_PRODUCTS).")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.", min=0)] = None,
    kafka: Annotated[
        bool | None,
        typer.Option("--kafka/--no-kafka", help="To Kafka (default: unless --save-disk is given)."),
    ] = None,
    save_disk: Annotated[
        bool, typer.Option("--save-disk", help="To segments under `data/raw/`.")
    ] = False,
    feed: Annotated[
        str, typer.Option(help="`advanced` (Advanced Trade) or `exchange` (Exchange).")
    ] = "advanced",
    url: Annotated[
        str | None, typer.Option(help="Another address, as of `volatility exchange`.")
    ] = None,
    silence: Annotated[
        float, typer.Option(help="Seconds without a word that make a connection dead.", min=0.1)
    ] = 10.0,
    data: DataOption = None,
) -> None:
    """Record Coinbase's public ticker feed to Kafka, to disk, or both; no key is needed.

    What is missing is known: every hole becomes a gap line. While Kafka does not answer, messages
    wait on disk and follow in order. Ctrl+C flushes and stops.

    Example: `volatility record --products BTC-USD --minutes 60 --save-disk`
    """
    settings = load_settings(data)
    names = _products(settings, products)
    from volatility_pipeline.cli.services import Rate, listed, say, serve
    from volatility_pipeline.feed.coinbase import Feed
    from volatility_pipeline.feed.journal import Journal
    from volatility_pipeline.feed.kafka import TICKS, OrderedProducer
    from volatility_pipeline.feed.recorder import Recorder
    from volatility_pipeline.feed.segment_files import DiskSink
    from volatility_pipeline.feed.sinks import KafkaSink, Sink, TeeSink

    if feed not in list(Feed):
        raise BadInputError(f"--feed {feed}: no such feed; it is `advanced` or `exchange`.")
    lake = Lake(settings.data)
    lake.check_writable(DISK_HEADROOM)
    to_kafka = not save_disk if kafka is None else kafka
    if not (to_kafka or save_disk):
        raise BadInputError("--no-kafka leaves nowhere to record to; add --save-disk.")
    cluster = _cluster(settings)

    made: list[tuple[Recorder, Sink]] = []

    async def work() -> None:
        sinks: list[Sink] = []
        if to_kafka:
            journal = Journal(lake.root / "spool" / feed, settings.volatility_spool_mb << 20, say)
            sinks.append(KafkaSink(journal, OrderedProducer(cluster, TICKS), say))
        if save_disk:
            roll_bytes = int(ROLL_MB * 1e6)
            sinks.append(DiskSink(lake, say, roll_seconds=60, roll_bytes=roll_bytes))
        sink = sinks[0] if len(sinks) == 1 else TeeSink(*sinks)
        memory = lake.root / "spool" / feed / "heard.json"
        recorder = Recorder(Feed(feed), names, sink, say, url=url, silence=silence, memory=memory)
        made.append((recorder, sink))
        say(f"Recording {listed(names)} from {recorder.url}; Ctrl+C stops.")
        recording, carrying = map(asyncio.ensure_future, (recorder.run(), sink.run()))
        try:
            await asyncio.wait({recording, carrying}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            recording.cancel()  # what it has said is carried on until close() is through
            with contextlib.suppress(asyncio.CancelledError):
                await recording
        carrying.result()

    async def close() -> None:
        for recorder, sink in made:
            recorder.books.finish()
            await sink.close()

    rate = Rate()

    def status() -> str:
        return _described(*made[0], rate) if made else "Starting"

    serve(work, close=close, status=status, minutes=minutes)


def land(
    topic: Annotated[str, typer.Option(help="Which topic.")] = "ticks.raw",
    roll_seconds: Annotated[
        float, typer.Option(help="A segment's greatest age.", min=0.1)
    ] = ROLL_SECONDS,
    roll_mb: Annotated[float, typer.Option(help="A segment's size.", min=0.001)] = ROLL_MB,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.", min=0)] = None,
    data: DataOption = None,
) -> None:
    """Land a Kafka topic in `data/raw/`: each message once, whatever is killed and when.

    Several landers of one data root share the topic's partitions.

    Example: `volatility land --roll-seconds 15`
    """
    settings = load_settings(data)
    from volatility_pipeline.cli.services import say, serve
    from volatility_pipeline.feed.lander import Lander

    lake = Lake(settings.data)
    lake.check_writable(DISK_HEADROOM)
    cluster = _cluster(settings)
    made: list[Lander] = []

    async def work() -> None:
        lander = Lander(
            lake,
            cluster,
            topic,
            say,
            first_day=settings.volatility_first_day,
            roll_seconds=roll_seconds,
            roll_bytes=int(roll_mb * 1e6),
        )
        made.append(lander)
        say(f"Landing {topic} of {cluster.bootstrap_servers} in {lake.root / 'raw'}.")
        await lander.run()

    async def close() -> None:
        for lander in made:
            await lander.close()

    def status() -> str:
        lander = made[0] if made else None
        if lander is None:
            return "Starting"
        return (
            f"{lander.partitions} partitions · {lander.lines:,} lines in {lander.segments:,} "
            f"segments · {lander.lag:,} messages behind"
        )

    serve(work, close=close, status=status, minutes=minutes)


def replay(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings: .ndjson, .ndjson.gz, .ndjson.zst.")
    ],
    speed: Annotated[
        float, typer.Option(help="1 is their own pace, 20 is faster, 0 is flat out.", min=0)
    ] = 1.0,
    topic: Annotated[str, typer.Option(help="Which topic.")] = "ticks.raw",
    data: DataOption = None,
) -> None:
    """Send recordings to Kafka, line by line as they are.

    Example: `volatility replay recordings/btc.ndjson --speed 20`
    """
    settings = load_settings(data)
    cluster = _cluster(settings)
    from aiokafka.errors import KafkaError

    from volatility_pipeline.cli.data import bytes_progress
    from volatility_pipeline.feed.kafka import OrderedProducer
    from volatility_pipeline.feed.replay import replay as send
    from volatility_pipeline.resources.landing import check_recording

    for path in files:
        check_recording(path)
    sent = 0

    async def work() -> None:
        nonlocal sent
        producer = OrderedProducer(cluster, topic)
        with bytes_progress() as shown:
            total = sum(path.stat().st_size for path in files)
            task = shown.add_task(f"to {topic}", total=total)

            def progress(lines: int, size: int) -> None:
                nonlocal sent
                sent += lines
                shown.advance(task, size)

            try:
                await producer.start()
                await send(files, producer, speed=speed, progress=progress)
            finally:
                await producer.stop()

    try:
        asyncio.run(work())
    except KafkaError as error:
        error = getattr(error, "reason", error)
        raise BadInputError(f"{cluster.in_words(error)} {sent:,} lines were sent.") from error
    except KeyboardInterrupt:
        raise RefusedError(f"Interrupted after {sent:,} lines.") from None
    OUT.print(f"{sent:,} lines sent to {topic}; `volatility land` brings them to disk.")


def check_kafka(
    topic: Annotated[str, typer.Option(help="Which topic.")] = "ticks.raw",
    least: Annotated[int, typer.Option("--min", help="Fewer messages than this fail.", min=0)] = 1,
    data: DataOption = None,
) -> None:
    """Say whether data is flowing: messages, lag and a sample; exit code 1 if there are too few.

    Example: `volatility check-kafka --topic ticks.raw --min 100`
    """
    settings = load_settings(data)
    cluster = _cluster(settings)
    from datetime import UTC, datetime

    from aiokafka.errors import KafkaError
    from rich.table import Table

    from volatility_pipeline.feed.inspection import look
    from volatility_pipeline.feed.offsets import Offsets

    try:
        found = asyncio.run(look(cluster, topic, Offsets(Lake(settings.data))))
    except (KafkaError, OSError) as error:
        raise RefusedError(cluster.in_words(error)) from error
    if found is None:
        raise RefusedError(f"{topic}: no such topic; `volatility record` or `replay` creates it.")
    table = Table("partition", "first offset", "next offset", "messages", "not landed here")
    for part in found.partitions:
        numbers = (part.begin, part.end, part.messages, part.lag)
        table.add_row(str(part.number), *(f"{number:,}" for number in numbers))
    OUT.print(table)
    for at, value in found.sample:
        text = value[:160].decode(errors="replace")
        OUT.print(f"{at:%Y-%m-%d %H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)
    if found.sample:
        age = (datetime.now(UTC) - found.sample[-1][0]).total_seconds()
        OUT.print(f"The newest message is {age:,.0f} s old.")
    if found.messages < least:
        raise RefusedError(f"{topic} holds {found.messages:,} messages, fewer than {least:,}.")
    OUT.print(f"{topic} holds {found.messages:,} messages.")


def _described(recorder: "Recorder", sink: "Sink", rate: "Rate") -> str:
    """The recorder's status line."""
    counts = recorder.counts
    lag = "–" if counts.lag is None else f"{counts.lag:.2f} s"
    return (
        f"{recorder.state} · {counts.messages:,} messages, {rate(counts.messages):,.0f}/s · "
        f"lag {lag} · {counts.holes} gaps, {counts.missing} missing · "
        f"{max(counts.connections - 1, 0)} reconnects · {sink.state}"
    )


def _products(settings: Settings, given: str | None) -> tuple[str, ...]:
    names = settings.volatility_products if given is None else product_names(given)
    if not names:
        raise BadInputError("--products names none; it reads like BTC-USD,ETH-USD.")
    return names


def _cluster(settings: Settings) -> "Cluster":
    from volatility_pipeline.feed.kafka import Cluster

    return Cluster(
        settings.kafka_bootstrap_servers,
        settings.volatility_topic_partitions,
        settings.volatility_topic_retention_hours,
    )
