"""Coinbase's two public feeds: where they are, how one subscribes, and what a message is.

Sources: docs.cdp.coinbase.com, "Exchange WebSocket channels" and "Advanced Trade WebSocket
channels". What a ticker holds beyond its numbers belongs to `domain/messages.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson


class Feed(StrEnum):
    """The public feed that is spoken."""

    ADVANCED = "advanced"
    EXCHANGE = "exchange"


URLS = {
    Feed.ADVANCED: "wss://advanced-trade-ws.coinbase.com",
    Feed.EXCHANGE: "wss://ws-feed.exchange.coinbase.com",
}
MOST_DIGITS = 18


def subscriptions(feed: Feed, products: Sequence[str]) -> list[str]:
    """The messages that subscribe to tickers and heartbeats of some products."""
    wanted: list[dict[str, Any]]
    if feed is Feed.EXCHANGE:
        channels = ["ticker", "heartbeat"]
        wanted = [{"type": "subscribe", "product_ids": list(products), "channels": channels}]
    else:
        wanted = [
            # In this order: a heartbeat then says that tickers are on.
            {"type": "subscribe", "product_ids": list(products), "channel": "ticker"},
            {"type": "subscribe", "channel": "heartbeats"},
        ]
    return [orjson.dumps(message).decode() for message in wanted]


@dataclass(frozen=True, slots=True)
class Read:
    """What the recorder has to know of a message; None where it says nothing of that.

    `kind` is `ticker`, `heartbeat`, `subscriptions`, `error`, `other`, or `rubbish` where it is no
    JSON object. `time` is the exchange's, as it is written.
    """

    kind: str
    product_id: str | None = None
    time: Any = None
    sequence_num: int | None = None
    trade_id: int | None = None
    last_trade_id: int | None = None
    heartbeat_counter: int | None = None
    text: str | None = None


_RUBBISH = Read("rubbish")


def read(frame: bytes) -> Read:
    """Reads a message of either feed; never fails."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return _RUBBISH
    if type(message) is not dict:
        return _RUBBISH
    channel = message.get("channel")
    return _read_exchange(message) if channel is None else _read_advanced(message, channel)


def _read_exchange(message: Mapping[str, Any]) -> Read:
    kind = message.get("type")
    product = message.get("product_id")
    product = product if type(product) is str else None
    if kind == "ticker":
        return Read(
            "ticker", product, message.get("time"), trade_id=_integer(message.get("trade_id"))
        )
    if kind == "heartbeat":
        last = _integer(message.get("last_trade_id"))
        return Read("heartbeat", product, message.get("time"), last_trade_id=last)
    if kind == "subscriptions":
        return Read("subscriptions")
    if kind == "error":
        said = [message.get(key) for key in ("message", "reason")]
        return Read("error", text=": ".join(str(part) for part in said if part))
    return Read("other")


def _read_advanced(message: Mapping[str, Any], channel: object) -> Read:
    kinds = {"ticker": "ticker", "heartbeats": "heartbeat", "subscriptions": "subscriptions"}
    kind = kinds.get(channel, "other") if type(channel) is str else "other"
    events = message.get("events")
    event = events[0] if type(events) is list and events and type(events[0]) is dict else {}
    product = None
    if kind == "ticker":
        tickers = event.get("tickers")
        if type(tickers) is list and tickers and type(tickers[0]) is dict:
            product = tickers[0].get("product_id")
    return Read(
        kind,
        product if type(product) is str else None,
        message.get("timestamp"),
        sequence_num=_integer(message.get("sequence_num")),
        heartbeat_counter=_integer(event.get("heartbeat_counter")) if kind == "heartbeat" else None,
    )


def _integer(value: object) -> int | None:
    """A number of at most 18 digits, as a number or as text."""
    if type(value) is str and len(value) <= MOST_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    return value if type(value) is int and 0 <= value < 10**MOST_DIGITS else None
