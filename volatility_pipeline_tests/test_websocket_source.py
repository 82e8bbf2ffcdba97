"""Live features straight from the exchange: the stand-in's messages, without Kafka between."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import Ticker, read_line
from volatility_pipeline.feed.coinbase import Feed
from volatility_pipeline.feed.exchange import StandIn
from volatility_pipeline.feed.faults import Faults
from volatility_pipeline.feed.market_source import Play, simulation
from volatility_pipeline.feed.recorder import Recorder
from volatility_pipeline.feed.segment_files import DiskSink
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.serving.live import FeatureRow, LiveFeatures
from volatility_pipeline.serving.memory import Line
from volatility_pipeline.serving.websocket_source import WebSocketSource
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.live_run import Arrival, answered, as_lines, expected, land, written
from volatility_pipeline_tests.registered_models import appoint, register
from volatility_pipeline_tests.tick_lake import SECOND, built_lake, walk

PRODUCTS = ("BTC-USD", "ETH-USD")
GENEROUS = 2.0  # seconds of grace for a machine that is busy with other tests
ONE_DISCONNECT = Faults({"disconnect": 2}, seed=48)  # after 180 tickers, and not for 6,000 more


class Tapped(WebSocketSource):
    """Keeps what it gives."""

    given: list[Line]

    async def read(self, seconds: float) -> list[Line]:
        lines = await super().read(seconds)
        self.given = [*getattr(self, "given", []), *lines]
        return lines

    @property
    def tickers(self) -> list[Ticker]:
        """What the lines say."""
        return [one for line in self.given for one in read_line(line.value).tickers]


def now() -> datetime:
    """This machine's clock, naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def play(rate: float = 200.0) -> Play:
    """A made-up market of the present."""
    return Play(simulation(PRODUCTS, seed=3), rate=rate, is_now=True)


async def come_to_pass(check: Callable[[], bool], task: "asyncio.Task[None] | None" = None) -> None:
    """Waits for it."""
    async with asyncio.timeout(90):
        while not check():
            await asyncio.sleep(0.02)
            if task is not None and task.done():
                task.result()


