"""A made-up market: Advanced Trade `ticker` lines, seeded, for demos, load and controls.

Here belongs what such a market does and how its messages read. Where the lines go, how they are
compressed and what the files are called belongs to whoever writes them; no file is touched here.
Every line carries `"source": "simulated"`: how later stages know that none of it happened.

A market, product by product and each independent of the others:

- Log volatility is a daily cosine plus a fast and a slow Ornstein-Uhlenbeck process, the two
  factors of Alizadeh, Brandt and Diebold (2002). Price and fast volatility jump together, the
  double jumps of Duffie, Pan and Singleton (2000).
- Each second draws an activity that scales both its variance and its ticks, the mixture of
  distributions of Clark (1973) and of Tauchen and Pitts (1983). Ticks are a Cox process: Poisson,
  given volatility and activity.
- A pressure of some seconds' memory tilts the book's sizes and the returns to come.
- A second's return is spread over its ticks and lost where it has none: prices move at ticks alone,
  and no variance waits in a quiet second. Silences are ticks withheld: the price moves on.

A noise market has one volatility, one tick rate, no jumps, no silences and a pressure that tilts
the book only. Its returns per second are independent and alike, and the spread widens to both
sides of an unmoved mid, so that nothing of the past tells anything about the future.
"""

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR, _DAY, _YEAR = 3600, 86_400, 365 * 86_400  # seconds
_CHUNK_LINES = 8192  # about 4 MB
_LINE = (
    '{"channel": "ticker", "timestamp": "%sZ", "sequence_num": %d, '
    '"events": [{"type": "%s", "tickers": [{"type": "ticker", "product_id": %s, '
    '"price": "%.12g", "volume_24_h": "%.8f", "low_24_h": "%.12g", "high_24_h": "%.12g", '
    '"low_52_w": "%.12g", "high_52_w": "%.12g", "price_percent_chg_24_h": "%.8f", '
    '"best_bid": "%.12g", "best_ask": "%.12g", '
    '"best_bid_quantity": "%.8f", "best_ask_quantity": "%.8f"}]}], "source": "simulated"}\n'
)

# Deviations of volatility, interest and sizes are those of their logs; times are e-folding times in
# seconds; moves of the price are in standard deviations of a second's return at that volatility.
_SEASON, _SEASON_PEAK = 0.2, 14.5 * _HOUR
_SLOW_DEVIATION, _SLOW_TIME = 0.25, 12.0 * _HOUR
_FAST_DEVIATION, _FAST_TIME = 0.28, 900.0
_ACTIVITY_SHAPE, _ACTIVITY_SHARE = 0.2, 0.3  # of its gamma distribution; in the tick rate
_JUMPS_PER_HOUR, _JUMP_SIZE = 0.5, 6.0
_JUMP_KICK, _JUMP_TICKS = 0.8, 12.0  # in deviations of fast volatility; times the tick rate
_RATE_EXPONENT = 0.7  # the tick rate grows with this power of volatility
_INTEREST_DEVIATION, _INTEREST_TIME = 0.3, 600.0  # what else moves the tick rate
_PRESSURE_TIME, _PRESSURE_DRIFT = 8.0, 0.12  # the drift per second
_SIZE_TILT, _SIZE_DEVIATION = 0.5, 0.5
_WIDE_SHARE, _WIDENING = 0.03, 0.3  # of ticks at usual volatility; mean on each side
_SILENCES_PER_HOUR = 0.25
_SILENCE_LEAST, _SILENCE_MORE, _SILENCE_MOST = 31.0, 25.0, 180.0  # seconds; mean beyond the least


@dataclass(frozen=True)
class Market:
    """What to simulate: all that defines the output.

    `start` is aware and a whole second, `hours` may have a fraction. In a noise market there is
    nothing to predict. Raises ValueError where the fields make no market.
    """

    products: tuple[str, ...]
    start: datetime
    hours: float
    seed: int = 0
    is_noise: bool = False

    def __post_init__(self) -> None:
        if not self.products or len(set(self.products)) < len(self.products):
            raise ValueError("A market needs products, each named once.")
        if self.start.tzinfo is None or self.start < _EPOCH or self.start.microsecond:
            raise ValueError("A market starts at a whole second after 1970, with a time zone.")
        if not 0 < self.hours < math.inf:
            raise ValueError("A market lasts for a positive number of hours.")
        if self.seed < 0:
            raise ValueError("A market's seed is not negative.")


