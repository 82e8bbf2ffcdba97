"""The whole feed in one process: stand-in → recorder → Kafka → lander → raw segments → ticks.

What was played, what became of each message, and what was built, side by side.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.feed.coinbase import Feed
from volatility_pipeline.feed.exchange import StandIn
from volatility_pipeline.feed.faults import REACHES_CLIENT, Event, Faults
from volatility_pipeline.feed.journal import Journal
from volatility_pipeline.feed.kafka import Cluster, OrderedProducer
from volatility_pipeline.feed.lander import Lander
from volatility_pipeline.feed.market_source import EPOCH, Play, Tick
from volatility_pipeline.feed.recorder import Recorder
from volatility_pipeline.feed.sinks import KafkaSink
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse

Facts = tuple[str, datetime, str, str, str]  # product, event time, price, bid, ask


@dataclass
class Fed:
    """What a run of the feed left behind."""

    lake: Lake
    said: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    recorder: Recorder | None = None
    delivered: int = 0

    def build(self) -> None:
        """Manifests and ticks of all days that landed."""
        ingest = Ingest(self.lake, Warehouse(self.lake, 30))
        for day in self.lake.raw_days():
            ingest.write_manifest(day)
            ingest.build_ticks(day)

    def ticks(self) -> Counter[Facts]:
        """The built ticks by what they say."""
        files = [str(path) for path in self.lake.files("ticks")]
        query = "select product_id, event_time, price, best_bid, best_ask from read_parquet(?)"
        rows = duckdb.execute(query, [files]).fetchall()
        return Counter((row[0], row[1], *map(repr, row[2:])) for row in rows)

    def gaps(self) -> list[dict[str, Any]]:
        """The recorded gaps in the manifests of all days."""
        manifests = [self.lake.manifest(day) or {"gaps": []} for day in self.lake.raw_days()]
        return [
            gap for manifest in manifests for gap in manifest["gaps"] if gap["kind"] == "recorded"
        ]

    def books(self) -> Counter[str]:
        """The sums of the segments' books."""
        total: Counter[str] = Counter()
        for day in self.lake.days("ticks"):
            for book in (self.lake.record("ticks", day) or {})["books"]:
                total.update({key: value for key, value in book.items() if key != "segment"})
        return total


def played(play: Play) -> dict[int, Facts]:
    """What each place of a play says."""
    return {tick.place: facts(tick) for tick in play.ticks()}


def facts(tick: Tick) -> Facts:
    """What a played ticker says, as the ticks table has it."""
    time = EPOCH + timedelta(microseconds=tick.time)
    text = tick.quote.in_advanced(time.isoformat(), sequence_num=0, kind="update")
    (ticker,) = read_line(text.encode()).tickers
    numbers = (ticker.price, ticker.best_bid, ticker.best_ask)
    price, bid, ask = (repr(float(number or 0)) for number in numbers)
    return tick.quote.product_id, time, price, bid, ask


async def feed(
    root: Path,
    address: str,
    play: Play,
    products: Sequence[str],
    protocol: Feed,
    *,
    faults: Faults,
    topic: str,
    silence: float = 1.0,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> Fed:
    """Plays everything through the feed and waits until all that was recorded has landed."""
    lake = Lake(root)
    fed = Fed(lake)
    cluster = Cluster(address)
    journal = Journal(root / "spool", 1 << 30, fed.said.append)
    sink = KafkaSink(journal, OrderedProducer(cluster, topic), fed.said.append)
    lander = Lander(
        lake, cluster, topic, fed.said.append,
        first_day=date(2025, 1, 1), roll_seconds=2, roll_bytes=4 << 20,
    )  # fmt: skip
    stand_in = StandIn(play, faults=faults, observe=fed.events.append)
    async with stand_in.serve() as url:
        fed.recorder = Recorder(protocol, products, sink, fed.said.append, url=url, silence=silence)
        tasks = [asyncio.create_task(one.run()) for one in (fed.recorder, sink, lander)]
        if meanwhile is not None:
            await meanwhile()
        await stand_in.played()
        await asyncio.sleep(2 * silence + 1)  # a connection that froze last is noticed, and healed
        tasks[0].cancel()
        with suppress(asyncio.CancelledError):
            await tasks[0]
        fed.recorder.books.finish()
        await sink.close()
    fed.delivered = sink.delivered
    async with asyncio.timeout(90):
        while lander.lines < fed.delivered:
            await asyncio.sleep(0.1)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks)
    await lander.close()
    return fed


def lost(fed: Fed, said: dict[int, Facts]) -> list[Event]:
    """The tickers that are not among the ticks, each with what became of it.

    Asserts that nothing is there that was not played, and that what a live connection was given
    is there, but for the tail of a connection that was cut.
    """
    missing = Counter(said.values())
    missing.subtract(fed.ticks())
    assert not -missing, "ticks that nobody played"
    by_connection: dict[int | None, list[Event]] = defaultdict(list)
    for event in fed.events:
        if event.place is not None:
            by_connection[event.connection].append(event)
    absent: list[Event] = []
    for connection, events in by_connection.items():
        is_tail = True
        for event in reversed(events):
            was_given = event.outcome in REACHES_CLIENT
            is_missing = missing[said[event.place or 0]] > 0
            if was_given and not is_missing:
                is_tail = False
            if is_missing and (not was_given or (is_tail and connection is not None)):
                missing[said[event.place or 0]] -= 1
                absent.append(event)
    assert not +missing, "given to a live connection, and not there"
    return absent
