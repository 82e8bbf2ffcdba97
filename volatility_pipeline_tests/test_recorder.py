"""The recorder against the stand-in exchange: what it writes, notices, survives and says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.domain.values import parse_time
from volatility_pipeline.feed.coinbase import Feed, read
from volatility_pipeline.feed.exchange import StandIn
from volatility_pipeline.feed.faults import Event, Faults
from volatility_pipeline.feed.journal import Journal
from volatility_pipeline.feed.kafka import Cluster, OrderedProducer
from volatility_pipeline.feed.lines import Gap, wrap
from volatility_pipeline.feed.market_source import Play, simulation
from volatility_pipeline.feed.recorder import Recorder
from volatility_pipeline.feed.segment_files import DiskSink
from volatility_pipeline.feed.sinks import KafkaSink, Sink
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.command_line import volatility

PRODUCTS = ("BTC-USD", "ETH-USD")


class Session:
    """A recorder writing to disk, what it says, and the lines it leaves."""

    def __init__(self, lake: Lake, protocol: Feed, products: Sequence[str] = PRODUCTS) -> None:
        self.lake = lake
        self.protocol = protocol
        self.products = products
        self.said: list[str] = []
        self.recorder: Recorder | None = None

    async def record(
        self,
        url: str,
        until: Callable[[Recorder], bool],
        *,
        sink: Sink | None = None,
        silence: float = 1.0,
    ) -> None:
        """Records until something has come to pass (within 20 s), and stops in good order."""
        sink = sink or DiskSink(self.lake, self.said.append, roll_seconds=60, roll_bytes=1 << 20)
        self.recorder = recorder = Recorder(
            self.protocol, self.products, sink, self.said.append, url=url, silence=silence
        )
        task = asyncio.create_task(recorder.run())
        try:
            async with asyncio.timeout(20):
                while not until(recorder):
                    await asyncio.sleep(0.02)
                    if task.done():
                        task.result()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, BadInputError):
                await task
            recorder.books.finish()
            await sink.close()

    def lines(self) -> list[dict[str, Any]]:
        """What was recorded, in order."""
        paths = [path for day in self.lake.raw_days() for path in self.lake.segments(day)]
        return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]

    def gaps(self) -> list[dict[str, Any]]:
        """The gap lines."""
        return [line for line in self.lines() if line.get("type") == "gap"]


def market() -> Play:
    return Play(simulation(PRODUCTS, seed=3), rate=400.0, is_now=True)


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await coroutine

    asyncio.run(bounded())


@pytest.mark.parametrize("protocol", Feed)
def test_every_message_is_a_line_with_its_capture_time_connection_and_number(
    protocol: Feed, lake: Lake
) -> None:
    session = Session(lake, protocol)

    async def play() -> None:
        async with StandIn(market()).serve() as url:
            await session.record(url, lambda recorder: recorder.counts.messages > 900)

    started = datetime.now(UTC).replace(tzinfo=None)
    run(play())
    lines = session.lines()
    assert session.recorder is not None
    assert len(lines) == session.recorder.counts.messages
    assert [line["sent"] for line in lines] == list(range(len(lines)))
    assert len({line["connection"] for line in lines}) == 1
    times = [parse_time(line["received_at"]) for line in lines]
    assert times == sorted(times)  # type: ignore[type-var]
    assert started <= (times[0] or started) <= started + timedelta(seconds=30)
    kinds = [read(json.dumps(line["raw"]).encode()).kind for line in lines]
    assert kinds.count("heartbeat") >= 2
    assert "subscriptions" in kinds
    tickers = [read_line(json.dumps(line).encode()).tickers for line in lines]
    assert {found[0].product_id for found in tickers if found} == set(PRODUCTS)
    assert all(found[0].reason is None and found[0].capture_time for found in tickers if found)
    assert session.gaps() == []


def test_a_frozen_connection_is_cut_after_the_silence_and_its_gap_reaches_the_manifest(
    lake: Lake,
) -> None:
    session = Session(lake, Feed.ADVANCED)
    frozen: list[Event] = []

    def observe(event: Event) -> None:
        if event.outcome in ("freeze", "frozen") and event.place is not None:
            frozen.append(event)

    async def play() -> None:
        stand_in = StandIn(market(), faults=Faults({"freeze": 20}, seed=1), observe=observe)
        async with stand_in.serve() as url:
            await session.record(
                url, lambda recorder: recorder.counts.connections > 1 and recorder.books.is_whole
            )

    run(play())
    (day,) = lake.raw_days()
    manifest = Ingest(lake, Warehouse(lake, 30)).write_manifest(day)
    recorded = [gap for gap in manifest["gaps"] if gap["kind"] == "recorded"]
    assert {gap["subject"] for gap in recorded} == set(PRODUCTS)
    (gap,) = [gap for gap in recorded if gap["subject"] == "BTC-USD"]
    assert gap["reason"] == "disconnected: no ticker and no heartbeat for 1 s"
    start, end = parse_time(gap["from"]), parse_time(gap["to"])
    assert start is not None
    assert end is not None
    first = [event for event in frozen if event.connection == 0]
    assert first
    assert all(start <= event.event_time < end for event in first)
    assert any("no ticker and no heartbeat for 1 s" in text for text in session.said)


@pytest.mark.parametrize("protocol", Feed)
def test_a_product_that_the_exchange_does_not_know_ends_the_command(
    protocol: Feed, lake: Lake
) -> None:
    session = Session(lake, protocol, ("NO-SUCH",))

    async def play() -> None:
        async with StandIn(market()).serve() as url:
            await session.record(url, lambda _: False)

    with pytest.raises(BadInputError, match=r"NO-SUCH is not a valid product.*--products"):
        run(play())


@pytest.mark.parametrize(("fault", "said"), [("refuse", "accepts no"), ("throttle", "Rate limit")])
def test_a_refused_subscription_is_said_in_plain_words_and_tried_again(
    fault: str, said: str, lake: Lake
) -> None:
    session = Session(lake, Feed.EXCHANGE)

    async def play() -> None:
        stand_in = StandIn(market(), faults=Faults({fault: 30}, seed=2))
        async with stand_in.serve() as url:
            await session.record(
                url, lambda recorder: recorder.counts.connections > 2 and recorder.books.is_whole
            )

    run(play())
    assert any("refused the subscription" in text and said in text for text in session.said)
    assert session.recorder is not None
    assert session.recorder.counts.tickers > 0


def test_an_exchange_that_is_not_there_is_waited_for(lake: Lake) -> None:
    session = Session(lake, Feed.ADVANCED)
    port = free_port()

    async def play() -> None:
        recording = asyncio.create_task(
            session.record(f"ws://127.0.0.1:{port}", lambda one: one.counts.tickers > 20)
        )
        await asyncio.sleep(1)
        async with StandIn(market()).serve(port=port):
            await recording

    run(play())
    assert any("connecting again in" in text for text in session.said)
    assert session.gaps() == [], "nothing is missing where nothing had begun"


def test_a_message_that_is_no_json_is_kept_and_quarantined(lake: Lake) -> None:
    session = Session(lake, Feed.ADVANCED)

    async def play() -> None:
        stand_in = StandIn(market(), faults=Faults({"rubbish": 500}, seed=5))
        async with stand_in.serve() as url:
            await session.record(url, lambda recorder: recorder.counts.rubbish > 15)

    run(play())
    strings = [line for line in session.lines() if isinstance(line.get("raw"), str)]
    assert session.recorder is not None
    assert len(strings) == session.recorder.counts.rubbish
    ingest = Ingest(lake, Warehouse(lake, 30))
    total = 0
    for day in lake.raw_days():
        ingest.write_manifest(day)
        books = ingest.build_ticks(day)["books"]
        total += sum(book["quarantined_lines"] for book in books)
    assert total >= len(strings)
    assert sum("is no JSON" in text for text in session.said) == 1, "said once, not each time"


def test_a_full_spool_loses_messages_into_a_gap_line_that_counts_them(
    lake: Lake, tmp_path: Path
) -> None:
    session = Session(lake, Feed.EXCHANGE)

    async def play() -> list[bytes]:
        journal = Journal(tmp_path / "spool", 30_000, session.said.append)
        producer = OrderedProducer(Cluster(f"127.0.0.1:{free_port()}"), "ticks.raw")
        sink = KafkaSink(journal, producer, session.said.append)
        kept: list[bytes] = []

        def drained_once(recorder: Recorder) -> bool:
            if recorder.counts.overflow > 50 and not kept:
                kept.extend(value for _, _, value in journal.take(1 << 30))
                journal.acknowledge()
            return bool(kept) and recorder.counts.holes >= len(PRODUCTS)

        async with StandIn(market()).serve() as url:
            await session.record(url, drained_once, sink=sink)
        journal = Journal(tmp_path / "spool", 1 << 30, session.said.append)
        kept += [value for _, _, value in journal.take(1 << 30)]
        journal.close()
        return kept

    kept: list[bytes] = []

    async def collect() -> None:
        kept.extend(await play())

    run(collect())
    lines = [json.loads(line) for line in kept]
    gaps = [line for line in lines if line.get("kind") == "no_room"]
    assert {gap["product_id"] for gap in gaps} == set(PRODUCTS)
    sent = {line["sent"] for line in lines if "sent" in line}
    tickers_lost = sum(gap["missing"] for gap in gaps)
    assert session.recorder is not None
    assert len(sent) + tickers_lost == session.recorder.counts.messages
    assert all(gap["from"] < gap["to"] for gap in gaps if gap["to"])


def test_a_clock_that_is_behind_the_exchanges_is_said_once(lake: Lake) -> None:
    session = Session(lake, Feed.ADVANCED)

    async def play() -> None:
        ahead = Play(simulation(PRODUCTS, seed=3), speed=100.0, is_now=True)
        async with StandIn(ahead).serve() as url:
            await session.record(url, lambda recorder: len(recorder.counts.lags) > 30)

    run(play())
    assert sum("clock is" in text and "behind the exchange's" in text for text in session.said) == 1


def test_a_gap_over_midnight_has_a_line_on_either_day() -> None:
    start, end = (datetime.fromisoformat(t) for t in ("2026-04-04T23:59", "2026-04-06T00:00:01"))
    lines = [json.loads(one) for one in Gap("disconnect", "A-B", start, end, "why", 3).lines("c")]
    assert [(line["from"], line["to"]) for line in lines] == [
        ("2026-04-04T23:59:00.000000Z", "2026-04-05T00:00:00.000000Z"),
        ("2026-04-05T00:00:00.000000Z", "2026-04-06T00:00:00.000000Z"),
        ("2026-04-06T00:00:00.000000Z", "2026-04-06T00:00:01.000000Z"),
    ]
    assert [read_line(json.dumps(line).encode()).kind for line in lines] == ["other"] * 3
    assert [read_line(json.dumps(line).encode()).time for line in lines] == [
        parse_time(line["from"]) for line in lines
    ]


def test_a_message_of_several_lines_becomes_one_line_that_says_the_same() -> None:
    pretty = json.dumps({"type": "ticker", "text": "a\nb"}, indent=2).encode()
    line = wrap(pretty, "2026-04-04T00:00:00.000000Z", "c", 0, is_json=True)
    assert b"\n" not in line
    assert json.loads(line)["raw"] == json.loads(pretty)


def test_segments_of_a_killed_recorder_are_taken_over_to_their_last_whole_line(lake: Lake) -> None:
    folder = lake.raw_folder(date(2026, 4, 4))
    folder.mkdir(parents=True)
    (folder / ".recorded-20260404T000000000000-000000.ndjson.tmp").write_bytes(b'{"a":1}\n{"b"')
    (folder / ".recorded-20260404T000000000000-000001.ndjson.tmp").write_bytes(b'{"torn"')
    said: list[str] = []
    DiskSink(lake, said.append, roll_seconds=60, roll_bytes=1)
    (segment,) = folder.iterdir()
    assert segment.name == "recorded-20260404T000000000000-000000.ndjson"
    assert segment.read_bytes() == b'{"a":1}\n'
    assert len(said) == 1


class Command:
    """`volatility record` as a process."""

    def __init__(self, root: Path, *arguments: str, kafka: str) -> None:
        environment = os.environ | {
            "VOLATILITY_DATA": str(root),
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
        }
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("volatility")), "record", *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, number: int) -> tuple[float, str]:
        """Sends a signal; how long it took to end, in seconds, and all it said."""
        self.process.send_signal(number)
        at = time.monotonic()
        _, said = self.process.communicate(timeout=30)
        return time.monotonic() - at, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_five_seconds_and_what_kafka_did_not_take_stays(
    number: int, lake: Lake, tmp_path: Path
) -> None:
    async def play() -> tuple[int, float, str]:
        async with StandIn(market()).serve() as url:
            command = Command(tmp_path, "--url", url, kafka=f"127.0.0.1:{free_port()}")
            spool = tmp_path / "spool" / "advanced"
            async with asyncio.timeout(20):
                while sum(path.stat().st_size for path in spool.glob("*.records")) < 100_000:
                    await asyncio.sleep(0.1)
            taken, said = await asyncio.to_thread(command.stop, number)
            return command.process.returncode, taken, said

    code, taken, said = asyncio.run(play())
    assert code == 0
    assert taken < 5
    assert "does not answer" in said
    assert "the next `volatility record` sends them first" in said
    journal_lines = [
        line
        for path in (tmp_path / "spool" / "advanced").glob("*.records")
        for line in path.read_bytes().splitlines()
    ]
    numbers = [json.loads(line.split(b"\t", 2)[2])["sent"] for line in journal_lines]
    assert numbers == list(range(len(numbers)))


def test_it_ends_on_time_and_leaves_whole_segments(tmp_path: Path) -> None:
    async def play() -> str:
        async with StandIn(market()).serve() as url:
            command = Command(
                tmp_path, "--url", url, "--save-disk", "--minutes", "0.03", kafka="localhost:1"
            )
            _, said = await asyncio.to_thread(command.process.communicate, timeout=30)
            assert command.process.returncode == 0
            return str(said)

    said = asyncio.run(play())
    assert "1 segments" in said
    lake = Lake(tmp_path)
    (day,) = lake.raw_days()
    (segment,) = lake.segments(day)
    assert segment.read_bytes().count(b"\n") > 300
    assert not list(lake.raw_folder(day).glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--feed", "kraken"], "--feed kraken: no such feed"),
        (["--no-kafka"], "--no-kafka leaves nowhere"),
        (["--products", ","], "--products names none"),
        (["--url", "http://x", "--save-disk"], "http://x: no WebSocket address"),
        (["--url", "ws://host:99999", "--save-disk"], "no WebSocket address"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], said: str, tmp_path: Path) -> None:
    answer = volatility("record", *arguments, data=tmp_path)
    assert answer.code == 2
    assert said in answer.errors
    assert "Traceback" not in answer.errors
