"""What the stand-in exchange plays: recordings or a simulation, as tickers in Coinbase's words.

Here belongs how a recorded ticker of any shape reads in each of the two protocols, and at which
pace, with which times and numbers it is played. To whom it is sent belongs to `exchange`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import Message, Ticker, read_line
from volatility_pipeline.domain.simulation import Market, simulate
from volatility_pipeline.resources.landing import check_recording
from volatility_pipeline.resources.segments import Decoded

HELD = 100_000  # tickers kept in memory, about 1 KB each; more are read as they are played
SIMULATED_HOURS = 24 * 365
# A simulation depends on its start: a fixed one makes it depend on the seed alone.
SIMULATED_START = datetime(2026, 1, 1, tzinfo=UTC)

ROUND_GAP = 1_000_000  # microseconds between two rounds

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (as in the tables: naive UTC)
# Statistics that no table has: passed on as they stand, bare or inside a string of JSON.
_STATISTICS = re.compile(
    rb'"(open_24h|low_24_?h|high_24_?h|volume_30d|low_52_w|high_52_w|price_percent_chg_24_h)'
    rb'\\?":\s*\\?"(-?\d+(?:\.\d+)?)\\?"'
)
_SIMULATED = re.compile(rb'"source\\?":\s*\\?"simulated\\?"')


class Quote(NamedTuple):
    """One ticker to play. `exchange` and `advanced` are its message, from what varies onwards.

    `time` is the event's, in microseconds since 1970. `sequence` and `trade_id` are the Exchange's,
    where the recording is one of it.
    """

    product_id: str
    time: int
    sequence: int | None
    trade_id: int | None
    exchange: str
    advanced: str

    def in_exchange(self, time: str, *, sequence: int, trade_id: int) -> str:
        """The Exchange's `ticker` message."""
        return (
            f'{{"type":"ticker","sequence":{sequence},"time":"{time}","trade_id":{trade_id},'
            f"{self.exchange}"
        )

    def in_advanced(self, time: str, *, sequence_num: int, kind: str) -> str:
        """Advanced Trade's envelope of one ticker; `kind` is `snapshot` or `update`."""
        return (
            f'{{"channel":"ticker","client_id":"","timestamp":"{time}",'
            f'"sequence_num":{sequence_num},"events":[{{"type":"{kind}","tickers":[{self.advanced}'
        )


class Source:
    """Tickers in the order of play, as often as they are asked for.

    `firsts` has each known product's first ticker (None: not known yet), and `is_simulated` says
    what a person has to be told.
    """

    def __init__(
        self,
        lines: Callable[[], Iterable[bytes]],
        *,
        products: tuple[str, ...] = (),
        is_simulated: bool = False,
        held: int = HELD,
    ) -> None:
        self.is_simulated = is_simulated
        self._lines = lines
        self._head: list[Quote] = []
        self._lines_in_head = 0
        for line in lines() if held else ():
            self._lines_in_head += 1
            self._head += read_quotes(line)
            self.is_simulated |= _SIMULATED.search(line) is not None
            if len(self._head) >= held:
                break
        self.firsts: dict[str, Quote | None] = dict.fromkeys(products)
        self.firsts |= {quote.product_id: quote for quote in reversed(self._head)}

    def numbers_before(self, product: str) -> tuple[int, int]:
        """The Exchange's sequence and trade id just before a known product's first ticker."""
        first = self.firsts[product]
        own = (first.sequence, first.trade_id) if first else (None, None)
        sequence, trade_id = (0 if number is None else number - 1 for number in own)
        return sequence, trade_id

    def __iter__(self) -> Iterator[Quote]:
        yield from self._head
        for line in islice(self._lines(), self._lines_in_head, None):
            yield from read_quotes(line)


class Tick(NamedTuple):
    """One quote in the play: its place from 0, its time there, and the Exchange's numbers.

    `time` is in microseconds since 1970; `pause` in seconds since the tick before it.
    """

    place: int
    quote: Quote
    time: int
    pause: float
    sequence: int
    trade_id: int


@dataclass(frozen=True)
class Play:
    """How a source is played.

    Args:
        source: What to play.
        speed: 1 is the tickers' own pace, 20 twenty times that, 0 as fast as clients can read.
        rate: Tickers per second, whatever their times; overrides `speed`.
        max_pause: The longest wait between two tickers, in seconds.
        is_now: Shift times so that the first ticker happens when the play begins. Where
            `max_pause` shortens a wait, what follows is shifted back by as much; at a fixed rate
            all times keep to the clock.
        repeat: How often to play it; times and numbers go on increasing.
    """

    source: Source
    speed: float = 1.0
    rate: float | None = None
    max_pause: float = 5.0
    is_now: bool = False
    repeat: int = 1

    @property
    def clock_speed(self) -> float:
        """How fast the market's clock goes between two tickers."""
        return 1.0 if self.rate or not self.speed else self.speed

    @property
    def start(self) -> int:
        """The market's time before it begins, in microseconds since 1970."""
        first = next((one for one in self.source.firsts.values() if one is not None), None)
        return now() if self.is_now or first is None else first.time

    def ticks(self) -> Iterator[Tick]:
        """The whole play, which begins now."""
        trade_ids: dict[str, _Numbers] = defaultdict(_Numbers)
        sequences: dict[str, _Numbers] = defaultdict(_Numbers)
        place, shift, start, last, latest = 0, 0, 0, 0, 0
        for round_ in range(self.repeat):
            for place_in_round, quote in enumerate(self.source):
                if place == 0:
                    shift = now() - quote.time if self.is_now else 0
                    start = last = quote.time + shift
                elif place_in_round == 0:
                    shift = latest + ROUND_GAP - quote.time
                pause = 0.0
                if self.rate:
                    pause = 1 / self.rate
                    if self.is_now:
                        shift = start + round(place * 1e6 / self.rate) - quote.time
                elif self.speed:
                    pause = max(0, quote.time + shift - last) / 1e6 / self.speed
                    if self.is_now and pause > self.max_pause:
                        shift -= round((pause - self.max_pause) * 1e6 * self.speed)
                    pause = min(pause, self.max_pause)
                last = quote.time + shift
                latest = max(latest, last)
                yield Tick(
                    place,
                    quote,
                    last,
                    pause,
                    sequences[quote.product_id].next(quote.sequence, round_),
                    trade_ids[quote.product_id].next(quote.trade_id, round_),
                )
                place += 1


