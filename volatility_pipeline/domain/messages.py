"""What one captured line says: the plain reader of Coinbase's ticker messages.

Here belongs everything that decides whether a line holds tickers, is something else, or is at
fault (DESIGN: messages understood). The fast SQL reader (`sql/05_messages.sql`) only ever vouches
for lines of which this module would say the same; every other line is decided here. What happens
to the tickers afterwards (duplicates, order) belongs to `sql/10_ticks.sql`.

The formats are Coinbase Exchange's `ticker` and `ticker_batch` channels and Advanced Trade's
`ticker` and `ticker_batch` channels, bare or inside a recorder's wrapper.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from volatility_pipeline.domain.values import Number, parse_integer, parse_number, parse_time

TICKER_NAMES = frozenset({"ticker", "ticker_batch"})
CAPTURE_NAMES = ("received_at", "ingest_time", "timestamp", "ts")
NAMING_KEYS = ("product_id", "pair", "price", "best_bid", "best_ask")
FLAT_NAMING_KEYS = ("price", "best_bid", "best_ask")

_SURROGATE = re.compile("[\ud800-\udfff]")
_PRODUCT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_PLAIN_DAY = re.compile(
    r"[12]\d{3}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z?", re.ASCII
)
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
LONGEST_FAST_LINE = 8 << 20
DEEPEST = 128  # objects and arrays in one another; messages have six, a parser's stack has an end


@dataclass(frozen=True)
class Ticker:
    """One ticker of a message. Times are naive UTC; `Decimal`s have ten decimals.

    `reason` is None for a sound ticker; else it is the first fault in the order of DESIGN
    (`no_product`, `no_time`, `bad_price`, `bad_quote`, `crossed`, `wrong_day`), or `not_json` for
    an item that is no object, and the other fields hold what could be read.
    """

    item: int
    reason: str | None
    product_id: str | None = None
    event_time: datetime | None = None
    capture_time: datetime | None = None
    sequence: int | None = None
    trade_id: int | None = None
    price: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None
    last_size: Decimal | None = None
    side: str | None = None
    volume_24h: Decimal | None = None


@dataclass(frozen=True)
class Message:
    """One line. `kind` is `ticker`, `other` or `not_json`; only a `ticker` has `tickers`.

    `connection`, `sequence_num` and `gap` are what the search for missing messages needs; `time`
    is the line's own time (its first ticker's, else its envelope's or capture time), if readable.
    """

    kind: str
    tickers: tuple[Ticker, ...] = ()
    time: datetime | None = None
    connection: str | None = None
    channel: str | None = None
    sequence_num: int | None = None
    gap: Mapping[str, Any] | None = None


def read_line(line: bytes, *, day: date | None = None, now: datetime | None = None) -> Message:
    """Reads one line (without its LF).

    Args:
        line: The line's bytes, of any content and length.
        day: The UTC day of the partition it lies in; a ticker of another day is `wrong_day`.
            None accepts every day.
        now: Naive UTC; an event more than a day later than this has no readable time. None
            accepts every time.
    """
    if not line.strip():
        return Message("other")
    outer = read_object(line)
    if outer is None:
        return Message("not_json")
    inner = None
    for name in ("raw", "payload"):
        if outer.get(name) is not None:
            value = outer[name]
            inner = read_object(value) if type(value) is str else value
            if not isinstance(inner, dict):
                if not any(key in outer for key in FLAT_NAMING_KEYS):
                    return Message("not_json", time=parse_time(_capture(outer, {})))
                inner = None
            break
    return _read_message(outer, inner, day, now)


def screen(line: bytes) -> dict[str, Any] | None:
    """The line's object (of duplicate keys the last) if the fast SQL reader may be given the line.

    It may if the line is exactly one JSON object, by the letter of RFC 8259 (DuckDB alone would
    let NaN and trailing commas pass), of bearable length and depth, whose message is no string and
    whose events are lists of objects (DuckDB fails a whole file for one line that is otherwise).
    """
    import orjson

    if len(line) > LONGEST_FAST_LINE or line.count(b"{") + line.count(b"[") > DEEPEST:
        return None
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if type(message) is not dict:
        return None
    raw = message.get("raw")
    if type(raw) is dict:
        is_fit = "events" not in raw or _are_events(raw["events"])
    else:
        is_fit = raw is None and type(message.get("payload")) in (dict, type(None))
    if is_fit and "events" in message:
        is_fit = _are_events(message["events"])
    return message if is_fit else None


def _are_events(events: object) -> bool:
    return _is_list_of_objects(events) and all(
        _is_list_of_objects(event.get("tickers"))
        for event in events or ()  # type: ignore[attr-defined]
        if event is not None
    )


def _is_list_of_objects(value: object) -> bool:
    return value is None or (
        type(value) is list and all(type(item) in (dict, type(None)) for item in value)
    )


def may_repeat_keys(line: bytes, read: dict[str, Any]) -> bool:
    """Whether `read`, of duplicate keys the last, may lack something that the line says first.

    A key that was lost took its two quotation marks with it.
    """
    import orjson

    return b"\\" in line or line.count(b'"') != orjson.dumps(read).count(b'"')


def read_day(line: bytes, *, latest: datetime) -> date | None:
    """The UTC day of a line's own time, which is its first ticker's event time if it has one.

    Args:
        line: The line's bytes.
        latest: Naive UTC; a later time counts as unreadable.

    Returns:
        The day, or None where no time is readable.
    """
    outer = screen(line)
    if outer is not None and not may_repeat_keys(line, outer):
        inner = next(
            (outer[name] for name in ("raw", "payload") if outer.get(name) is not None), None
        )
        stamp = _line_stamp(outer, inner)
        if type(stamp) is str and _PLAIN_DAY.fullmatch(stamp):
            day = _day(stamp[:10])
            if day is not None and day < latest.date():
                return day
    time = read_line(line).time
    return None if time is None or time > latest else time.date()


@lru_cache(maxsize=1024)
def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read_object(text: bytes | str) -> dict[str, Any] | None:
    """One JSON object, its numbers as `Number`, the first of duplicate keys; else None.

    Stricter than `json.loads`: no NaN, no Infinity; what nests deeper than `DEEPEST` is no object
    (the same one everywhere, however much of the interpreter's stack is in use).
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        value = None if _is_too_deep(decoded) else _DECODER.decode(decoded)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= DEEPEST:
        return False
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = dict(reversed(pairs))
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_first_wins, parse_int=Number, parse_float=Number, parse_constant=_refuse
)


