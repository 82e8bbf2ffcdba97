"""The made-up market: its bytes, its lines, what it looks like, and what can be predicted in it."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from volatility_pipeline.domain import simulation
from volatility_pipeline.domain.controls import chance
from volatility_pipeline.domain.simulation import Market, simulate

START = datetime(2026, 4, 1, tzinfo=UTC)
DAY = 86_400
SHORT = Market(("BTC-USD", "ETH-USD"), START, 0.25, seed=7)
LIVELY = Market(("BTC-USD", "ETH-USD", "SOL-USD"), START, 48)
NOISE = Market(
    ("BTC-USD", "ETH-USD", "A-USD", "B-USD", "C-USD", "D-USD"), START, 24, seed=1, is_noise=True
)


def text(market: Market) -> bytes:
    return b"".join(chunk for _, chunk in simulate(market))


def messages(market: Market) -> Iterator[dict[str, Any]]:
    """Each line as strict JSON: no NaN, no duplicate keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in text(market).splitlines():
        yield json.loads(line, object_pairs_hook=unique, parse_constant=refuse)


class Tape(NamedTuple):
    """A product's ticks, and what a second's end knows; times in seconds since the start."""

    time: np.ndarray
    spread: np.ndarray  # cents
    mid: np.ndarray  # by second, carried forward
    imbalance: np.ndarray  # by second, carried forward
    ticks: np.ndarray  # by second

    @property
    def returns(self) -> np.ndarray:
        """Log returns by second; the first is 0."""
        return np.diff(np.log(self.mid), prepend=math.log(self.mid[0]))

    def volatility(self, window: int) -> np.ndarray:
        """Realized volatility of the window that ends with each minute; nan where there is none."""
        squares = np.concatenate([[0.0], np.cumsum(self.returns**2)])
        ends = np.arange(60, len(self.mid) + 1, 60)
        whole = np.where(
            ends >= window, squares[ends] - squares[np.maximum(ends - window, 0)], np.nan
        )
        return np.sqrt(whole / window)


def tapes(market: Market) -> dict[str, Tape]:
    found = re.compile(
        rb'T(\d\d):(\d\d):([\d.]+)Z", "sequence_num": \d+, "events": \[{"type": "\w+", "tickers": '
        rb'\[{"type": "ticker", "product_id": "([^"]+)".*"best_bid": "([^"]+)", '
        rb'"best_ask": "([^"]+)", "best_bid_quantity": "([^"]+)", "best_ask_quantity": "([^"]+)"'
    )
    rows = defaultdict(list)
    for day, chunk in simulate(market):
        since = (day - market.start.date()).days * DAY
        for hour, minute, second, product, *book in found.findall(chunk):
            time = since + 3600 * int(hour) + 60 * int(minute) + float(second)
            rows[product.decode()].append((time, *map(float, book)))
    seconds = np.arange(int(market.hours * 3600))
    made = {}
    for product, ticks in rows.items():
        time, bid, ask, bid_size, ask_size = np.array(ticks).T
        last = np.maximum(np.searchsorted(time, seconds + 1) - 1, 0)
        made[product] = Tape(
            time=time,
            spread=np.rint(100 * (ask - bid)),
            mid=((bid + ask) / 2)[last],
            imbalance=(bid_size / (bid_size + ask_size))[last],
            ticks=np.bincount(time.astype(int), minlength=len(seconds)),
        )
    return made


@pytest.fixture(scope="module")
def lively() -> dict[str, Tape]:
    return tapes(LIVELY)


@pytest.fixture(scope="module")
def noise() -> dict[str, Tape]:
    return tapes(NOISE)


# The bytes.


def test_same_market_gives_the_same_bytes_and_another_seed_or_start_others() -> None:
    assert text(SHORT) == text(SHORT)
    prices = {
        tuple(message["events"][0]["tickers"][0]["price"] for message in messages(market))
        for market in (
            SHORT,
            replace(SHORT, seed=8),
            replace(SHORT, start=START + timedelta(days=1)),
        )
    }
    assert len(prices) == 3