@pytest.mark.parametrize("feed", Feed)
def test_rows_are_the_batches_over_lake_and_messages_through_a_disconnect(
    feed: Feed, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    begun = now().replace(microsecond=0) - 400 * SECOND
    ticks = [
        one
        for seed, product in enumerate(PRODUCTS)
        for one in walk(begun, 430, product_id=product, seed=seed)  # half a minute ahead
    ]
    history = [Arrival(one.event_time, written(one)) for one in ticks]
    land(lake, as_lines(sorted(history, key=lambda one: one.at)))
    said: list[str] = []
    rows: list[FeatureRow] = []

    async def run() -> Tapped:
        stand_in = StandIn(play(), faults=ONE_DISCONNECT)
        async with stand_in.serve() as url:
            source = Tapped(feed, PRODUCTS, said.append, url=url)
            live = LiveFeatures(lake, Warehouse(lake, threads=1), source, grace_seconds=GENEROUS)
            task = asyncio.create_task(live.run(rows.extend))
            await come_to_pass(lambda: source.counts.connections > 1 and source.is_caught_up, task)
            healed = datetime.now(UTC)
            await come_to_pass(lambda: bool(rows) and rows[-1].ts > healed + 2 * SECOND, task)
            live.stop()
            await task
            status = live.status()
        assert (status.late, status.messages) == (0, len(source.given))
        assert status.counts is not None
        assert status.counts.holes >= 1
        return source

    source = asyncio.run(run())
    assert any("connecting again" in text for text in said)
    land(lake, source.given)
    batch = expected(lake)
    found = answered(rows)
    assert {product for product, _ in found} == set(PRODUCTS)
    times = sorted({ts for _, ts in found})
    assert len(found) == 2 * len(times)
    assert [later - one for one, later in pairwise(times)] == [SECOND] * (len(times) - 1)
    assert [key for key, answer in found.items() if batch[key] != answer] == []


def test_lines_are_those_of_a_recorder_beside_it(lake: Lake) -> None:
    async def run() -> Tapped:
        async with StandIn(play()).serve() as url:
            source = Tapped(Feed.EXCHANGE, PRODUCTS, print, url=url)
            sink = DiskSink(lake, print, roll_seconds=60, roll_bytes=1 << 20)
            recorder = Recorder(Feed.EXCHANGE, PRODUCTS, sink, print, url=url)
            await source.start()
            task = asyncio.create_task(recorder.run())
            while source.counts.tickers < 300 or recorder.counts.tickers < 300:
                await source.read(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await sink.close()
            await source.read(0)
            await source.close()
        return source

    source = asyncio.run(run())
    paths = [path for day in lake.raw_days() for path in lake.segments(day)]
    lines = [line for path in paths for line in path.read_bytes().splitlines()]
    recorded = [one for line in lines for one in read_line(line).tickers]
    both = {(one.product_id, one.trade_id) for one in recorded}
    both &= {(one.product_id, one.trade_id) for one in source.tickers}
    assert len(both) >= 200

    def shared(tickers: list[Ticker]) -> list[dict[str, Any]]:
        return [
            vars(one) | {"capture_time": None}
            for one in tickers
            if (one.product_id, one.trade_id) in both
        ]

    assert shared(source.tickers) == shared(recorded)
    assert all(one.capture_time is not None for one in source.tickers)
    assert [line.offset for line in source.given] == list(range(len(source.given)))
    stamps = [line.stamp for line in source.given]
    assert stamps == sorted(stamps)


def test_what_finds_no_room_is_counted_said_and_becomes_a_gap() -> None:
    said: list[str] = []

    async def run() -> Tapped:
        async with StandIn(play(500)).serve() as url:
            source = Tapped(Feed.ADVANCED, PRODUCTS, said.append, url=url, most_held=50)
            await source.start()
            await come_to_pass(lambda: source.counts.overflow > 20)
            assert source.lag == 50
            await source.read(0)
            await come_to_pass(lambda: source.counts.holes > 0)
            await source.read(0)
            await source.close()
        return source

    source = asyncio.run(run())
    assert f"{source.counts.overflow:,} messages found no room" in source.name
    assert any("no room left" in text for text in said)
    gaps = [gap for line in source.given if (gap := read_line(line.value).gap) is not None]
    assert {gap["kind"] for gap in gaps} == {"no_room"}
    assert len(source.given) == source._taken


def test_a_product_that_the_exchange_does_not_know_ends_it_with_its_name(tmp_path: Path) -> None:
    async def run() -> None:
        async with StandIn(play()).serve() as url:
            lake = Lake(tmp_path)
            source = WebSocketSource(Feed.ADVANCED, ["BTC-USD", "XYZ-USD"], print, url=url)
            await LiveFeatures(lake, Warehouse(lake), source).run(print)

    with pytest.raises(BadInputError, match="XYZ-USD is not a valid product"):
        asyncio.run(run())


def test_an_address_is_refused_where_nothing_listens_to_it(tmp_path: Path) -> None:
    for options, words in (
        (("--url", "ws://localhost:1"), "--url is for `--source coinbase`, not for `kafka`."),
        (("--source", "coinbase", "--url", "localhost:1"), "no WebSocket address"),
    ):
        answer = volatility("serve", "--port", "0", *options, data=tmp_path)
        assert answer.code == 2
        assert words in answer.errors


def ask(address: str) -> tuple[int, dict[str, Any]]:
    """An answer's status and body; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def wait_for(address: str, code: int, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The body of the first answer with a status."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        found, body = ask(address)
        if found == code:
            return body
        time.sleep(0.1)
    raise AssertionError(f"{address}: no {code} within two minutes")


@pytest.mark.timeout(400)
def test_the_command_answers_from_the_exchange_and_again_after_it_was_away(tmp_path: Path) -> None:
    begun = now().replace(microsecond=0)
    # Ticks ahead keep the run whole, however long the service takes to start, or the exchange is
    # away.
    built_lake(tmp_path, walk(begun - 7200 * SECOND, 8100, step=5))
    register(tmp_path, "BTC-USD", ["persistence"])
    appoint(tmp_path, "BTC-USD", "persistence")
    exchange, api = str(free_port()), str(free_port())
    serve = ["serve", "--port", api, "--source", "coinbase", "--url", f"ws://127.0.0.1:{exchange}"]
    environment = os.environ | {
        "VOLATILITY_DATA": str(tmp_path),
        "VOLATILITY_MAX_AGE_SECONDS": "3",
    }
    command = Path(sys.executable).with_name("volatility")
    address = f"http://127.0.0.1:{api}/predict/BTC-USD"

    async def play_until(code: int, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        async with StandIn(play(20)).serve(port=int(exchange)):
            return await asyncio.to_thread(wait_for, address, code, process)

    with subprocess.Popen([command, *serve], env=environment, stderr=subprocess.PIPE) as process:
        try:
            first = asyncio.run(play_until(200, process))
            wait_for(address, 503, process)
            _, ready = ask(f"http://127.0.0.1:{api}/ready")
            second = asyncio.run(play_until(200, process))
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"connecting again" in said
    assert 0 <= first["probability"] <= 1
    assert first["age_seconds"] <= 3
    asked = [datetime.fromisoformat(one["ts"]).replace(tzinfo=None) for one in (first, second)]
    assert begun < asked[0] < asked[1] <= now() + timedelta(seconds=1)
    assert ready["source"].startswith("Coinbase's feed advanced at ws://")
    assert ready["source"].endswith(f":{exchange}: not connected")
