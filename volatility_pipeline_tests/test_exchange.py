"""The stand-in exchange, asked by real WebSocket clients: what it says, and what it makes go wrong.

Wherever a client reads until the end, it is the server that closes, after all that it has sent.
"""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from volatility_pipeline.cli.exchange import exchange as command
from volatility_pipeline.cli.services import listed
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import Ticker, read_line
from volatility_pipeline.feed import exchange
from volatility_pipeline.feed.exchange import StandIn
from volatility_pipeline.feed.faults import REACHES_CLIENT, Event, Faults
from volatility_pipeline.feed.market_source import (
    Play,
    Source,
    read_quotes,
    recording,
    simulation,
)

Json = dict[str, Any]
PROTOCOLS = ("exchange", "advanced")
# What every recording has and both protocols say.
COMMON = ("product_id", "event_time", "price", "best_bid", "best_ask", "bid_size", "ask_size")


def requests(protocol: str, *products: str, type: str = "subscribe") -> list[Json]:  # noqa: A002
    """What a recorder sends first."""
    if protocol == "exchange":
        channels = ["ticker", "heartbeat"]
        return [{"type": type, "product_ids": products, "channels": channels}]
    return [
        {"type": type, "channel": "heartbeats"},
        {"type": type, "product_ids": products, "channel": "ticker"},
    ]


def line(second: float, price: str = "100.5", product: str = "BTC-USD", **members: Any) -> bytes:
    """A flat recorded ticker of 1 November 2025."""
    at = datetime(2025, 11, 1, tzinfo=UTC) + timedelta(seconds=second)
    quotes = {"best_bid": "100.4", "best_ask": "100.6"}
    ticker = {"timestamp": at.isoformat(), "product_id": product, "price": price}
    return json.dumps(ticker | quotes | members).encode()


def source(*lines: bytes) -> Source:
    return Source(lambda: lines)


def ticks(number: int) -> Source:
    """Ticks a tenth of a second apart."""
    return source(*(line(place / 10, price=f"{100 + place}") for place in range(number)))


async def subscribe(url: str, asked: list[Json]) -> ClientConnection:
    ws = await connect(url, compression=None, max_queue=4096)
    for request in asked:
        await ws.send(json.dumps(request))
    return ws


async def read_to_end(ws: ClientConnection) -> list[bytes]:
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(await ws.recv(decode=False))
    return messages


def heard(stand_in: StandIn, asked: list[Json], *, beats: int = 0) -> list[bytes]:
    """All that a client hears of a play, and for some seconds after."""

    async def run() -> list[bytes]:
        async with stand_in.serve() as url:
            reader = asyncio.create_task(read_to_end(await subscribe(url, asked)))
            await stand_in.played()
            await asyncio.sleep(beats * 1.05)
        return await reader

    return asyncio.run(run())


def tickers(messages: list[bytes]) -> list[Ticker]:
    """What the pipeline's own reader makes of them; none is at fault."""
    read = [ticker for message in messages for ticker in read_line(message).tickers]
    assert all(ticker.reason is None for ticker in read)
    return read


def fields(ticker: Ticker, names: tuple[str, ...]) -> tuple[Any, ...]:
    members = asdict(ticker)
    return tuple(members[name] for name in names)


def kinds(messages: list[bytes]) -> list[str]:
    read = map(json.loads, messages)
    return [message["channel" if "channel" in message else "type"] for message in read]


# What is said


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["advanced_btc_20260404_15min", "exchange_btc_20251112_4pieces"])
def test_recorded_tickers_arrive_with_the_values_they_were_recorded_with(
    recordings: Path, name: str, protocol: str
) -> None:
    path = recordings / f"{name}.ndjson"
    wanted = tickers(path.read_bytes().splitlines())
    got = tickers(heard(StandIn(Play(recording([path]), speed=0)), requests(protocol, "BTC-USD")))
    names: tuple[str, ...] = (*COMMON, "volume_24h")
    if name.startswith("exchange") and protocol == "exchange":
        names += ("side", "last_size", "trade_id", "sequence")
    assert len(got) == len(wanted) > 3000
    assert [fields(one, names) for one in got] == [fields(one, names) for one in wanted]
    if protocol == "advanced":
        assert all(one.trade_id is None and one.side is None for one in got)