def test_start_in_another_time_zone_is_the_same_market() -> None:
    elsewhere = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert text(replace(SHORT, start=elsewhere)) == text(SHORT)


def test_chunks_are_whole_lines_and_their_size_changes_no_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = text(SHORT)
    monkeypatch.setattr(simulation, "_CHUNK_LINES", 100)
    chunks = [chunk for _, chunk in simulate(SHORT)]
    assert b"".join(chunks) == expected
    assert all(chunk.endswith(b"\n") and chunk.count(b"\n") <= 100 for chunk in chunks)


@settings(max_examples=12, deadline=None)
@given(
    hours=st.floats(0.001, 1.2),
    more=st.floats(0, 1.2),
    seed=st.integers(0, 2**64),
    is_noise=st.booleans(),
)
def test_longer_market_begins_with_the_shorter_one(
    hours: float, more: float, seed: int, is_noise: bool
) -> None:
    market = Market(("ETH-USD",), START, hours, seed, is_noise)
    assert text(replace(market, hours=hours + more)).startswith(text(market))


def test_further_product_changes_only_the_sequence_numbers_of_the_others() -> None:
    def lines(market: Market) -> list[bytes]:
        numbered = re.sub(rb'"sequence_num": \d+', b"", text(market)).splitlines()
        return [line for line in numbered if b'"BTC-USD"' in line]

    alone = Market(("BTC-USD",), START, 1.1, seed=3)
    joined = replace(alone, products=("ETH-USD", "BTC-USD", "SOL-USD"))
    assert len(lines(alone)) > 1000
    assert lines(joined) == lines(alone)


@pytest.mark.parametrize(
    "fields",
    [
        {"products": ()},
        {"products": ("BTC-USD", "BTC-USD")},
        {"start": datetime(2026, 4, 1)},  # noqa: DTZ001
        {"start": datetime(1969, 4, 1, tzinfo=UTC)},
        {"start": START + timedelta(microseconds=1)},
        {"hours": 0},
        {"hours": -1.0},
        {"hours": math.inf},
        {"hours": math.nan},
        {"seed": -1},
    ],
)
def test_fields_that_make_no_market_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A market"):
        replace(SHORT, **fields)


# The lines.


@pytest.mark.parametrize("is_noise", [False, True])
def test_lines_are_ticker_envelopes_marked_as_simulated(is_noise: bool) -> None:
    seen = set()
    for number, message in enumerate(messages(replace(SHORT, is_noise=is_noise))):
        envelope = ["channel", "timestamp", "sequence_num", "events", "source"]
        assert list(message) == envelope
        assert message["channel"] == "ticker"
        assert message["source"] == "simulated"
        assert message["sequence_num"] == number
        assert re.fullmatch(r"2026-04-01T00:\d\d:\d\d\.\d{6}Z", message["timestamp"])
        [event] = message["events"]
        assert list(event) == ["type", "tickers"]
        [ticker] = event["tickers"]
        assert list(ticker) == [
            "type",
            "product_id",
            "price",
            "volume_24_h",
            "low_24_h",
            "high_24_h",
            "low_52_w",
            "high_52_w",
            "price_percent_chg_24_h",
            "best_bid",
            "best_ask",
            "best_bid_quantity",
            "best_ask_quantity",
        ]
        assert ticker["type"] == "ticker"
        assert all(type(value) is str for value in ticker.values())
        assert event["type"] == ("update" if ticker["product_id"] in seen else "snapshot")
        seen.add(ticker["product_id"])
    assert seen == set(SHORT.products)
    assert number > 1000