def _first(layers: tuple[Mapping[str, Any], ...], *names: str) -> Any:
    """The first non-null value: inner layers before outer ones, names in the order given."""
    for layer in layers:
        for name in names:
            value = layer.get(name)
            if value is not None:
                return value
    return None


def _text(value: object) -> str | None:
    """A JSON string that UTF-8 can hold (an escaped lone surrogate cannot be stored)."""
    return value if type(value) is str and _SURROGATE.search(value) is None else None


def _capture(outer: Mapping[str, Any], message: Mapping[str, Any]) -> Any:
    """The capture time as written; a bare envelope's `timestamp` is the exchange's, not ours."""
    is_bare_envelope = message is outer and _is_envelope(outer)
    names = (name for name in CAPTURE_NAMES if not (name == "timestamp" and is_bare_envelope))
    return _first((outer,), *names)


def _is_envelope(message: Mapping[str, Any]) -> bool:
    return _text(message.get("channel")) is not None


def _read_message(
    outer: dict[str, Any], inner: dict[str, Any] | None, day: date | None, now: datetime | None
) -> Message:
    message = outer if inner is None else inner
    channel = _text(message.get("channel"))
    kind = channel if channel is not None else _text(message.get("type"))
    facts = Message(
        "other",
        time=parse_time(_event_stamp({}, message, outer)),
        connection=_text(outer.get("connection")),
        channel=channel,
        sequence_num=parse_integer(_first((message, outer), "sequence_num")),
        gap=message if kind == "gap" else None,
    )
    if kind is not None and kind not in TICKER_NAMES:
        return facts
    if channel is not None:
        items = list(_envelope_items(message))
    elif any(key in message for key in NAMING_KEYS) or any(
        key in outer for key in FLAT_NAMING_KEYS
    ):
        items = [message]
    else:
        items = []
    if not items:
        return facts
    tickers = tuple(
        _read_ticker(number, item, message, outer, day, now) for number, item in enumerate(items)
    )
    return replace(facts, kind="ticker", tickers=tickers, time=tickers[0].event_time or facts.time)