def test_several_files_of_several_products_play_in_the_order_given(
    recordings: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "two.ndjson.gz"
    with (recordings / "flat_btc_eth_20260404_2h.ndjson").open("rb") as file:
        packed.write_bytes(gzip.compress(b"".join(islice(file, 500))))
    flat = recordings / "flat_btc_20251108_43s.ndjson"
    wanted = tickers(gzip.decompress(packed.read_bytes()).splitlines())
    wanted += tickers(flat.read_bytes().splitlines())
    # Most of it is read as it is played.
    play = Play(recording([packed, flat], held=100), speed=0)
    got = tickers(heard(StandIn(play), requests("exchange", "BTC-USD", "ETH-USD")))
    assert [fields(one, COMMON) for one in got] == [fields(one, COMMON) for one in wanted]
    for product in ("BTC-USD", "ETH-USD"):
        own = [one for one in got if one.product_id == product]
        assert [one.trade_id for one in own] == list(range(1, len(own) + 1))


def test_advanced_trade_numbers_all_its_messages_and_beats_each_second(recordings: Path) -> None:
    play = Play(recording([recordings / "flat_btc_20251108_43s.ndjson"]), speed=0)
    messages = heard(StandIn(play), requests("advanced", "BTC-USD"), beats=2)
    read = [json.loads(message) for message in messages]
    assert kinds(messages) == ["subscriptions"] * 2 + ["ticker"] * 223 + ["heartbeats"] * 2
    assert [message["sequence_num"] for message in read] == list(range(len(read)))
    subscribed = {"ticker": ["BTC-USD"], "heartbeats": ["heartbeats"]}
    assert read[1]["events"] == [{"subscriptions": subscribed}]
    assert [message["events"][0]["type"] for message in read[2:5]] == ["snapshot"] + ["update"] * 2
    assert [one["events"][0]["heartbeat_counter"] for one in read[-2:]] == [0, 1]
    times = [message["timestamp"] for message in read[2:]]
    assert times == sorted(times)
    assert "source" not in read[2]


def test_exchange_heartbeats_name_the_last_trade_of_each_product_or_the_one_before_its_first() -> (
    None
):
    eth = line(0.1, product="ETH-USD", trade_id=70, sequence=900)
    sol = line(900, product="SOL-USD", trade_id=80, sequence=901)
    stand_in = StandIn(Play(source(line(0), eth, line(0.2), line(0.3), sol)))
    products = ["BTC-USD", "ETH-USD", "SOL-USD"]

    async def run() -> list[Json]:
        async with stand_in.serve() as url:
            ws = await subscribe(url, requests("exchange", *products))
            return [json.loads(await ws.recv()) for _ in range(8)]

    subscriptions, *read = asyncio.run(run())
    assert subscriptions["type"] == "subscriptions"
    subscribed = {one["name"]: one["product_ids"] for one in subscriptions["channels"]}
    assert subscribed == {"ticker": products, "heartbeat": products}
    numbers = [(one["product_id"], one["sequence"], one["trade_id"]) for one in read[:4]]
    bitcoin = [("BTC-USD", number, number) for number in (1, 2, 3)]
    assert numbers == [bitcoin[0], ("ETH-USD", 900, 70), *bitcoin[1:]]
    beats = [(one["product_id"], one["sequence"], one["last_trade_id"]) for one in read[4:]]
    assert beats == [bitcoin[2], ("ETH-USD", 900, 70), ("SOL-USD", 900, 79)]
    assert all(read[3]["time"] < one["time"] < "2025-11-01T00:00:03" for one in read[4:])


def test_all_messages_of_a_simulated_market_say_so(tmp_path: Path) -> None:
    market = simulation(("BTC-USD", "ETH-USD"), seed=7, hours=0.02)
    saved = tmp_path / "saved.ndjson"
    for protocol in PROTOCOLS:
        asked = requests(protocol, "BTC-USD", "ETH-USD")
        messages = heard(StandIn(Play(market, speed=0)), asked, beats=protocol == "advanced")
        assert {json.loads(message)["source"] for message in messages} == {"simulated"}
        assert {one.product_id for one in tickers(messages)} == {"BTC-USD", "ETH-USD"}
        saved.write_bytes(b"\n".join(messages))
        again = heard(StandIn(Play(recording([saved]), speed=0)), asked)
        assert all(json.loads(message)["source"] == "simulated" for message in again)
        assert len(tickers(again)) == len(tickers(messages)) > 100


amounts = st.decimals("0.0000000001", "99999999999999999", places=10).map(lambda one: f"{one:f}")


@given(amounts, amounts, amounts, amounts, st.sampled_from(["buy", "sell", 'a"b', None]))
def test_numbers_survive_in_both_protocols(
    price: str, quote: str, size: str, volume: str, side: str | None
) -> None:
    sizes: Json = {"best_bid_size": size, "best_ask_size": "0", "last_size": size, "side": side}
    quotes = {"best_bid": quote, "best_ask": quote, "volume_24h": volume}
    original = line(0.000001, price=price, **quotes, **sizes)
    [quote_] = read_quotes(original)
    time_ = "2025-11-01T00:00:00.000001Z"
    spoken = [
        quote_.in_exchange(time_, sequence=5, trade_id=6),
        quote_.in_advanced(time_, sequence_num=5, kind="update"),
    ]
    [wanted], *got = (read_line(text).tickers for text in [original, *map(str.encode, spoken)])
    names = (*COMMON, "volume_24h")
    assert {fields(one, names) for [one] in got} == {fields(wanted, names)}
    assert fields(got[0][0], ("last_size", "side")) == (Decimal(size), side)


# When it is said


def test_speed_divides_and_long_pauses_are_capped() -> None:
    lines = (line(0), line(4), line(8), line(10_000))
    stand_in = StandIn(Play(source(*lines), speed=20, max_pause=0.3))
    begun = time.monotonic()
    messages = heard(stand_in, requests("advanced", "BTC-USD"))
    assert 0.65 <= time.monotonic() - begun < 1.5
    assert [one.event_time for one in tickers(messages)] == [
        one.event_time for one in tickers(list(lines))
    ]


def test_rate_overrides_the_tickers_times_and_now_keeps_them_to_the_clock() -> None:
    play = Play(ticks(200), rate=1000, is_now=True, repeat=2)
    begun = time.monotonic()
    read = tickers(heard(StandIn(play), requests("exchange", "BTC-USD")))
    assert 0.35 <= time.monotonic() - begun < 1.2
    times = [one.event_time for one in read if one.event_time is not None]
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(milliseconds=1)}
    assert len(times) == 400


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_times_shifted_to_now_keep_to_the_clock_where_a_pause_is_cut_short(protocol: str) -> None:
    play = Play(source(line(0), line(0.25), line(99_000)), max_pause=0.5, is_now=True)
    messages = heard(StandIn(play), requests(protocol, "BTC-USD"))
    times = [one.event_time for one in tickers(messages) if one.event_time is not None]
    seconds = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert seconds == [0.25, 0.5]
    assert abs(datetime.now(UTC).replace(tzinfo=None) - times[-1]) < timedelta(seconds=1)