@pytest.mark.parametrize("is_noise", [False, True])
def test_prices_lie_on_the_cent_grid_and_fit_together(is_noise: bool) -> None:
    market = Market(("BTC-USD", "ETH-USD", "SOL-USD"), START, 0.5, seed=5, is_noise=is_noise)
    for message in messages(market):
        ticker = message["events"][0]["tickers"][0]
        assert not any("e" in ticker[name] for name in list(ticker)[2:])
        number = {name: Decimal(ticker[name]) for name in list(ticker)[2:]}
        for name in ("price", "best_bid", "best_ask", "low_24_h", "high_24_h"):
            assert 100 * number[name] == int(100 * number[name])
            assert number["low_52_w"] <= number["low_24_h"] <= number["price"]
            assert number["price"] <= number["high_24_h"] <= number["high_52_w"]
        assert 0 < number["best_bid"] < number["best_ask"]
        assert number["price"] in (number["best_bid"], number["best_ask"])
        assert min(number["best_bid_quantity"], number["best_ask_quantity"]) > 0
        assert number["volume_24_h"] > 0


def test_even_a_market_of_a_few_cents_keeps_its_quotes_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    penny = simulation._Nature(0.02, 60.0, 2.0, 1.0, 1.0)
    monkeypatch.setitem(simulation._NATURES, "PENNY-USD", penny)
    prices = set()
    for message in messages(Market(("PENNY-USD",), START, 1.0)):
        ticker = message["events"][0]["tickers"][0]
        assert Decimal("0.01") <= Decimal(ticker["best_bid"]) < Decimal(ticker["best_ask"])
        prices.add(ticker["best_bid"])
    assert "0.01" in prices
    assert len(prices) > 1


def test_times_increase_inside_the_span_and_each_chunk_is_of_one_day() -> None:
    start = datetime(2026, 2, 28, 23, 30, 5, tzinfo=UTC)
    market = replace(SHORT, start=start, hours=1.25)
    last: dict[str, str] = defaultdict(str)
    newest, days = "", []
    for day, chunk in simulate(market):
        days.append(day.isoformat())
        for line in chunk.splitlines():
            message = json.loads(line)
            time, product = message["timestamp"], message["events"][0]["tickers"][0]["product_id"]
            assert time.startswith(day.isoformat())
            assert time >= newest
            assert time > last[product]
            newest = last[product] = time
            assert start <= datetime.fromisoformat(time) < start + timedelta(hours=1.25)
    assert days == sorted(days)
    assert set(days) == {"2026-02-28", "2026-03-01"}
    assert newest > "2026-03-01T00:44:55"


# What it looks like.


def test_level_of_price_volatility_and_ticks_is_that_of_the_product(
    lively: dict[str, Tape],
) -> None:
    for product, price, volatility, rate in (
        ("BTC-USD", 67_000, 0.45, 3.0),
        ("ETH-USD", 2_050, 0.60, 2.2),
    ):
        tape = lively[product]
        assert tape.mid[0] == pytest.approx(price, rel=0.005)
        annual = tape.returns.std() * math.sqrt(365 * DAY)
        assert 0.6 * volatility < annual < 1.7 * volatility
        assert 0.7 * rate < tape.ticks.mean() < 1.4 * rate


def test_day_holds_silences_quiet_seconds_and_bursts(lively: dict[str, Tape]) -> None:
    for tape in lively.values():
        silences = np.diff(tape.time) > 30
        assert 2 <= silences.sum() <= 40
        assert np.diff(tape.time).max() < 200
        assert 0.05 < (tape.ticks == 0).mean() < 0.4
        assert tape.ticks.max() > 25


def test_spread_is_one_cent_mostly_and_wider_when_volatile(lively: dict[str, Tape]) -> None:
    for tape in lively.values():
        assert 0.9 < (tape.spread == 1).mean() < 0.99
        volatility = tape.volatility(60)
        is_wild = (volatility > np.median(volatility))[tape.time.astype(int) // 60]
        is_wide = tape.spread > 1
        assert is_wide[is_wild].mean() > 1.15 * is_wide[~is_wild].mean()


def test_ticks_speed_up_with_volatility(lively: dict[str, Tape]) -> None:
    for tape in lively.values():
        ticks = tape.ticks.reshape(-1, 60).sum(axis=1)
        assert correlation(ticks, tape.volatility(60)) > 0.3
        assert correlation(ticks[:-1], tape.volatility(60)[1:]) > 0.2


def test_book_tells_of_the_next_seconds_and_of_no_later_ones(lively: dict[str, Tape]) -> None:
    for tape in lively.values():
        assert correlation(tape.imbalance[:-1], tape.returns[1:]) > 0.03
        assert correlation(tape.imbalance[:-60], tape.returns[60:]) < 0.02


# What can be predicted.


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    known = ~np.isnan(x + y)
    return float(np.corrcoef(x[known], y[known])[0, 1])


def average_precision(is_event: np.ndarray, score: np.ndarray) -> float:
    hits = is_event[np.argsort(-score, kind="stable")]
    return float(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))


