"""The feed as a whole, real Kafka between: what was sent is there once, what is not is in a gap."""

import asyncio
import json
import os
import uuid
from datetime import datetime
from pathlib import Path

import pytest

from volatility_pipeline.domain.values import parse_time
from volatility_pipeline.feed.coinbase import Feed
from volatility_pipeline.feed.faults import Faults
from volatility_pipeline.feed.market_source import Play, recording, simulation
from volatility_pipeline_tests.broker import Broker
from volatility_pipeline_tests.feed_run import feed, lost, played

# `make endurance` plays recordings often enough for 200,000 messages and 200 faults.
IS_ENDURANCE = os.environ.get("VOLATILITY_ENDURANCE") == "1"
ROUNDS = 7 if IS_ENDURANCE else 1
OUTAGE_SECONDS = 60 if IS_ENDURANCE else 4
FAULTS = {
    "drop": 8, "repeat": 8, "reorder": 8, "rubbish": 8,
    "disconnect": 2, "freeze": 1, "refuse": 1, "throttle": 1, "stall": 2,
}  # fmt: skip
MORE = 1 if IS_ENDURANCE else 5  # times as many faults where fewer messages are played
# In the order of their times: a market's clock does not go back. Nor may it run ahead of ours,
# which is why only recordings of one day are played over and over.
FILES = (
    ("flat_btc_eth_20260404_2h", "advanced_btc_20260404_15min")
    if IS_ENDURANCE
    else (
        "flat_btc_20251108_43s",
        "exchange_btc_20251112_4pieces",
        "flat_btc_20251201_10min",
        "advanced_btc_20260404_15min",
    )
)
PRODUCTS = ("BTC-USD", "ETH-USD")


@pytest.mark.timeout(300 + 300 * (ROUNDS - 1))
@pytest.mark.parametrize("protocol", Feed)
def test_faulty_connections_lose_only_what_lies_in_a_gap_line(
    protocol: Feed, broker: str, recordings: Path, tmp_path: Path
) -> None:
    files = [recordings / f"{name}.ndjson" for name in FILES]
    play = Play(recording(files), rate=4000.0 if IS_ENDURANCE else 1500.0, repeat=ROUNDS)
    said = played(play)
    products = sorted({product for product, *_ in said.values()})
    faults = Faults({kind: MORE * rate for kind, rate in FAULTS.items()}, seed=7)
    topic = f"ticks-{uuid.uuid4().hex[:8]}"
    fed = asyncio.run(feed(tmp_path, broker, play, products, protocol, faults=faults, topic=topic))
    hit = sum(event.outcome not in ("sent", "unheard", "lost", "frozen") for event in fed.events)
    assert hit >= (200 if IS_ENDURANCE else 20)
    assert fed.recorder is not None
    assert fed.recorder.counts.connections > 3

    fed.build()
    books = fed.books()
    assert books["lines"] == fed.delivered
    assert books["lines"] == books["messages"] + books["other"] + books["quarantined_lines"]
    absent = lost(fed, said)
    assert absent, "a run without a loss proves nothing"

    gaps = [(gap["subject"], parse_time(gap["from"]), parse_time(gap["to"])) for gap in fed.gaps()]

    def is_in_a_gap(product: str, time: datetime) -> bool:
        return any(
            subject == product and start <= time and (end is None or time < end)
            for subject, start, end in gaps
            if start is not None
        )

    for event in absent:
        product, time, *_ = said[event.place or 0]
        assert is_in_a_gap(product, time), event
    # And the gaps are narrow: what is there lies outside them, but for their neighbours.
    inside = sum(is_in_a_gap(product, time) for product, time, *_ in fed.ticks())
    assert inside < 0.1 * fed.ticks().total()


@pytest.mark.timeout(600)
def test_kafka_stopped_under_two_thousand_messages_a_second_loses_nothing(
    own_broker: Broker, tmp_path: Path
) -> None:
    hours = (OUTAGE_SECONDS + 8) * 2000 / 5.2 / 3600  # a made-up market has 5.2 tickers a second
    play = Play(simulation(PRODUCTS, seed=1, hours=hours), rate=2000.0)

    async def outage() -> None:
        await asyncio.sleep(3)
        await asyncio.to_thread(own_broker.stop)
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(own_broker.start)

    fed = asyncio.run(
        feed(
            tmp_path / "data", own_broker.address, play, PRODUCTS, Feed.ADVANCED,
            faults=Faults(), topic="ticks.raw", silence=3, meanwhile=outage,
        )
    )  # fmt: skip
    assert fed.recorder is not None
    assert (fed.recorder.counts.overflow, fed.recorder.counts.holes) == (0, 0)
    assert any("does not answer" in text for text in fed.said)
    assert any("Kafka is back" in text for text in fed.said)
    sent = [
        json.loads(line)["sent"]
        for day in fed.lake.raw_days()
        for path in fed.lake.segments(day)
        for line in path.read_bytes().splitlines()
    ]
    assert sorted(sent) == list(range(fed.recorder.counts.messages))