def test_repeated_play_goes_on_in_time_and_numbers() -> None:
    lines = (line(0, trade_id=41), line(5, trade_id=42), line(5, product="ETH-USD"))
    messages = heard(
        StandIn(Play(source(*lines), speed=0, repeat=3)), requests("exchange", "BTC-USD", "ETH-USD")
    )
    read = tickers(messages)
    bitcoin = [one for one in read if one.product_id == "BTC-USD"]
    assert [one.trade_id for one in bitcoin] == [41, 42, 43, 44, 45, 46]
    assert [one.trade_id for one in read if one.product_id == "ETH-USD"] == [1, 2, 3]
    seconds = [one.event_time.second for one in bitcoin if one.event_time is not None]
    assert seconds == [0, 5, 6, 11, 12, 17]


def test_play_waits_for_a_subscription_to_tickers_and_then_for_nobody() -> None:
    events: list[Event] = []
    stand_in = StandIn(Play(ticks(50), rate=50), observe=events.append)

    async def run() -> int:
        async with stand_in.serve() as url:
            idle = await subscribe(url, requests("advanced", "BTC-USD")[:1])
            await asyncio.sleep(0.3)
            assert not events
            ws = await subscribe(url, requests("exchange", "BTC-USD"))
            for _ in range(11):
                await ws.recv()
            await ws.close()
            await stand_in.played()
            await idle.close()
        return stand_in.outcomes["unheard"]

    unheard = asyncio.run(run())
    assert [event.place for event in events if event.place is not None] == list(range(50))
    assert 30 <= unheard <= 40
    assert {event.connection for event in events if event.outcome == "unheard"} == {None}