class _Numbers:
    """Trade ids or sequence numbers of a product: the recording's own, else counted from 1."""

    def __init__(self) -> None:
        self.last = 0
        self.offset = 0  # of the own ones in this round, so that they go on increasing
        self.round = 0

    def next(self, own: int | None, round_: int) -> int:
        if own is None:
            self.last += 1
            return self.last
        if round_ > self.round:
            self.round, self.offset = round_, self.last + 1 - own
        self.last = own + self.offset
        return self.last


def written(time: int) -> str:
    """Microseconds since 1970 as Coinbase writes a time."""
    return f"{(EPOCH + timedelta(microseconds=time)).isoformat(timespec='microseconds')}Z"


def now() -> int:
    """Microseconds since 1970."""
    return (datetime.now(UTC).replace(tzinfo=None) - EPOCH) // timedelta(microseconds=1)


def recording(paths: list[Path], *, held: int = HELD) -> Source:
    """Recordings, one after the other; all of them are known, as far as they are held in memory.

    Raises:
        BadInputError: A file that cannot be read, or no ticker in any.
    """
    for path in paths:
        check_recording(path)
    source = Source(lambda: (line for path in paths for line in Decoded(path).lines()), held=held)
    if not source.firsts:
        raise BadInputError(
            f"{', '.join(map(str, paths))}: no ticker in it; name a recording of Coinbase's ticker "
            "feed, one JSON message a line."
        )
    return source


def simulation(
    products: tuple[str, ...], *, seed: int = 0, hours: float = SIMULATED_HOURS, held: int = 0
) -> Source:
    """A made-up market, always the same for a seed; each message of it says so.

    Raises:
        BadInputError: Products or a seed that make no market.
    """
    try:
        market = Market(products, SIMULATED_START, hours, seed)
    except ValueError as error:
        raise BadInputError(f"This market cannot be simulated: {error}") from error
    return Source(
        lambda: (line for _, chunk in simulate(market) for line in chunk.splitlines()),
        products=products,
        is_simulated=True,
        held=held,
    )


def read_quotes(line: bytes) -> Iterator[Quote]:
    """The sound tickers of one recorded line; whatever else it is gives none."""
    message = read_line(line)
    statistics = {}
    if len(message.tickers) == 1:  # of several tickers, nothing here tells which is whose
        found = _STATISTICS.findall(line)
        statistics = {name.decode(): value.decode() for name, value in found}
    mark = {"source": "simulated"} if _SIMULATED.search(line) else {}
    for ticker in message.tickers:
        if ticker.reason is None:
            yield _quote(message, ticker, statistics, mark)


def _quote(
    message: Message, ticker: Ticker, statistics: dict[str, str], mark: dict[str, str]
) -> Quote:
    assert ticker.product_id is not None  # as every sound ticker has  # noqa: S101
    assert ticker.event_time is not None  # noqa: S101
    is_exchange = message.channel is None and message.sequence_num is None
    exchange = {
        "product_id": ticker.product_id,
        "price": _text(ticker.price),
        "open_24h": statistics.get("open_24h"),
        "volume_24h": _text(ticker.volume_24h),
        "low_24h": statistics.get("low_24h", statistics.get("low_24_h")),
        "high_24h": statistics.get("high_24h", statistics.get("high_24_h")),
        "volume_30d": statistics.get("volume_30d"),
        "best_bid": _text(ticker.best_bid),
        "best_bid_size": _text(ticker.bid_size),
        "best_ask": _text(ticker.best_ask),
        "best_ask_size": _text(ticker.ask_size),
        "side": ticker.side,
        "last_size": _text(ticker.last_size),
        **mark,
    }
    advanced = {
        "type": "ticker",
        "product_id": exchange["product_id"],
        "price": exchange["price"],
        "volume_24_h": exchange["volume_24h"],
        "low_24_h": exchange["low_24h"],
        "high_24_h": exchange["high_24h"],
        "low_52_w": statistics.get("low_52_w"),
        "high_52_w": statistics.get("high_52_w"),
        "price_percent_chg_24_h": statistics.get("price_percent_chg_24_h"),
        "best_bid": exchange["best_bid"],
        "best_ask": exchange["best_ask"],
        "best_bid_quantity": exchange["best_bid_size"],
        "best_ask_quantity": exchange["best_ask_size"],
    }
    return Quote(
        ticker.product_id,
        (ticker.event_time - EPOCH) // timedelta(microseconds=1),
        ticker.sequence if is_exchange else None,
        ticker.trade_id,
        _json(exchange)[1:],
        f"{_json(advanced)}]}}]" + ("," + _json(mark)[1:] if mark else "}"),
    )


def _json(members: dict[str, Any]) -> str:
    present = {name: value for name, value in members.items() if value is not None}
    return orjson.dumps(present).decode()


def _text(number: Decimal | None) -> str | None:
    """A number as Coinbase writes it: plain digits, no zeros at the end."""
    return None if number is None else f"{number.normalize():f}"