class _Nature(NamedTuple):
    """What distinguishes one product from another; size and volume in units of the product."""

    price: float
    annual_volatility: float
    ticks_per_second: float
    size: float
    daily_volume: float


_NATURES = {
    "BTC-USD": _Nature(67_000.0, 0.45, 3.0, 0.2, 6_000.0),
    "ETH-USD": _Nature(2_050.0, 0.60, 2.2, 3.0, 90_000.0),
}
# A cent has to be small beside a second's return, or rounding makes volatility follow the price.
_OTHER = _Nature(1_000.0, 0.80, 1.5, 4.0, 50_000.0)


def simulate(market: Market) -> Iterator[tuple[date, bytes]]:
    """Yields the market's messages in time order, as (UTC day, whole NDJSON lines of that day).

    One connection carries all products: `sequence_num` counts every line from 0. Timestamps are
    microseconds in `[start, start + hours)` and increase strictly within a product; prices and
    quotes lie on a grid of one cent, with ask > bid > 0.

    The same market gives the same bytes (under one version of numpy). A longer one of the same
    start begins with the shorter one's bytes. A further product changes nothing of the others but
    their `sequence_num`. Memory is bounded by an hour of the market, a chunk by a few MB.
    """
    end = _microseconds(market.start + timedelta(hours=market.hours))
    sequence = 0
    for hour in zip(*(_hours(product, market) for product in market.products), strict=True):
        columns = [np.concatenate(column) for column in zip(*hour, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        time, *fields = (column[order] for column in columns)
        time = time[: np.searchsorted(time, end)].astype("M8[us]")
        day = time.astype("M8[D]")
        midnights = np.flatnonzero(day[1:] != day[:-1]) + 1
        edges = {0, len(time), *midnights.tolist(), *range(0, len(time), _CHUNK_LINES)}
        for first, last in pairwise(sorted(edges)):
            lines = zip(
                np.datetime_as_string(time[first:last]).tolist(),
                range(sequence + first, sequence + last),
                *(field[first:last].tolist() for field in fields),
                strict=True,
            )
            yield day[first].item(), "".join(map(_LINE.__mod__, lines)).encode()
        sequence += len(time)


class _Seconds(NamedTuple):
    """An hour second by second: what its ticks are drawn from; 1 is what is usual."""

    volatility: Floats
    activity: Floats
    drift: Floats  # in standard deviations of a second at this volatility
    pressure: Floats
    rate: Floats


def _weather(market: Market, rng: np.random.Generator) -> Iterator[_Seconds]:
    """Yields a product's hours, second by second."""
    slow, fast, interest, pressure = rng.standard_normal((4, 1))
    clock = _microseconds(market.start) / 10**6 + np.arange(_HOUR)
    for hour in range(math.ceil(market.hours)):
        shocks = rng.standard_normal((4, _HOUR))
        jumps = rng.random(_HOUR) < _JUMPS_PER_HOUR / _HOUR
        jump_sizes = _JUMP_SIZE * jumps * rng.standard_normal(_HOUR)
        activity = rng.gamma(_ACTIVITY_SHAPE, 1 / _ACTIVITY_SHAPE, _HOUR)
        slow = _reverting(slow[-1], shocks[0], time=_SLOW_TIME)
        fast = _reverting(fast[-1], shocks[1], time=_FAST_TIME, kicks=_JUMP_KICK * jumps)
        interest = _reverting(interest[-1], shocks[2], time=_INTEREST_TIME)
        pressure = _reverting(pressure[-1], shocks[3], time=_PRESSURE_TIME)
        if market.is_noise:
            one = np.ones(_HOUR)
            yield _Seconds(one, one, drift=0 * one, pressure=pressure, rate=one)
            continue
        angle = 2 * math.pi * (clock + hour * _HOUR - _SEASON_PEAK) / _DAY
        volatility = np.exp(
            _SEASON * np.cos(angle)
            + _SLOW_DEVIATION * slow
            + _FAST_DEVIATION * fast
            - (_SEASON**2 / 2 + _SLOW_DEVIATION**2 + _FAST_DEVIATION**2)  # mean square 1
        )
        yield _Seconds(
            volatility=volatility,
            activity=activity,
            drift=_PRESSURE_DRIFT * pressure + jump_sizes,
            pressure=pressure,
            rate=volatility**_RATE_EXPONENT
            * np.exp(_INTEREST_DEVIATION * interest)
            * (1 - _ACTIVITY_SHARE + _ACTIVITY_SHARE * activity)
            * (1 + _JUMP_TICKS * jumps),
        )


def _hours(product: str, market: Market) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yields a product's ticks hour by hour: times in microseconds, then the line's fields."""
    nature = _NATURES.get(product, _OTHER)
    start = _microseconds(market.start)
    rng = np.random.default_rng([market.seed, start, *product.encode()])
    deviation = nature.annual_volatility / math.sqrt(_YEAR)
    log_price, statistics, kind = math.log(nature.price), _Statistics(nature), "snapshot"
    for hour, seconds in enumerate(_weather(market, rng.spawn(1)[0])):
        counts = rng.poisson(nature.ticks_per_second * seconds.rate)
        starts = np.repeat(np.arange(_HOUR) * 10**6, counts)
        offset = np.unique(starts + rng.integers(0, 10**6, len(starts)))
        second, ticks = offset // 10**6, len(offset)
        volatility, activity, drift, pressure, _ = (column[second] for column in seconds)

        share = 1 / np.bincount(second)[second]
        returns = np.sqrt(activity * share) * rng.standard_normal(ticks) + drift * share
        log_prices = log_price + np.cumsum(deviation * volatility * returns)
        log_price = log_prices[-1]

        # In cents. The spread widens to both sides, so that the mid does not move.
        cents = 100 * np.exp(log_prices)
        bid = np.maximum(np.floor(cents), 1)
        is_wide = rng.random(ticks) < _WIDE_SHARE * volatility
        widening = np.ceil(rng.exponential(_WIDENING * deviation * volatility * cents))
        widening = np.minimum(is_wide * widening, bid - 1)
        bid, ask = (bid - widening) / 100, (bid + 1 + widening) / 100
        price = np.where(rng.random(ticks) < 0.5, bid, ask)
        tilt = _SIZE_TILT * np.stack([pressure, -pressure])
        sizes = nature.size * np.exp(tilt + _SIZE_DEVIATION * rng.standard_normal((2, ticks)))
        trades = rng.exponential(nature.daily_volume / _DAY / nature.ticks_per_second, ticks)

        is_heard = np.ones(ticks, dtype=bool)
        for _ in range(0 if market.is_noise else rng.poisson(_SILENCES_PER_HOUR)):
            length = min(_SILENCE_LEAST + rng.exponential(_SILENCE_MORE), _SILENCE_MOST)
            silence = 10**6 * rng.uniform(0, _HOUR - length)
            is_heard &= (offset < silence) | (offset > silence + 10**6 * length)
        kinds = np.full(ticks, "update", dtype=object)
        kinds[is_heard.argmax()], kind = kind, "update"
        columns = (
            start + hour * _HOUR * 10**6 + offset,
            kinds,
            np.full(ticks, json.dumps(product), dtype=object),
            price,
            *statistics.follow(price, trades),
            bid,
            ask,
            *sizes,
        )
        yield tuple(column[is_heard] for column in columns)


class _Statistics:
    """What a ticker says of the last 24 hours and 52 weeks, to the hour.

    The past before the market's start lay at its starting price.
    """

    def __init__(self, nature: _Nature) -> None:
        quiet = (nature.price, nature.price, nature.price, nature.daily_volume / 24)
        self._past = deque([quiet] * 24, maxlen=24)
        self._year = 0.9 * nature.price, 1.9 * nature.price

    def follow(self, price: Floats, trades: Floats) -> tuple[Floats, ...]:
        """The hour's volume, low and high of 24 h, low and high of 52 weeks, change in percent."""
        opens, lows, highs, volumes = zip(*self._past, strict=True)
        low = np.minimum(min(lows), np.minimum.accumulate(price))
        high = np.maximum(max(highs), np.maximum.accumulate(price))
        year_low, year_high = np.minimum(low, self._year[0]), np.maximum(high, self._year[1])
        volume = sum(volumes[1:]) + np.linspace(volumes[0], 0, len(price)) + np.cumsum(trades)
        self._past.append((price[0], price.min(), price.max(), trades.sum()))
        self._year = year_low[-1], year_high[-1]
        return volume, low, high, year_low, year_high, 100 * (price / opens[0] - 1)


def _reverting(level: float, shocks: Floats, *, time: float, kicks: Floats | float = 0.0) -> Floats:
    """An Ornstein-Uhlenbeck process of mean 0 and variance 1, second by second after `level`."""
    memory = math.exp(-1 / time)
    steps = (math.sqrt(1 - memory**2) * shocks + kicks).tolist()
    path = accumulate(steps, lambda last, step: memory * last + step, initial=level)
    return np.fromiter(path, dtype=np.float64)[1:]


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