# Requests


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (requests("exchange", "XYZ")[0], "XYZ is not a valid product"),
        (requests("advanced", "BTC-USD", "XYZ")[1], "XYZ is not a valid product"),
        (requests("exchange")[0], "You need to specify a product ID for channel ticker"),
        ({"type": "subscribe", "channel": "level2"}, "level2 is not a valid channel"),
        ({"type": "subscribe", "channels": [{"name": 5}]}, "5 is not a valid channel"),
        ({"type": "subscribe", "channels": ["ticker"], "product_ids": "B"}, "product_ids is not"),
        ({"type": "subscribe"}, "A request has a list of channels"),
        ({"type": "hello"}, "The type of a request"),
        ("{", "Malformed JSON"),
    ],
)
def test_request_that_cannot_be_met_is_answered_by_an_error(
    request_: Json | str, reason: str
) -> None:
    async def run() -> Json:
        async with StandIn(Play(ticks(1))).serve() as url, connect(url) as ws:
            await ws.send(request_ if isinstance(request_, str) else json.dumps(request_))
            return json.loads(await ws.recv())  # type: ignore[no-any-return]

    answer = asyncio.run(run())
    assert answer["type"] == "error"
    is_advanced = isinstance(request_, dict) and "channel" in request_
    assert reason in answer["message" if is_advanced else "reason"]
    assert is_advanced or answer["message"] == "Failed to subscribe"


def test_what_is_unsubscribed_from_is_sent_no_more() -> None:
    async def run() -> tuple[Json, list[bytes]]:
        play = Play(source(line(0), line(0.1, product="ETH-USD"), line(0.5)))
        stand_in = StandIn(play)
        async with stand_in.serve() as url:
            channels = [{"name": "ticker", "product_ids": ["BTC-USD", "ETH-USD"]}]
            ws = await subscribe(url, [{"type": "subscribe", "channels": channels}])
            for _ in range(3):
                await ws.recv()
            await ws.send(json.dumps(requests("exchange", "BTC-USD", type="unsubscribe")[0]))
            answer = json.loads(await ws.recv())
            reader = asyncio.create_task(read_to_end(ws))
            await stand_in.played()
        return answer, await reader

    answer, rest = asyncio.run(run())
    assert [(one["name"], one["product_ids"]) for one in answer["channels"]] == [
        ("ticker", ["ETH-USD"])
    ]
    assert rest == []


def test_client_that_does_not_subscribe_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SUBSCRIBE_WITHIN", 0.2)

    async def run() -> tuple[int | None, int | None]:
        async with StandIn(Play(ticks(1))).serve() as url:
            silent, refused = await connect(url), await subscribe(url, requests("exchange", "X"))
            await asyncio.gather(silent.wait_closed(), read_to_end(refused))
            return silent.close_code, refused.close_code

    assert asyncio.run(run()) == (1008, 1008)


# Faults


def journal(rates: dict[str, float], *, seed: int = 0) -> tuple[list[Event], list[bytes]]:
    """What the stand-in says it did, and what a client heard."""
    events: list[Event] = []
    faults = Faults(rates, seed=seed)
    stand_in = StandIn(Play(ticks(300), speed=0), faults=faults, observe=events.append)
    return events, heard(stand_in, requests("advanced", "BTC-USD"))


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["drop", "repeat", "reorder", "rubbish"]), st.floats(1, 2500), min_size=1
    ),
    st.integers(0, 99),
)
def test_client_hears_just_what_the_journal_says(rates: dict[str, float], seed: int) -> None:
    events, messages = journal(rates, seed=seed)
    wanted: list[int | None] = []
    for event in events:
        if event.outcome in REACHES_CLIENT:
            wanted += [event.sequence_num] * (2 if event.outcome == "repeat" else 1)
    sound = [one for one in map(read_line, messages) if one.kind == "ticker"]
    assert [one.sequence_num for one in sound] == wanted
    outcomes = [event.outcome for event in events]
    assert len(messages) == 2 + len(wanted) + outcomes.count("rubbish")
    assert set(outcomes) <= {*rates, "sent"}
    assert sorted(event.place for event in events if event.place is not None) == list(range(300))
    # Each ticker has its number, arrived or not: a hole is a drop, and a drop is a hole.
    assert sorted(event.sequence_num or 0 for event in events) == list(range(2, 302))


def test_reordered_message_comes_at_most_three_late() -> None:
    _, messages = journal({"reorder": 500})
    numbers = [one.sequence_num or 0 for one in map(read_line, messages)]
    late = [place - number for place, number in enumerate(numbers) if place > number]
    assert sorted(numbers) == list(range(302))
    assert set(late) == {1, 2, 3}