def _envelope_items(envelope: Mapping[str, Any]) -> Iterator[Any]:
    events = envelope.get("events")
    for event in events if isinstance(events, list) else ():
        tickers = event.get("tickers") if isinstance(event, dict) else None
        yield from tickers if isinstance(tickers, list) else ()


def _read_ticker(
    number: int,
    item: Any,
    message: Mapping[str, Any],
    outer: Mapping[str, Any],
    day: date | None,
    now: datetime | None,
) -> Ticker:
    if not isinstance(item, dict):
        return Ticker(number, "not_json")
    layers = (item, message, outer)
    product = _first(layers, "product_id", "pair")
    product_id = product if type(product) is str and _PRODUCT.fullmatch(product) else None
    event_time = parse_time(_event_stamp(item, message, outer))
    price = parse_number(_first(layers, "price"))
    bid = parse_number(_first(layers, "best_bid"))
    ask = parse_number(_first(layers, "best_ask"))
    size_texts = (
        _first(layers, "best_bid_size", "best_bid_quantity"),
        _first(layers, "best_ask_size", "best_ask_quantity"),
        _first(layers, "last_size"),
    )
    sizes = [parse_number(text) for text in size_texts]
    reason = None
    if product_id is None:
        reason = "no_product"
    elif event_time is None or (now is not None and event_time > now + timedelta(days=1)):
        reason = "no_time"
    elif price is None or price <= 0:
        reason = "bad_price"
    elif (bid is None or ask is None or bid <= 0 or ask <= 0) or any(
        text is not None and (size is None or size < 0)
        for text, size in zip(size_texts, sizes, strict=True)
    ):
        reason = "bad_quote"
    elif ask < bid:
        reason = "crossed"
    elif day is not None and event_time.date() != day:
        reason = "wrong_day"
    return Ticker(
        number,
        reason,
        product_id=product_id,
        event_time=event_time,
        capture_time=parse_time(_capture(outer, message)),
        sequence=parse_integer(_first(layers, "sequence_num", "sequence")),
        trade_id=parse_integer(_first(layers, "trade_id")),
        price=price,
        best_bid=bid,
        best_ask=ask,
        bid_size=sizes[0],
        ask_size=sizes[1],
        last_size=sizes[2],
        side=_text(_first(layers, "side")),
        volume_24h=parse_number(_first(layers, "volume_24h", "volume_24_h")),
    )


def _line_stamp(outer: Mapping[str, Any], inner: Mapping[str, Any] | None) -> Any:
    """The line's own time as written: its first ticker's, if it is a message of tickers."""
    message = outer if inner is None else inner
    item: Any = {}
    if _text(message.get("channel")) in TICKER_NAMES:
        item = next(_envelope_items(message), {})
    return _event_stamp(item if isinstance(item, dict) else {}, message, outer)


def _event_stamp(
    item: Mapping[str, Any], message: Mapping[str, Any], outer: Mapping[str, Any]
) -> Any:
    """The ticker's `time`, else its envelope's `timestamp`, else the flat line's, else capture."""
    stamp = _first((item, message), "time")
    if stamp is None and (message is not outer or _is_envelope(outer)):
        stamp = message.get("timestamp")
    if stamp is None:
        stamp = outer.get("time")
    return _capture(outer, message) if stamp is None else stamp
