"""The recorder's books: which gap lines a sequence of messages leaves, product by product."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from volatility_pipeline.domain.values import parse_time
from volatility_pipeline.feed.coinbase import Feed, read
from volatility_pipeline.feed.continuity import RESTART_RUN
from volatility_pipeline.feed.gaps import Books, utc_now

PRODUCTS = ("BTC-USD", "ETH-USD")
START = datetime.fromisoformat("2026-04-04T12:00:00")


class Lines:
    """A sink that keeps its lines."""

    state = ""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:  # noqa: ARG002
        assert is_owed
        self.lines.append(json.loads(line))
        return True

    async def run(self) -> None:
        """Nothing to carry on."""

    async def close(self) -> None:
        """Nothing to close."""


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds") + "Z"


def advanced(number: int, seconds: float, product: str = "BTC-USD") -> bytes:
    ticker = {"product_id": product, "price": "1", "best_bid": "1", "best_ask": "1"}
    events = [{"type": "update", "tickers": [ticker]}]
    return orjson.dumps(
        {"channel": "ticker", "timestamp": at(seconds), "sequence_num": number, "events": events}
    )


def beat(number: int, seconds: float) -> bytes:
    events = [{"heartbeat_counter": number}]
    return orjson.dumps(
        {"channel": "heartbeats", "timestamp": at(seconds), "sequence_num": number,
         "events": events}
    )  # fmt: skip


def match(trade_id: object, seconds: float, product: str = "BTC-USD") -> bytes:
    said = {"type": "ticker", "product_id": product, "trade_id": trade_id, "time": at(seconds)}
    return orjson.dumps(said)


def exchange_beat(last: int, seconds: float, product: str = "BTC-USD") -> bytes:
    said = {"type": "heartbeat", "last_trade_id": last, "product_id": product, "time": at(seconds)}
    return orjson.dumps(said)


def gaps(
    feed: Feed, *connections: Sequence[bytes], memory: Path | None = None
) -> list[dict[str, Any]]:
    """The gap lines of some connections one after the other."""

    async def play() -> list[dict[str, Any]]:
        lines = Lines()
        books = Books(feed, PRODUCTS, lines, lambda _: None, memory=memory)
        for number, messages in enumerate(connections):
            if number:
                books.disconnected("cut")
            books.connected(f"c{number}")
            for message in messages:
                books.follow(read(message))
        books.finish()
        return lines.lines

    return asyncio.run(play())


def spans(found: list[dict[str, Any]], product: str) -> list[tuple[str, float, float | None]]:
    """(kind, start, end) of a product's gaps, in seconds."""

    def seconds(text: str | None) -> float | None:
        time = parse_time(text)
        return None if time is None else (time - START).total_seconds()

    return [
        (gap["kind"], seconds(gap["from"]) or 0.0, seconds(gap["to"]))
        for gap in found
        if gap["product_id"] == product
    ]


def test_whole_connections_leave_no_gap() -> None:
    assert gaps(Feed.ADVANCED, [advanced(0, 0), beat(1, 1), advanced(2, 2, "ETH-USD")]) == []
    assert gaps(Feed.EXCHANGE, [match(7, 0), exchange_beat(7, 1), match(8, 2)]) == []


def test_a_missing_sequence_number_is_a_gap_of_every_product() -> None:
    found = gaps(Feed.ADVANCED, [advanced(0, 0), advanced(3, 5)])
    for product in PRODUCTS:
        assert spans(found, product) == [("sequence_num", 0.0, 5.000001)]
    assert {gap["missing"] for gap in found} == {2}
    assert {gap["reason"] for gap in found} == {"sequence_num 1 to 2 missing"}


def test_a_trade_that_only_a_heartbeat_knows_of_is_a_gap_of_its_product() -> None:
    found = gaps(Feed.EXCHANGE, [match(7, 0), match(1, 0, "ETH-USD"), exchange_beat(9, 4)])
    assert spans(found, "BTC-USD") == [("trade_id", 0.0, 4.000001)]
    assert spans(found, "ETH-USD") == []


def test_trades_are_counted_across_connections() -> None:
    found = gaps(Feed.EXCHANGE, [match(7, 0)], [match(10, 30)])
    assert spans(found, "BTC-USD") == [
        ("disconnect", 0.0, 30.000001),
        ("trade_id", 0.0, 30.000001),
    ]


@pytest.mark.parametrize("feed", Feed)
def test_a_quiet_products_gap_begins_after_its_last_heartbeat(feed: Feed) -> None:
    if feed is Feed.ADVANCED:
        quiet = [advanced(0, 0), *(beat(n, 1000 * n) for n in range(1, 90))]
        found = gaps(feed, quiet, [beat(0, 89_060)])
    else:
        quiet = [match(7, 0), *(exchange_beat(7, 1000 * n) for n in range(1, 90))]
        found = gaps(feed, quiet, [exchange_beat(7, 89_060)])
    assert spans(found, "BTC-USD") == [("disconnect", 88_998.0, 89_060.000001)]


def test_numbers_that_begin_anew_are_a_gap_and_are_followed_again() -> None:
    before = [advanced(n, n) for n in range(1000)]
    anew = [advanced(n, 1000 + n) for n in range(RESTART_RUN + 5) if n != RESTART_RUN + 2]
    found = gaps(Feed.ADVANCED, [*before, *anew])
    kinds = spans(found, "BTC-USD")
    assert ("sequence_num", 1000 + RESTART_RUN + 1, 1000 + RESTART_RUN + 3.000001) in kinds
    assert ("restart", 999.0, 1000 + RESTART_RUN - 1 + 0.000001) in kinds
    assert len(kinds) == 2


def test_what_was_not_recorded_between_two_recorders_is_a_gap(tmp_path: Path) -> None:
    memory = tmp_path / "heard.json"
    now = (utc_now() - START).total_seconds()
    assert gaps(Feed.ADVANCED, [advanced(0, now - 600)], memory=memory) == []
    found = gaps(Feed.ADVANCED, [advanced(0, now)], memory=memory)
    ((kind, start, end),) = spans(found, "ETH-USD")
    assert (kind, end) == ("disconnect", pytest.approx(now, abs=1e-3))
    assert start == pytest.approx(now - 600, abs=1e-3)
    assert found[0]["reason"] == "the recorder was not running"
    long_ago = {product: (utc_now() - timedelta(days=3)).isoformat() for product in PRODUCTS}
    memory.write_bytes(orjson.dumps(long_ago))
    assert gaps(Feed.ADVANCED, [advanced(0, now)], memory=memory) == []
    memory.write_text("no JSON")
    assert gaps(Feed.ADVANCED, [advanced(0, now)], memory=memory) == []


@pytest.mark.parametrize("number", [10**30, "9" * 5000, -5, "x", None, 1.5, [], True])
def test_a_number_that_is_none_is_not_counted(number: object) -> None:
    said = read(json.dumps({"type": "ticker", "product_id": "A", "trade_id": number}).encode())
    assert said.kind == "ticker"
    assert said.trade_id is None