def test_faults_depend_on_the_seed_alone() -> None:
    rates = {"drop": 200.0, "repeat": 200.0, "reorder": 200.0, "rubbish": 200.0}
    first, second, other = (journal(rates, seed=seed) for seed in (3, 3, 4))
    assert first[0] == second[0] != other[0]
    assert first[1][2:] == second[1][2:]
    assert 10 < sum(event.outcome != "sent" for event in first[0]) < 50  # 24 of 300 are due


def test_rubbish_is_of_many_kinds_and_no_ticker() -> None:
    events, messages = journal({"rubbish": 5000})
    ours = [message for message in messages if read_line(message).kind != "ticker"][2:]
    assert len(ours) == sum(event.outcome == "rubbish" for event in events)
    assert len(tickers([one for one in messages if one not in ours])) == 300
    with pytest.raises(UnicodeDecodeError):
        b"".join(ours).decode()
    assert {b"42", b'{"colour":"green"}'} <= set(ours)
    assert any(message.startswith(b'{"channel":"ticker"') for message in ours)


def test_disconnected_client_has_all_that_was_sent_but_for_the_end() -> None:
    events: list[Event] = []
    faults = Faults({"disconnect": 200})
    stand_in = StandIn(Play(ticks(1500), rate=3000), faults=faults, observe=events.append)
    connections: list[list[Ticker]] = []
    codes: set[int | None] = set()

    async def run() -> None:
        async with stand_in.serve() as url:
            over = asyncio.create_task(stand_in.played())
            while not over.done():
                ws = await subscribe(url, requests("exchange", "BTC-USD"))
                reader = asyncio.create_task(read_to_end(ws))
                await asyncio.wait({over, reader}, return_when=asyncio.FIRST_COMPLETED)
                if over.done():
                    await ws.close()
                connections.append(tickers(await reader))
                codes.add(ws.close_code)

    asyncio.run(run())
    assert stand_in.outcomes["disconnect"] > 10
    for number, got in enumerate(connections):
        mine = [event for event in events if event.connection == number]
        sent = [event.trade_id for event in mine if event.outcome == "sent"]
        assert [one.trade_id for one in got] == sent[: len(got)]
        if number < len(connections) - 1:
            assert [event.outcome for event in mine][-1] == "disconnect"
    assert 1006 in codes  # cut without a word
    assert codes & {1001, 1011, 1012, 1013}  # closed with one


def test_frozen_connection_is_silent_but_open() -> None:
    events: list[Event] = []
    faults = Faults({"freeze": 10_000})
    stand_in = StandIn(Play(ticks(24), rate=20), faults=faults, observe=events.append)

    async def run() -> None:
        async with stand_in.serve() as url:
            ws = await subscribe(url, requests("advanced", "BTC-USD"))
            assert kinds([await ws.recv(decode=False) for _ in range(2)]) == ["subscriptions"] * 2
            await stand_in.played()
            pong = asyncio.ensure_future(await ws.ping())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await ws.recv()
            assert not pong.done()
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 1.5
        await ws.wait_closed()

    asyncio.run(run())
    outcomes = [event.outcome for event in events if event.place is not None]
    assert outcomes == ["freeze"] + ["frozen"] * 23
    assert len(outcomes) == len(events)  # and no heartbeat either