def test_volatility_persists_about_as_much_as_in_the_real_market(lively: dict[str, Tape]) -> None:
    base, persistence, cascade = [], [], []
    for tape in lively.values():
        now = tape.volatility(60)
        threshold = np.quantile(sliding_window_view(now, 1440), 0.9, axis=1)[:-1]
        is_event = now[1440:] >= threshold
        score = [
            np.log(np.maximum(tape.volatility(window)[1439:-1], 1e-7) / threshold)
            for window in (60, 300, 900)
        ]
        base.append(is_event.mean())
        persistence.append(average_precision(is_event, score[0]))
        cascade.append(average_precision(is_event, np.mean(score, axis=0)))
    # Over 20 seeds: base rate 0.05 to 0.15, persistence 0.24 to 0.52, lift 2.7 to 5.3 (mean 3.9).
    assert 0.03 < np.mean(base) < 0.2
    assert 0.2 < np.mean(persistence) < 0.6
    assert 2 < np.mean(persistence) / np.mean(base) < 6.5
    assert np.mean(cascade) > np.mean(persistence) + 0.01


def test_noise_has_no_silence_and_no_change_of_pace(noise: dict[str, Tape]) -> None:
    for tape in noise.values():
        assert np.diff(tape.time).max() < 30
        assert tape.ticks.var() == pytest.approx(tape.ticks.mean(), rel=0.03)
        returns = tape.returns[tape.returns != 0]
        assert np.mean(returns**4) / np.mean(returns**2) ** 2 == pytest.approx(3, abs=0.15)
        hours = tape.returns.reshape(-1, 3600).std(axis=1)
        assert hours.std() / hours.mean() < 0.03


def test_nothing_can_be_predicted_in_noise(noise: dict[str, Tape]) -> None:
    excess, ahead = [], defaultdict(list)
    for tape in noise.values():
        past, future = tape.volatility(60)[:-1], tape.volatility(60)[1:]
        is_event = future >= np.quantile(future, 0.9)
        excess.append(
            (average_precision(is_event, past) - chance(int(is_event.sum()), len(is_event)))
            / is_event.mean()
        )
        ticks = tape.ticks.reshape(-1, 60)
        spread = np.bincount(tape.time.astype(int) // 60, tape.spread)
        second = tape.returns
        for name, x, y in (
            ("volatility", past, future),
            ("ticks of the minute", ticks.sum(axis=1)[:-1], future),
            ("ticks of the last seconds", ticks[:-1, -5:].sum(axis=1), future),
            ("spread", spread[:-1], future),
            ("imbalance", np.abs(tape.imbalance[59:-60:60] - 0.5), future),
            ("imbalance, next second", tape.imbalance[:-1], second[1:]),
            ("imbalance, next ten", tape.imbalance[9:-10:10], second[10:].reshape(-1, 10).sum(1)),
            ("return, next second", second[:-1], second[1:]),
            ("square, next second", second[:-1] ** 2, second[1:] ** 2),
        ):
            ahead[name].append(correlation(x, y) * math.sqrt(len(x)))
    # One product's excess has a deviation of 0.095 (over 500 products); this is 3.5 of the mean's.
    assert abs(np.mean(excess)) < 3.5 * 0.095 / math.sqrt(len(excess))
    for name, scores in ahead.items():  # each about standard normal
        assert abs(np.sum(scores)) / math.sqrt(len(scores)) < 3.5, name