@pytest.mark.parametrize(
    ("kind", "words"), [("refuse", "accepts no subscriptions"), ("throttle", "Rate limit exceeded")]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_subscription_after_a_refusal_fails_once(protocol: str, kind: str, words: str) -> None:
    stand_in = StandIn(Play(ticks(60), rate=60), faults=Faults({kind: 10_000}))
    asked = requests(protocol, "BTC-USD")[-1:]

    async def run() -> tuple[list[bytes], list[bytes]]:
        async with stand_in.serve() as url:
            first = await read_to_end(await subscribe(url, asked))
            return first, await read_to_end(await subscribe(url, asked * 2))

    first, second = asyncio.run(run())
    assert kinds(first) == ["subscriptions"]
    assert kinds(second) == ["error", "subscriptions"]
    assert words.encode() in second[0]


def test_stall_pauses_all_and_then_catches_up() -> None:
    stand_in = StandIn(Play(ticks(15), speed=1), faults=Faults({"stall": 1000}, seed=1))
    arrivals = []

    async def run() -> None:
        async with stand_in.serve() as url:
            ws = await subscribe(url, requests("advanced", "BTC-USD")[1:])
            for _ in range(16):
                await ws.recv()
                arrivals.append(time.monotonic())

    asyncio.run(run())
    assert stand_in.outcomes == {"sent": 14, "stall": 1}
    assert 0.95 < max(later - earlier for earlier, later in pairwise(arrivals)) < 1.3
    assert arrivals[-1] - arrivals[1] < 1.9  # 1.4 s of market, not 2.4 s


def test_slow_client_is_waited_for_and_then_cut_while_others_hear_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE", 0.3)
    events: list[Event] = []
    stand_in = StandIn(Play(ticks(1000), speed=0, repeat=25), observe=events.append)

    async def run() -> list[bytes]:
        async with stand_in.serve() as url:
            idle = await connect(url, compression=None, max_queue=1, ping_interval=None)
            await idle.send(json.dumps(requests("exchange", "BTC-USD")[0]))
            reader = asyncio.create_task(
                read_to_end(await subscribe(url, requests("advanced", "BTC-USD")))
            )
            await stand_in.played()
            assert stand_in.clients == 1
            idle.transport.abort()
        return await reader

    messages = asyncio.run(run())
    numbers = [json.loads(message)["sequence_num"] for message in messages]
    assert numbers == list(range(len(numbers)))
    slow, other = (
        [event.place for event in events if event.connection == number and event.place is not None]
        for number in (0, 1)
    )
    assert slow[-1] < 24_999 == other[-1]
    assert other == list(range(other[0], 25_000))
    assert len(tickers(messages)) == len(other)


# The command


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"files": [Path("/nowhere.ndjson")]}, "no such file"),
        ({"files": [Path(__file__)]}, "no ticker in it"),
        ({"fault": ["melt=5"]}, "There is no fault 'melt'; there are drop, repeat"),
        ({"fault": ["drop"]}, "write --fault drop=10"),
        ({"fault": ["drop=10001"]}, "The rate of drop is 10001; it has to lie between 0 and"),
        ({"fault": ["drop=nan"]}, "The rate of drop is nan"),
        ({"fault": ["drop=6000", "repeat=6000"]}, "add to more than 10,000"),
        ({"rate": 0.0}, "--rate 0: give a positive number"),
        ({"speed": -1.0}, "--speed -1: give a number that is not negative"),
        ({"products": "BTC-USD", "files": [Path(__file__)]}, "--products is for a simulation"),
        ({"products": ""}, "A market needs products"),
        ({"host": "192.0.2.1"}, "192.0.2.1:8765 cannot be listened on ("),
    ],
)
def test_bad_input_is_said_in_one_sentence(arguments: Any, reason: str) -> None:
    with pytest.raises(BadInputError) as caught:
        command(**arguments)
    assert reason in str(caught.value)


def test_port_in_use_is_said() -> None:
    async def run() -> None:
        async with StandIn(Play(ticks(1))).serve() as url:
            port = int(url.rsplit(":")[-1])
            async with StandIn(Play(ticks(1))).serve(port=port):
                pytest.fail("two servers on one port")

    with pytest.raises(BadInputError, match=r"address already in use.*another --port"):
        asyncio.run(run())


def test_few_products_are_named_and_many_are_counted() -> None:
    assert listed(("BTC-USD", "ETH-USD")) == "BTC-USD, ETH-USD"
    assert listed([f"P{number}-USD" for number in range(50)]) == "50 products"


@pytest.mark.parametrize("ending", ["signal", "end"])
def test_command_says_what_it_is_and_stops(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "one.ndjson"
    path.write_bytes(b"\n".join(line(place / 10) for place in range(5)))
    code = "import typer; from volatility_pipeline.cli import exchange as e; typer.run(e.exchange)"
    options = ["--port", "0", *(["--exit-at-end"] if ending == "end" else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"VOLATILITY_DATA": str(tmp_path), "COLUMNS": "500"},
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("This is a stand-in, not Coinbase: ws://127.0.0.1:")

    async def run() -> list[bytes]:
        ws = await subscribe(said.split()[6], requests("exchange", "BTC-USD"))
        messages = [await ws.recv(decode=False) for _ in range(6)]
        if ending == "signal":
            process.send_signal(signal.SIGTERM)
        return messages + await read_to_end(ws)

    try:
        assert len(tickers(asyncio.run(run()))) == 5
        rest, _ = process.communicate(timeout=3)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Stopped. " in rest
    assert "no faults" in rest
